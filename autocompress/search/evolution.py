"""Evolution on untrained plans: of two choices one is made stronger and one milder, at an equal cost.

Source: Sieberling et al. 2024, "EvoPress: Accurate Dynamic Model Compression via Evolutionary Search": level switches
that keep the total, offspring selected by the KL divergence to the dense model on few samples, one parent. Deviations:
the decisions of a space instead of levels of one method; a new target for every question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import Effects
from autocompress.search.controller import new_vector
from autocompress.search.oneshot import Tables, goal_of
from autocompress.search.record import Objective, Record

_GENERATIONS, _OFFSPRING = 4, 8
_MOST_SWITCHES = 3
# A child may take so much more than its target.
_SLACK = 1.02


@dataclass(frozen=True)
class EvolutionController:
    """The best of some generations of untrained plans; it learns nothing from trials.

    Attributes:
        tables: What measures plans untrained, and what single options do.
    """

    space: Space
    objectives: tuple[Objective, ...]
    seed: int
    tables: Tables

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan; the n-th depends on the seed and n alone, but that none is repeated."""
        effects, options = self.tables()

        def propose(rng: np.random.Generator, attempt: int) -> Vector:
            cost, share = goal_of(self.objectives, self.seed, len(history), attempt, rng)
            limit = share * options.dense.costs[cost]
            parent = self._start(effects, cost, limit, rng)
            return parent if attempt else self._evolved(effects, parent, cost, limit, rng)

        return new_vector(self.space, history, self.seed, propose)

    def _start(self, effects: Effects, cost: str, limit: float, rng: np.random.Generator) -> Vector:
        """A plan within the limit: choices at random made stronger, one by one, from the dense one on."""
        steps = [place for place, end in enumerate(self.space.extreme_vector) for _ in range(end)]
        order = [steps[index] for index in rng.permutation(len(steps))]
        low, high = 0, len(order)
        # What is stronger everywhere costs less, but for few exceptions: half of the steps are looked at at a time.
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _within(effects, self._after(order[:middle]), cost, limit) else (middle, high)
        return self._after(order[:high])

    def _after(self, steps: Sequence[int]) -> Vector:
        vector = list(self.space.dense_vector)
        for place in steps:
            vector[place] = min(vector[place] + 1, self.space.extreme_vector[place])
        return tuple(vector)

    def _evolved(self, effects: Effects, parent: Vector, cost: str, limit: float, rng: np.random.Generator) -> Vector:
        for _ in range(_GENERATIONS):
            children = [self._switched(parent, rng) for _ in range(_OFFSPRING)]
            family = list(dict.fromkeys([parent, *(c for c in children if _within(effects, c, cost, limit * _SLACK))]))
            found = zip(effects.of(family), family, strict=True)
            alive = [(effect.loss, vector) for effect, vector in found if effect is not None]
            parent = min(alive)[1] if alive else parent
        return parent

    def _switched(self, parent: Vector, rng: np.random.Generator) -> Vector:
        """Some choices one option stronger, and as many one milder."""
        vector = list(parent)
        ends = self.space.extreme_vector
        for _ in range(int(rng.integers(1, _MOST_SWITCHES + 1))):
            for step in (1, -1):
                free = [place for place, end in enumerate(ends) if 0 <= vector[place] + step <= end]
                if free:
                    vector[int(rng.choice(free))] += step
        return tuple(vector)


def _within(effects: Effects, vector: Vector, cost: str, limit: float) -> bool:
    costs = effects.costs_of(vector)
    return costs is not None and costs[cost] <= limit
