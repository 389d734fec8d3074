"""One trial as a controller and a report see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.metric import Metric
from autocompress.core.pareto import non_dominated
from autocompress.core.space import Vector

STATES = ("running", "complete", "stopped", "infeasible", "failed")
# The label of what a controller asked for.
ASKED = "search"
# The phase of a trial in which nobody works on it: before it is begun, and until it is written down.
WAIT = "wait"
# What controllers learn from.
TELLING = ("complete", "stopped")


@dataclass(frozen=True)
class Record:
    """A trial with its results.

    Attributes:
        label: Name of a baseline, or what asked for the plan.
        vector: The plan as option indices of the space.
        state: One of `STATES`; `infeasible` means that the tables refused it and it was never trained, `stopped` that
            its training ended half way, since others beat it.
        metrics: What was measured; from tables alone where infeasible, what it would reach at best where stopped, empty
            where failed.
        seconds: Wall time by phase.
        error: Why it is infeasible, stopped or failed.
        halfway: Accuracy on some samples after half of the training; None where it was not looked at.
    """

    number: int
    label: str
    vector: Vector
    state: str
    fidelity: str
    metrics: Mapping[str, Metric]
    seconds: Mapping[str, float]
    error: str | None = None
    notes: tuple[str, ...] = ()
    halfway: float | None = None


def seconds_by_phase(trials: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The wall time of many trials together."""
    total: dict[str, float] = {}
    for seconds in trials:
        for phase, taken in seconds.items():
            total[phase] = total.get(phase, 0.0) + taken
    return total


@dataclass(frozen=True)
class Objective:
    """A metric to improve; `maximised` says which way is better."""

    name: str
    maximised: bool

    def loss(self, metrics: Mapping[str, Metric]) -> float:
        """The value, turned so that less is better."""
        value = metrics[self.name].value
        return -value if self.maximised else value


def losses(objectives: Sequence[Objective], metrics: Mapping[str, Metric]) -> tuple[float, ...]:
    """All objectives of one model, less is better."""
    return tuple(objective.loss(metrics) for objective in objectives)


def accuracy_of(objectives: Sequence[Objective]) -> Objective | None:
    """The objective that training brings back, if it is one."""
    return next((objective for objective in objectives if objective.name == "accuracy"), None)


def lost_share(objective: Objective, metrics: Mapping[str, Metric], dense: Mapping[str, Metric]) -> float:
    """How much worse than the dense model, as a share of its value; below 0 where better."""
    return (objective.loss(metrics) - objective.loss(dense)) / max(1e-9, abs(dense[objective.name].value))


def too_far(
    vector: Vector,
    known: Sequence[Record],
    objectives: Sequence[Objective],
    dense: Mapping[str, Metric],
    worst_lost: float,
) -> bool:
    """Whether a plan goes at least as far in every decision as one whose trial lost more than a share of accuracy.

    Args:
        vector: The plan.
        known: Trials to judge by.
        objectives: Of the run; without accuracy among them nothing goes too far.
        dense: Metrics of the dense model.
        worst_lost: The share.
    """
    accuracy = accuracy_of(objectives)
    return accuracy is not None and any(
        record.state == "complete"
        and all(own >= other for own, other in zip(vector, record.vector, strict=True))
        and lost_share(accuracy, record.metrics, dense) > worst_lost
        for record in known
    )


def front_of(records: Sequence[Record], objectives: Sequence[Objective], fidelity: str) -> list[Record]:
    """The complete records of one fidelity that no other one dominates; fidelities never mix."""
    candidates = [record for record in records if record.state == "complete" and record.fidelity == fidelity]
    kept = non_dominated([losses(objectives, record.metrics) for record in candidates])
    return [candidates[index] for index in kept]
