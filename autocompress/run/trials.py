"""The loop of a search: ask, hand to a worker, tell; survives whatever a trial does."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from autocompress.core.constraint import Budget, Constraint
from autocompress.core.metric import Metric
from autocompress.core.space import Space, Vector
from autocompress.run.executors import Executor, decided_by
from autocompress.run.jobs import TrialJob
from autocompress.run.study import Study
from autocompress.run.weights import checkpoint_path
from autocompress.search.controller import Controller
from autocompress.search.outlook import WORST_LOST
from autocompress.search.record import Objective, Record, too_far
from autocompress.search.seeded import ASKED
from autocompress.search.stopping import telling_of

LOG = logging.getLogger("autocompress")
# Plans that the tables refuse cost almost nothing, but a space that has no feasible plan must end.
REFUSALS_PER_TRIAL = 20


class Listener(Protocol):
    """Is told what happens, to show it."""

    def begin(self, objectives: Sequence[Objective], records: Sequence[Record]) -> None:
        """A search begins, or goes on after the trials of an earlier stretch."""

    def trial(self, record: Record, done: int, budget: Budget, seconds: float) -> None:
        """A trial ended."""

    def step(self, text: str, done: int, total: int) -> None:
        """Part of a longer piece of work is done; the last one ends it."""

    def say(self, text: str) -> None:
        """A phase begins, or something must be known."""


@dataclass(frozen=True)
class Trials:
    """Everything the loop needs.

    Attributes:
        executor: Does the work.
        baselines: `(label, vector)` to run before the controller asks, in this order, but for those that go further
            than one that lost too much to come back.
        planned: More of them, put together from what is measured, given the records of all before.
        waves: How often plans are put together, after the first baseline and before all others.
        dense: Metrics of the dense model that constraints are relative to.
        checkpoints: Folder for the weights of every complete trial.
    """

    study: Study
    space: Space
    controller: Controller
    executor: Executor
    constraints: tuple[Constraint, ...]
    baselines: tuple[tuple[str, Vector], ...]
    planned: Callable[[Sequence[Record]], Sequence[tuple[str, Vector]]]
    waves: int
    dense: Mapping[str, Metric]
    checkpoints: Path
    listener: Listener


def run_trials(trials: Trials, budget: Budget) -> bool:
    """Runs until the budget is spent or every plan was tried; False if Ctrl-C ended it before.

    A trial that diverges, runs out of memory or raises is recorded with its error and the search goes on.
    """
    loop = _Loop(trials, budget)
    try:
        while loop.more():
            loop.wait()
    except KeyboardInterrupt:
        LOG.warning("interrupted; the trials in flight are run again when the search is resumed")
        trials.executor.stop()
        return False
    return True


@dataclass(frozen=True)
class _Stage:
    """Plans that come one after another, `(label, vector)`.

    Attributes:
        is_checked: Those that go further than one that lost too much are left out.
    """

    plans: Sequence[tuple[str, Vector]]
    is_checked: bool


def _stages(baselines: Sequence[tuple[str, Vector]], waves: int) -> deque[_Stage | None]:
    """What comes before a controller asks; None stands for a wave, which is put together when its turn comes."""
    first, *rest = _Stage(baselines[:1], True), _Stage(baselines[1:], True)
    return deque([first, *[None] * waves, *rest])


class _Loop:
    """One stretch of a search, from its start or from where another process left it."""

    def __init__(self, trials: Trials, budget: Budget) -> None:
        self._trials = trials
        self._budget = budget
        self._started = time.monotonic()
        self._again = [(vector, label) for _, vector, label in trials.study.requeue_lost()]
        self._running: dict[str, TrialJob] = {}
        self._stages = _stages(trials.baselines, trials.waves)
        self._before: set[Vector] = set()

    def more(self) -> bool:
        """Keeps the workers busy; False if nothing runs and nothing is left to start."""
        executor = self._trials.executor
        while executor.busy < executor.workers:
            asked = self._next()
            if asked is None:
                break
            self._start(*asked)
        return executor.busy > 0

    def wait(self) -> None:
        """Writes down the next trial that ends."""
        trials = self._trials
        done = trials.executor.next(trials.listener.step)
        job = self._running.pop(done.key)
        record: Record = job.failed(done.error) if done.error is not None else done.result
        trials.study.finish(record)
        count = len(_counted(trials.study.records()))
        trials.listener.trial(record, count, self._budget, time.monotonic() - self._started)

    def _start(self, vector: Vector, label: str) -> None:
        trials = self._trials
        judges = self._judges(vector, label)
        number = trials.study.start(vector, label)
        path = checkpoint_path(trials.checkpoints, number)
        objectives = trials.study.objectives
        job = TrialJob(number, vector, label, trials.constraints, trials.dense, path, objectives, judges)
        key = f"trial {number}"
        self._running[key] = job
        trials.executor.start(key, job)

    def _judges(self, vector: Vector, label: str) -> tuple[Record, ...]:
        """The trials by which one is stopped half way: none for baselines, which are there to be compared with.

        Only those that had ended for certain, so that the same seed and workers stop the same trials.
        """
        trials = self._trials
        if any(vector == baseline for _, baseline in trials.baselines):
            return ()
        records = trials.study.records()
        if label == ASKED:
            known = records[: decided_by(len(records), trials.executor.workers)]
        else:
            known = [record for record in records if record.vector in self._before]
        return telling_of(known, trials.study.objectives)

    def _next(self) -> tuple[Vector, str] | None:
        """What to start, None if nothing is, now or ever."""
        trials, running = self._trials, len(self._running)
        records = trials.study.records()
        counted = len(_counted(records))
        refused = len(records) - counted - running
        if self._spent(counted + running) or refused > REFUSALS_PER_TRIAL * (self._budget.trials or 1000):
            return None
        if self._again:
            return self._again.pop(0)
        tried = {record.vector for record in records}
        if len(tried) >= trials.space.size:
            if not running:
                trials.listener.say(f"every one of the {trials.space.size} plans was tried")
            return None
        while self._stages:
            stage = self._stages[0]
            if stage is None:
                if running:
                    # A wave depends on all before it, and measuring what to plan takes all workers.
                    return None
                self._stages[0] = self._wave(records)
                continue
            known = self._known(records) if stage.is_checked else []
            if known is None:
                return None
            for label, vector in stage.plans:
                if vector not in tried and not (stage.is_checked and self._is_too_far(vector, known)):
                    return vector, label
            self._before.update(vector for _, vector in stage.plans)
            self._stages.popleft()
        return self._asked(records)

    def _is_too_far(self, vector: Vector, known: Sequence[Record]) -> bool:
        """Whether a plan goes further than one that lost too much to come back."""
        return too_far(vector, known, self._trials.study.objectives, self._trials.dense, WORST_LOST)

    def _wave(self, records: Sequence[Record]) -> _Stage:
        """One more wave; what else was tried does not count, so that a run that goes on plans the same."""
        return _Stage(self._trials.planned([record for record in records if record.vector in self._before]), False)

    def _asked(self, records: Sequence[Record]) -> tuple[Vector, str] | None:
        """What the controller asks for, None while what it depends on is not yet known."""
        known = self._known(records)
        if known is None:
            return None
        later = [replace(record, state="running", metrics={}) for record in records[len(known) :]]
        return self._trials.controller.ask([*known, *later]), ASKED

    def _known(self, records: Sequence[Record]) -> Sequence[Record] | None:
        """The trials that the next one may depend on; None while one of them is still open."""
        known = records[: decided_by(len(records), self._trials.executor.workers)]
        return None if _open(known) else known

    def _spent(self, trials: int) -> bool:
        by_trials = self._budget.trials is not None and trials >= self._budget.trials
        seconds = time.monotonic() - self._started
        return by_trials or (self._budget.seconds is not None and seconds >= self._budget.seconds)


def _counted(records: Sequence[Record]) -> list[Record]:
    """The trials that the budget pays for."""
    return [record for record in records if record.state in ("complete", "stopped", "failed")]


def _open(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.state == "running"]
