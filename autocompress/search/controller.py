"""What a controller is, and what all of them share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autocompress.core.pareto import non_dominated
from autocompress.core.space import Space, Vector
from autocompress.search.record import Objective, Record, losses

TRIES = 20


class Controller(Protocol):
    """Proposes plans of a space.

    It keeps nothing between calls: the same history gives the same next plan, so a run that was killed and resumed asks
    for what it would have asked for anyway.
    """

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan to try: legal, and not in `history` unless the whole space is."""


def mix(*parts: int) -> int:
    """One seed of several numbers."""
    return zlib.crc32(repr(parts).encode())


def scaled_losses(objectives: Sequence[Objective], done: Sequence[Record]) -> NDArray[np.float64]:
    """The losses of complete trials between the least and the largest of each objective, `[trials, objectives]`."""
    values = np.array([losses(objectives, record.metrics) for record in done], dtype=np.float64)
    spans = np.ptp(values, axis=0)
    scaled: NDArray[np.float64] = (values - values.min(axis=0)) / np.where(spans > 0, spans, 1.0)
    return scaled


def telling(scaled: NDArray[np.float64], most: int) -> list[int]:
    """Of many trials those that tell most of what comes next, in order: the latest of the front, and of the others.

    Args:
        scaled: Their losses, `[trials, objectives]`.
        most: So many, of which the front has half.
    """
    if len(scaled) <= most:
        return list(range(len(scaled)))
    front = non_dominated(scaled)[-(most // 2) :]
    others = sorted(set(range(len(scaled))).difference(front))
    return sorted([*front, *others[len(front) - most :]])


def new_vector(
    space: Space, history: Sequence[Record], seed: int, propose: Callable[[np.random.Generator, int], Vector]
) -> Vector:
    """The first proposal that was not tried; after many, the plan that comes after a random one.

    Args:
        space: Of the plans.
        history: What was tried.
        seed: With the length of the history it decides the random numbers.
        propose: Gives a plan, from random numbers and the number of the attempt.
    """
    tried, number = {record.vector for record in history}, len(history)
    for attempt in range(TRIES):
        vector = propose(np.random.default_rng(mix(seed, number, attempt)), attempt)
        if vector not in tried:
            return vector
    vector = space.random(np.random.default_rng(mix(seed, number, TRIES)))
    for _ in range(len(tried)):
        if vector not in tried:
            break
        vector = _after(space, vector)
    return vector


def _after(space: Space, vector: Vector) -> Vector:
    """The next vector, counted up from the last decision; the first one after the last."""
    result = list(vector)
    for place in reversed(range(len(result))):
        result[place] = (result[place] + 1) % len(space.decisions[place].options)
        if result[place]:
            break
    return tuple(result)
