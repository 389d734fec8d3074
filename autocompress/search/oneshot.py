"""Plans from sensitivity alone, exactly: what loses least by the sum of single losses, for one cost after another.

Source: Yao et al. 2021, "HAWQ-V3: Dyadic Neural Network Quantization": an integer linear programme over per-layer
sensitivities under a constraint. Deviations: all decisions of the space, not only bits; the sensitivity is the measured
distance of outputs; the programme is solved by dynamic programming for all limits at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats.qmc import Halton

from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import COSTS, Effects, Sensitivity
from autocompress.search.additive import additive_front
from autocompress.search.controller import new_vector
from autocompress.search.parts import Table
from autocompress.search.record import Objective, Record

Tables = Callable[[], tuple[Effects, Sensitivity]]
# The least share of a cost that is aimed at.
_LEAST_LEFT = 0.02


@dataclass(frozen=True)
class OneShotController:
    """The additive front, from its middle outwards; it learns nothing from trials.

    Attributes:
        tables: What measures plans untrained, and what single options do.
    """

    space: Space
    objectives: tuple[Objective, ...]
    seed: int
    tables: Tables

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan; the n-th depends on the seed and n alone, but that none is repeated."""
        _, options = self.tables()
        table = Table(self.space, options, COSTS)

        def propose(rng: np.random.Generator, attempt: int) -> Vector:
            cost, share = goal_of(self.objectives, self.seed, len(history), attempt, rng)
            return least_loss(table, options, cost, share)

        return new_vector(self.space, history, self.seed, propose)


def goal_of(
    objectives: Sequence[Objective], seed: int, number: int, attempt: int, rng: np.random.Generator
) -> tuple[str, float]:
    """The cost that the n-th plan saves, in turn, and the share of it to be left: spread evenly, then at random.

    Objectives without a cost are served by the size.
    """
    costs = [objective.name for objective in objectives if objective.name in COSTS] or ["size_bytes"]
    turn = number + seed
    spread = Halton(1, scramble=False).fast_forward(turn // len(costs) + 1)
    place = float(spread.random()[0, 0]) if attempt == 0 else float(rng.uniform())
    return costs[turn % len(costs)], float(_LEAST_LEFT**place)


def least_loss(table: Table, options: Sensitivity, cost: str, share: float) -> Vector:
    """The plan with the least sum of losses that leaves so much of a cost, or the one that leaves least of it."""
    dense = max(options.dense.costs[cost], 1e-12)
    usable = [[0, *table.usable(place)] for place in range(len(table.space.decisions))]
    losses = [[table.loss(place, one) if one else 0.0 for one in each] for place, each in enumerate(usable)]
    savings = [
        [table.saving(place, one, cost) / dense if one else 0.0 for one in each] for place, each in enumerate(usable)
    ]
    if not any(saving > 0 for each in savings for saving in each):
        return table.space.dense_vector
    chosen = additive_front(losses, savings).at_least(1.0 - share) or [int(np.argmax(each)) for each in savings]
    return tuple(usable[place][one] for place, one in enumerate(chosen))
