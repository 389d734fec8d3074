"""The time of a kernel that was not measured, from measured ones that differ from it only in channels and side.

The law knows how time grows with a shape but not what this device makes of one; its neighbours know that:

    ms(kernel) = law(kernel) * exp(weighted mean over neighbours of log(measured / law)),  weight = 1 / distance^2

where the distance is Euclidean in the logarithms of input channels, output channels, and sides of input and output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.core.kernel import Kernel
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.law import Law, Spread, sizes_of
from autocompress.targets.table import Table

# Ops whose time follows from channels and side once window, stride and the like are given.
_OPS = ("conv1d", "conv2d", "conv_transpose2d", "linear", "pool", "global_pool", "elementwise", "norm", "resize")
# Activations that a kernel applies to what it has in registers anyway.
_FREE = ("relu", "clamp")
# No neighbour further away than this factor in any dimension counts.
REACH = 2.0
NEAREST = 4
# The standard error of log(measured / estimated): at a measured kernel itself, and more for each unit of distance. With
# both, the intervals held 76 to 89 % of 191 convolutions in fp32 and int8 timed in ONNX Runtime on x86-64, with rows,
# channel counts or sides left out.
NOISE = 0.03
GROWTH = 0.13
# 80 % of a normal distribution lie within so many standard errors.
_80_PERCENT = 1.2816
# A kernel that differs from a measured one only in what is free.
_SAME_SHAPE = 1e-3

NOISE_SPREAD = Spread(math.exp(-_80_PERCENT * NOISE), math.exp(_80_PERCENT * NOISE))

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interpolated:
    """An estimate from `rows` measured neighbours; `spread` holds the 80 % interval of true / estimated time."""

    ms: float
    spread: Spread
    rows: int


@dataclass(frozen=True)
class _Family:
    """Measured kernels that differ only in channels and side: `[rows, 4]` and `[rows]`."""

    places: Array
    log_ratios: Array


@dataclass(frozen=True)
class Neighbours:
    """A table made ready for `interpolate`."""

    laws: Mapping[str, Law]
    families: Mapping[tuple[Any, ...], _Family]


def neighbours(table: Table, laws: Mapping[str, Law]) -> Neighbours:
    """Sorts the rows of a table by what must be equal for one to tell of the other.

    Args:
        table: Measured kernels; those of other batches than 1 and of dtypes without a law are left out.
        laws: By dtype.
    """
    found: dict[tuple[Any, ...], list[tuple[Array, float]]] = {}
    for key, measurement in table.rows.items():
        if key.op in _OPS and key.batch == 1 and key.dtype in laws:
            kernel = key.kernel()
            log_ratio = math.log(measurement.p50_ms / laws[key.dtype].kernel_ms(kernel, key.dtype))
            found.setdefault(_family_of(key), []).append((_place(kernel), log_ratio))
    families = {
        family: _Family(np.array([place for place, _ in rows]), np.array([log_ratio for _, log_ratio in rows]))
        for family, rows in found.items()
    }
    return Neighbours(laws, families)


def interpolate(known: Neighbours, kernel: Kernel, dtype: str) -> Interpolated | None:
    """Estimates a kernel that runs in `dtype` from its measured neighbours.

    Returns:
        None where no kernel was measured within a factor of `REACH` in every dimension: then the law alone counts.
    """
    family = known.families.get(_family_of(KernelKey.of(kernel, dtype)))
    if family is None:
        return None
    apart = family.places - _place(kernel)
    near = (np.abs(apart) <= math.log(REACH) + 1e-9).all(axis=1)
    if not near.any():
        return None
    distances = np.linalg.norm(apart[near], axis=1)
    order = np.argsort(distances, kind="stable")[:NEAREST]
    distances, log_ratios = np.maximum(distances[order], _SAME_SHAPE), family.log_ratios[near][order]
    weights = distances**-2 / (distances**-2).sum()
    mean = float(weights @ log_ratios)
    disagreement = float(weights @ (log_ratios - mean) ** 2)
    error = math.sqrt(NOISE**2 + (GROWTH * float(distances[0])) ** 2 + disagreement)
    # Kernels are measured by themselves, so that nothing wrote what they read.
    ms = known.laws[dtype].kernel_ms(replace(kernel, sources=()), dtype) * math.exp(mean)
    return Interpolated(ms, Spread(math.exp(-_80_PERCENT * error), math.exp(_80_PERCENT * error)), len(order))


def _family_of(key: KernelKey) -> tuple[Any, ...]:
    """What two kernels must have in common to be neighbours."""
    depthwise = key.kernel().is_depthwise
    return (
        *(key.op, key.aten, key.dtype, key.window, key.stride, key.dilation),
        key.weight_shape[2:] if key.weight_shape is not None else None,
        "depthwise" if depthwise else key.groups,
        tuple(sorted(name for name in key.fused if name not in _FREE)),
        len(key.out_shape),
        tuple(shape == key.out_shape for shape in key.in_shapes[1:]),
        key.batch,
    )


def _place(kernel: Kernel) -> Array:
    """Logarithms of input channels, output channels, and the sides of the first input and of the output."""
    inputs, outputs, pixels = sizes_of(kernel)
    read = math.prod(kernel.in_shapes[0]) // inputs if kernel.in_shapes else 1
    return np.log(np.maximum([inputs, outputs, math.sqrt(read), math.sqrt(pixels)], 1.0))
