"""Measures the kernels of a space on a real machine, and makes a target of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime

from autocompress.core.plan import Plan
from autocompress.core.space import Space
from autocompress.errors import RunError
from autocompress.proxy.context import Context
from autocompress.proxy.cost import latency_of_plan
from autocompress.proxy.own_networks import learnt_of, with_refinement
from autocompress.proxy.wanted import space_kernels
from autocompress.run.trials import Listener
from autocompress.targets.calibrate import cpu_model
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.measuring import MeasuredKernel, Outcome, in_order, measure_kernels
from autocompress.targets.own import begin_target, keep_laws, keep_table, known_table
from autocompress.targets.refit import refit_all
from autocompress.targets.remote import Where
from autocompress.targets.table import Table
from autocompress.targets.table_row import Measurement

# So many plans of a space, drawn at random, are run on this machine by whoever asks for it.
MEASURED_PLANS = 46


@dataclass(frozen=True)
class Bench:
    """Where and how kernels are measured.

    Attributes:
        folder: Of the target that comes of it.
        limit: At most so many kernels, the most important first.
        repeats: Samples of each.
    """

    where: Where
    folder: Path
    limit: int
    repeats: int
    threads: int


def measure_space(context: Context, space: Space, source: str, bench: Bench, listener: Listener) -> dict[str, Any]:
    """Measures what is missing for a space, writes the table after every kernel, and fits the laws again.

    Args:
        context: Task and target.
        space: Whose plans' kernels count.
        source: The target as the user named it.
        bench: Where and how.
        listener: Is told of the progress.

    Raises:
        InputError: the machine cannot be reached, or lacks something.
        RunError: it does not answer as it should.
    """
    target = replace(context.target, table=known_table(bench.folder, context.target)).calibrated()
    rows, dense = dict(target.table.rows), context.target.calibrated()
    before_ms = _dense_ms(replace(context, target=dense))
    wanted = in_order(space_kernels(space, context))
    missing = [one for one in wanted if KernelKey.of(*one) not in rows][: bench.limit]
    listener.say(f"{len(missing)} kernels to measure, {len(rows)} known")
    # First of all, so that whoever is cut off can go on.
    begin_target(bench.folder, source, target)
    refused: dict[KernelKey, str] = {}
    unfinished = f"{bench.where}, measuring was cut off before the machine was described"

    def keep(outcome: Outcome, left: int) -> None:
        key = KernelKey.of(outcome.kernel, outcome.dtype)
        if isinstance(outcome, MeasuredKernel):
            rows[key] = Measurement(outcome.p50_ms, outcome.p90_ms, outcome.n, unfinished)
            keep_table(bench.folder, Table(rows))
        else:
            refused[key] = f"{outcome.kernel.op} {outcome.kernel.aten}: {outcome.reason}"
        listener.step("kernels measured", len(missing) - left, len(missing))

    result = measure_kernels(
        missing,
        bench.where,
        runtime=target.profile.runtime.partition("-")[0],
        opset=target.profile.opset,
        threads=bench.threads,
        repeats=bench.repeats,
        on_done=keep,
    )
    for one in result.measured:
        rows[KernelKey.of(one.kernel, one.dtype)] = Measurement(one.p50_ms, one.p90_ms, one.n, result.source)
    if rows:
        keep_table(bench.folder, Table(rows))
    refits = refit_all(target.laws, Table(rows), result.call_ms)
    laws = {**target.laws, **{dtype: one.law for dtype, one in refits.items()}}
    keep_laws(bench.folder, source, target, laws)
    after = replace(target, table=Table(rows), laws=laws)
    return {
        "target": source if target.profile.measured else str(bench.folder),
        "source": result.source,
        "measured": len(result.measured),
        "known": len(rows),
        "interrupted": result.interrupted,
        "not_measured": sorted(set(refused.values())),
        "dense_before_ms": before_ms,
        "dense_after_ms": _dense_ms(replace(context, target=after)),
        "laws": {
            dtype: {"rows": one.rows, "error_before": one.error_before, "error_after": one.error_after}
            for dtype, one in refits.items()
        },
    }


def measure_here(context: Context, space: Space, source: str) -> dict[str, Any]:
    """Runs more plans of a space on this machine than a search does, and learns anew what their kernels take inside.

    Args:
        context: Of a task on this machine, with the machine's own laws.
        space: What plans are drawn from.
        source: The target as the user named it.

    Raises:
        RunError: fewer than two plans can be exported.
    """
    found = learnt_of(context, space, MEASURED_PLANS, again=True)
    if found is None:
        raise RunError(f"of task {context.task.name!r} fewer than two plans can be exported; a trial of one says why")
    return {
        "target": source,
        "source": f"measured: {cpu_model()}, onnxruntime {onnxruntime.__version__}, 1 thread(s)",
        "measured": found.kernels,
        "known": found.kernels,
        "interrupted": False,
        "not_measured": [],
        "dense_before_ms": _dense_ms(context),
        "dense_after_ms": _dense_ms(with_refinement(context, found)),
        "laws": {"all": {"rows": found.kernels, "error_before": found.error_before, "error_after": found.error_after}},
    }


def _dense_ms(context: Context) -> float:
    return latency_of_plan(Plan(), context).ms
