"""A study so small that it is written at once."""

from __future__ import annotations

from autocompress.core.metric import Metric
from autocompress.core.plan import Prune, Quantize
from autocompress.core.space import Decision, Space
from autocompress.run.folder import Run
from autocompress.run.settings import read_config
from autocompress.run.study import Study
from autocompress.search.record import Objective, Record
from autocompress.wired import wire

SPACE = Space(
    "small",
    (Decision("prune", "a", (None, Prune(0.5))), Decision("quantize", "a", (None, Quantize(8), Quantize(4)))),
)
TWO = (Objective("accuracy", True), Objective("size_bytes", False))
METRICS = {"accuracy": Metric.exact(91.25, "percent"), "size_bytes": Metric(1000, 970, 1030, "analytic", "bytes")}


def results() -> list[Record]:
    seconds = {"tables": 0.25, "train": 1.5}
    return [
        Record(0, "dense", (0, 0), "complete", "short", METRICS, seconds, None, ("a note", "another")),
        Record(1, "uniform w8", (0, 1), "complete", "short", METRICS, seconds, "size<=30% is not met"),
        Record(2, "search", (1, 2), "infeasible", "cost", {"size_bytes": METRICS["size_bytes"]}, {}, "too large"),
        Record(3, "search", (1, 0), "failed", "short", {}, {"apply": 0.5}, "RuntimeError: no"),
        Record(4, "search", (1, 0), "complete", "short", METRICS, seconds, halfway=88.5),
    ]


def trials_of(run: Run) -> list[Record]:
    """The trials of a run, read as they are written."""
    wired = wire(read_config(run))
    return Study(run.path, wired.space, wired.objectives, run.storage, run.study).records()


def fill(study: Study) -> Study:
    for one in results():
        assert study.start(one.vector, one.label) == one.number
        study.finish(one)
    return study
