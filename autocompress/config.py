"""The run file and the objects it stands for; the only module that wires the packages together."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from autocompress.core.constraint import Budget, Constraint, parse_budget, parse_constraint
from autocompress.core.metric import MAXIMISED, OBJECTIVES
from autocompress.core.plan import Plan
from autocompress.core.rules import SpaceRules, build_space, load_rules
from autocompress.core.space import Space
from autocompress.core.strict_yaml import read_yaml
from autocompress.errors import InputError, nearest
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.cost import cost_of_plan
from autocompress.run.adapt import adapt_rules
from autocompress.run.drive import Driver, Settings
from autocompress.run.environment import versions
from autocompress.run.executors import best_workers
from autocompress.run.folder import CONFIG, Run
from autocompress.run.progress import Silent, Terminal
from autocompress.run.trials import Listener
from autocompress.search.controllers import CONTROLLERS, DEFAULT_CONTROLLER
from autocompress.search.record import Objective
from autocompress.targets.profile import Target, load_target
from autocompress.tasks import Task, check_task, load_task

DEFAULT_OBJECTIVES = ("accuracy", "size_bytes", "latency_ms")


@dataclass(frozen=True)
class SearchConfig:
    """Everything a search is decided by; what `run.yaml` holds under `search`.

    Attributes:
        task: A built-in name, `file.py:function` or `package.module:function`.
        target: A shipped name or the path of a profile.
        space: A shipped name or the path of a YAML or Python file.
        budget: Trials (`50`) or time (`30m`, `2h`).
        objectives: Metrics to improve.
        constraints: E.g. `latency<=20ms`, `size<=30%`, `accuracy>=-1.0`.
        precision: What unquantized layers run in; None takes the target's own.
        short_steps: Optimiser steps of a trial; None takes an epoch, but at least 16 and at most 40.
        final_epochs: Epochs of training for each point of the front; 0 exports the trials as they are.
        final_points: How many points of the front are trained to the end and exported.
        validation_samples: Samples a trial is judged on; None takes all.
        device: `cpu`, `cuda`, or `auto`.
        storage: Any URL that Optuna takes; None keeps a journal in the run folder.
        workers: Processes that work side by side; None takes one for each core, up to 8, or one for a GPU.
    """

    task: str = "digits"
    target: str = "jetson-nano"
    space: str = "joint"
    budget: str = "50"
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    constraints: tuple[str, ...] = ()
    controller: str = DEFAULT_CONTROLLER
    seed: int = 0
    precision: str | None = None
    short_steps: int | None = None
    final_epochs: float = 2.0
    final_points: int = 8
    calibration_samples: int = 512
    validation_samples: int | None = None
    device: str = "auto"
    storage: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise InputError(f"unknown objective {name!r}; {nearest(name, OBJECTIVES)}")
        if len(set(self.objectives)) < len(self.objectives) or not self.objectives:
            raise InputError(f"objectives are {', '.join(self.objectives) or 'empty'}; name each metric once")
        if self.controller not in CONTROLLERS:
            raise InputError(f"unknown controller {self.controller!r}; {nearest(self.controller, CONTROLLERS)}")
        if self.short_steps is not None and self.short_steps < 0:
            raise InputError(f"short_steps is {self.short_steps}; allowed: 0 or more")
        for name, least in (("final_epochs", 0), ("final_points", 1), ("calibration_samples", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: {least} or more")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers is {self.workers}; allowed: 1 or more")
        if self.validation_samples is not None and self.validation_samples < 1:
            raise InputError(f"validation_samples is {self.validation_samples}; allowed: 1 or more")
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device is {self.device!r}; {nearest(self.device, ('auto', 'cpu', 'cuda'))}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("device is 'cuda', but no CUDA device is there; use --device cpu")
        parse_budget(self.budget)
        for text in self.constraints:
            parse_constraint(text)

    @property
    def resolved_device(self) -> str:
        """`cpu` or `cuda`."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    @property
    def resolved_workers(self) -> int:
        """How many processes work side by side."""
        return self.workers or best_workers(torch.get_num_threads(), self.resolved_device)

    @property
    def threads(self) -> int:
        """Threads of each worker: together they have as many as there are."""
        return max(1, torch.get_num_threads() // self.resolved_workers)


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
        config.short_steps if config.short_steps is not None else min(40, max(16, epoch)),
        config.calibration_samples,
        config.validation_samples,
        rules.distill_temperature,
        rules.distill_weight,
    )
    context = Context(task, found, precision, effort, config.seed, config.resolved_device, rules.resolutions)
    adapted, notes = adapt_rules(rules, found.profile)
    objectives = tuple(Objective(name, _maximised(name, task)) for name in config.objectives)
    return Wired(
        config,
        context,
        build_space(adapted, context.dense.info),
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
    driver = _driver(wired, folder, listener)
    driver.check_constraints()
    write_config(folder, wired)
    driver.run(parse_budget(resolved.budget))
    return Run.open(folder)


def resume(path: str | Path, budget: str | None = None, listener: Listener | None = None) -> Run:
    """Goes on with a run: finished trials are kept, what was in flight is run again.

    Args:
        path: The run folder.
        budget: A new total (`80`), or more on top of the old one (`+30`); None keeps the old.
        listener: Is told of the progress.

    Raises:
        InputError: not a run, or its task, model or data changed since.
    """
    run = Run.open(path)
    config = read_config(run)
    total = parse_budget(config.budget) if budget is None else _extended(config.budget, budget)
    wired = wire(config)
    _check_unchanged(run, wired)
    if budget is not None and total.trials is not None:
        wired = replace(wired, config=replace(config, budget=str(total.trials)))
        write_config(run.path, wired)
    _driver(wired, run.path, listener).run(total)
    return Run.open(path)


def _extended(old: str, new: str) -> Budget:
    if not new.startswith("+"):
        return parse_budget(new)
    more, before = parse_budget(new[1:]), parse_budget(old)
    if more.trials is None or before.trials is None:
        raise InputError(f"budget {new!r} cannot be added to {old!r}; both must be numbers of trials")
    return Budget(before.trials + more.trials, None)


def _driver(wired: Wired, folder: Path, listener: Listener | None) -> Driver:
    config = wired.config
    settings = Settings(
        controller=config.controller,
        seed=config.seed,
        final_epochs=config.final_epochs,
        final_points=config.final_points,
        storage=config.storage,
        workers=config.resolved_workers,
        threads=config.threads,
        workers_asked_for=config.workers is not None,
        command=command_of(config),
        versions=versions(),
        notes=wired.notes,
    )
    return Driver(
        folder, wired.context, wired.space, wired.objectives, wired.constraints, settings, listener or Silent()
    )


def new_folder(output: str | Path | None, config: SearchConfig) -> Path:
    """The folder of a new run; it is not made yet.

    Raises:
        InputError: it holds another run, or is not a folder.
    """
    if output is None:
        name = Path(config.task.split(":")[0]).stem.strip("<>").replace(" ", "-").lower()
        stamp = time.strftime("%Y%m%d-%H%M%S")
        output = Path("runs") / f"{name}-{Path(config.target).name}-{stamp}"
    folder = Path(output)
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"output {folder}: {place} is a file; name a folder")
    if (folder / CONFIG).exists():
        raise InputError(
            f"output {folder} holds another run; name a new folder, or go on with `autocompress resume {folder}`"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"output {folder} is not empty; name a new folder")
    return folder


