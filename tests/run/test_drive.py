"""A whole run: Ctrl-C in the last stage keeps the points that are ready; with workers, the same files come out."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F

from autocompress.config import search
from autocompress.errors import InputError
from autocompress.run import drive, jobs, settings
from autocompress.run.settings import SearchConfig
from autocompress.tasks import Task
from tests.run.tiny import RULES, Told, tiny_task

# Two Rays that start at the same moment on one machine get into each other's way.
pytestmark = pytest.mark.xdist_group("ray")


def test_an_interrupt_while_points_are_made_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = drive.emit_point, []

    def emit_two(*args: Any, **kwargs: Any) -> Any:
        if len(made) == 2:  # the dense artifact and one point
            raise KeyboardInterrupt
        made.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(drive, "emit_point", emit_two)
    monkeypatch.setattr(jobs, "emit_point", emit_two)
    config = SearchConfig(short_steps=1, final_epochs=0)
    run = search(tiny_task(), target="jetson-nano", space=RULES, budget=5, output=tmp_path / "run", config=config)
    assert len(run.points) == 1
    assert json.loads((run.path / "report.json").read_text())["points"][0]["id"] == run.points[0]["id"]


def unsendable() -> Task:
    """A task that holds what no other process can have."""
    lock = threading.Lock()

    def loss(outputs: Any, targets: Any) -> Any:
        with lock:
            return F.cross_entropy(outputs, targets)

    return replace(tiny_task(), loss=loss)


def test_a_task_that_no_worker_can_have_is_searched_here_unless_workers_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "best_workers", lambda threads, device: 2)
    config = SearchConfig(short_steps=1, final_epochs=0)
    told = Told()
    run = search(unsendable(), space=RULES, budget=2, output=tmp_path / "run", config=config, listener=told)
    assert run.points
    assert any(
        "one worker does everything: task 'tiny' cannot be sent to another process" in said for said in told.said
    )
    with pytest.raises(InputError, match="use --workers 1"):
        search(unsendable(), space=RULES, budget=2, output=tmp_path / "x", config=replace(config, workers=2))


def test_workers_and_one_process_end_in_the_same_files(tmp_path: Path) -> None:
    made = {}
    for workers in (1, 2):
        config = SearchConfig(short_steps=2, final_epochs=0.5, controller="random", workers=workers)
        run = search(tiny_task(), space=RULES, budget=4, output=tmp_path / str(workers), config=config)
        assert run.config["resolved"]["workers"] == workers
        made[workers] = {(point["id"], (run.artifact(point["id"]) / "model.onnx").read_bytes()) for point in run.points}
    assert made[1] == made[2]
