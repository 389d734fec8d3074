"""Which trials become files: chosen one after another by what the files before them reached."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from statistics import median

from autocompress.core.constraint import Constraint
from autocompress.core.metric import Metric
from autocompress.core.pareto import non_dominated
from autocompress.run.executors import Done, Executor
from autocompress.run.finish import Point
from autocompress.run.jobs import PointJob, SentPoint, refused_by
from autocompress.run.places import Place
from autocompress.run.trials import Listener
from autocompress.run.weights import checkpoint_path
from autocompress.search.record import Objective, Record, accuracy_of, front_of, losses, lost_share
from autocompress.search.select import Made, next_point, training_share


@dataclass(frozen=True)
class Finals:
    """What making the final points needs.

    Attributes:
        executor: Does the work.
        dense: Metrics of the dense model on the validation split.
        kind: What a trial's plan changes that decides how much training brings back, see `rest_kind`.
        baseline: The dense artifact.
        steps: Optimiser steps of the final training of a point with a typical loss, see `training_share`.
        all_steps: Of all final trainings together, where no point asks for less.
        least_steps: No final training is shorter.
        constraints: That points should keep to.
        points: How many are made.
        spare: How many more are made at most, one for each that others beat.
        sees: See `PointJob`.
    """

    executor: Executor
    objectives: tuple[Objective, ...]
    dense: Mapping[str, Metric]
    kind: Callable[[Record], str]
    baseline: Point
    steps: int
    all_steps: int
    least_steps: int
    points: int
    spare: int
    artifacts: Path
    checkpoints: Place
    listener: Listener
    sees: Path | None = None
    constraints: tuple[Constraint, ...] = ()

    @property
    def aims(self) -> tuple[Objective, ...]:
        """The objectives, and the accuracy where it is limited: what loses more than that is worth nothing."""
        limited = [Objective(one.metric, one.sense == ">=") for one in self._on_accuracy]
        return self.objectives if accuracy_of(self.objectives) else (*self.objectives, *limited[:1])

    @property
    def allowed(self) -> float | None:
        """The share of the dense accuracy that a point may lose; None without a limit."""
        accuracy = accuracy_of(self.aims)
        if accuracy is None:
            return None
        limits = [Metric.exact(one.limit(self.dense), self.dense[one.metric].unit) for one in self._on_accuracy]
        return min((lost_share(accuracy, {accuracy.name: limit}, self.dense) for limit in limits), default=None)

    def may_meet(self, record: Record) -> bool:
        """Whether a trial meets all limits but that on accuracy, of which its final training brings some back."""
        if record.state != "complete":
            return False
        others = [one for one in self.constraints if one not in self._on_accuracy]
        return record.error is None or (
            bool(self._on_accuracy) and refused_by(record.metrics, others, self.dense) is None
        )

    @property
    def _on_accuracy(self) -> tuple[Constraint, ...]:
        return tuple(one for one in self.constraints if one.metric == "accuracy")


def steps_in_time(asked: int, least: int, seconds: float, per_step: float | None) -> int:
    """Of the steps asked for as many as there is time for, but `least` where so many were asked for.

    Args:
        asked: Of all points together.
        least: Whatever time that takes.
        seconds: For all of them; 0 for any time.
        per_step: Seconds of a training step of the dense model; None where that is not known.
    """
    if seconds <= 0 or not per_step:
        return asked
    return min(asked, max(least, round(seconds / per_step)))


def step_seconds(records: Sequence[Record], short_steps: int) -> float | None:
    """How long a training step of the dense model takes beside other workers, as the trials of a run tell.

    Trials of less work in a step have more steps in the same time. A run that is resumed finds the same in its trials.
    """
    times = [record.seconds["train"] for record in records if record.seconds.get("train", 0.0) > 0.0]
    return median(times) / short_steps if times and short_steps else None


def make_points(finals: Finals, records: Sequence[Record]) -> list[Point]:
    """Trains, exports and verifies the trials that together cover most of the front; Ctrl-C keeps what is ready."""
    met = [record for record in records if finals.may_meet(record)]
    making = _Making(finals, front_of(met or records, finals.aims, "short"))
    try:
        while making.more():
            making.wait()
    except KeyboardInterrupt:
        finals.listener.say("interrupted: the points that are ready are kept")
        finals.executor.stop()
    return making.points


class _Making:
    """Points are chosen by those that would have ended by then if a step took as long for each of them.

    So the same seed and workers choose the same points however long each takes, and none waits for a long one. Of those
    that are to come the longest is trained first, so that none runs alone at the end.
    """

    def __init__(self, finals: Finals, candidates: Sequence[Record]) -> None:
        self._finals = finals
        self._left = list(candidates)
        self._chosen: list[Record] = []
        # In steps since the first point was started: when each worker is free, and when each point ends.
        self._free = [0] * finals.executor.workers
        self._ends: dict[int, int] = {}
        self._ended: dict[int, Point | None] = {}
        self._keys: dict[str, Record] = {}

    @property
    def points(self) -> list[Point]:
        """Those that are ready, the ones that failed their verification too."""
        return [point for point in self._ended.values() if point is not None]

    def more(self) -> bool:
        """Keeps the workers busy; False if nothing runs and nothing is left to start."""
        executor, listener = self._finals.executor, self._finals.listener
        while executor.busy < executor.workers:
            known = [record for record in self._chosen if self._ends[record.number] <= self._free[0]]
            if any(record.number not in self._ended for record in known):
                break
            to_come = self._to_come(known)
            if not to_come and not executor.busy:
                to_come = self._to_come(self._chosen)
            if not to_come:
                if not executor.busy and len(self._chosen) < self._wanted(self._made(self._chosen)):
                    listener.say("no other plan is expected to add to these points")
                break
            self._start(to_come)
        return executor.busy > 0

    def wait(self) -> None:
        """Takes the next point that is ready, or says why there is none."""
        finals = self._finals
        done: Done = finals.executor.next(finals.listener.step)
        record = self._keys.pop(done.key)
        result = done.result
        self._ended[record.number] = result.received(finals.artifacts) if isinstance(result, SentPoint) else result
        finals.listener.step(done.key, 1, 1)
        if done.error is not None:
            finals.listener.say(f"{done.key}: FAILED, no artifact: {done.error}")

    def _wanted(self, made: Sequence[Made]) -> int:
        """How many are made, as far as those that are ready tell."""
        found = [losses(self._finals.objectives, point.metrics) for point in made]
        beaten = len(found) - len(non_dominated(found))
        return self._finals.points + min(beaten, self._finals.spare)

    def _made(self, known: Sequence[Record]) -> list[Made]:
        ended = [(record, self._ended[record.number]) for record in known]
        return [Made(r, point.validation_metrics) for r, point in ended if point is not None and point.reason is None]

    def _to_come(self, known: Sequence[Record]) -> list[Record]:
        """Those that would be made by what is known, the one that adds most first; none that adds nothing."""
        finals, made = self._finals, self._made(known)
        ended = {record.number for record in known}
        taken = [record for record in self._chosen if record.number not in ended]
        left, found = list(self._left), list[Record]()
        missing = self._wanted(made) - len(self._chosen)
        while len(found) < missing:
            record = next_point(
                left, finals.aims, finals.dense, made, [*taken, *found], finals.kind, self._pace, finals.allowed
            )
            if record is None:
                break
            left = [other for other in left if other is not record]
            found.append(record)
        return found

    @property
    def _pace(self) -> float:
        """What part of the steps that were asked for there is time for."""
        finals = self._finals
        return min(1.0, finals.all_steps / max(1, finals.points * finals.steps))

    def _steps(self, share: float, shares: float) -> int:
        """What a point gets of the steps that are left, by its share of the shares of all that are to come.

        Not more than was asked for a point, times its share; and none ends later than all would if they filled the
        workers evenly, since the time of another worker is not its own.
        """
        finals = self._finals
        left = max(0, finals.all_steps - sum(self._free))
        own = finals.all_steps / min(len(self._free), finals.points) - self._free[0]
        return max(finals.least_steps, round(min(share * min(finals.steps, left / shares), own)))

    def _start(self, to_come: Sequence[Record]) -> None:
        """Starts the one with the longest training."""
        finals = self._finals
        shares = [
            training_share(record, finals.aims, finals.dense, finals.allowed, finals.kind(record)) for record in to_come
        ]
        share, record = max(zip(shares, to_come, strict=True), key=itemgetter(0))
        self._left = [other for other in self._left if other is not record]
        steps = self._steps(share, sum(shares))
        self._chosen.append(record)
        key = f"point {len(self._chosen)} of about {finals.points} (trial {record.number})"
        self._ends[record.number] = self._free[0] + steps
        heapq.heapreplace(self._free, self._free[0] + steps)
        finals.listener.say(f"{key}: training {steps} steps, exporting, verifying")
        folder = finals.artifacts / f"t{record.number:03d}"
        checkpoint = checkpoint_path(finals.checkpoints, record.number)
        self._keys[key] = record
        finals.executor.start(key, PointJob(record, folder, steps, checkpoint, finals.baseline.metrics, finals.sees))
