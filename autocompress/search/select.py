"""Which point of a front is trained to the end next: the one that is expected to add most to those that are ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.metric import Metric
from autocompress.search.covering import Place, Scale, covering
from autocompress.search.record import Objective, Record, accuracy_of, lost_share
from autocompress.search.recovery import expected_rest, length_for

# A point that loses more than this share of what the dense model reaches covers nothing: with a tenth and with a
# twentieth, three of the eight points of ResNet-20 on CIFAR-10 lost 2.8 points of accuracy and more; with a fortieth
# its final training went to five points that lost 1.1 to 1.7, and none lost between 0.6 and that.
_WORST_LOST = 0.02
# Losses of accuracy are known no better than this: one image in 333.
_BLUR = 0.003
# What is expected of final training counts as much as points that still lose this share together.
_EXPECTED_LEFT = 0.006
# The final training of a point that lost this share in a short one has the length that was asked for; that of others
# goes by what they lost, within limits.
_TYPICAL_LOSS = 0.03
_TRAINING = (0.2, 2.0)
# A final training aims at this part of what a limit on accuracy lets a point lose: what is expected is not certain.
_AIMED = 0.5


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
    kind: Callable[[Record], str] = lambda record: "",
    pace: float = 1.0,
    allowed: float | None = None,
) -> Record | None:
    """The candidate that adds most hypervolume beside the dense model, or None if none adds any.

    Candidates count by what they are expected to reach: of the accuracy they lost in short training a share that falls
    with the length of the final one, as much larger or smaller as the points of their kind made so far showed. Accuracy
    counts up to the loss that is allowed; without a limit, or where none is expected to keep to it, up to a fiftieth or
    to twice what the best candidate loses if that is more. Work, in MACs, counts
    beside the objectives: where a small model's latency is mostly constant, less of it is still worth having.

    Args:
        candidates: Trials to choose from.
        objectives: Of the run.
        dense: Metrics of the dense model.
        made: The points that are ready.
        chosen: Trials that are being trained to the end; they too count by what they are expected to reach.
        kind: What a trial's plan changes that decides how much training brings back, see `rest_kind`.
        pace: What part there is time for of the lengths that were asked for.
        allowed: The share of the dense accuracy that a constraint lets a point lose.
    """
    costs = [objective for objective in objectives if objective.name != "accuracy"]
    if "macs" in dense and all(cost.name != "macs" for cost in costs):
        costs.append(Objective("macs", False))
    accuracy = accuracy_of(objectives)

    def expected(record: Record) -> Place:
        own = kind(record)

        def stays(one: Record) -> float:
            return expected_rest(own, pace * training_share(one, objectives, dense, allowed, own))

        rest = 1.0
        if accuracy is not None:
            alike = [(point, stays(point.record)) for point in made if kind(point.record) == own]
            rest = min(1.0, stays(record) * _more_than_expected(accuracy, dense, alike))
        return _place(record.metrics, dense, accuracy, costs, rest)

    ready = [_place(metrics, dense, accuracy, costs) for metrics in (dense, *(point.metrics for point in made))]
    least = min(
        (expected(record).lost for record in (*candidates, *chosen, *(point.record for point in made))), default=0.0
    )
    worst = max(_WORST_LOST, 2.0 * least) if allowed is None or least > allowed else max(allowed, _BLUR)
    scale = Scale(tuple(cost.name for cost in costs), worst, _BLUR)
    points = scale.points_of([expected(record) for record in candidates])
    best = covering(points, scale.points_of([*ready, *map(expected, chosen)]), scale, 1)
    return candidates[best[0]] if best else None


def training_share(
    record: Record,
    objectives: Sequence[Objective],
    dense: Mapping[str, Metric],
    allowed: float | None = None,
    kind: str = "",
) -> float:
    """How long the final training of a trial is, 1 as long as was asked for: what lost nothing has little to regain.

    Args:
        record: The trial.
        objectives: Of the run.
        dense: Metrics of the dense model.
        allowed: The share of the dense accuracy that a constraint lets a point lose: it takes as long as that needs.
        kind: Of the trial, see `rest_kind`.
    """
    accuracy = accuracy_of(objectives)
    if accuracy is None:
        return 1.0
    least, most = _TRAINING
    lost = max(0.0, lost_share(accuracy, record.metrics, dense))
    share = lost / _TYPICAL_LOSS
    if allowed is not None and lost > 0.0:
        share = max(share, length_for(kind, _AIMED * allowed / lost))
    return min(most, max(least, share))


def _more_than_expected(accuracy: Objective, dense: Mapping[str, Metric], made: Sequence[tuple[Made, float]]) -> float:
    """How many times as much stayed lost as was expected, by points that were made, each with its expected share."""
    expected = kept = _EXPECTED_LEFT
    for point, share in made:
        before, after = (lost_share(accuracy, metrics, dense) for metrics in (point.record.metrics, point.metrics))
        expected += share * max(0.0, before)
        kept += min(max(0.0, after), max(0.0, before))
    return kept / expected


def _place(
    metrics: Mapping[str, Metric],
    dense: Mapping[str, Metric],
    accuracy: Objective | None,
    costs: Sequence[Objective],
    rest: float = 1.0,
) -> Place:
    """Where a model stands that keeps a share of what it lost."""
    lost = 0.0 if accuracy is None else rest * lost_share(accuracy, metrics, dense)
    values = {cost.name: (metrics[cost.name].value, dense[cost.name].value) for cost in costs}
    return Place(lost, {name: value / max(base, 1e-12) for name, (value, base) in values.items()})
