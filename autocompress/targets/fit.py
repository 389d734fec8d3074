"""Fits a law: bounded, robust least squares on relative errors, drawn gently towards physical priors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from autocompress.core.kernel import Kernel
from autocompress.targets.law import FAMILIES, TERMS, Law, Range, Spread, Tiling, family_of, kind_of, sizes_of, terms_of

Array = NDArray[np.float64]
TERM_NAMES = tuple(TERMS)


def design(networks: Sequence[Sequence[Kernel]], dtype: str, tiling: Tiling) -> Array:
    """The rows of the linear system, `[networks, terms]`; the first column is the network constant."""
    column = {name: index for index, name in enumerate(TERM_NAMES)}
    matrix = np.zeros((len(networks), len(TERM_NAMES)))
    matrix[:, column["network"]] = 1.0
    known: dict[Kernel, dict[str, float]] = {}
    for row, kernels in enumerate(networks):
        for kernel in kernels:
            if kernel not in known:
                known[kernel] = terms_of(kernel, dtype, tiling)
            for term, amount in known[kernel].items():
                matrix[row, column[term]] += amount
    return matrix


def solve(
    matrix: Array,
    measured_ms: Array,
    prior: Array,
    low: Array,
    high: Array,
    weights: Array,
    pull: Array,
    tolerance: float,
) -> Array:
    """Coefficients inside `[low, high]` that minimise relative errors plus `pull` towards `prior`.

    Args:
        matrix: `[networks, columns]`.
        measured_ms: `[networks]`.
        prior: `[columns]`, what holds where the data say nothing.
        low: `[columns]`, no device is faster than its peak.
        high: `[columns]`.
        weights: `[networks]`, how much each row counts.
        pull: `[columns]`, the weight of the prior, in rows.
        tolerance: Relative error beyond which a row counts linearly, not squared.

    Returns:
        Milliseconds per unit, `[columns]`.
    """
    active = weights.copy()
    found = prior.copy()
    for _ in range(6):
        scaled = matrix / measured_ms[:, None] * active[:, None] * prior
        system = np.vstack([scaled, np.diag(pull)])
        wanted = np.concatenate([active, pull])
        found = lsq_linear(system, wanted, bounds=(low / prior, high / prior), tol=1e-12).x * prior
        error = np.abs(matrix @ found / measured_ms - 1.0)
        active = weights / np.sqrt(np.maximum(error, tolerance) / tolerance)
    return np.asarray(found, dtype=np.float64)


def ranges_of(networks: Sequence[Sequence[Kernel]]) -> dict[str, Range]:
    """The smallest and largest shapes of each kind."""
    seen: dict[str, list[tuple[int, int, int]]] = {}
    for kernel in {kernel for kernels in networks for kernel in kernels}:
        seen.setdefault(kind_of(kernel), []).append(sizes_of(kernel))
    result = {}
    for kind, sizes in sorted(seen.items()):
        inputs, outputs, pixels = zip(*sizes, strict=True)
        spans = ((min(inputs), max(inputs)), (min(outputs), max(outputs)), (min(pixels), max(pixels)))
        result[kind] = Range(*spans)
    return result


def spreads_of(
    law: Law, networks: Sequence[Sequence[Kernel]], dtype: str, measured_over_predicted: Array
) -> dict[str, Spread]:
    """The 80 % interval of measured / predicted, for each family that takes most of the time of enough networks."""
    leaders = [leading_family(law, kernels, dtype) for kernels in networks]
    result = {}
    for family in FAMILIES:
        ratios = measured_over_predicted[[leader == family for leader in leaders]]
        if len(ratios) >= 20:
            result[family] = spread_of(ratios)
    return result


def left_out(matrix: Array, measured_ms: Array, folds: int, coefficients: Callable[[Array, Array], Array]) -> Array:
    """What each row is predicted at by coefficients that were fitted without it, `[rows]`.

    Args:
        matrix: `[rows, columns]`.
        measured_ms: `[rows]`.
        folds: So many parts are left out in turn.
        coefficients: Fits some rows.
    """
    found, fold = np.empty_like(measured_ms), np.arange(len(measured_ms)) % folds
    for index in range(folds):
        kept = fold != index
        found[~kept] = matrix[~kept] @ coefficients(matrix[kept], measured_ms[kept])
    return found


def spread_of(ratios: Array) -> Spread:
    """The interval that a further ratio lies in with 80 % probability, widened to hold 1.

    Source: Vovk et al., Algorithmic Learning in a Random World (2005): the (n + 1) * 0.9th of n
    ratios, not the n * 0.9th.
    """
    tail = max(0.0, 1.0 - 0.9 * (len(ratios) + 1) / len(ratios))
    low, high = np.exp(np.quantile(np.log(ratios), [tail, 1.0 - tail]))
    return Spread(round(min(1.0, float(low)), 4), round(max(1.0, float(high)), 4))


def leading_family(law: Law, kernels: Sequence[Kernel], dtype: str) -> str:
    """The family that takes most of the time."""
    shares = dict.fromkeys(FAMILIES, 0.0)
    for kernel in kernels:
        shares[family_of(kernel)] += law.kernel_ms(kernel, dtype)
    return max(shares, key=lambda family: shares[family])
