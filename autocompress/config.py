"""The run file and the objects it stands for; the only module that wires the packages together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from autocompress.core.constraint import Budget, Constraint, parse_budget, parse_constraint
from autocompress.core.files import write_whole
from autocompress.core.metric import MAXIMISED
from autocompress.core.plan import Plan
from autocompress.core.rules import SpaceRules, build_space, load_rules
from autocompress.core.shipped import cache_folder
from autocompress.core.space import Space
from autocompress.core.strict_yaml import read_yaml
from autocompress.errors import InputError, UnsupportedError, nearest
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.cost import cost_of_plan
from autocompress.proxy.own_networks import knowing_its_model
from autocompress.run.adapt import adapt_rules
from autocompress.run.disk import going_on_later
from autocompress.run.drive import Driver, Settings
from autocompress.run.effects import effect_rows, effects_by
from autocompress.run.environment import versions
from autocompress.run.executors import InProcess, workers_of
from autocompress.run.folder import CONFIG, FORMAT, SENSITIVITY, Run
from autocompress.run.jobs import Shared
from autocompress.run.lease import held
from autocompress.run.measure import Bench, measure_here, measure_space
from autocompress.run.progress import Silent
from autocompress.run.settings import DEFAULT_OBJECTIVES, SearchConfig, check_new, command_of, new_folder, read_config
from autocompress.run.storage import check_storage
from autocompress.run.study import new_name
from autocompress.run.trials import Listener
from autocompress.search.explain import explain, plain
from autocompress.search.record import Objective
from autocompress.targets.own import own_folder
from autocompress.targets.profile import Target, load_target
from autocompress.targets.remote import parse_where
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


def search(
    task: Task | str = "digits",
    *,
    target: Target | str = "jetson-nano",
    space: SpaceRules | str = "joint",
    budget: int | str = 50,
    output: str | Path | None = None,
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    constraints: Sequence[str] = (),
    config: SearchConfig | None = None,
    listener: Listener | None = None,
) -> Run:
    """Searches the space for a task on a target and writes a run folder of verified artifacts.

    Args:
        task: A `Task`, or what `--task` takes.
        target: A `Target`, a shipped name or a path.
        space: `SpaceRules`, a shipped name or a path.
        budget: Trials, or a time such as `30m`.
        output: The run folder; must not hold another run.
        objectives: Metrics to improve.
        constraints: E.g. `latency<=20ms`.
        config: All other settings; the arguments above win over it.
        listener: Is told of the progress.

    Raises:
        InputError: something is wrong with the input; nothing was written.
        RunError: it was begun and cannot go on, such as where the disk is full.
    """
    resolved = replace(
        config or SearchConfig(),
        task=task if isinstance(task, str) else f"<Task {task.name}>",
        target=target if isinstance(target, str) else target.profile.name,
        space=space if isinstance(space, str) else f"<SpaceRules {space.name}>",
        budget=str(budget),
        objectives=tuple(objectives),
        constraints=tuple(constraints),
    )
    folder = new_folder(output, resolved)
    wired = wire(
        resolved,
        None if isinstance(task, str) else task,
        None if isinstance(space, str) else space,
        None if isinstance(target, str) else target,
    )
    study = new_name(folder, resolved.storage)
    driver = driver_of(wired, folder, study, listener)
    driver.check()
    if resolved.storage is not None:
        check_storage(folder, resolved.storage)
    with going_on_later(folder), held(folder) as lease:
        # Another search may have taken the folder, and ended, since it was looked at.
        check_new(folder)
        write_config(folder, wired, study)
        driver.run(parse_budget(resolved.budget), lease)
    return Run.open(folder)


def resume(
    path: str | Path,
    budget: str | None = None,
    listener: Listener | None = None,
    *,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Run:
    """Goes on with a run: finished trials are kept, what was in flight is run again.

    Args:
        path: The run folder.
        budget: A new total (`80`), or more on top of the old one (`+30`); None keeps the old.
        listener: Is told of the progress.
        workers: Another number of processes than before; None keeps it.
        ray_address: Another place for them; None keeps it.

    Raises:
        InputError: not a run, or its task, model or data changed since, or its storage or folder cannot be written.
        RunError: it cannot go on, such as where the disk is full.
    """
    run = Run.open(path)
    before = read_config(run)
    total = parse_budget(before.budget) if budget is None else _extended(before.budget, budget)
    config = replace(
        before,
        budget=before.budget if budget is None or total.trials is None else str(total.trials),
        workers=before.workers if workers is None else workers,
        ray_address=before.ray_address if ray_address is None else ray_address,
    )
    if run.storage is not None:
        check_storage(run.path, run.storage)
    wired = wire(config)
    _check_unchanged(run, wired)
    with going_on_later(run.path), held(run.path) as lease:
        if config != before or run.config.get("format", 1) != FORMAT:
            write_config(run.path, wired, run.study)
        driver_of(wired, run.path, run.study, listener).run(total, lease)
    return Run.open(path)


def _extended(old: str, new: str) -> Budget:
    if not new.startswith("+"):
        return parse_budget(new)
    more, before = parse_budget(new[1:]), parse_budget(old)
    if more.trials is None or before.trials is None:
        raise InputError(f"budget {new!r} cannot be added to {old!r}; both must be numbers of trials")
    return Budget(before.trials + more.trials, None)


def driver_of(wired: Wired, folder: Path, study: str, listener: Listener | None) -> Driver:
    """What runs a configuration in a folder; nothing is written yet."""
    config = wired.config
    settings = Settings(
        controller=config.controller,
        seed=config.seed,
        final_epochs=config.final_epochs,
        final_minutes=config.final_minutes,
        final_points=config.final_points,
        storage=config.storage,
        study=study,
        workers=config.worker_pool,
        command=command_of(config),
        versions=versions(),
        notes=wired.notes,
    )
    return Driver(
        folder, wired.context, wired.space, wired.objectives, wired.constraints, settings, listener or Silent()
    )


def write_config(folder: Path, wired: Wired, study: str) -> None:
    """Writes `run.yaml`, complete or not at all."""
    data = {
        "format": FORMAT,
        "search": {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(wired.config).items()
        },
        "resolved": {
            "precision": wired.context.precision,
            "device": wired.context.device,
            "workers": wired.config.resolved_workers,
            "threads": wired.config.threads,
            "distill_temperature": wired.context.effort.temperature,
            "distill_weight": wired.context.effort.distill_weight,
            "short_steps": wired.context.effort.short_steps,
            "decisions": len(wired.space.decisions),
            "plans": str(wired.space.size),
            "study": study,
        },
        "digests": _digests(wired),
        "versions": versions(),
    }
    write_whole(folder / CONFIG, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def _check_unchanged(run: Run, wired: Wired) -> None:
    before: Mapping[str, str] = run.config.get("digests", {})
    if not before:
        raise InputError(
            f"{run.path / CONFIG} has no digests of its task: the file was cut off, or somebody changed it; restore it"
        )
    for name, digest in _digests(wired).items():
        # Runs of older versions say nothing of space and target.
        if before.get(name) != digest and (name in before or name in ("data", "model")):
            raise InputError(
                f"the {name} of task {wired.context.task.name!r} changed since {run.path} was started "
                f"({before.get(name)} then, {digest} now); start a new run"
            )


def _digests(wired: Wired) -> dict[str, str]:
    """Of everything that trials mean nothing without; where files are timed, the law is no part of that."""
    task, target = wired.context.task, wired.context.target
    found = {"data": task.data_digest, "model": task.model_digest, "space": wired.space.digest}
    return found if target.profile.measured else {**found, "target": target.digest}


def sensitivity(config: SearchConfig, table: Path | None = None, listener: Listener | None = None) -> dict[str, Any]:
    """What every option of a space does alone to the outputs and costs of a task's model; no trial is spent.

    Args:
        config: Task, target, space, precision and seed; the rest is not used.
        table: The file that keeps what was measured; by default one in the cache folder.
        listener: Is told of the progress.

    Raises:
        InputError: something is wrong with the input.
    """
    wired, listener = wire(config), listener or Silent()
    shared = Shared(wired.context, wired.space)
    file = table or cache_folder() / f"sensitivity-{shared.meter.digest}.jsonl"
    with workers_of(shared, config.worker_pool, listener.say) as executor:
        effects = effects_by(executor, shared, file)
        found = effects.of_options(lambda done, total: listener.step("options measured", done, total))
    return {"task": config.task, "target": config.target, "table": str(file), **effect_rows(wired.space, found)}


def explain_point(path: str | Path, point: str, listener: Listener | None = None) -> dict[str, Any]:
    """Why a point of a run is as it is: its choices, what a looser limit would buy, and what was left alone.

    Args:
        path: The run folder.
        point: The name of an artifact, such as `t036`.
        listener: Is told of the progress, where options have to be measured.

    Raises:
        InputError: not a run, no such artifact, the run is being driven, or its task, model or data changed since.
    """
    run, listener = Run.open(path), listener or Silent()
    plan = read_plan(run.artifact(point) / "plan.yaml")
    config = read_config(run)
    wired = wire(config)
    _check_unchanged(run, wired)
    shared = Shared(wired.context, wired.space)
    with held(run.path):
        effects = effects_by(InProcess(shared), shared, run.path / SENSITIVITY)
        options = effects.of_options(lambda done, total: listener.step("options measured", done, total))
        found = explain(effects, options, wired.space.encode(plan), wired.context.dense.info.blocks)
    untouched = [
        {"layer": layer.name, "why": layer.frozen_reason}
        for layer in wired.context.dense.info.layers
        if layer.frozen_reason is not None
    ]
    return {"run": str(run.path), "point": point, **plain(found), "untouched": untouched}


def measure_target(
    config: SearchConfig,
    on: str,
    folder: Path | None,
    limit: int,
    repeats: int,
    threads: int,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Measures the kernels that a search may meet on a real machine, keeps them in a table and fits the law again.

    What is measured is kept kernel by kernel; run again, it goes on with those that are missing. On this machine, where
    any file can be run, kernels are measured inside of plans of the space instead, see `measure_here`.

    Args:
        config: Task, target, space and seed; the rest is not used.
        on: `local` or `ssh://user@host:port`.
        folder: Of the new target; by default one named like the target, in the working directory.
        limit: At most so many kernels, the most important first.
        repeats: Samples of each kernel.
        threads: Threads within one operator.
        listener: Is told of the progress.

    Raises:
        InputError: something is wrong with the input, or the machine cannot be reached.
        RunError: the machine does not answer as it should.
    """
    # With the laws of this machine as they are: what is learnt here is learnt of them.
    where, wired = parse_where(on), wire(config, target=load_target(config.target).calibrated())
    if wired.context.target.profile.measured and (where.host is not None or folder is not None or threads != 1):
        raise InputError(
            f"target {config.target} is this machine, on one thread: measure it with --on local, without --output; "
            "a board needs a target of its own, e.g. raspberry-pi-5"
        )
    if wired.context.target.profile.measured:
        return measure_here(wired.context, wired.space, config.target)
    bench = Bench(where, own_folder(wired.context.target, folder), limit, repeats, threads)
    return measure_space(wired.context, wired.space, config.target, bench, listener or Silent())


