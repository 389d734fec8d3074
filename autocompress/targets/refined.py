"""Laws of this machine that know how long the kernels of one model take, by networks of its plans that ran here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autocompress.core.kernel import Kernel
from autocompress.targets.correction import Chained, Correction, learnt, likeness
from autocompress.targets.inside import Network
from autocompress.targets.law import FAMILIES, Law, Spread
from autocompress.targets.learning import told_ms

# The logarithm of measured / told of a plan that was left out, as it was found on thirty networks of ten kinds; counts
# as so many plans beside those of the model itself.
USUAL_ERROR, _USUAL_COUNTS = 0.1, 4
# Nothing is timed more exactly than this.
_LEAST_ERROR = 0.03
# 80 % of a normal distribution lie within so many standard errors.
_80_PERCENT = 1.2816


@dataclass(frozen=True)
class Refinement:
    """What a model's own networks add to the laws of a machine.

    Attributes:
        correction: Of what the laws leave of its kernels.
        spread: The 80 % interval of measured / told of its plans.
        error_before: Mean of |log(measured / told)| of its networks by the laws alone.
        error_after: The same, each network left out in turn.
        kernels: How many different ones were met.
    """

    correction: Correction
    spread: Spread
    error_before: float
    error_after: float
    kernels: int


def refinement(laws: Mapping[str, Law], networks: Sequence[Network]) -> Refinement:
    """What the laws leave of the kernels of networks, two or more, learnt as the laws themselves were.

    Args:
        laws: By dtype.
        networks: Of plans of one model; a kernel computes in the dtype that it says.
    """
    before = np.array([_error(laws, network) for network in networks])
    after = []
    for number, network in enumerate(networks):
        others = [*networks[:number], *networks[number + 1 :]]
        after.append(_error(_corrected(laws, _correction(laws, others)), network))
    left = np.array(after)
    variance = (_USUAL_COUNTS * USUAL_ERROR**2 + float(left @ left)) / (_USUAL_COUNTS + len(left))
    width = _80_PERCENT * max(_LEAST_ERROR, math.sqrt(variance))
    correction = _correction(laws, networks)
    return Refinement(
        correction,
        Spread(round(math.exp(-width), 4), round(math.exp(width), 4)),
        float(np.abs(before).mean()),
        float(np.abs(left).mean()),
        len(correction.known),
    )


def refined(laws: Mapping[str, Law], found: Refinement) -> dict[str, Law]:
    """The laws with what was learnt of a model."""
    spreads = dict.fromkeys(FAMILIES, found.spread)
    return {dtype: replace(law, spreads=spreads) for dtype, law in _corrected(laws, found.correction).items()}


def _corrected(laws: Mapping[str, Law], correction: Correction) -> dict[str, Law]:
    return {
        dtype: replace(law, correction=correction if law.correction is None else Chained(law.correction, correction))
        for dtype, law in laws.items()
    }


def _correction(laws: Mapping[str, Law], networks: Sequence[Network]) -> Correction:
    times: dict[Kernel, list[float]] = {}
    for network in networks:
        for kernel, ms in zip(network.kernels, network.kernels_ms, strict=True):
            times.setdefault(kernel, []).append(ms)
    likenesses = [likeness(kernel, kernel.dtype) for kernel in times]
    told = np.array([laws[kernel.dtype].kernel_ms(kernel, kernel.dtype) for kernel in times])
    return learnt(likenesses, told, np.array([float(np.median(ms)) for ms in times.values()]))


def _error(laws: Mapping[str, Law], network: Network) -> float:
    return math.log(network.whole_ms / told_ms(laws, network.kernels))
