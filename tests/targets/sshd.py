"""A real sshd of our own on a free port of this machine, with its own keys and config and nothing of the user's."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from autocompress.targets.remote import Where, parse_where

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
needs_sshd = pytest.mark.skipif(PROGRAM is None, reason="sshd is missing: apt-get install openssh-server")


@dataclass(frozen=True)
class Server:
    """A running sshd; what it starts sees `folder/bin` first on its PATH."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def where(self, config: str = "config") -> Where:
        return parse_where(f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}", self.folder / config)

    def sessions(self) -> list[int]:
        """Process ids of what serves the connections that are open now."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def client_config(folder: Path, key: str, known_hosts: str) -> str:
    return (
        f"Host *\n  IdentityFile {folder / key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder / known_hosts}\n  GlobalKnownHostsFile /dev/null\n  UpdateHostKeys no\n"
    )


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Starts sshd and stops it afterwards; the python3 that it offers is this one, with its packages."""
    assert PROGRAM is not None
    if os.geteuid() == 0:
        # Where sshd looks when root starts it; a package manager makes it on the first start of the service.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    for name in ("bin", "tmp"):
        (folder / name).mkdir()
    offer_python(folder, f'exec "{sys.executable}" "$@"')
    port = free_port()
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'user.pub'}\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin prohibit-password\n"
        # After the login shell, whose start-up files may set a PATH of their own.
        f"ForceCommand exec env PATH={folder / 'bin'}:/usr/bin:/bin TMPDIR={folder / 'tmp'} "
        'sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    host_key = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "nobody").write_text("")
    for config, key, known in (
        ("config", "user", "known"),
        ("wrong_key", "stranger", "known"),
        ("new", "user", "nobody"),
    ):
        (folder / config).write_text(client_config(folder, key, known))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        _wait_until_it_listens(process, port, folder / "log")
        yield Server(folder, port, process)
    finally:
        process.terminate()
        process.wait(timeout=10)


def offer_python(folder: Path, line: str) -> None:
    """What `python3` is over there: one line of shell."""
    script = folder / "bin" / "python3"
    script.write_text(f"#!/bin/sh\n{line}\n")
    script.chmod(0o755)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"sshd did not start: {log.read_text()}")
