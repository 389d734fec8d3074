"""A clock that is set back while a run goes on: nothing takes less than no time, and nobody waits for ever."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from autocompress.config import search
from autocompress.run import drive
from autocompress.run.folder import REPORT_DATA, Run
from autocompress.run.settings import SearchConfig
from autocompress.run.show import status_of
from autocompress.run.study import Study
from tests.run.test_study import SPACE, TWO, results
from tests.run.tiny import RULES, Told, tiny_task


class Clock(datetime):
    """A clock that goes on by itself, but whoever sets it back sets it back."""

    behind = timedelta(0)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) - cls.behind


class SettingBack(Told):
    """Sets the clock back by a day at every trial."""

    def trial(self, record: Any, done: int, budget: Any, seconds: float) -> None:
        assert seconds >= 0.0
        super().trial(record, done, budget, seconds)
        Clock.behind += timedelta(days=1)


@pytest.fixture(autouse=True)
def set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "behind", timedelta(0))
    for module in (drive, optuna.storages.journal._storage):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(optuna.trial._frozen, "datetime", SimpleNamespace(datetime=Clock))


def test_a_run_over_days_that_go_backwards(tmp_path: Path) -> None:
    config = SearchConfig(controller="random", short_steps=1, final_epochs=0, final_points=1, workers=1)
    told = SettingBack()
    run = search(tiny_task(), space=RULES, budget=3, output=tmp_path / "run", config=config, listener=told)
    assert Clock.behind == timedelta(days=3)
    assert status_of(run)["trials"] == {"complete": 3}
    seconds = json.loads((run.path / REPORT_DATA).read_text())["wall_seconds"]
    assert 0.1 < seconds < 600.0
    assert all(taken >= 0.0 for taken in status_of(Run.open(run.path))["trial_seconds"].values())


def test_a_trial_that_ends_before_it_starts_is_kept_and_ends_when_it_starts(tmp_path: Path) -> None:
    study = Study(tmp_path, SPACE, TWO)
    for one in results():
        study.start(one.vector, one.label)
        Clock.behind += timedelta(hours=2)
        study.finish(one)
    again = Study(tmp_path, SPACE, TWO)
    assert again.records() == results()
    for trial in again._study.get_trials():
        assert trial.datetime_start is not None
        assert trial.datetime_complete is not None
        assert trial.datetime_complete >= trial.datetime_start
    began = again.began()
    assert began is not None
    assert began <= datetime.now(UTC)
