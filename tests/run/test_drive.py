"""A whole run: Ctrl-C in the last stage keeps the points that are ready; with workers, the same files come out."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F

from autocompress.config import resume, search
from autocompress.errors import InputError
from autocompress.run import drive, jobs, settings
from autocompress.run.settings import SearchConfig
from autocompress.run.show import status_of
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


PARTS = """
class Scaled:
    def __call__(self, outputs, targets):
        import torch.nn.functional as F
        return F.cross_entropy(outputs, targets)
"""
TASK = """
from dataclasses import replace

import parts_of_mine
from tests.run.tiny import tiny_task

def build():
    return replace(tiny_task(), loss=parts_of_mine.Scaled())
"""


def test_a_task_of_several_files_goes_on_with_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are called before the task is loaded, and find what lies beside its file all the same."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "parts_of_mine.py").write_text(PARTS)
    (tmp_path / "task_of_mine.py").write_text(TASK)
    (tmp_path / "space.yaml").write_text("name: tiny\nrules:\n  - {op: quantize, w_bits: [8, 4]}\n")
    task, space = f"{tmp_path / 'task_of_mine.py'}:build", str(tmp_path / "space.yaml")
    config = SearchConfig(short_steps=1, final_epochs=0, final_points=1, controller="random", workers=1)
    run = search(task, space=space, budget=2, output=tmp_path / "run", config=config)
    # As in the process of a later `resume`.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    for module in ("parts_of_mine", "task_of_mine"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    resumed = resume(run.path, "+2", workers=2)
    assert status_of(resumed)["trials"] == {"complete": 4}
