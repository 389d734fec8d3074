"""One driver at a time: refused by name, let in the moment the other is gone, warned when its place was taken."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from autocompress.errors import InputError, RunError
from autocompress.run import lease
from autocompress.run.lease import HOLDER, Holder, held, holder_of

BEAT_S = 0.05
ELSEWHERE = Holder("other", "another start", 4711, "2026-01-01 00:00:00 UTC", "their token", 7)


def write(folder: Path, holder: Holder) -> None:
    partial = folder / ".partial"
    partial.write_text(json.dumps(asdict(holder)))
    partial.replace(folder / HOLDER)


@contextmanager
def beating(folder: Path) -> Iterator[None]:
    """A driver on another machine that lives."""
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(BEAT_S):
            number += 1
            write(folder, replace(ELSEWHERE, beat=number))

    write(folder, ELSEWHERE)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_second_driver_is_refused_by_name_and_let_in_afterwards(tmp_path: Path) -> None:
    with held(tmp_path) as first:
        here = holder_of(tmp_path)
        assert here is not None
        with (
            pytest.raises(InputError, match=rf"driven by process {here.pid} on {here.host} since {here.since}; wait"),
            held(tmp_path),
        ):
            raise AssertionError
        first.check()
        assert not here.is_gone
        assert not ELSEWHERE.is_gone
    assert holder_of(tmp_path) is None
    with held(tmp_path) as second:
        second.check()


def test_a_killed_driver_keeps_nobody_waiting(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from autocompress.run.lease import held
with held(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {driver.pid} on"), held(tmp_path):
        raise AssertionError
    driver.kill()
    driver.communicate()
    left = holder_of(tmp_path)
    assert left is not None
    assert (left.pid, left.is_gone) == (driver.pid, True)
    with held(tmp_path, beat_s=60.0):
        now = holder_of(tmp_path)
        assert now is not None
        assert now.token != left.token


def test_a_driver_elsewhere_that_lives_is_not_disturbed(tmp_path: Path) -> None:
    with beating(tmp_path), pytest.raises(InputError, match="process 4711 on other since"), held(tmp_path, BEAT_S):
        raise AssertionError


def test_a_driver_elsewhere_that_is_silent_is_gone_whatever_the_clock_says(tmp_path: Path) -> None:
    write(tmp_path, replace(ELSEWHERE, since="2999-01-01 00:00:00 UTC"))
    with held(tmp_path, BEAT_S) as mine:
        mine.check()


def test_a_driver_whose_place_was_taken_writes_nothing_more(tmp_path: Path) -> None:
    with held(tmp_path, BEAT_S) as mine:
        write(tmp_path, ELSEWHERE)
        for _ in range(200):
            time.sleep(BEAT_S)
            if mine.taken_by is not None:
                break
        with pytest.raises(RunError, match="taken over by process 4711 on other"):
            mine.check()
    assert holder_of(tmp_path) == ELSEWHERE


def test_signs_of_life_count_up(tmp_path: Path) -> None:
    with held(tmp_path, BEAT_S):
        first = holder_of(tmp_path)
        assert first is not None
        for _ in range(200):
            time.sleep(BEAT_S)
            now = holder_of(tmp_path)
            assert now is not None
            if now.beat > first.beat + 1:
                break
        assert replace(now, beat=first.beat) == first
        assert now.beat > first.beat + 1


def test_without_locks_signs_of_life_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(lease.fcntl, "flock", none)
    with held(tmp_path, BEAT_S), pytest.raises(InputError, match="is being driven by process"), held(tmp_path, BEAT_S):
        raise AssertionError
    with held(tmp_path, BEAT_S) as again:
        again.check()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"host": "a"}', '{"host": "a", "beat": []}'])
def test_a_file_that_no_driver_wrote_names_nobody(content: str, tmp_path: Path) -> None:
    (tmp_path / HOLDER).write_text(content)
    assert holder_of(tmp_path) is None
    with held(tmp_path) as mine:
        mine.check()
