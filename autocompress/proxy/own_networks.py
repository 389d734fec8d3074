"""The law of this machine, made to know the model of a task: some of its plans are run here as files, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from autocompress.core.digest import short_digest
from autocompress.core.fusion import launched
from autocompress.core.kernel import Kernel
from autocompress.core.plan import Plan, Quantize
from autocompress.core.space import Space
from autocompress.emit.onnx_export import export_onnx
from autocompress.errors import AutoCompressError
from autocompress.proxy.context import Context
from autocompress.proxy.evaluate import realise
from autocompress.targets import quiet
from autocompress.targets.calibrate import kept_refinement
from autocompress.targets.probes import Probe
from autocompress.targets.refined import Refinement, refined, refinement
from autocompress.targets.steady import measured_steadily
from autocompress.targets.table import Table

# So many plans at random, beside the dense model and the one that is in 8 bits throughout. Of other plans of ResNet-20
# 62 % were told within 10 % by the law alone, with 8 plans 79 %, with 16 81 %, with 24 all; mean error 12, 6, 5, 4 %.
RANDOM_PLANS = 14
# A few networks can come up more often than the hundreds of the law. In 2 rounds some met a slow time of the machine in
# both, and taught what was worse than nothing.
_ROUNDS = 8
# What a file computes does not matter here.
_SAMPLES = 32


def knowing_its_model(context: Context, space: Space) -> Context:
    """The same with a law that knows the kernels of the task's own model, where this machine is the target.

    The first time for a model and a space takes some seconds; what was learnt is kept in the cache folder.
    """
    return with_refinement(context, learnt_of(context, space)) if context.target.profile.measured else context


def with_refinement(context: Context, found: Refinement | None) -> Context:
    """The same with what was learnt of its model; kernels measured by themselves tell less, and count no more."""
    if found is None:
        return context
    target = context.target.calibrated()
    return replace(context, target=replace(target, laws=refined(target.laws, found), table=Table()))


def learnt_of(context: Context, space: Space, plans: int | None = None, again: bool = False) -> Refinement | None:
    """What plans of a model teach of it; None where fewer than two of them can be run.

    Args:
        context: Of the task on this machine.
        space: What is drawn from.
        plans: How many are drawn; by default as for a search.
        again: Measures whatever is kept.
    """
    laws = context.target.calibrated().laws

    def measure() -> Refinement | None:
        with TemporaryDirectory() as folder:
            drawn = enumerate(_plans(space, plans or RANDOM_PLANS))
            probes = [probe for number, plan in drawn for probe in _probe(number, plan, context, Path(folder))]
        if len(probes) < 2:
            return None
        with quiet.measuring():
            return refinement(laws, measured_steadily(laws, probes, _ROUNDS))

    usual = [_kernels(plan, context) for plan in _plans(space, RANDOM_PLANS)]
    key = short_digest((sorted(laws.items()), usual))
    return kept_refinement(key, measure, again)


def _plans(space: Space, count: int) -> list[Plan]:
    """The dense model, the plan in 8 bits throughout if the space has one, and so many at random; each once."""
    generator = np.random.default_rng(0)
    drawn = [space.decode(space.random(generator)) for _ in range(count)]
    return list(dict.fromkeys([Plan(), *_eight_bits(space), *drawn]))


def _eight_bits(space: Space) -> Iterator[Plan]:
    """The plan in 8 bits throughout, if the space has one with integer kernels."""
    for _, plan in space.uniform_plans():
        ops = [op for _, layer in plan.layers for op in layer]
        if ops and not plan.groups and all(isinstance(op, Quantize) and (op.w_bits, op.a_bits) == (8, 8) for op in ops):
            yield plan
            return


def _kernels(plan: Plan, context: Context) -> tuple[Kernel, ...]:
    """The kernels of a plan, each with the dtype that it computes in."""
    target = context.target
    return tuple(
        replace(kernel, dtype=target.dtype_of(kernel, context.precision))
        for kernel in launched(context.network(plan), target.fusion)
    )


def _probe(number: int, plan: Plan, context: Context, folder: Path) -> Iterator[Probe]:
    """The plan as a file; nothing where it cannot be one."""
    file = folder / "network.onnx"
    small = context.with_calibration(_SAMPLES)
    try:
        export_onnx(realise(plan, small).module, context.dense.inputs, file, opset=context.target.profile.opset)
    except AutoCompressError:
        # A trial of such a plan says why.
        return
    yield Probe(f"own-{number}", _kernels(plan, context), file.read_bytes())
