"""Which plans cover most of a front beside those that were tried."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.pareto import hypervolume, non_dominated

_RATIO_SCALE = 4.0
# Costs count up to this: what is only smaller is not worthless for doing as much work as the dense model.
_WORST_COST = 1.25
_LEAST_RATIO = 1e-9
# A plan that adds less to the volume adds nothing.
_LEAST_GAIN = 1e-9


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

    def coordinates(self, place: Place) -> tuple[float, ...]:
        """Less is better: 1 where `worst_lost` is lost, 1 for the dense model's costs."""
        loss = math.sqrt((max(0.0, place.lost) + self.blur) / (self.worst_lost + self.blur))
        logs = (math.log(max(place.ratios.get(cost, 1.0), _LEAST_RATIO)) for cost in self.costs)
        return (min(1.0, loss), *(min(_WORST_COST, 1.0 + log / _RATIO_SCALE) for log in logs))

    def volume(self, coordinates: Sequence[tuple[float, ...]]) -> float:
        """Hypervolume that is dominated."""
        return hypervolume(coordinates, [1.0, *[_WORST_COST] * len(self.costs)])


def covering(candidates: Sequence[Place], tried: Sequence[Place], scale: Scale, count: int) -> list[int]:
    """Greedily, at most `count` candidates that add most hypervolume to the dense model and what was tried, if any.

    What a candidate adds only shrinks when others are chosen, so that it is computed again only while it is the best.
    """
    points = [scale.coordinates(place) for place in candidates]
    ready = [scale.coordinates(place) for place in (Place(0.0, {}), *tried)]
    covered = scale.volume(ready)
    left = [(covered - scale.volume([*ready, points[index]]), index) for index in non_dominated(points)]
    heapq.heapify(left)
    chosen: list[int] = []
    while left and len(chosen) < count:
        _, best = left[0]
        now = covered - scale.volume([*ready, points[best]])
        if len(left) > 1 and (now, best) > min(left[1:3]):
            heapq.heapreplace(left, (now, best))
            continue
        if now >= -_LEAST_GAIN:
            break
        heapq.heappop(left)
        covered -= now
        chosen.append(best)
        ready.append(points[best])
    return chosen
