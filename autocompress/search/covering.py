"""Which plans cover most of a front beside those that were tried."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.pareto import hypervolume, non_dominated

# A plan that loses more than this share of the accuracy in a trial covers nothing: of what ResNet-20 on CIFAR-10 loses
# there a quarter is left after its final training. At 0.1 half of the plans lost 8 points and more.
WORST_LOST = 0.07
# Shares of the accuracy are known no better than this by a trial: one image in 200.
BLUR = 0.005
_RATIO_SCALE = 4.0
# Costs count up to this: a plan that is only smaller is not worthless for doing as much work as the dense one.
_WORST_COST = 1.25
# A plan that adds less to the volume adds nothing.
_LEAST_GAIN = 1e-9


@dataclass(frozen=True)
class Place:
    """Where a plan stands, or is expected to.

    Attributes:
        lost: Share of the dense accuracy that a trial loses.
        ratios: By cost, the share of the dense cost that is left.
    """

    lost: float
    ratios: Mapping[str, float]

    def coordinates(self, costs: Sequence[str]) -> tuple[float, ...]:
        """The root of what is lost, 1 at `WORST_LOST`, and costs by their logarithms, 1 for the dense model's."""
        loss = math.sqrt((max(0.0, self.lost) + BLUR) / (WORST_LOST + BLUR))
        return (min(1.0, loss), *(1.0 + math.log(self.ratios.get(cost, 1.0)) / _RATIO_SCALE for cost in costs))


def covering(candidates: Sequence[Place], tried: Sequence[Place], costs: Sequence[str], count: int) -> list[int]:
    """Greedily, at most `count` candidates that add most hypervolume to the dense model and what was tried, if any.

    What a candidate adds only shrinks when others are chosen, so that it is computed again only while it is the best.
    """
    points = [place.coordinates(costs) for place in candidates]
    ready = [place.coordinates(costs) for place in (Place(0.0, {}), *tried)]
    reference = [1.0, *[_WORST_COST] * len(costs)]
    covered = hypervolume(ready, reference)
    left = [(covered - hypervolume([*ready, points[index]], reference), index) for index in non_dominated(points)]
    heapq.heapify(left)
    chosen: list[int] = []
    while left and len(chosen) < count:
        _, best = left[0]
        now = covered - hypervolume([*ready, points[best]], reference)
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
