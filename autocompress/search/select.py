"""Which point of a front is trained to the end next: the one that is expected to add most to those that are ready."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.metric import Metric
from autocompress.core.pareto import hypervolume
from autocompress.search.record import Objective, Record

# A point that loses more than this share of what the dense model reaches covers nothing: with a tenth and with a
# twentieth, three of the eight points of ResNet-20 on CIFAR-10 lost 2.8 points of accuracy and more.
WORST_LOSS = 0.03
# Losses of accuracy are known no better than this: one image in 333.
_BLUR = 0.003
# Costs count up to this: a point that is only smaller is not worthless for being as slow as the dense model.
_WORST_COST = 1.25
# Until a point is ready, the final training is expected to leave half of what a short one lost.
_EXPECTED_REST = 0.5
# Losses below this share of the dense value are noise and say nothing of what training brings back.
_NOISE = 0.01
# The final training of a point that lost this share in a short one has the length that was asked for; of others it
# goes by the square root of what they lost, within limits.
_TYPICAL_LOSS = 0.04
_TRAINING = (0.5, 2.0)


@dataclass(frozen=True)
class Made:
    """A point that was trained to the end, with its metrics on the validation split."""

    record: Record
    metrics: Mapping[str, Metric]


def next_point(
    candidates: Sequence[Record],
    objectives: Sequence[Objective],
    dense: Mapping[str, Metric],
    made: Sequence[Made],
    chosen: Sequence[Record] = (),
) -> Record | None:
    """The candidate that adds most hypervolume beside the dense model, or None if none adds any.

    Candidates count by what they are expected to reach: of the accuracy they lost in short training, the share that
    the points made so far still lost after theirs (their median). Accuracy counts by the square root of the share of
    the dense value that is lost, so that a point matters most where little is lost, from no loss (more than the dense
    model is luck of the split) up to `WORST_LOSS`, or to twice what the best candidate loses if that is more; other
    objectives by the logarithm of their ratio to the dense value, so that 2x to 4x counts as much as 1x to 2x. Work,
    in MACs, counts beside the objectives: where a small model's latency is mostly constant, less of it is still worth
    having.

    Args:
        candidates: Trials to choose from.
        objectives: Of the run.
        dense: Metrics of the dense model.
        made: The points that are ready.
        chosen: Trials that are being trained to the end; they too count by what they are expected to reach.
    """
    if "macs" in dense and all(objective.name != "macs" for objective in objectives):
        objectives = (*objectives, Objective("macs", False))
    rest = _rest(objectives, dense, made)
    worst = _worst([*candidates, *chosen, *(point.record for point in made)], objectives, dense, rest)
    ready = [_scaled(metrics, objectives, dense, 1.0, worst) for metrics in (dense, *(point.metrics for point in made))]
    ready += [_scaled(record.metrics, objectives, dense, rest, worst) for record in chosen]
    reference = [1.0 if objective.name == "accuracy" else _WORST_COST for objective in objectives]
    covered = hypervolume(ready, reference)
    best, most = None, 1e-9
    for record in candidates:
        expected = _scaled(record.metrics, objectives, dense, rest, worst)
        gain = hypervolume([*ready, expected], reference) - covered
        if gain > most:
            best, most = record, gain
    return best


def training_share(record: Record, objectives: Sequence[Objective], dense: Mapping[str, Metric]) -> float:
    """How long the final training of a trial is, 1 as long as was asked for: what lost nothing has little to regain."""
    objective = _accuracy(objectives)
    if objective is None:
        return 1.0
    least, most = _TRAINING
    lost = max(0.0, _lost(record.metrics, objective, dense))
    return min(most, max(least, math.sqrt(lost / _TYPICAL_LOSS)))


def _accuracy(objectives: Sequence[Objective]) -> Objective | None:
    return next((objective for objective in objectives if objective.name == "accuracy"), None)


def _worst(
    records: Sequence[Record], objectives: Sequence[Objective], dense: Mapping[str, Metric], rest: float
) -> float:
    """The loss at which a point covers nothing."""
    objective = _accuracy(objectives)
    if objective is None or not records:
        return WORST_LOSS
    return max(WORST_LOSS, 2.0 * rest * min(_lost(record.metrics, objective, dense) for record in records))


def _rest(objectives: Sequence[Objective], dense: Mapping[str, Metric], made: Sequence[Made]) -> float:
    """The share of a short training's loss of accuracy that is expected to stay."""
    objective = _accuracy(objectives)
    if objective is None:
        return _EXPECTED_REST
    shares = [_EXPECTED_REST]
    for point in made:
        before, after = (_lost(metrics, objective, dense) for metrics in (point.record.metrics, point.metrics))
        if before > _NOISE:
            shares.append(min(1.0, max(0.0, after / before)))
    return statistics.median(shares)


def _lost(metrics: Mapping[str, Metric], objective: Objective, dense: Mapping[str, Metric]) -> float:
    """The loss of accuracy as a share of the dense value; below 0 where there is a gain."""
    return (objective.loss(metrics) - objective.loss(dense)) / max(1e-9, abs(dense[objective.name].value))


def _scaled(
    metrics: Mapping[str, Metric],
    objectives: Sequence[Objective],
    dense: Mapping[str, Metric],
    rest: float,
    worst: float,
) -> list[float]:
    result = []
    for objective in objectives:
        if objective.name == "accuracy":
            lost = _lost(metrics, objective, dense)
            result.append(min(1.0, math.sqrt((max(0.0, lost) * rest + _BLUR) / (worst + _BLUR))))
        else:
            value, base = metrics[objective.name].value, dense[objective.name].value
            result.append(min(_WORST_COST, 1.0 + math.log(max(value, 1e-12) / max(base, 1e-12)) / 4.0))
    return result
