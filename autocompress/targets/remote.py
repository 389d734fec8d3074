"""Where kernels are measured: this machine, or another over the user's own `ssh`."""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import InputError, RunError, nearest
from autocompress.targets.channel import Channel, ChannelClosed, printable

RUNNER = Path(__file__).with_name("runner.py")
START_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 15
_WHERE = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)
RUNTIMES = ("onnxruntime", "openvino", "tensorrt")
# Passed in single quotes, which every login shell leaves as they are. The folder goes when the shell does.
_SCRIPT = """
fail() { echo "{\\"error\\": \\"$1\\"}"; exit 3; };
command -v python3 >/dev/null || fail python3;
umask 077; folder=$(mktemp -d) || fail disk;
trap "rm -rf \\"$folder\\"" EXIT; trap "exit 1" HUP INT TERM PIPE;
python3 -c "import base64,sys,zlib; sys.stdout.buffer.write(zlib.decompress(base64.b64decode(sys.argv[1])))" RUNNER
> "$folder/runner.py" || fail disk;
TMPDIR="$folder" python3 "$folder/runner.py" RUNTIME THREADS
""".replace("\n", " ").strip()
# What ssh says when it cannot connect, and what that means.
_SSH_FAILURES = (
    ("Could not resolve hostname", "there is no host of that name; check the spelling, or your ssh config"),
    ("Connection refused", "nothing listens at that port; check the port and that sshd runs there"),
    ("No route to host", "the host is down or cannot be reached from here"),
    ("Network is unreachable", "the host is down or cannot be reached from here"),
    ("timed out", "the host is down or cannot be reached from here"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the one in your known_hosts; find out why first"),
    ("Host key verification failed", "its host key is not known here; connect once by hand with ssh and accept it"),
    ("Permission denied", "it takes none of your keys; add one with ssh-copy-id, or load it into your ssh agent"),
    ("Too many authentication failures", "it takes none of your keys; name the right one in your ssh config"),
)
_MISSING = {
    "python3": "there is no python3 there; install Python 3.8 or newer",
    "disk": "no room for temporary files there; free some, or set TMPDIR there",
    "onnxruntime": "its python3 has no onnxruntime; install it there with: python3 -m pip install onnxruntime",
    "openvino": "its python3 has no openvino; install it there with: python3 -m pip install openvino",
    "numpy": "its python3 has no numpy; install it there with: python3 -m pip install numpy",
    "trtexec": "there is no trtexec there; it comes with TensorRT",
}


@dataclass(frozen=True)
class Where:
    """A machine to measure on: this one, or `host` over ssh.

    Attributes:
        host: None for this machine.
        ssh_config: A file that ssh reads instead of the user's own config.
    """

    host: str | None = None
    user: str | None = None
    port: int | None = None
    ssh_config: Path | None = None

    def __str__(self) -> str:
        if self.host is None:
            return "local"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"ssh://{'' if self.user is None else self.user + '@'}{host}{port}"


def parse_where(text: str, ssh_config: Path | None = None) -> Where:
    """Reads `local` or `ssh://user@host:port`; user and port may be missing.

    Raises:
        InputError: it is neither.
    """
    if text == "local":
        return Where()
    found = _WHERE.fullmatch(text)
    port = int(found["port"]) if found is not None and found["port"] else None
    if found is None or (port is not None and not 1 <= port <= 65_535):
        raise InputError(f"--on is {text[:200]!r}; allowed: local, or ssh://user@host:port with a port of 1 to 65535")
    return Where(found["host"].strip("[]"), found["user"], port, ssh_config)


@contextmanager
def connected(where: Where, runtime: str, threads: int) -> Iterator[tuple[Channel, dict[str, Any]]]:
    """A runner that waits for jobs on the machine, and what it says of the machine.

    Raises:
        InputError: the machine cannot be reached, or lacks something; says which and what to do.
        RunError: the runner cannot be started for another reason.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime is {runtime!r}; {nearest(runtime, RUNTIMES)}")
    with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
        command = (
            _local_command(folder, runtime, threads) if where.host is None else command_of(where, runtime, threads)
        )
        # The messages of ssh are compared.
        environment = {**os.environ, "LC_ALL": "C", "TMPDIR": folder}
        with Channel(command, environment) as channel:
            try:
                hello = channel.ask(None, START_TIMEOUT_S)
            except ChannelClosed as closed:
                raise _cannot_start(where, closed) from closed
            check_alive(where, hello)
            if hello.get("runtime") != runtime:
                raise RunError(f"{where}: what answers is no runner; it says {printable(str(hello))[:200]}")
            yield channel, hello


def check_alive(where: Where, answer: dict[str, Any]) -> None:
    """Refuses the last line of a runner whose machine lacks something.

    Raises:
        InputError: it is such a line.
    """
    if "error" in answer and "id" not in answer:
        kind, detail = (printable(str(answer.get(key, "")))[:200] for key in ("error", "detail"))
        reason = _MISSING.get(kind, f"its runner needs {kind!r}") + (f" ({detail})" if detail else "")
        raise InputError(f"{where}: {reason}")


def _local_command(folder: str, runtime: str, threads: int) -> list[str]:
    # Beside its own modules a script would import them for those of the standard library (`profile`).
    path = shutil.copy(RUNNER, folder)
    return [sys.executable, path, runtime, str(threads)]


def command_of(where: Where, runtime: str, threads: int) -> list[str]:
    """The ssh command that starts a runner; what the user wrote is an argument of its own, never part of a script."""
    program = shutil.which("ssh")
    if program is None:
        raise InputError(f"{where}: there is no ssh on PATH; install the OpenSSH client")
    packed = base64.b64encode(zlib.compress(RUNNER.read_bytes(), 9)).decode()
    script = _SCRIPT.replace("RUNTIME", runtime).replace("THREADS", str(threads)).replace("RUNNER", packed)
    options = [
        "BatchMode=yes",
        f"ConnectTimeout={CONNECT_TIMEOUT_S}",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
    ]
    command = [program, "-T", *(part for option in options for part in ("-o", option))]
    if where.ssh_config is not None:
        command += ["-F", str(where.ssh_config)]
    if where.port is not None:
        command += ["-p", str(where.port)]
    if where.user is not None:
        command += ["-l", where.user]
    assert where.host is not None
    return [*command, "--", where.host, f"exec sh -c '{script}'"]


def _cannot_start(where: Where, closed: ChannelClosed) -> InputError | RunError:
    if where.host is not None and closed.exit_status in (255, None):
        for text, meaning in _SSH_FAILURES:
            if text in closed.said:
                return InputError(f"{where}: {meaning} ({closed.last_line})")
    return RunError(f"{where}: the runner did not start: {closed}; its last line: {closed.last_line}")


def lost(where: Where, closed: ChannelClosed) -> str:
    """Why a connection ended in the middle, in words."""
    if closed.exit_status == 255 and where.host is not None:
        return f"the connection broke ({closed.last_line})"
    if closed.exit_status is None:
        return str(closed)
    return f"the runner ended with {closed.exit_status}; its last line: {closed.last_line}"


def machine_facts(hello: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a runner says of its machine: known keys only, short and printable."""
    keys: Sequence[str] = ("board", "cpu", "cores", "machine", "governor", "clock_khz", "runtime", "version", "python")
    values = ((key, str(hello.get(key, ""))[:200]) for key in (*keys, "threads"))
    return tuple((key, value) for key, value in values if value and value.isprintable())
