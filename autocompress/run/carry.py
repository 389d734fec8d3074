"""Trials that go into another study without being trained again: judged by other limits, or scored for another target.

What training gave, the accuracy, holds wherever the model, the data and the plan are the same. Costs come from tables,
and are read anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autocompress.core.constraint import Constraint
from autocompress.core.metric import Metric
from autocompress.core.space import Space
from autocompress.errors import PlanError
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_plan
from autocompress.run.jobs import refused_by
from autocompress.run.places import Place, write_place
from autocompress.run.study import Study
from autocompress.run.weights import checkpoint_path
from autocompress.search.record import Record

Convert = Callable[[Record], Record | None]


@dataclass(frozen=True)
class Carried:
    """How many trials another study was given, and how many of the old one it was not."""

    kept: int
    left: int

    @property
    def told(self) -> str:
        """The same in words."""
        rest = f", {self.left} are not: they are tried again where that is worth it" if self.left else ""
        return f"{self.kept} trials are carried over without training{rest}"


def carry(source: Study, into: Study, convert: Convert) -> Carried:
    """Writes the trials of a study into an empty one, each under the number it has.

    Args:
        source: Is only read.
        into: Has no trial.
        convert: The trial as it is there; None for one that means nothing there.
    """
    records = source.records()
    number, kept = -1, 0
    for record in records:
        found = convert(record)
        if found is None:
            continue
        while number < record.number - 1:
            number = into.skip()
        number = into.carry(found)
        assert number == record.number, f"trial {record.number} became {number}"
        kept += 1
    return Carried(kept, len(records) - kept)


@dataclass(frozen=True)
class Judged:
    """Trials of the same space and target under other constraints.

    Attributes:
        dense: Metrics of the dense model that constraints are relative to.
        dropped: States of trials that mean nothing there.
    """

    constraints: Sequence[Constraint]
    dense: Mapping[str, Metric]
    dropped: Collection[str] = ()

    def __call__(self, record: Record) -> Record | None:
        """What breaks a limit says so; what was refused and is now allowed is to be tried."""
        if record.state in self.dropped:
            return None
        if record.state not in ("complete", "infeasible"):
            return record
        refusal = refused_by(record.metrics, self.constraints, self.dense)
        return None if record.state == "infeasible" and refusal is None else replace(record, error=refusal)


@dataclass(frozen=True)
class Scored:
    """Trials of one target scored for another.

    Attributes:
        before: The space of the old one.
        space: Of the new one; it may lack options that the new target has no use for.
        context: Of the new one.
    """

    before: Space
    space: Space
    context: Context
    judged: Judged

    def __call__(self, record: Record) -> Record | None:
        """What was trained to its end and can be a plan there; what was stopped may be worth its training there."""
        if record.state != "complete":
            return None
        plan = self.before.decode(record.vector)
        try:
            vector = self.space.encode(plan)
        except PlanError:
            return None
        costs = cost_of_plan(plan, self.context).metrics
        metrics = {"accuracy": record.metrics["accuracy"], **costs}
        return self.judged(replace(record, vector=vector, metrics=metrics))


def copy_weights(source: Place, into: Place, records: Sequence[Record]) -> None:
    """Brings the weights of trials along; where both folders are on one disk they take no room twice."""
    for record in records:
        path, other = checkpoint_path(source, record.number), checkpoint_path(into, record.number)
        if not path.is_file() or other.exists():
            continue
        if not (isinstance(path, Path) and isinstance(other, Path) and _linked(path, other)):
            write_place(other, path.read_bytes())


def _linked(path: Path, other: Path) -> bool:
    """Makes a second name for a file; False on another disk, or one without links."""
    other.parent.mkdir(exist_ok=True)
    try:
        os.link(path, other)
    except OSError:
        return False
    return True
