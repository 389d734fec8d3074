"""Dominance, fronts and hypervolume; every objective is minimised."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

# [points, objectives]
Rows = Sequence[Sequence[float]] | NDArray[np.float64]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """True if `a` is nowhere worse than `b` and somewhere better.

    Raises:
        ValueError: the points do not have the same number of objectives.
    """
    pairs = list(zip(a, b, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def non_dominated(points: Rows) -> list[int]:
    """Indices, ascending, of the points that no other point dominates; of equal points the first one is kept.

    Raises:
        ValueError: a value is not a number, or points differ in their number of objectives.
    """
    if not len(points):
        return []
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or np.isnan(values).any():
        raise ValueError(f"points of shape {list(values.shape)} hold a NaN or are not [points, objectives]")
    if not np.isfinite(values).all():
        # Ranks have the same front; with three columns or more an infinity is not compared as one.
        values = np.column_stack([np.unique(column, return_inverse=True)[1] for column in values.T]).astype(np.float64)
    found: list[int] = np.flatnonzero(moocore.is_nondominated(values, keep_weakly=False)).tolist()
    return found


def hypervolume(points: Rows, reference: Sequence[float]) -> float:
    """Volume that `points` dominate below `reference`; a point that does not dominate the reference adds nothing.

    Raises:
        ValueError: a value is not a number, or a point and the reference differ in their number of objectives.
    """
    if not len(points):
        return 0.0
    values = np.asarray(points, dtype=np.float64)
    corner = np.asarray(reference, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != corner.size or np.isnan(values).any() or np.isnan(corner).any():
        raise ValueError(
            f"points of shape {list(values.shape)} do not match a reference of {corner.size}, or one holds a NaN"
        )
    return float(moocore.hypervolume(values, ref=corner))
