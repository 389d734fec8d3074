"""What a worker can be asked to do: one trial, the effect of one plan alone, one final point."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from torch import Tensor

from autocompress.core.constraint import Constraint
from autocompress.core.files import whole_folder, write_whole
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan
from autocompress.core.space import Space, Vector
from autocompress.errors import AutoCompressError
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_plan
from autocompress.proxy.evaluate import StoppedError, evaluate
from autocompress.proxy.sensitivity import Effect, Meter
from autocompress.run.disk import DiskError, writing
from autocompress.run.finish import Point, emit_point
from autocompress.run.places import Place
from autocompress.run.weights import KeptTraining, load_weights, point_path, save_weights
from autocompress.search.record import Objective, Record
from autocompress.search.stopping import CONTINUE, at_best, decide

LOG = logging.getLogger("autocompress")
Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Shared:
    """What every job of a run needs; a worker gets it once."""

    context: Context
    space: Space

    @cached_property
    def meter(self) -> Meter:
        """Measures plans without training."""
        return Meter(self.space, self.context)


class Job(Protocol):
    """Work for a worker; it can be pickled, and gives the same result wherever it runs."""

    def __call__(self, shared: Shared, progress: Progress) -> Any:
        """Does the work.

        Args:
            shared: Of the run.
            progress: Called with the parts done and their total.
        """


@dataclass(frozen=True)
class EffectJob:
    """The effect of a plan without training; None if it cannot be applied."""

    vector: Vector

    def __call__(self, shared: Shared, progress: Progress) -> Effect | None:
        """Measures it."""
        return shared.meter.measured(self.vector)


@dataclass(frozen=True)
class SentPoint:
    """A point with the content of its files, from a machine that cannot write them where they belong."""

    point: Point
    files: Mapping[str, bytes]

    def received(self, artifacts: Path) -> Point:
        """Writes the files into their folder, all or none, and returns the point.

        Raises:
            DiskError: there is no room or no permission.
        """
        folder = artifacts / self.point.id
        with writing(folder), whole_folder(folder) as new:
            for name, content in self.files.items():
                write_whole(new / Path(name).name, content)
        return self.point


@dataclass(frozen=True)
class PointJob:
    """A trial's plan trained to the end, as verified files.

    Attributes:
        folder: `artifacts/<id>`.
        steps: Optimiser steps of the final training.
        checkpoint: The weights the trial ended with, if it kept them.
        dense: Metrics of the dense artifact.
        sees: A file of the run folder: whoever does not see it sends the artifact; None where all do.
    """

    record: Record
    folder: Path
    steps: int
    checkpoint: Place
    dense: Mapping[str, Metric]
    sees: Path | None = None

    def __call__(self, shared: Shared, progress: Progress) -> Point | SentPoint:
        """Trains, exports and verifies it."""
        if self.sees is None or self.sees.is_file():
            return self._made(self.folder, shared, progress)
        with TemporaryDirectory() as name:
            folder = Path(name) / self.folder.name
            point = self._made(folder, shared, progress)
            return SentPoint(point, {child.name: child.read_bytes() for child in sorted(folder.iterdir())})

    def _made(self, folder: Path, shared: Shared, progress: Progress) -> Point:
        plan = shared.space.decode(self.record.vector)
        return emit_point(
            plan,
            self.record.number,
            self.record.label,
            shared.context,
            folder,
            steps=self.steps,
            start=lambda: self._start(plan, shared.context),
            trained=point_path(self.checkpoint.parent, self.record.number, self.steps),
            dense=self.dense,
            progress=progress,
        )

    def _start(self, plan: Plan, context: Context) -> dict[str, Tensor]:
        """What the trial ended with; where its file is lost or damaged, the trial's training is done again."""
        kept = load_weights(self.checkpoint, plan)
        if kept is not None:
            return kept
        LOG.warning("trial %d is trained again: its weights are not in %s", self.record.number, self.checkpoint)
        result = evaluate(plan, "short", context)
        save_weights(self.checkpoint, result)
        return dict(result.module.state_dict())


