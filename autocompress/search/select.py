"""Which points of a front are worth the final training: those that together cover most of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autocompress.core.metric import Metric
from autocompress.core.pareto import hypervolume
from autocompress.search.record import Objective, Record

# A point that loses a quarter of what the dense model reaches covers nothing.
WORST_LOSS = 0.25


def spread(
    front: Sequence[Record], objectives: Sequence[Objective], dense: Mapping[str, Metric], count: int
) -> list[Record]:
    """At most `count` records that greedily cover the largest hypervolume beside the dense model.

    Maximised objectives count by the share of the dense value that is lost, up to a quarter; the others by the
    logarithm of their ratio to the dense value, so that 2x to 4x counts as much as 1x to 2x.
    """
    if len(front) <= count:
        return list(front)
    scaled = [_scaled(record, objectives, dense) for record in front]
    reference = [1.0] * len(objectives)
    chosen: list[int] = []
    while len(chosen) < count:
        rest = [index for index in range(len(front)) if index not in chosen]
        best = max(rest, key=lambda index: (_covered([*chosen, index], scaled, reference), -index))
        chosen.append(best)
    return [front[index] for index in sorted(chosen)]


def _covered(indices: Sequence[int], scaled: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    return hypervolume([scaled[index] for index in indices], reference)


def _scaled(record: Record, objectives: Sequence[Objective], dense: Mapping[str, Metric]) -> list[float]:
    result = []
    for objective in objectives:
        value, base = record.metrics[objective.name].value, dense[objective.name].value
        if objective.name == "accuracy":
            lost = (base - value) if objective.maximised else (value - base)
            result.append(min(1.0, max(-0.2, lost / max(1e-9, abs(base) * WORST_LOSS))))
        else:
            result.append(min(1.0, 1.0 + math.log(max(value, 1e-12) / max(base, 1e-12)) / 4.0))
    return result
