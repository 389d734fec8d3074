"""One run from its first trial to its report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from pathlib import Path

from autocompress.core.collector import rest_set_aside
from autocompress.core.constraint import Budget, Constraint
from autocompress.core.files import write_whole
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan
from autocompress.core.space import Space, Vector
from autocompress.emit.report import render_report
from autocompress.emit.report_data import save_report_data
from autocompress.errors import InputError
from autocompress.proxy.context import Context
from autocompress.proxy.sensitivity import Effects, Sensitivity
from autocompress.proxy.timing import reference_latency_ms
from autocompress.run.carry import Convert, carry, copy_weights
from autocompress.run.effects import effects_by
from autocompress.run.executors import Executor, InProcess, Workers, workers_of
from autocompress.run.finals import Finals, make_points, step_seconds, steps_in_time
from autocompress.run.finish import Point, emit_point, final_front, timed_together, write_front
from autocompress.run.folder import (
    ARTIFACTS,
    CHECKPOINTS,
    CONFIG,
    FRONT,
    LOGS,
    REPORT,
    REPORT_DATA,
    SENSITIVITY,
    Run,
)
from autocompress.run.jobs import Shared, refused_by
from autocompress.run.journal import JOURNAL, repair
from autocompress.run.lease import Lease
from autocompress.run.limits import limits_of
from autocompress.run.log import logging_to
from autocompress.run.places import Place
from autocompress.run.reach import dense_cost, least_costs
from autocompress.run.reasons import explained
from autocompress.run.report_input import Times, busy_share, report_input
from autocompress.run.study import Study
from autocompress.run.trials import Listener, PlanSource, Trials, run_trials
from autocompress.run.weights import drop_rungs
from autocompress.search.controllers import PLANNED, WITH_TABLES, make_controller
from autocompress.search.oneshot import Tables
from autocompress.search.planned import Planner
from autocompress.search.record import Objective, Record
from autocompress.search.recovery import rest_kind
from autocompress.tasks.evaluate import evaluate_metric

LEAST_FINAL_STEPS = 120
# Plans that the tables propose before the controller does: of 13 that the controller found for ResNet-20 on CIFAR-10 by
# trial 50 none reached the front.
# They come in waves, each of which goes as far as the trials of those before it show that losses can be brought back.
# The first is short, for nothing is known before it.
# The uniform plans come after them: on the digits eighteen of them added a hundredth to what one wave had reached.
WAVES = (3, 8, 8, 8, 8)
DENSE = "dense"


@dataclass(frozen=True)
class Settings:
    """What a driver needs to know beside the objects it drives.

    Attributes:
        study: The name of the study in the storage.
        command: What to type to start the same search.
        checkpoints: Where weights are kept, if not in the run folder.
        notes: What was changed in the space for the target, a sentence each.
    """

    controller: str
    seed: int
    final_epochs: float
    final_minutes: float
    final_points: int
    storage: str | None
    study: str
    workers: Workers
    command: str
    versions: Mapping[str, str]
    checkpoints: Place | None = None
    notes: tuple[str, ...] = ()


class Driver:
    """Runs trials, trains and exports the front, writes the report."""

    def __init__(
        self,
        folder: Path,
        context: Context,
        space: Space,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        settings: Settings,
        listener: Listener,
    ) -> None:
        """Prepares a run; nothing is written yet."""
        self.folder = folder
        self.shared = Shared(context, space)
        self.context = context
        self.space = space
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.settings = settings
        self.listener = listener

    def check(self) -> None:
        """Refuses what cannot end well: a model that cannot be a file, constraints that no plan can meet.

        Raises:
            UnsupportedError: an operator of the dense model has no form in a file for the target.
            InputError: by the tables, a constraint is out of reach.
        """
        dense = self._dense_cost
        if not self.constraints:
            return
        least = least_costs(self.space, self.context)
        for constraint in self.constraints:
            if constraint.metric in least and constraint.violation(least, dense) > 0:
                best, limit = least[constraint.metric], constraint.limit(dense)
                raise InputError(
                    f"constraint {constraint.text!r} cannot be met in space {self.space.name!r}: the best reachable "
                    f"{constraint.metric} is {best.value:,.4g} {best.unit}, the limit {limit:,.4g}"
                )

    def run(self, budget: Budget, lease: Lease) -> None:
        """Everything from the first trial to the report; Ctrl-C ends the trials and the front so far is emitted.

        Args:
            budget: Of all trials, those of earlier stretches too.
            lease: Of the run folder.
        """
        with closing(self._study(lease)) as study:
            self._run(budget, study)

    def _run(self, budget: Budget, study: Study) -> None:
        now, clock = datetime.now(UTC), time.monotonic()
        before = study.began()
        self._keep_reference(study)
        workers = workers_of(self.shared, self.settings.workers, self.listener.say)
        with logging_to(self.folder / LOGS / "run.log"), rest_set_aside(), workers as executor:
            dense = self.dense_metrics
            self.listener.begin(self.objectives, study.records())
            self.listener.say(f"searching {self.space.size:.2g} plans; the run is in {self.folder}")
            known, began = _ended(study.records()), time.monotonic()
            ended = run_trials(self.trials(study, dense, executor), budget)
            records = study.records()
            new = [record for record in records if record.number not in known]
            share = busy_share(new, (time.monotonic() - began) * executor.workers)
            if not ended and _has_trained_front(self.folder):
                self.listener.say("interrupted: the front of before stays; `resume` goes on")
                return
            if not ended:
                self.listener.say("interrupted: the front so far is exported without further training")
            baseline, points = self._emit(records, dense, executor if ended else InProcess(self.shared), ended)
            # What met a constraint on the validation split may break it on the test split.
            points = [
                replace(p, reason=p.reason or refused_by(p.metrics, self.constraints, baseline.metrics)) for p in points
            ]
            front = final_front(points, self.objectives)
            write_front(self.folder / FRONT, self.objectives, baseline, front)
            why = explained(self.shared, self.folder, front, self.listener)
            seconds = time.monotonic() - clock
            times = Times(before or now, now if before else None, seconds, executor.workers, share)
            data = report_input(self, records, baseline, front, points, times, why)
            save_report_data(self.folder / REPORT_DATA, data)
            write_whole(self.folder / REPORT, render_report(data))
            drop_rungs(self.checkpoints)

    @property
    def checkpoints(self) -> Place:
        """Where the weights of its trials are kept."""
        return self.settings.checkpoints or self.folder / CHECKPOINTS

    def take_over(self, source: Driver, convert: Convert, lease: Lease) -> None:
        """Carries the trials of another study into that of this run, which has none yet, with their weights.

        Args:
            source: Drives the other study, in this folder or another.
            convert: What a trial is in this one.
            lease: Of the folder of this run.
        """
        if source.folder != self.folder:
            effects = Effects(self.shared.meter, self.folder / SENSITIVITY)
            told = partial(self.listener.step, "options priced")
            effects.take_over(source.folder / SENSITIVITY, source.shared.meter, told)
        self._repair()
        with closing(source.study()) as before, closing(self.study(lease.check)) as study:
            carried = carry(before, study, convert)
            if source.checkpoints != self.checkpoints:
                copy_weights(source.checkpoints, self.checkpoints, study.records())
        self.listener.say(carried.told)

    def study(self, check: Callable[[], None] = lambda: None) -> Study:
        """The study of the run.

        Args:
            check: Called before anything is written.
        """
        settings = self.settings
        return Study(self.folder, self.space, self.objectives, settings.storage, settings.study, check)

    def _study(self, lease: Lease) -> Study:
        """The study of the run, its journal repaired if a crash damaged it."""
        self._repair()
        study = self.study(lease.check)
        if self.settings.storage is not None:
            # Another copy of the folder may be driven too; a journal is a part of it.
            study.claim(f"{lease.holder.named}, with run {self.folder.resolve()}")
        if not study.records() and any(self.checkpoints.glob("trial-*")):
            self.listener.say("the study holds no trial, though there are weights of some: the search begins anew")
        return study

    def _repair(self) -> None:
        damage = repair(self.folder / JOURNAL) if self.settings.storage is None else None
        if damage is not None:
            self.listener.say(damage)

    def _keep_reference(self, study: Study) -> None:
        """Where this machine is the target: what the dense model takes, now or when the run began."""
        if not self.context.target.profile.measured:
            return
        trials = (record for record in study.records() if record.state == "complete")
        known = [record for record in trials if self.space.decode(record.vector).is_dense]
        before = known[0].metrics["latency_ms"].value if known else None
        self.context.reference_ms = before or reference_latency_ms(self.context)

    def _emit(
        self, records: Sequence[Record], dense: Mapping[str, Metric], executor: Executor, ended: bool
    ) -> tuple[Point, list[Point]]:
        """The dense artifact and those of the chosen points."""
        artifacts = self.folder / ARTIFACTS
        self.listener.say("exporting the dense model")
        asked = self.final_steps(self.settings.final_epochs if ended else 0.0)
        count = self.settings.final_points
        least = min(asked, LEAST_FINAL_STEPS)
        seconds = self.settings.final_minutes * 60.0 * min(executor.workers, count)
        per_step_s = step_seconds(records, self.context.effort.short_steps)
        baseline = emit_point(
            Plan(), 0, DENSE, self.context, artifacts / DENSE, steps=0, start=lambda: None, dense=None
        )
        finals = Finals(
            executor=executor,
            objectives=self.objectives,
            dense=dense,
            kind=lambda record: rest_kind(self.space.changed(record.vector)),
            baseline=baseline,
            steps=asked,
            all_steps=steps_in_time(count * asked, count * least, seconds, per_step_s),
            least_steps=least,
            points=count,
            # Where a final training takes seconds, a point that others beat is replaced; where it takes minutes, not.
            spare=count if asked <= LEAST_FINAL_STEPS else 0,
            artifacts=artifacts,
            sees=self.folder / CONFIG if self.settings.workers.address is not None else None,
            checkpoints=self.checkpoints,
            listener=self.listener,
            constraints=self.constraints,
        )
        plain = [record for record in records if not self.space.decode(record.vector).is_dense]
        points = make_points(finals, plain)
        baseline, *points = timed_together(baseline, points, artifacts, self.context)
        return baseline, sorted(points, key=lambda point: point.trial)

    def final_steps(self, epochs: float) -> int:
        """Optimiser steps of the final training: whole epochs, but not fewer than 120 on a small data set."""
        if epochs <= 0:
            return 0
        per_epoch = math.ceil(len(self.context.task.train) / self.context.task.batch_size)
        return max(LEAST_FINAL_STEPS, round(epochs * per_epoch))

    @cached_property
    def _dense_cost(self) -> Mapping[str, Metric]:
        return dense_cost(self.context)

    @cached_property
    def dense_metrics(self) -> Mapping[str, Metric]:
        """Of the dense model on the validation split, with its costs by the tables."""
        task = self.context.task
        accuracy = evaluate_metric(self.context.dense.module, task, self.context.validation)
        return {"accuracy": Metric.exact(accuracy, task.metric_unit), **self._dense_cost}

    def trials(self, study: Study, dense: Mapping[str, Metric], executor: Executor) -> Trials:
        """What the loop of the search needs."""
        name, tables = self.settings.controller, self._tables(executor)
        return Trials(
            study=study,
            space=self.space,
            controller=make_controller(
                name, self.space, self.objectives, self.settings.seed, self._tables_beside_trials(name, tables)
            ),
            executor=executor,
            constraints=self.constraints,
            baselines=self._baselines(),
            planner=self._planner(tables),
            waves=WAVES if name == PLANNED else (),
            dense=dense,
            checkpoints=self.checkpoints,
            listener=self.listener,
        )

    def _baselines(self) -> tuple[tuple[str, Vector], ...]:
        """The plans that every search begins with, by name."""
        uniform = ((label, self.space.encode(plan)) for label, plan in self.space.uniform_plans())
        return ((DENSE, self.space.dense_vector), *uniform)

    def _tables(self, executor: Executor) -> Tables:
        """The effects of options, which workers measure once, while they have nothing else to do."""

        @cache
        def tables() -> tuple[Effects, Sensitivity]:
            self.listener.say("measuring what every option does alone")
            effects = effects_by(executor, self.shared, self.folder / SENSITIVITY)
            return effects, effects.of_options(lambda done, total: self.listener.step("options measured", done, total))

        return tables

    def _tables_beside_trials(self, controller: str, tables: Tables) -> Tables:
        """The same for a controller, which measures more here while trials run elsewhere."""
        if controller not in WITH_TABLES:
            return tables
        _, options = tables()
        effects = Effects(self.shared.meter, self.folder / SENSITIVITY)
        return lambda: (effects, options)

    def _planner(self, tables: Tables) -> PlanSource:
        """Plans from the effects of options."""
        context, objectives = self.context, self.objectives

        @cache
        def planner() -> Planner:
            effects, options = tables()
            dense, blocks = self.dense_metrics, context.dense.info.blocks
            limits = limits_of(self.constraints, self.space, context, dense, options)
            return Planner(effects, options, blocks, objectives, len(context.validation), dense, limits)

        return _Announced(planner, self.listener)


@dataclass(frozen=True)
class _Announced:
    """A planner that is made when it is needed and says when it works."""

    planner: Callable[[], Planner]
    listener: Listener

    def prepare(self, known: Sequence[Record], count: int) -> None:
        """Measures what may be picked."""
        planner = self.planner()
        self.listener.say("planning what to try next")
        planner.prepare(known, count)

    def pick(self, known: Sequence[Record], pending: Collection[Vector]) -> tuple[str, Vector] | None:
        """The next plan."""
        return self.planner().pick(known, pending)


def _ended(records: Sequence[Record]) -> set[int]:
    return {record.number for record in records if record.state != "running"}


def _has_trained_front(folder: Path) -> bool:
    """Whether the points of an earlier stretch were trained to the end: nothing less takes their place."""
    try:
        return any(point["fidelity"] == "full" for point in Run.open(folder).points)
    except InputError:
        # There is none, or it is damaged.
        return False
