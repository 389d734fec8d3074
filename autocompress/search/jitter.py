"""Two knobs and noise: how strong the structure, how few the bits. A baseline that is hard to beat in few trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.core.decision import Decision
from autocompress.core.space import Space, Vector
from autocompress.search.controller import new_vector
from autocompress.search.record import Record

NOISE = 0.15
# Of what leaves the model another one, such as a dropped block, so many are chosen at the strongest knob.
_MOST_DROPPED = 0.4


@dataclass(frozen=True)
class JitterController:
    """Plans that are nearly the same everywhere; it learns nothing from trials."""

    space: Space
    seed: int

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan; the n-th depends on the seed and n alone, but that none is repeated."""
        return new_vector(self.space, history, self.seed, lambda rng, _: jittered(self.space, rng))


def jittered(space: Space, rng: np.random.Generator) -> Vector:
    """A plan with every decision near one of two random levels, that of bits or that of structure."""
    structure, bits = rng.uniform(size=2)
    return tuple(_option(decision, float(structure), float(bits), rng) for decision in space.decisions)


def _option(decision: Decision, structure: float, bits: float, rng: np.random.Generator) -> int:
    last = len(decision.options) - 1
    noise = float(rng.normal(0.0, NOISE))
    if last == 1 and decision.kind != "quantize":
        return int(rng.uniform() < structure * _MOST_DROPPED)
    level = (bits if decision.kind == "quantize" else structure) + noise
    return min(last, max(0, round(level * last)))
