"""Which point of a front is trained to the end next: the one that is expected to add most to those that are ready."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.metric import Metric
from autocompress.core.pareto import hypervolume
from autocompress.search.record import Objective, Record, accuracy_of, lost_share

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
_TYPICAL_LOSS = 0.05
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
    kind_of: Callable[[Record], object] = lambda record: None,
) -> Record | None:
    """The candidate that adds most hypervolume beside the dense model, or None if none adds any.

    Candidates count by what they are expected to reach: of the accuracy they lost in short training, the share that
    the points of their kind made so far still lost after theirs (their median). Accuracy counts by the square root of
    the share of the dense value that is lost, so that a point matters most where little is lost, from no loss (more
    than the dense model is luck of the split) up to `WORST_LOSS`, or to twice what the best candidate loses if that is
    more; other objectives by the logarithm of their ratio to the dense value, so that 2x to 4x counts as much as 1x to
    2x. Work, in MACs, counts beside the objectives: where a small model's latency is mostly constant, less of it is
    still worth having.

    Args:
        candidates: Trials to choose from.
        objectives: Of the run.
        dense: Metrics of the dense model.
        made: The points that are ready.
        chosen: Trials that are being trained to the end; they too count by what they are expected to reach.
        kind_of: Tells the kind of a trial.
    """
    if "macs" in dense and all(objective.name != "macs" for objective in objectives):
        objectives = (*objectives, Objective("macs", False))
    accuracy = accuracy_of(objectives)

    def rest(record: Record) -> float:
        alike = [point for point in made if kind_of(point.record) == kind_of(record)]
        return _EXPECTED_REST if accuracy is None else _rest(accuracy, dense, alike)

    everyone = [*candidates, *chosen, *(point.record for point in made)]
    least = [] if accuracy is None else [rest(r) * lost_share(accuracy, r.metrics, dense) for r in everyone]
    worst = max(WORST_LOSS, 2.0 * min(least, default=0.0))
    ready = [_scaled(metrics, objectives, dense, 1.0, worst) for metrics in (dense, *(point.metrics for point in made))]
    ready += [_scaled(record.metrics, objectives, dense, rest(record), worst) for record in chosen]
    reference = [1.0 if objective.name == "accuracy" else _WORST_COST for objective in objectives]
    covered = hypervolume(ready, reference)
    best, most = None, 1e-9
    for record in candidates:
        expected = _scaled(record.metrics, objectives, dense, rest(record), worst)
        gain = hypervolume([*ready, expected], reference) - covered
        if gain > most:
            best, most = record, gain
    return best


def training_share(record: Record, objectives: Sequence[Objective], dense: Mapping[str, Metric]) -> float:
    """How long the final training of a trial is, 1 as long as was asked for: what lost nothing has little to regain."""
    accuracy = accuracy_of(objectives)
    if accuracy is None:
        return 1.0
    least, most = _TRAINING
    lost = max(0.0, lost_share(accuracy, record.metrics, dense))
    return min(most, max(least, math.sqrt(lost / _TYPICAL_LOSS)))


def _rest(accuracy: Objective, dense: Mapping[str, Metric], made: Sequence[Made]) -> float:
    """The share of a short training's loss of accuracy that is expected to stay."""
    shares = [_EXPECTED_REST]
    for point in made:
        before, after = (lost_share(accuracy, metrics, dense) for metrics in (point.record.metrics, point.metrics))
        if before > _NOISE:
            shares.append(min(1.0, max(0.0, after / before)))
    return statistics.median(shares)


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
            lost = lost_share(objective, metrics, dense)
            result.append(min(1.0, math.sqrt((max(0.0, lost) * rest + _BLUR) / (worst + _BLUR))))
        else:
            value, base = metrics[objective.name].value, dense[objective.name].value
            result.append(min(_WORST_COST, 1.0 + math.log(max(value, 1e-12) / max(base, 1e-12)) / 4.0))
    return result