def write_config(folder: Path, wired: Wired) -> None:
    """Writes `run.yaml`, complete or not at all."""
    task = wired.context.task
    data = {
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
        },
        "digests": {"data": task.data_digest, "model": task.model_digest},
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{CONFIG}.part"
    part.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    part.replace(folder / CONFIG)


def read_config(run: Run) -> SearchConfig:
    """The configuration a run was started with.

    Raises:
        InputError: `run.yaml` was changed into something else, or the run was started from Python objects.
    """
    data = dict(run.config["search"])
    known = {field.name for field in fields(SearchConfig)}
    unknown = set(data) - known
    if unknown:
        raise InputError(
            f"{run.path / CONFIG}: unknown key {sorted(unknown)[0]!r}; {nearest(sorted(unknown)[0], known)}"
        )
    for name in ("task", "space"):
        if str(data.get(name, "")).startswith("<"):
            raise InputError(f"{run.path} was started from Python with a {name} object; resume it from Python")
    for name in ("objectives", "constraints"):
        data[name] = tuple(data.get(name, ()))
    return SearchConfig(**data)


def _check_unchanged(run: Run, wired: Wired) -> None:
    task = wired.context.task
    now = {"data": task.data_digest, "model": task.model_digest}
    before: Mapping[str, str] = run.config.get("digests", {})
    for name, digest in now.items():
        if before.get(name) != digest:
            raise InputError(
                f"the {name} of task {task.name!r} changed since {run.path} was started "
                f"({before.get(name)} then, {digest} now); start a new run"
            )


def command_of(config: SearchConfig) -> str:
    """The command line that would start the same search."""
    words = ["autocompress search"]
    plain = SearchConfig()
    for field in fields(SearchConfig):
        value = getattr(config, field.name)
        if value == getattr(plain, field.name) and field.name not in ("budget", "target"):
            continue
        option = "--" + field.name.replace("_", "-")
        if field.name == "constraints":
            words += [f'--constraint "{text}"' for text in value]
        elif isinstance(value, tuple):
            words.append(f"{option} {','.join(value)}")
        else:
            words.append(f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}")
    return " ".join(words)


def describe_space(wired: Wired) -> dict[str, Any]:
    """Decisions, number of plans and what the space reaches, with the constraints checked by the tables."""
    from autocompress.run.reach import reach

    return reach(wired.space, wired.context, wired.constraints)


def terminal(config: SearchConfig) -> Terminal:
    """A live picture of a search on the terminal."""
    return Terminal([Objective(name, MAXIMISED[name]) for name in config.objectives])


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
    cost = cost_of_plan(wanted, context)
    return {
        "task": task,
        "target": target,
        "precision": context.precision,
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
