"""Ctrl-C in the last stage keeps the points that are ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autocompress.config import SearchConfig, search
from autocompress.core.rules import SpaceRules
from autocompress.run import drive, jobs
from tests.run.tiny import RULES, tiny_task


def test_an_interrupt_while_points_are_made_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = drive.emit_point, []

    def emit_two(*args: Any, **kwargs: Any) -> Any:
        if len(made) == 2:  # the dense artifact and one point
            raise KeyboardInterrupt
        made.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(drive, "emit_point", emit_two)
    monkeypatch.setattr(jobs, "emit_point", emit_two)
    rules = RULES if isinstance(RULES, SpaceRules) else SpaceRules.from_dict(RULES)
    config = SearchConfig(short_steps=1, final_epochs=0)
    run = search(tiny_task(), target="jetson-nano", space=rules, budget=5, output=tmp_path / "run", config=config)
    assert len(run.points) == 1
    assert json.loads((run.path / "report.json").read_text())["points"][0]["id"] == run.points[0]["id"]
