"""What can be asked of a model, a space, a target or a run, without a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autocompress.core.plan import Plan
from autocompress.core.shipped import cache_folder
from autocompress.core.strict_yaml import read_yaml
from autocompress.errors import InputError, UnsupportedError
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.cost import cost_of_plan
from autocompress.run.effects import effect_rows, effects_by
from autocompress.run.executors import InProcess, workers_of
from autocompress.run.folder import SENSITIVITY, Run
from autocompress.run.jobs import Shared
from autocompress.run.lease import held
from autocompress.run.measure import Bench, measure_here, measure_space
from autocompress.run.progress import Silent
from autocompress.run.reach import reach
from autocompress.run.settings import SearchConfig, read_config
from autocompress.run.trials import Listener
from autocompress.search.explain import explain, plain
from autocompress.targets.own import own_folder
from autocompress.targets.profile import load_target
from autocompress.targets.remote import parse_where
from autocompress.tasks import check_task, load_task
from autocompress.wired import check_unchanged, wire


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
    check_unchanged(run, wired)
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


def describe_space(config: SearchConfig) -> dict[str, Any]:
    """Decisions, number of plans and what the space reaches, with the constraints checked by the tables."""
    wired = wire(config)
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