def describe_space(wired: Wired) -> dict[str, Any]:
    """Decisions, number of plans and what the space reaches, with the constraints checked by the tables."""
    from autocompress.run.reach import reach

    return reach(wired.space, wired.context, wired.constraints)


def estimate(task: str, target: str, plan: Path | None, precision: str | None) -> dict[str, Any]:
    """Predicted metrics of a plan (of the dense model without one), with the latency kernel by kernel.

    Raises:
        InputError: an unknown task or target, or a plan that does not fit the model.
    """
    loaded = load_target(target)
    model = load_task(task)
    check_task(model)
    context = Context(model, loaded, precision or loaded.profile.default_precision, Effort())
    wanted = read_plan(plan) if plan is not None else Plan()
    try:
        bytes_per_node, notes = context.overhead_bytes_per_node, []
    except UnsupportedError as error:
        # What no file can hold still has kernels, and they still have their times.
        bytes_per_node, notes = 0.0, [f"{error}; the size is that of its weights alone"]
    cost = cost_of_plan(wanted, context, bytes_per_node)
    return {
        "task": task,
        "target": target,
        "precision": context.precision,
        "notes": notes,
        "metrics": {name: metric.to_dict() for name, metric in cost.metrics.items()},
        "coverage": dict(cost.latency.coverage),
        "kernels": [
            {"kernel": each.kernel.layer, "op": each.kernel.op, "ms": each.ms, "origin": each.origin, "flag": each.flag}
            for each in cost.latency.layers
        ],
    }


def read_plan(path: Path) -> Plan:
    """The plan in a `plan.yaml`.

    Raises:
        InputError: there is no such file, or it holds no plan.
    """
    data, _ = read_yaml(path)
    try:
        return Plan.from_dict(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
