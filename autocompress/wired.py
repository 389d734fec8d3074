"""A configuration with everything it names loaded and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from autocompress.core.constraint import Constraint, parse_constraint
from autocompress.core.metric import MAXIMISED
from autocompress.core.rules import SpaceRules, build_space, load_rules
from autocompress.core.space import Space
from autocompress.errors import InputError, nearest
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.own_networks import knowing_its_model
from autocompress.run.adapt import adapt_rules
from autocompress.run.folder import CONFIG, Run
from autocompress.run.settings import SearchConfig
from autocompress.search.record import Objective
from autocompress.targets.profile import Target, load_target
from autocompress.tasks import Task, check_task, load_task


@dataclass(frozen=True)
class Wired:
    """A configuration with everything it names loaded and checked."""

    config: SearchConfig
    context: Context
    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    notes: tuple[str, ...]


def wire(
    config: SearchConfig, task: Task | None = None, space: SpaceRules | None = None, target: Target | None = None
) -> Wired:
    """Loads and checks the task, the target and the space of a configuration.

    Raises:
        InputError: any of them is wrong; nothing was written.
    """
    found = target if target is not None else load_target(config.target)
    comes_with_laws = bool(found.laws)
    rules = space if space is not None else load_rules(config.space)
    task = task if task is not None else load_task(config.task)
    check_task(task)
    precision = config.precision or found.profile.default_precision
    allowed = [p.dtype for p in found.profile.precisions if p.native]
    if precision not in allowed:
        raise InputError(
            f"target {found.profile.name!r} does not compute in {precision!r}; {nearest(precision, allowed)}"
        )
    epoch = math.ceil(len(task.train) / task.batch_size)
    effort = Effort(
        config.short_steps if config.short_steps is not None else min(40, max(32, epoch)),
        config.calibration_samples,
        config.validation_samples,
        rules.distill_temperature,
        rules.distill_weight,
    )
    # Workers get the laws with the target: each on its own would measure this machine while the others do.
    found = found.calibrated()
    context = Context(task, found, precision, effort, config.seed, config.resolved_device, rules.resolutions)
    adapted, notes = adapt_rules(rules, found.profile)
    built = build_space(adapted, context.dense.info)
    if not comes_with_laws:
        context = knowing_its_model(context, built)
    objectives = tuple(Objective(name, _maximised(name, task)) for name in config.objectives)
    return Wired(
        config,
        context,
        built,
        objectives,
        tuple(_oriented(parse_constraint(text), task) for text in config.constraints),
        notes,
    )


def _maximised(name: str, task: Task) -> bool:
    return task.higher_is_better if name == "accuracy" else MAXIMISED[name]


def _oriented(constraint: Constraint, task: Task) -> Constraint:
    """Points below the dense model are points above it where the task's metric is an error."""
    if constraint.metric != "accuracy" or task.higher_is_better:
        return constraint
    return replace(constraint, sense="<=", value=-constraint.value)


def check_unchanged(run: Run, wired: Wired, but: tuple[str, ...] = ()) -> None:
    """Refuses to go on with trials that mean something else by now.

    Args:
        run: With the digests of what it was started with.
        wired: What its configuration names today.
        but: What may have changed: `target`, `space`.

    Raises:
        InputError: something else did, or the run does not say what it was started with.
    """
    before: Mapping[str, str] = run.config.get("digests", {})
    if not before:
        raise InputError(
            f"{run.path / CONFIG} has no digests of its task: the file was cut off, or somebody changed it; restore it"
        )
    for name, digest in digests(wired).items():
        # Runs of older versions say nothing of space and target.
        if name not in but and before.get(name) != digest and (name in before or name in ("data", "model")):
            raise InputError(
                f"the {name} of task {wired.context.task.name!r} changed since {run.path} was started "
                f"({before.get(name)} then, {digest} now); start a new run"
            )


def digests(wired: Wired) -> dict[str, str]:
    """Of everything that trials mean nothing without; where files are timed, the law is no part of that."""
    task, target = wired.context.task, wired.context.target
    found = {"data": task.data_digest, "model": task.model_digest, "space": wired.space.digest}
    return found if target.profile.measured else {**found, "target": target.digest}
