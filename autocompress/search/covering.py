"""Which plans cover most of a front beside those that were tried."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autocompress.core.pareto import hypervolume, non_dominated

_RATIO_SCALE = 4.0
# Costs count up to this: what is only smaller is not worthless for taking as long as the dense model.
_WORST_COST = 1.25
_LEAST_RATIO = 1e-9
# A plan that adds less to the volume adds nothing.
_LEAST_GAIN = 1e-9
# Coordinates, [expectations, plans, objectives]: a plan stands where each expectation has it.
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where a plan stands, or is expected to.

    Attributes:
        lost: Share of the dense accuracy that is lost.
        ratios: By cost, the share of the dense cost that is left; 1 where none is given.
    """

    lost: float
    ratios: Mapping[str, float]


@dataclass(frozen=True)
class Scale:
    """What counts how much on a front.

    Accuracy counts by the square root of the share that is lost, so that a plan matters most where little is lost, from
    no loss (more than the dense model is luck of the split) on; costs by the logarithm of their ratio to the dense
    ones, so that 2x to 4x counts as much as 1x to 2x.

    Attributes:
        costs: The objectives beside the accuracy.
        worst_lost: What loses more than this share of the accuracy covers nothing.
        blur: Shares are known no better than this.
    """

    costs: tuple[str, ...]
    worst_lost: float
    blur: float

    def points(self, lost: NDArray[np.float64], ratios: Sequence[Mapping[str, float]]) -> Points:
        """Coordinates; less is better: 1 where `worst_lost` is lost, 1 for the dense model's costs.

        Args:
            lost: Shares of the dense accuracy, [expectations, plans].
            ratios: Of the plans, by cost.
        """
        loss = np.sqrt((np.maximum(0.0, lost) + self.blur) / (self.worst_lost + self.blur))
        shares = np.array([[one.get(cost, 1.0) for cost in self.costs] for one in ratios])
        logs = np.log(np.maximum(shares.reshape(len(ratios), len(self.costs)), _LEAST_RATIO))
        costs = np.minimum(_WORST_COST, 1.0 + logs / _RATIO_SCALE)
        return np.concatenate(
            [np.minimum(1.0, loss)[..., np.newaxis], np.broadcast_to(costs, (*lost.shape, len(self.costs)))], axis=-1
        )

    def points_of(self, places: Sequence[Place]) -> Points:
        """Coordinates of places, as a single expectation."""
        return self.points(np.array([[place.lost for place in places]]), [place.ratios for place in places])

    def volume(self, points: NDArray[np.float64]) -> float:
        """Hypervolume that points [plans, objectives] dominate."""
        return hypervolume(points, [1.0, *[_WORST_COST] * len(self.costs)])


def covering(candidates: Points, tried: Points, scale: Scale, count: int) -> list[int]:
    """Greedily, at most `count` candidates that add most hypervolume to the dense model and what was tried, if any.

    What a candidate adds only shrinks when others are chosen, so that it is computed again only while it is the best.

    Args:
        candidates: By expectation; what a candidate adds is the mean over them.
        tried: By expectation too.
        scale: Of the points.
        count: How many.
    """
    dense = scale.points_of([Place(0.0, {})])[0]
    ready = [_front(np.vstack([dense, points])) for points in tried]
    covered = [scale.volume(points) for points in ready]

    def gain(index: int) -> float:
        reached = (scale.volume(np.vstack([points, own[index]])) for points, own in zip(ready, candidates, strict=True))
        return (sum(reached) - sum(covered)) / len(ready)

    # Only what one other candidate beats in every expectation cannot be the best.
    left = [(-gain(index), index) for index in non_dominated(np.concatenate(candidates, axis=-1))]
    heapq.heapify(left)
    chosen: list[int] = []
    while left and len(chosen) < count:
        _, best = left[0]
        now = -gain(best)
        if len(left) > 1 and (now, best) > min(left[1:3]):
            heapq.heapreplace(left, (now, best))
            continue
        if now >= -_LEAST_GAIN:
            break
        heapq.heappop(left)
        chosen.append(best)
        ready = [_front(np.vstack([points, own[best]])) for points, own in zip(ready, candidates, strict=True)]
        covered = [scale.volume(points) for points in ready]
    return chosen


def _front(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points[non_dominated(points)]