@dataclass(frozen=True)
class TrialJob:
    """One trial; every way it can end is a record, but for a run folder that cannot be written.

    Attributes:
        dense: Metrics of the dense model that constraints are relative to.
        checkpoint: Where the trained weights go.
        objectives: Of the run.
        known: Other trials, by which this one is stopped half way; none for one that runs to its end.
    """

    number: int
    vector: Vector
    label: str
    constraints: tuple[Constraint, ...]
    dense: Mapping[str, Metric]
    checkpoint: Place
    objectives: tuple[Objective, ...] = ()
    known: tuple[Record, ...] = ()

    def __call__(self, shared: Shared, progress: Progress) -> Record:
        """Asks the tables, then trains and measures."""
        plan = shared.space.decode(self.vector)
        rungs = KeptTraining(self.checkpoint, plan)
        record = self._ended(plan, shared, progress, rungs)
        rungs.drop()
        return record

    def _ended(self, plan: Plan, shared: Shared, progress: Progress, rungs: KeptTraining) -> Record:
        start = time.perf_counter()
        try:
            cost = cost_of_plan(plan, shared.context)
            refusal = refused_by(cost.metrics, self.constraints, self.dense)
            if refusal is not None:
                seconds = {"tables": time.perf_counter() - start}
                return self._record("infeasible", "cost", cost.metrics, seconds, refusal)
            tables = time.perf_counter() - start
            half = _Half(self, cost.metrics, shared.context.task.metric_unit)
            result = evaluate(plan, "short", shared.context, progress=progress, halfway=half.goes_on, rungs=rungs)
            save_weights(self.checkpoint, result)
        except DiskError:
            # The next trial would come to the same end: nothing is wrong with this one.
            raise
        except StoppedError as error:
            return half.stopped(str(error), {"tables": tables, "train": time.perf_counter() - start - tables})
        except Exception as error:  # noqa: BLE001  # whatever a trial raises is its result, not the end of the search
            LOG.error("trial %d failed: %s\n%s", self.number, error, traceback.format_exc())
            return self.failed(one_line(error), time.perf_counter() - start)
        violated = refused_by(result.metrics, self.constraints, self.dense)
        told = ", ".join(f"{name} {metric.value:g}" for name, metric in result.metrics.items())
        LOG.info("trial %d (%s): %s", self.number, self.label, told)
        seconds = {"tables": tables, **result.seconds}
        record = self._record("complete", "short", result.metrics, seconds, violated, tuple(result.notes))
        return replace(record, halfway=half.value)

    def failed(self, why: str, seconds: float = 0.0) -> Record:
        """The record of this trial where it came to nothing."""
        return self._record("failed", "short", {}, {"apply": seconds}, why)

    def _record(
        self,
        state: str,
        fidelity: str,
        metrics: Mapping[str, Metric],
        seconds: Mapping[str, float],
        error: str | None,
        notes: tuple[str, ...] = (),
    ) -> Record:
        return Record(self.number, self.label, self.vector, state, fidelity, dict(metrics), seconds, error, notes)


class _Half:
    """A trial after half of its training."""

    def __init__(self, job: TrialJob, costs: Mapping[str, Metric], unit: str) -> None:
        self._job, self._costs, self._unit = job, costs, unit
        self.value: float | None = None

    def goes_on(self, value: float) -> bool:
        """Keeps the accuracy so far; False if others beat the trial whatever its second half brings."""
        self.value = value
        return decide(self._job.known, self._record, self._job.objectives) == CONTINUE

    def stopped(self, why: str, seconds: Mapping[str, float]) -> Record:
        """The record of a trial that does not go on, with what it would have reached at best."""
        best = at_best(self._job.known, self._record, self._job.objectives)
        told = f"{why}: others are better in everything, whatever the rest would bring"
        return replace(self._record, state="stopped", metrics=best or {}, seconds=seconds, error=told)

    @property
    def _record(self) -> Record:
        metrics = dict(self._costs)
        if self.value is not None:
            metrics["accuracy"] = Metric.exact(self.value, self._unit)
        job = self._job
        return Record(job.number, job.label, job.vector, "running", "halfway", metrics, {}, halfway=self.value)


def refused_by(
    metrics: Mapping[str, Metric], constraints: Sequence[Constraint], dense: Mapping[str, Metric]
) -> str | None:
    """The first constraint that known metrics break, in words; None if all that can be checked are met."""
    for constraint in constraints:
        if constraint.metric in metrics and constraint.violation(metrics, dense) > 0:
            value, limit = metrics[constraint.metric].value, constraint.limit(dense)
            return f"{constraint.text} is not met: {constraint.metric} is {value:g}, the limit {limit:g}"
    return None


def one_line(error: BaseException) -> str:
    """An error of this package in its own words, any other with its kind; the first line of either."""
    lines = str(error).strip().splitlines()
    kind = "" if isinstance(error, AutoCompressError) else f"{type(error).__name__}: "
    return kind + (lines[0] if lines else "no message")
