"""The loop of a search: ask, hand to a worker, tell; survives whatever a trial does."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from autocompress.core.constraint import Budget, Constraint
from autocompress.core.metric import Metric
from autocompress.core.space import Space, Vector
from autocompress.run.executors import Executor, decided_by
from autocompress.run.jobs import TrialJob
from autocompress.run.places import Place
from autocompress.run.study import Study
from autocompress.run.weights import checkpoint_path, collect
from autocompress.search.controller import Controller
from autocompress.search.outlook import WORST_LOST
from autocompress.search.planned import PLANNED_LABEL
from autocompress.search.record import ASKED, WAIT, Objective, Record, front_of, too_far
from autocompress.search.stopping import telling_of

LOG = logging.getLogger("autocompress")
# Plans that the tables refuse cost almost nothing, but a space that has no feasible plan must end.
REFUSALS_PER_TRIAL = 20
# Trials whose weights stay in the run folder; those of the front do however many they are.
KEPT_WEIGHTS, COLLECTED_EVERY = 200, 50


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


class PlanSource(Protocol):
    """Puts plans together from what is measured."""

    def prepare(self, known: Sequence[Record], count: int) -> None:
        """Gets ready to be asked for so many plans, given all trials before."""

    def pick(self, known: Sequence[Record], pending: Collection[Vector]) -> tuple[str, Vector] | None:
        """The next plan with its label, given the trials that have ended and the plans under way; None for no more."""


@dataclass(frozen=True)
class Trials:
    """Everything the loop needs.

    Attributes:
        executor: Does the work.
        baselines: `(label, vector)` to run before the controller asks, in this order, but for those that go further
            than one that lost too much to come back.
        planner: Puts plans together.
        waves: How many plans are picked each time that it does so, after the first baseline and before the others;
            after them as many as the last time, as long as it finds any.
        dense: Metrics of the dense model that constraints are relative to.
        checkpoints: Folder for the weights of every complete trial.
    """

    study: Study
    space: Space
    controller: Controller
    executor: Executor
    constraints: tuple[Constraint, ...]
    baselines: tuple[tuple[str, Vector], ...]
    planner: PlanSource
    waves: tuple[int, ...]
    dense: Mapping[str, Metric]
    checkpoints: Place
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
class _Wave:
    """Plans that are picked one after another.

    Attributes:
        size: How many.
        plans: Those picked so far; None before the wave is prepared.
    """

    size: int
    plans: set[Vector] | None = None


# Baselines one after another, `(label, vector)`, or a wave.
_Stage = Sequence[tuple[str, Vector]] | _Wave


def _stages(baselines: Sequence[tuple[str, Vector]], waves: Sequence[int]) -> deque[_Stage]:
    """What comes before a controller asks: the last wave is followed by another one while it has any plan."""
    return deque([baselines[:1], *map(_Wave, waves), baselines[1:], *map(_Wave, waves[-1:])])


class _Loop:
    """One stretch of a search, from its start or from where another process left it."""

    def __init__(self, trials: Trials, budget: Budget) -> None:
        self._trials = trials
        self._budget = budget
        self._started = time.monotonic()
        # What a driver that is gone left under way comes first, whatever the budget: it was begun within it.
        self._again = deque(trials.study.lost())
        # With the time at which it was handed out.
        self._running: dict[str, tuple[TrialJob, float]] = {}
        self._stages = _stages(trials.baselines, trials.waves)
        self._before: set[Vector] = set()
        # What tells enough of so many trials, all of which have ended.
        self._judged, self._judges_so_far = 0, tuple[Record, ...]()

    def more(self) -> bool:
        """Keeps the workers busy; False if nothing runs and nothing is left to start."""
        executor = self._trials.executor
        while executor.busy < executor.workers:
            record = self._again.popleft() if self._again else self._begun()
            if record is None:
                break
            self._start(record)
        return executor.busy > 0

    def wait(self) -> None:
        """Writes down the next trial that ends."""
        trials = self._trials
        done = trials.executor.next(trials.listener.step)
        job, begun = self._running.pop(done.key)
        record: Record = job.failed(done.error) if done.error is not None else done.result
        waited = time.monotonic() - begun - sum(record.seconds.values())
        record = replace(record, seconds={**record.seconds, WAIT: max(0.0, waited)})
        trials.study.finish(record)
        records = trials.study.records()
        count = len(_counted(records))
        if len(records) % COLLECTED_EVERY == 0:
            front = {one.number for one in front_of(records, trials.study.objectives, "short")}
            collect(trials.checkpoints, front, KEPT_WEIGHTS)
        trials.listener.trial(record, count, self._budget, time.monotonic() - self._started)

    def _begun(self) -> Record | None:
        """A new trial; None if there is none to start, now or ever."""
        asked = self._next()
        if asked is None:
            return None
        vector, label = asked
        return Record(self._trials.study.start(vector, label), label, vector, "running", "short", {}, {})

    def _start(self, record: Record) -> None:
        trials = self._trials
        number, key = record.number, f"trial {record.number}"
        path = checkpoint_path(trials.checkpoints, number)
        known = self._judges(record)
        objectives = trials.study.objectives
        job = TrialJob(number, record.vector, record.label, trials.constraints, trials.dense, path, objectives, known)
        self._running[key] = job, time.monotonic()
        trials.executor.start(key, job)

    def _judges(self, record: Record) -> tuple[Record, ...]:
        """The trials by which one is stopped half way: none for baselines, which are there to be compared with.

        Only those that had ended for certain when it was begun, so that the same seed and workers stop the same trials,
        also where one is run again.
        """
        trials = self._trials
        if any(record.vector == baseline for _, baseline in trials.baselines):
            return ()
        before = [other for other in trials.study.records() if other.number < record.number]
        known = before[: decided_by(len(before), trials.executor.workers)]
        new = known[self._judged :]
        told = telling_of([*self._judges_so_far, *new], trials.study.objectives)
        if not _open(new):
            self._judged, self._judges_so_far = len(known), told
        return told

    def _next(self) -> tuple[Vector, str] | None:
        """What to start, None if nothing is, now or ever."""
        trials, running = self._trials, len(self._running)
        records = trials.study.records()
        counted = len(_counted(records))
        refused = len(records) - counted - running
        if self._spent(counted + running):
            return None
        if refused > REFUSALS_PER_TRIAL * (self._budget.trials or 1000):
            if not running:
                trials.listener.say(f"the tables refused {refused} plans: the search ends after {counted} trials")
            return None
        tried = {record.vector for record in records}
        if len(tried) >= trials.space.size:
            if not running:
                trials.listener.say(f"every one of the {trials.space.size} plans was tried")
            return None
        while self._stages:
            stage = self._stages[0]
            if isinstance(stage, _Wave) and stage.plans is None:
                if running:
                    # A wave depends on all before it, and measuring what to plan takes all workers.
                    return None
                self._stages[0] = stage = self._prepared(stage.size, records)
            known = self._known(records)
            if known is None:
                return None
            if isinstance(stage, _Wave):
                asked = self._picked(stage, known, records, tried)
            else:
                asked = self._baseline(stage, known, tried)
            if asked is not None:
                return asked
            self._stages.popleft()
        return self._asked(records)

    def _baseline(
        self, stage: Sequence[tuple[str, Vector]], known: Sequence[Record], tried: Collection[Vector]
    ) -> tuple[Vector, str] | None:
        """The next baseline that does not go further than one that lost too much to come back; None after the last."""
        trials = self._trials
        for label, vector in stage:
            if vector not in tried and not too_far(vector, known, trials.study.objectives, trials.dense, WORST_LOST):
                return vector, label
        self._before.update(vector for _, vector in stage)
        return None

    def _prepared(self, size: int, records: Sequence[Record]) -> _Wave:
        """The next wave; what else was tried does not count, so that a run that goes on plans the same."""
        self._trials.planner.prepare(self._of(records), size)
        picked = [record.vector for record in records if record.label.startswith(PLANNED_LABEL)]
        # Of a run that goes on some were picked before.
        return _Wave(size, set([vector for vector in picked if vector not in self._before][:size]))

    def _picked(
        self, wave: _Wave, known: Sequence[Record], records: Sequence[Record], tried: Collection[Vector]
    ) -> tuple[Vector, str] | None:
        """The next plan of a wave, None after the last."""
        plans = wave.plans
        assert plans is not None
        while len(plans) < wave.size:
            # What earlier waves picked may not be known yet either, though it has ended.
            pending = [record.vector for record in self._of(records[len(known) :], plans)]
            picked = self._trials.planner.pick(self._of(known, plans), pending)
            if picked is None:
                break
            label, vector = picked
            plans.add(vector)
            if vector not in tried:
                return vector, label
        self._before |= plans
        if plans and len(self._stages) == 1:
            self._stages.append(_Wave(wave.size))
        return None

    def _of(self, records: Sequence[Record], plans: Collection[Vector] = ()) -> list[Record]:
        """The trials of all stages so far, and of some plans of this one."""
        return [record for record in records if record.vector in self._before or record.vector in plans]

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
