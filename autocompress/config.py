"""Runs: begun, gone on with, forked; and the file that says what they are decided by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from autocompress.core.constraint import Budget, parse_budget
from autocompress.core.files import write_whole
from autocompress.core.metric import Metric
from autocompress.core.rules import SpaceRules
from autocompress.errors import InputError
from autocompress.run.carry import Convert, Judged, Scored
from autocompress.run.disk import going_on_later
from autocompress.run.drive import Driver, Settings
from autocompress.run.environment import versions
from autocompress.run.executors import Workers, called_early
from autocompress.run.folder import CONFIG, FORMAT, Names, Run
from autocompress.run.lease import held, refuse_driven
from autocompress.run.places import place_of, try_place
from autocompress.run.progress import Silent
from autocompress.run.settings import (
    DEFAULT_OBJECTIVES,
    SearchConfig,
    check_new,
    clear,
    command_of,
    new_folder,
    read_config,
)
from autocompress.run.storage import check_storage
from autocompress.run.study import another_name, new_names
from autocompress.run.trials import Listener
from autocompress.targets.profile import Target, load_target
from autocompress.tasks import Task
from autocompress.wired import Wired, check_unchanged, digests, wire


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
    names = new_names(folder, resolved.storage, resolved.checkpoints)
    driver = driver_of(wired, folder, names, listener)
    driver.check()
    _check_places(folder, names, resolved.storage)
    with going_on_later(folder), held(folder) as lease:
        # Another search may have taken the folder, and ended, since it was looked at.
        check_new(folder)
        write_config(folder, wired, names)
        driver.run(parse_budget(resolved.budget), lease)
    return Run.open(folder)


def resume(
    path: str | Path,
    budget: str | None = None,
    listener: Listener | None = None,
    *,
    constraints: Sequence[str] | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Run:
    """Goes on with a run: finished trials are kept, what was in flight is run again.

    Args:
        path: The run folder.
        budget: A new total (`80`), or more on top of the old one (`+30`); None keeps the old.
        listener: Is told of the progress.
        constraints: In place of those before; the trials are judged by them again. None keeps them.
        workers: Another number of processes than before; None keeps it.
        ray_address: Another place for them; None keeps it.

    Raises:
        InputError: not a run, or its task, model or data changed since, or its storage or folder cannot be written.
        RunError: it cannot go on, such as where the disk is full.
    """
    run = Run.open(path)
    before = read_config(run)
    total, told = _new_budget(before.budget, budget)
    config = replace(
        before,
        budget=told,
        constraints=before.constraints if constraints is None else tuple(constraints),
        workers=before.workers if workers is None else workers,
        ray_address=before.ray_address if ray_address is None else ray_address,
    )
    _check_places(run.path, run.names, run.storage)
    refuse_driven(run.path)
    with _early(config) as pool:
        wired = wire(config)
        check_unchanged(run, wired)
        names = run.names
        driver = driver_of(wired, run.path, names, listener, pool)
        is_judged_anew = config.constraints != before.constraints
        if is_judged_anew:
            driver.check()
        with going_on_later(run.path), held(run.path) as lease:
            if is_judged_anew:
                # What ended cannot be changed. Until the run file names the other study, this one counts.
                names = replace(names, study=another_name(run.path))
                source, driver = driver, driver_of(wired, run.path, names, listener, pool)
                driver.take_over(source, Judged(wired.constraints, driver.dense_metrics), lease)
            if config != before or run.config.get("format", 1) != FORMAT:
                write_config(run.path, wired, names)
            driver.run(total, lease)
    return Run.open(path)


def _check_places(folder: Path, names: Names, storage: str | None) -> None:
    """Refuses a storage or a place for weights that cannot be written.

    Raises:
        InputError: says which, and why.
    """
    if storage is not None:
        check_storage(folder, storage)
    if names.checkpoints is not None:
        try_place(names.checkpoints)


def _early(config: SearchConfig) -> AbstractContextManager[Workers]:
    """The workers of a run that begin while its task is loaded; not where they would disturb what is timed then."""
    if load_target(config.target).profile.measured:
        return nullcontext(config.worker_pool)
    return called_early(config.worker_pool, config.resolved_device)


def fork(
    path: str | Path,
    output: str | Path,
    *,
    target: str | None = None,
    objectives: Sequence[str] | None = None,
    constraints: Sequence[str] | None = None,
    budget: str | None = None,
    listener: Listener | None = None,
    workers: int | None = None,
) -> Run:
    """Begins a run with the trials of another one, for another target or other goals, and goes on with it.

    Nothing is trained again: what training gave holds for every target, and costs are read from the tables of the new
    one. The other run stays as it is, and may be under way.

    Args:
        path: The folder of the run that has the trials.
        output: The folder of the new one.
        target: Another target, in its own precision; None keeps it.
        objectives: Other metrics to improve; None keeps them.
        constraints: In place of those before; None keeps them.
        budget: A new total, the trials that are carried over among them, or more on top (`+20`); None keeps the old.
        listener: Is told of the progress.
        workers: Another number of processes; None keeps it.

    Raises:
        InputError: not a run, or its task, space, model or data changed since; a target that cannot take its trials.
        RunError: it was begun and cannot go on, such as where the disk is full.
    """
    run = Run.open(path)
    before = read_config(run)
    total, told = _new_budget(before.budget, budget)
    config = replace(
        before,
        target=before.target if target is None else target,
        precision=before.precision if target in (None, before.target) else None,
        objectives=before.objectives if objectives is None else tuple(objectives),
        constraints=before.constraints if constraints is None else tuple(constraints),
        budget=told,
        workers=before.workers if workers is None else workers,
    )
    folder = new_folder(output, config)
    old = wire(before)
    new = wire(config, task=old.context.task)
    check_unchanged(run, old, but=("target",))
    convert = _converted(run, old, new)
    names = replace(new_names(folder, config.storage, config.checkpoints), forked_from=str(run.path.resolve()))
    driver = driver_of(new, folder, names, listener)
    driver.check()
    _check_places(folder, names, config.storage)
    with going_on_later(folder), held(folder) as lease:
        check_new(folder)
        source = driver_of(old, run.path, run.names, listener)
        try:
            driver.take_over(source, convert(driver.dense_metrics), lease)
        except BaseException:
            clear(folder)
            raise
        write_config(folder, new, names)
        driver.run(total, lease)
    return Run.open(folder)


def _converted(run: Run, old: Wired, new: Wired) -> Callable[[Mapping[str, Metric]], Convert]:
    """How trials of one run are told in another, given what the dense model takes there.

    Raises:
        InputError: they cannot be.
    """
    digest = run.config.get("digests", {}).get("target")
    is_same = digests(new).get("target") == digest and new.config.target == old.config.target
    if new.context.target.profile.measured and not is_same:
        raise InputError(
            f"target {new.config.target!r} times the file of each trial, and those of {run.path} were not timed there; "
            "start a new run with `autocompress search`"
        )

    def convert(dense: Mapping[str, Metric]) -> Convert:
        # What is under way is the other run's; what was stopped for other goals may be worth its training for these.
        dropped = ("running",) if old.objectives == new.objectives else ("running", "stopped")
        judged = Judged(new.constraints, dense, dropped)
        return judged if is_same else Scored(old.space, new.space, new.context, judged)

    return convert


def _new_budget(old: str, new: str | None) -> tuple[Budget, str]:
    """What a run may spend now, and what its file says: a time is for this stretch alone."""
    total = parse_budget(old) if new is None else _extended(old, new)
    return total, old if new is None or total.trials is None else str(total.trials)


def _extended(old: str, new: str) -> Budget:
    if not new.startswith("+"):
        return parse_budget(new)
    more, before = parse_budget(new[1:]), parse_budget(old)
    if more.trials is None or before.trials is None:
        raise InputError(f"budget {new!r} cannot be added to {old!r}; both must be numbers of trials")
    return Budget(before.trials + more.trials, None)


def driver_of(
    wired: Wired, folder: Path, names: Names, listener: Listener | None, workers: Workers | None = None
) -> Driver:
    """What runs a configuration in a folder, with workers that it may have called already; nothing is written yet."""
    config = wired.config
    settings = Settings(
        controller=config.controller,
        seed=config.seed,
        final_epochs=config.final_epochs,
        final_minutes=config.final_minutes,
        final_points=config.final_points,
        storage=config.storage,
        study=names.study,
        checkpoints=None if names.checkpoints is None else place_of(names.checkpoints),
        workers=workers or config.worker_pool,
        command=command_of(config),
        versions=versions(),
        notes=wired.notes,
    )
    return Driver(
        folder, wired.context, wired.space, wired.objectives, wired.constraints, settings, listener or Silent()
    )


def write_config(folder: Path, wired: Wired, names: Names) -> None:
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
            "study": names.study,
            "checkpoints": names.checkpoints,
        },
        "digests": digests(wired),
        "versions": versions(),
        **({} if names.forked_from is None else {"forked_from": names.forked_from}),
    }
    write_whole(folder / CONFIG, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
