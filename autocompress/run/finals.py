"""Which trials become files: chosen one after another by what the files before them reached."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from autocompress.core.metric import Metric
from autocompress.core.pareto import non_dominated
from autocompress.run.executors import Done, Executor
from autocompress.run.finish import Point
from autocompress.run.jobs import PointJob
from autocompress.run.trials import Listener
from autocompress.run.weights import checkpoint_path
from autocompress.search.record import Objective, Record, losses
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
        least_steps: No final training is shorter.
        points: How many are made.
        spare: How many more are made at most, one for each that others beat.
    """

    executor: Executor
    objectives: tuple[Objective, ...]
    dense: Mapping[str, Metric]
    kind: Callable[[Record], str]
    baseline: Point
    steps: int
    least_steps: int
    points: int
    spare: int
    artifacts: Path
    checkpoints: Path
    listener: Listener


def steps_in_time(asked: int, least: int, seconds: float, per_step: float | None) -> int:
    """Of the steps asked for a point as many as there is time for, but `least` where so many were asked for.

    Args:
        asked: Of each point.
        least: Whatever time that takes.
        seconds: For each point; 0 for any time.
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
    """Trains, exports and verifies the trials that together cover most of a front; Ctrl-C keeps what is ready.

    All are candidates: one that another beats in every objective may still do less work, see `next_point`.
    """
    tried = [record for record in records if record.state == "complete" and record.fidelity == "short"]
    met = [record for record in tried if record.error is None]
    making = _Making(finals, met or tried)
    try:
        while making.more():
            making.wait()
    except KeyboardInterrupt:
        finals.listener.say("interrupted: the points that are ready are kept")
        finals.executor.stop()
    return making.points


class _Making:
    """Points are chosen by those that would have ended by then if a step took as long for each of them.

    So the same seed and workers choose the same points however long each takes, and none waits for a long one.
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
            record = self._choose(known)
            if record is None and not executor.busy:
                record = self._choose(self._chosen)
            if record is None:
                if not executor.busy and len(self._chosen) < self._wanted(self._made(self._chosen)):
                    listener.say("no other plan is expected to add to these points")
                break
            self._start(record)
        return executor.busy > 0

    def wait(self) -> None:
        """Takes the next point that is ready, or says why there is none."""
        finals = self._finals
        done: Done = finals.executor.next(finals.listener.step)
        record = self._keys.pop(done.key)
        self._ended[record.number] = done.result
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

    def _choose(self, known: Sequence[Record]) -> Record | None:
        """The next one by what is known; None if enough are made or none is expected to add anything."""
        finals, made = self._finals, self._made(known)
        if len(self._chosen) >= self._wanted(made):
            return None
        ended = {record.number for record in known}
        running = [record for record in self._chosen if record.number not in ended]
        return next_point(self._left, finals.objectives, finals.dense, made, running, finals.kind)

    def _steps(self, share: float) -> int:
        """A share of what each of the points to come would get, so that all together take no longer than was asked."""
        finals = self._finals
        to_come = max(1, finals.points - len(self._chosen))
        fair = max(0.0, finals.points * finals.steps - sum(self._free)) / to_come
        return max(finals.least_steps, round(min(share, to_come) * fair))

    def _start(self, record: Record) -> None:
        finals = self._finals
        self._left = [other for other in self._left if other is not record]
        steps = self._steps(training_share(record, finals.objectives, finals.dense))
        self._chosen.append(record)
        key = f"point {len(self._chosen)} of about {finals.points} (trial {record.number})"
        self._ends[record.number] = self._free[0] + steps
        heapq.heapreplace(self._free, self._free[0] + steps)
        finals.listener.say(f"{key}: training {steps} steps, exporting, verifying")
        folder = finals.artifacts / f"t{record.number:03d}"
        checkpoint = checkpoint_path(finals.checkpoints, record.number)
        self._keys[key] = record
        finals.executor.start(key, PointJob(record, folder, steps, checkpoint, finals.baseline.metrics))
