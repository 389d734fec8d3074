"""Ctrl-C comes when it can do no harm."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from autocompress.run.uninterrupted import uninterrupted
from tests.run.tiny import make_trials, tiny_context


def test_what_was_begun_is_ended_before_an_interrupt() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("written")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
