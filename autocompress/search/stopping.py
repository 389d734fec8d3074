"""Which trials end half way: those that others beat even if they come back as well as the best that stood as badly.

Optuna's pruners refuse several objectives. Here costs are known before a trial, so only its accuracy is open: what it
lost half way times the least share of such a loss that any comparable trial still had at its end. If with that it is
dominated, its second half and its evaluation are spared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autocompress.core.metric import Metric
from autocompress.core.pareto import dominates
from autocompress.search.record import Objective, Record, accuracy_of, front_of, losses

CONTINUE, STOP = "continue", "stop"
# So many trials must have stood at least nearly as badly half way before one of them tells what is possible.
_LEAST_SEEN, _NEARLY = 8, 0.5
_LATEST = 64


def decide(records: Sequence[Record], trial: Record, objectives: Sequence[Objective]) -> str:
    """`STOP` if a complete trial is better in everything than this one will be at best, else `CONTINUE`.

    Args:
        records: Other trials; those that ended well tell how much comes back.
        trial: Half way: its costs, with their intervals, and its accuracy so far.
        objectives: Of the run.
    """
    best = at_best(records, trial, objectives)
    if best is None:
        return CONTINUE
    open_loss = tuple(_least(objective, best.get(objective.name)) for objective in objectives)
    good = (record for record in records if record.state == "complete" and record.error is None)
    beaten = any(dominates(losses(objectives, record.metrics), open_loss) for record in good)
    return STOP if beaten else CONTINUE


def at_best(records: Sequence[Record], trial: Record, objectives: Sequence[Objective]) -> dict[str, Metric] | None:
    """What a trial reaches at best, None where nothing tells; see `decide`."""
    accuracy = accuracy_of(objectives)
    seen = [record for record in records if record.state == "complete" and record.halfway is not None]
    dense = next((record for record in seen if not any(record.vector)), None)
    if accuracy is None or dense is None or dense.halfway is None:
        return None
    sign = 1.0 if accuracy.maximised else -1.0
    start, end = dense.halfway, dense.metrics[accuracy.name]
    lost = sign * (start - trial.metrics[accuracy.name].value)
    pairs = [(sign * (start - (r.halfway or 0.0)), sign * (end.value - r.metrics[accuracy.name].value)) for r in seen]
    shares = [later / before for before, later in pairs if before > 0.0 and before >= _NEARLY * lost]
    if lost <= 0.0 or len(shares) < _LEAST_SEEN:
        return None
    reached = end.value - sign * lost * max(0.0, min(shares))
    return {**trial.metrics, accuracy.name: Metric.exact(reached, end.unit, "surrogate")}


def telling_of(records: Sequence[Record], objectives: Sequence[Objective]) -> tuple[Record, ...]:
    """The records that `decide` needs, small enough to be sent along with every trial.

    Of a history that goes on, these with what is new give the same as all of it.
    """
    done = [record for record in records if record.state == "complete"]
    kept = {record.number: record for record in front_of(done, objectives, "short")}
    kept |= {record.number: record for record in done[-_LATEST:]}
    kept |= {record.number: record for record in done if not any(record.vector)}
    names = [objective.name for objective in objectives]
    return tuple(
        replace(kept[number], metrics={name: kept[number].metrics[name] for name in names}, seconds={}, notes=())
        for number in sorted(kept)
    )


def _least(objective: Objective, metric: Metric | None) -> float:
    """The least loss within an interval."""
    if metric is None:
        return float("-inf")
    return -metric.high if objective.maximised else metric.low
