"""Another machine over ssh: every failure says which it is, and nothing a user or a machine says is trusted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.kernel import Kernel
from autocompress.errors import AutoCompressError, InputError, RunError
from autocompress.targets import remote
from autocompress.targets.job import TIMEOUT_S as TIMEOUTS
from autocompress.targets.measuring import Outcome, measure_kernels
from autocompress.targets.remote import Where, connected, machine_facts, parse_where
from tests.targets.sshd import Server, free_port, needs_sshd, offer_python, serving

RELU = Kernel("elementwise", "a", "fp32", ((4, 8, 8),), (4, 8, 8), aten="relu")
WANTED = [(replace(RELU, in_shapes=((4, side, side),), out_shape=(4, side, side)), "fp32") for side in (8, 16, 24, 32)]
HERE = sys.executable


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def server(ssh: Server) -> Iterator[Server]:
    offer_python(ssh.folder, f'exec "{HERE}" "$@"')
    yield ssh
    offer_python(ssh.folder, f'exec "{HERE}" "$@"')


def refused(where: Where, error: type[AutoCompressError] = InputError, runtime: str = "onnxruntime") -> str:
    with pytest.raises(error) as caught, connected(where, runtime, 1):
        pass
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{where}: ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("ssh://nano", "nano", None, None),
        ("ssh://me@nano.local:2222", "nano.local", "me", 2222),
        ("ssh://me@10.0.0.7", "10.0.0.7", "me", None),
        ("ssh://me@[fe80::1]:22", "fe80::1", "me", 22),
    ],
)
def test_reads_where(text: str, host: str, user: str | None, port: int | None) -> None:
    where = parse_where(text)
    assert (where.host, where.user, where.port, str(where)) == (host, user, port, text)
    assert str(parse_where("local")) == "local"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh://",
        "nano",
        "ssh://-oProxyCommand=touch x",
        "ssh://-oProxyCommand@nano",
        "ssh://me@-nano",
        "ssh://me@nano;reboot",
        "ssh://me@nano:0",
        "ssh://me@nano:65536",
        "ssh://me@nano:22 -v",
        "ssh://me@nano\n",
        "ssh://$(reboot)@nano",
        "ssh://me@" + "a" * 300,
    ],
)
def test_refuses_what_is_no_machine(text: str) -> None:
    with pytest.raises(InputError, match=r"--on is .*allowed: local, or ssh://user@host:port"):
        parse_where(text)


@given(st.text(max_size=40))
def test_no_text_becomes_an_option_or_a_command(text: str) -> None:
    try:
        where = parse_where(f"ssh://{text}")
    except InputError:
        return
    command = remote.command_of(where, "onnxruntime", 1)
    assert command[-3] == "--"
    for part in (where.host or "", where.user or ""):
        assert not part.startswith("-")
        assert not set(part) & set(" \t\n'\"$`;&|<>()\\*?!#~")


@needs_sshd
def test_measures_over_ssh_and_leaves_nothing_behind(server: Server) -> None:
    done: list[tuple[Outcome, int]] = []
    result = measure_kernels(
        WANTED,
        server.where(),
        runtime="onnxruntime",
        opset=17,
        repeats=3,
        on_done=lambda outcome, left: done.append((outcome, left)),
    )
    assert len(result.measured) + len(result.not_measured) == len(WANTED)
    assert [left for _, left in done][:4] == [3, 2, 1, 0]
    assert result.call_ms is not None
    assert dict(result.machine)["version"] == onnxruntime.__version__
    assert list((server.folder / "tmp").iterdir()) == []


@needs_sshd
def test_a_broken_connection_loses_the_kernel_in_flight_only(server: Server) -> None:
    broken: list[int] = []

    def break_once(outcome: Outcome, left: int) -> None:
        if left == 2 and not broken:
            broken.extend(server.sessions())
            for session in broken:
                os.kill(session, signal.SIGKILL)

    result = measure_kernels(WANTED, server.where(), runtime="onnxruntime", opset=17, repeats=3, on_done=break_once)
    assert broken
    assert len(result.measured) + len(result.not_measured) == len(WANTED)
    assert not [one for one in result.not_measured if "connection" in one.reason]
    wait_until_empty(server.folder / "tmp")


@needs_sshd
def test_a_kernel_that_ends_the_runner_twice_is_left_out(server: Server) -> None:
    # Over there a runner ends at the second job that it gets: the first is the cost of a call.
    offer_python(server.folder, f'case "$1" in -c) exec "{HERE}" "$@";; *) head -n 1 | "{HERE}" "$@"; exit 6;; esac')
    result = measure_kernels(WANTED[:1], server.where(), runtime="onnxruntime", opset=17, repeats=3)
    assert result.measured == ()
    assert "the runner ended with 6" in result.not_measured[0].reason


@needs_sshd
def test_a_key_that_is_not_taken(server: Server) -> None:
    assert "it takes none of your keys" in refused(server.where("wrong_key"))


@needs_sshd
def test_a_host_that_is_not_known(server: Server) -> None:
    assert "connect once by hand with ssh and accept it" in refused(server.where("new"))


@needs_sshd
def test_a_host_that_is_another_one(server: Server, tmp_path: Path) -> None:
    key = (server.folder / "stranger.pub").read_text()
    (server.folder / "others").write_text(f"[127.0.0.1]:{server.port} {key}")
    config = (server.folder / "config").read_text().replace("/known\n", "/others\n")
    (server.folder / "changed").write_text(config)
    assert "its host key is not the one in your known_hosts" in refused(server.where("changed"))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is missing: apt-get install openssh-client")
def test_hosts_that_are_not_there(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  IdentityAgent none\n")
    assert "nothing listens at that port" in refused(parse_where(f"ssh://127.0.0.1:{free_port()}", config))
    assert "there is no host of that name" in refused(parse_where("ssh://no-such-host.invalid", config))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is missing: apt-get install openssh-client")
def test_a_host_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  IdentityAgent none\n")
    monkeypatch.setattr(remote, "CONNECT_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = parse_where(f"ssh://127.0.0.1:{silent.getsockname()[1]}", config)
        assert "the host is down or cannot be reached" in refused(where)


@needs_sshd
def test_no_python_there(server: Server) -> None:
    (server.folder / "bin" / "python3").unlink()
    config = (server.folder / "config").read_text()
    (server.folder / "bare").write_text(config)
    offer_nothing = server.folder / "bin" / "sh"
    offer_nothing.write_text(f'#!/bin/sh\nPATH={server.folder / "bin"}\nexport PATH\nexec /bin/sh "$@"\n')
    offer_nothing.chmod(0o755)
    try:
        assert "there is no python3 there" in refused(server.where("bare"))
    finally:
        offer_nothing.unlink()


@needs_sshd
def test_no_onnxruntime_there(server: Server) -> None:
    offer_python(server.folder, f'exec "{HERE}" -S -I "$@"')
    message = refused(server.where())
    assert "its python3 has no numpy" in message
    assert list((server.folder / "tmp").iterdir()) == []


@needs_sshd
def test_no_trtexec_there(server: Server) -> None:
    assert "there is no trtexec there" in refused(server.where(), runtime="tensorrt")


@needs_sshd
def test_no_room_there(server: Server) -> None:
    # As on a full disk nothing can be written: files may have no bytes.
    offer_python(server.folder, f'ulimit -f 0; exec "{HERE}" "$@"')
    assert "no room for temporary files there" in refused(server.where())


@needs_sshd
def test_no_folder_for_temporary_files_there(server: Server) -> None:
    (server.folder / "tmp").rmdir()
    try:
        assert "no room for temporary files there" in refused(server.where())
    finally:
        (server.folder / "tmp").mkdir()


@needs_sshd
def test_a_runner_that_crashes_says_its_last_line(server: Server) -> None:
    offer_python(server.folder, f'case "$1" in -c) exec "{HERE}" "$@";; *) echo "boom \033[31m" >&2; exit 5;; esac')
    message = refused(server.where(), RunError)
    assert "boom ?[31m" in message


@needs_sshd
def test_a_greeting_of_the_login_shell_is_passed_over(server: Server) -> None:
    offer_python(
        server.folder, f'case "$1" in -c) exec "{HERE}" "$@";; *) echo "Welcome! {{"; exec "{HERE}" "$@";; esac'
    )
    with connected(server.where(), "onnxruntime", 1) as (_, hello):
        assert hello["runtime"] == "onnxruntime"


@needs_sshd
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ('{"id": 1, "p50_ms": [NaN], "p90_ms": [1], "n": [3], "disturbed": [0]}', "no answer within"),
        ('{"id": 1, "p50_ms": [-1.0], "p90_ms": [1], "n": [3], "disturbed": [0]}', "p50_ms"),
        ('{"id": 1, "p50_ms": "fast", "p90_ms": [1], "n": [3], "disturbed": [0]}', "p50_ms"),
        ('{"id": 1, "p50_ms": [1, 2], "p90_ms": [1], "n": [3], "disturbed": [0]}', "expected 1 numbers"),
        ('{"id": 9}', "the runner answered"),
    ],
)
def test_what_is_no_answer_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, answer: str, message: str
) -> None:
    monkeypatch.setitem(TIMEOUTS, "onnxruntime", 2.0)
    hostile = f"read a; echo \\'{answer}\\'; read b".replace("\\'", "'")
    offer_python(
        server.folder,
        f'case "$1" in -c) exec "{HERE}" "$@";; esac\necho \'{{"runtime": "onnxruntime"}}\'\n{hostile}',
    )
    if "no answer" in message:
        result = measure_kernels(WANTED[:1], server.where(), runtime="onnxruntime", opset=17, repeats=3)
        assert message in result.not_measured[0].reason
        return
    with pytest.raises(RunError, match=message):
        measure_kernels(WANTED[:1], server.where(), runtime="onnxruntime", opset=17, repeats=3)


@needs_sshd
def test_what_is_no_runner_is_refused(server: Server) -> None:
    offer_python(server.folder, f'case "$1" in -c) exec "{HERE}" "$@";; *) echo "{{}}"; read job;; esac')
    assert "what answers is no runner; it says {}" in refused(server.where(), RunError)


@needs_sshd
def test_a_line_without_end_is_cut_off(server: Server) -> None:
    offer_python(server.folder, f'case "$1" in -c) exec "{HERE}" "$@";; *) exec yes | tr -d "\\n";; esac')
    with (
        pytest.raises(RunError, match="a line of more than 1,000,000 bytes"),
        connected(server.where(), "onnxruntime", 1),
    ):
        pass


def test_facts_of_a_machine_are_short_and_printable() -> None:
    hello = {"cpu": "x" * 999, "board": "a\x1b[31m", "evil": 1, "version": "1.2", "threads": 1, "cores": {"a": 1}}
    facts = dict(machine_facts(hello))
    assert (len(facts["cpu"]), facts["version"], facts["threads"]) == (200, "1.2", "1")
    assert not {"board", "evil"} & set(facts)


def wait_until_empty(folder: Path) -> None:
    """The runner over there notices a broken connection when it next listens or answers."""
    for _ in range(100):
        if not list(folder.iterdir()):
            return
        time.sleep(0.1)
    assert list(folder.iterdir()) == []
