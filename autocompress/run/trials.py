"""The loop of a search: ask, gate by tables, evaluate, tell; survives whatever a trial does."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from autocompress.core.constraint import Budget, Constraint
from autocompress.core.metric import Metric
from autocompress.core.space import Space, Vector
from autocompress.errors import AutoCompressError
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_plan
from autocompress.proxy.evaluate import Evaluation, evaluate
from autocompress.run.study import Study
from autocompress.search.controllers import Controller
from autocompress.search.record import Record

LOG = logging.getLogger("autocompress")
# Plans that the tables refuse cost almost nothing, but a space that has no feasible plan must end.
REFUSALS_PER_TRIAL = 20


class Listener(Protocol):
    """Is told what happens, to show it."""

    def trial(self, record: Record, done: int, budget: Budget, seconds: float) -> None:
        """A trial ended."""

    def step(self, text: str, done: int, total: int) -> None:
        """Part of a longer piece of work is done."""

    def say(self, text: str) -> None:
        """A phase begins, or something must be known."""


@dataclass(frozen=True)
class Trials:
    """Everything the loop needs.

    Attributes:
        baselines: `(label, vector)` to run first, in this order.
        planned: More of them, put together from what is measured when the others are done.
        dense: Metrics of the dense model that constraints are relative to.
        checkpoints: Folder for the weights of every complete trial.
    """

    study: Study
    space: Space
    controller: Controller
    context: Context
    constraints: tuple[Constraint, ...]
    baselines: tuple[tuple[str, Vector], ...]
    planned: Callable[[], Sequence[tuple[str, Vector]]]
    dense: Mapping[str, Metric]
    checkpoints: Path
    listener: Listener


def run_trials(trials: Trials, budget: Budget) -> bool:
    """Runs until the budget is spent or every plan was tried; False if Ctrl-C ended it before.

    A trial that diverges, runs out of memory or raises is recorded with its error and the search goes on.
    """
    started = time.monotonic()
    again = [(vector, label) for _, vector, label in trials.study.requeue_lost()]
    try:
        while True:
            records = trials.study.records()
            counted = [record for record in records if record.state in ("complete", "failed")]
            refused = len(records) - len(counted)
            seconds = time.monotonic() - started
            if _spent(budget, len(counted), seconds) or refused > REFUSALS_PER_TRIAL * (budget.trials or 1000):
                return True
            if not again and len({record.vector for record in records}) >= trials.space.size:
                trials.listener.say(f"every one of the {trials.space.size} plans was tried")
                return True
            vector, label = again.pop(0) if again else _next(trials, records)
            number = trials.study.start(vector, label)
            record = run_one(trials, number, vector, label)
            trials.study.finish(record)
            done = len(counted) + (record.state != "infeasible")
            trials.listener.trial(record, done, budget, time.monotonic() - started)
    except KeyboardInterrupt:
        LOG.warning("interrupted; the trial in flight is run again when the search is resumed")
        return False


def _spent(budget: Budget, done: int, seconds: float) -> bool:
    by_trials = budget.trials is not None and done >= budget.trials
    return by_trials or (budget.seconds is not None and seconds >= budget.seconds)


def _next(trials: Trials, records: Sequence[Record]) -> tuple[Vector, str]:
    tried = {record.vector for record in records}
    for label, vector in trials.baselines:
        if vector not in tried:
            return vector, label
    for label, vector in trials.planned():
        if vector not in tried:
            return vector, label
    return trials.controller.ask(records), "search"


def run_one(trials: Trials, number: int, vector: Vector, label: str) -> Record:
    """Evaluates one plan; every way it can end is a record."""
    plan = trials.space.decode(vector)
    start = time.perf_counter()
    try:
        cost = cost_of_plan(plan, trials.context)
        refusal = refused_by(cost.metrics, trials.constraints, trials.dense)
        if refusal is not None:
            seconds = {"tables": time.perf_counter() - start}
            return Record(number, label, vector, "infeasible", "cost", cost.metrics, seconds, refusal)
        tables = time.perf_counter() - start
        result = evaluate(plan, "short", trials.context, progress=_progress(trials, number))
        save_weights(checkpoint_path(trials.checkpoints, number), result)
    except Exception as error:  # noqa: BLE001  # whatever a trial raises is its result, not the end of the search
        LOG.error("trial %d failed: %s\n%s", number, error, traceback.format_exc())
        seconds = {"apply": time.perf_counter() - start}
        return Record(number, label, vector, "failed", "short", {}, seconds, _one_line(error))
    seconds = {"tables": tables, **result.seconds}
    violated = refused_by(result.metrics, trials.constraints, trials.dense)
    LOG.info("trial %d (%s): %s", number, label, _told(result.metrics))
    return Record(
        number, label, vector, "complete", "short", dict(result.metrics), seconds, violated, tuple(result.notes)
    )


def _progress(trials: Trials, number: int) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        trials.listener.step(f"trial {number}", done, total)

    return show


def refused_by(
    metrics: Mapping[str, Metric], constraints: Sequence[Constraint], dense: Mapping[str, Metric]
) -> str | None:
    """The first constraint that known metrics break, in words; None if all that can be checked are met."""
    for constraint in constraints:
        if constraint.metric in metrics and constraint.violation(metrics, dense) > 0:
            value, limit = metrics[constraint.metric].value, constraint.limit(dense)
            return f"{constraint.text} is not met: {constraint.metric} is {value:g}, the limit {limit:g}"
    return None


def checkpoint_path(folder: Path, number: int) -> Path:
    """Where the trained weights of a trial are kept."""
    return folder / f"trial-{number:04d}.safetensors"


def save_weights(path: Path, result: Evaluation) -> None:
    """Writes the weights of an evaluation, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: tensor.contiguous().clone() for name, tensor in result.module.state_dict().items()}, part)
    part.replace(path)


def load_weights(path: Path) -> dict[str, Tensor] | None:
    """The weights that `save_weights` wrote, or None where there are none."""
    return dict(load_file(path)) if path.is_file() else None


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    kind = "" if isinstance(error, AutoCompressError) else f"{type(error).__name__}: "
    return kind + (lines[0] if lines else "no message")


def _told(metrics: Mapping[str, Metric]) -> str:
    return ", ".join(f"{name} {metric.value:g}" for name, metric in metrics.items())
