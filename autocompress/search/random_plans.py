"""Plans at random: what every other controller must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.core.space import Space, Vector
from autocompress.search.controller import new_vector
from autocompress.search.record import Record


@dataclass(frozen=True)
class RandomController:
    """Draws every option of every decision with the same chance."""

    space: Space
    seed: int

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan; the random numbers of the n-th depend on the seed and n alone."""
        return new_vector(self.space, history, self.seed, lambda rng, _: self.space.random(rng))
