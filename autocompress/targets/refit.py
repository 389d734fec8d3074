"""Fits a law again on kernels that were measured one by one, drawn towards what it was before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from autocompress.core.kernel import Kernel
from autocompress.targets.fit import TERM_NAMES, Array, design, left_out, ranges_of, solve, spread_of
from autocompress.targets.law import FAMILIES, Law, Range
from autocompress.targets.table import Table

# Fewer rows than this say nothing of an interval.
LEAST_ROWS = 10
FOLDS = 5
PULL = 0.05


@dataclass(frozen=True)
class Refit:
    """A law before and after.

    Attributes:
        rows: Measured kernels of its dtype.
        error_before: Median of |log(measured / predicted)|.
        error_after: The same for kernels left out of the fit.
    """

    law: Law
    rows: int
    error_before: float
    error_after: float


def refit_all(laws: Mapping[str, Law], table: Table, call_ms: float | None) -> dict[str, Refit]:
    """Every law of which enough kernels were measured.

    Args:
        laws: By dtype.
        table: Measured kernels at batch 1.
        call_ms: What a call costs before any kernel runs, where it was measured.
    """
    found = {}
    for dtype, law in laws.items():
        rows = [(key.kernel(), one.p50_ms) for key, one in table.rows.items() if key.dtype == dtype and key.batch == 1]
        if len(rows) >= LEAST_ROWS:
            found[dtype] = refit(law, rows, dtype, call_ms)
    return found


def refit(law: Law, rows: Sequence[tuple[Kernel, float]], dtype: str, call_ms: float | None) -> Refit:
    """One law on kernels with their milliseconds; its interval comes from kernels that were left out in turn.

    A law that was learnt inside of networks stays as it is: kernels by themselves tell less.
    """
    if law.correction is not None:
        told = np.array([law.kernel_ms(kernel, dtype) for kernel, _ in rows])
        error = _error(told, np.array([ms for _, ms in rows]))
        return Refit(law, len(rows), error, error)
    networks = [(kernel,) for kernel, _ in rows]
    measured = np.array([ms for _, ms in rows])
    matrix = design(networks, dtype, law.tiling)
    matrix[:, TERM_NAMES.index("network")] = 0.0
    before = np.array([law.coefficients[term] for term in TERM_NAMES])
    fitted_on = partial(_coefficients, before)
    unseen = left_out(matrix, measured, FOLDS, fitted_on)
    found = dict(zip(TERM_NAMES, map(float, fitted_on(matrix, measured)), strict=True))
    found["network"] = law.coefficients["network"] if call_ms is None else call_ms
    spread = spread_of(measured / unseen)
    fitted = replace(
        law,
        coefficients=found,
        ranges=_joined(law.ranges, ranges_of(networks)),
        spreads=dict.fromkeys(FAMILIES, spread),
    )
    return Refit(fitted, len(rows), _error(matrix @ before, measured), _error(unseen, measured))


def _coefficients(before: Array, matrix: Array, measured: Array) -> Array:
    # A term that was zero may come to count; one microsecond per unit is a start.
    prior = np.maximum(before, 1e-3)
    rows, columns = matrix.shape
    pull = np.full(columns, PULL)
    return solve(matrix, measured, prior, prior * 1e-3, prior * np.inf, np.ones(rows), pull, tolerance=0.1)


def _error(predicted: Array, measured: Array) -> float:
    return float(np.median(np.abs(np.log(measured / np.maximum(predicted, 1e-12)))))


def _joined(one: Mapping[str, Range], other: Mapping[str, Range]) -> dict[str, Range]:
    found = dict(one)
    for kind, new in other.items():
        old = found.get(kind, new)
        spans = (
            (min(a[0], b[0]), max(a[1], b[1]))
            for a, b in (
                (old.in_channels, new.in_channels),
                (old.out_channels, new.out_channels),
                (old.pixels, new.pixels),
            )
        )
        found[kind] = Range(*spans)
    return found
