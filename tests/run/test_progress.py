"""What a terminal shows of a search while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from autocompress.core.constraint import Budget
from autocompress.core.metric import Metric
from autocompress.run.progress import Terminal
from autocompress.search.record import Objective, Record

LONG_LABEL = "planned, size 1/8.1, latency 1/1.3, with a label of its own that is longer than eighty columns"


def record(number: int, label: str, quality: float, size: int) -> Record:
    metrics = {"accuracy": Metric.exact(quality, "percent"), "size_bytes": Metric.exact(size, "bytes")}
    return Record(number, label, (number,), "complete", "short", metrics, {})


def shown(maximised: bool, live: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=live, width=160 if live else 80, no_color=True)
    objectives = (Objective("accuracy", maximised), Objective("size_bytes", False))
    with Terminal(console) as terminal:
        terminal.say("a phase begins")
        terminal.begin(objectives, [record(0, "dense", 10.0, 800)])
        terminal.trial(record(1, LONG_LABEL, 20.0, 400), 2, Budget(4, None), 60.0)
        terminal.trial(record(2, "smallest", 30.0, 200), 3, Budget(4, None), 90.0)
    return out.getvalue()


@pytest.mark.parametrize(("maximised", "best"), [(True, ["smallest"]), (False, ["dense", LONG_LABEL, "smallest"])])
def test_best_points_go_by_the_direction_of_the_metric_and_know_earlier_trials(
    maximised: bool, best: list[str]
) -> None:
    last = shown(maximised, live=True).rsplit("best points so far", 1)[1]
    found = sorted((last.index(label), label) for label in ("dense", LONG_LABEL, "smallest") if label in last)
    assert [label for _, label in found] == best


def test_without_a_terminal_every_trial_is_one_line_however_long() -> None:
    lines = shown(True, live=False).splitlines()
    assert lines[0] == "a phase begins"
    assert lines[1].startswith(f"trial   1 {LONG_LABEL}: accuracy 20, size_bytes 400")
    assert lines[2].endswith("less than a minute left")
    assert len(lines) == 3
