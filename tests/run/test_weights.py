"""What a run keeps of trainings: never of another plan, never half of it, and no more than it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.core.constraint import Budget
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan, Student
from autocompress.proxy import rungs
from autocompress.run import trials as loop
from autocompress.run.disk import DiskError
from autocompress.run.jobs import Shared, TrialJob
from autocompress.run.reach import dense_cost
from autocompress.run.trials import run_trials
from autocompress.run.weights import KeptTraining, checkpoint_path, collect
from autocompress.search.record import Record, front_of
from tests.run.tiny import OBJECTIVES, make_trials, tiny_context, tiny_space

STATE = {"done": 3, "model": {"weight": torch.ones(2)}}
PLAN, OTHER = Plan(), Plan(Student(("a",)))


def test_what_was_kept_is_read_back_by_its_own_plan_alone(tmp_path: Path) -> None:
    kept = KeptTraining(tmp_path / "checkpoints" / "trial-0003.safetensors", PLAN)
    assert kept.load() is None
    kept.save(STATE)
    found = kept.load()
    assert found is not None
    assert (found["done"], found["model"]["weight"].tolist()) == (3, [1.0, 1.0])
    assert replace(kept, plan=OTHER).load() is None
    assert [path.name for path in kept.path.parent.iterdir()] == ["trial-0003.rung"]
    kept.drop()
    kept.drop()
    assert kept.load() is None


def test_a_file_that_is_cut_or_hostile_is_not_used(tmp_path: Path) -> None:
    kept = KeptTraining(tmp_path / "trial-0003.safetensors", PLAN)
    kept.save(STATE)
    whole = kept.path.read_bytes()
    for size in (*range(0, len(whole), 97), len(whole) - 1):
        kept.path.write_bytes(whole[:size])
        assert kept.load() is None

    class Hostile:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    for content in ({"of": kept._of, "state": Hostile()}, [1, 2], {"state": 1}):
        torch.save(content, kept.path)
        assert kept.load() is None
    assert not (tmp_path / "owned").exists()


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    kept = KeptTraining(tmp_path / "trial-0003.safetensors", PLAN)
    kept.path.mkdir()
    (kept.path / "something").touch()
    with pytest.raises(DiskError):
        kept.save(STATE)


def test_a_trial_that_was_killed_after_its_half_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "_WORTH_S", 0.0)
    context = tiny_context(steps=10)
    space = tiny_space(context)
    dense: Mapping[str, Metric] = {"accuracy": Metric.exact(50.0, "percent"), **dense_cost(context)}

    def run(path: Path, stop: int | None = None) -> tuple[Record, list[int]]:
        job = TrialJob(3, space.extreme_vector, "x", (), dense, path, OBJECTIVES)
        steps: list[int] = []

        def progress(done: int, total: int) -> None:
            steps.append(done)
            if done == stop:
                raise KeyboardInterrupt

        return job(Shared(tiny_context(steps=10), space), progress), steps

    whole, steps = run(tmp_path / "whole.safetensors")
    half = (steps[-1] + 1) // 2
    path = tmp_path / "again.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop=half + 2)
    again, left = run(path)
    assert left[0] == half + 1
    assert (again.metrics, again.halfway, again.state) == (whole.metrics, whole.halfway, whole.state)
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.rung"))


def test_the_oldest_weights_that_nobody_wants_go_first(tmp_path: Path) -> None:
    for number in range(6):
        checkpoint_path(tmp_path, number).touch()
    collect(tmp_path, {0, 2}, 4)
    assert sorted(path.name[6:10] for path in tmp_path.iterdir()) == ["0000", "0002", "0004", "0005"]
    collect(tmp_path, {0, 2}, 1)
    assert sorted(path.name[6:10] for path in tmp_path.iterdir()) == ["0000", "0002"]
    collect(tmp_path / "none", {0}, 1)


def test_a_long_search_keeps_the_weights_of_its_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "KEPT_WEIGHTS", 3)
    monkeypatch.setattr(loop, "COLLECTED_EVERY", 5)
    trials = make_trials(tmp_path / "run", tiny_context(steps=1))
    run_trials(trials, Budget(15, None))
    records = trials.study.records()
    assert len(records) == 15
    front = {record.number for record in front_of(records, OBJECTIVES, "short")}
    left = {int(path.stem[-4:]) for path in trials.checkpoints.glob("*.safetensors")}
    assert front <= left
    assert len(left) <= max(3, len(front))
