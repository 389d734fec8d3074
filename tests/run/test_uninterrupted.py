"""Ctrl-C and SIGTERM come when they can do no harm."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.run.uninterrupted import end_on_request, handlers_kept, uninterrupted
from tests.run.tiny import make_trials, tiny_context

REQUESTS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def a_program() -> Iterator[None]:
    """SIGTERM is handled as the command line handles it."""
    before = signal.getsignal(signal.SIGTERM)
    end_on_request()
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("fails", [False, True])
def test_what_was_begun_is_ended_before_a_request(request_: signal.Signals, fails: bool) -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), request_)
            done.append("written")
            if fails:
                raise OSError("disk full")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["written"]
    assert [signal.getsignal(each) for each in REQUESTS] == [signal.default_int_handler] * 2


def test_a_library_may_handle_requests_only_while_it_is_called() -> None:
    with handlers_kept():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_go_on_as_they_are() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


def test_a_trial_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_trials(tmp_path, tiny_context()).study
    create = study._study._storage.create_new_trial

    def interrupted(*arguments: object, **terms: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return int(create(*arguments, **terms))  # type: ignore[arg-type]

    monkeypatch.setattr(study._study._storage, "create_new_trial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.start(study.space.dense_vector, "dense")
    assert [record.state for record in study.records()] == ["running"]
