"""What a controller is, and what all of them share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from autocompress.core.space import Space, Vector
from autocompress.search.record import Record

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
