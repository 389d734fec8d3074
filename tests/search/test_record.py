from __future__ import annotations

import pytest

from autocompress.core.metric import Metric
from autocompress.search.record import Objective, Record, front_of, losses

TWO = (Objective("accuracy", True), Objective("size_bytes", False))


def metrics(accuracy: float, size: float) -> dict[str, Metric]:
    return {"accuracy": Metric.exact(accuracy, "percent"), "size_bytes": Metric.exact(size, "bytes")}


def record(number: int, accuracy: float, size: float, fidelity: str = "short", state: str = "complete") -> Record:
    return Record(number, "search", (number,), state, fidelity, metrics(accuracy, size), {})


def numbers(records: list[Record]) -> list[int]:
    return [one.number for one in records]


def test_losses_are_minimised_and_in_the_order_of_the_objectives() -> None:
    assert losses(TWO, metrics(90.0, 10.0)) == (-90.0, 10.0)
    assert losses((Objective("accuracy", False),), metrics(3.5, 1.0)) == (3.5,)


def test_a_front_holds_what_nothing_dominates() -> None:
    records = [record(0, 90, 100), record(1, 80, 50), record(2, 79, 60), record(3, 95, 100), record(4, 80, 50)]
    assert numbers(front_of(records, TWO, "short")) == [1, 3]
    assert numbers(front_of(records, TWO[:1], "short")) == [3]
    assert front_of([], TWO, "short") == []


def test_a_front_never_mixes_fidelities() -> None:
    records = [record(0, 90, 100, "full"), record(1, 80, 200), record(2, 99, 1, "untrained"), record(3, 70, 150)]
    assert numbers(front_of(records, TWO, "short")) == [1, 3]
    assert numbers(front_of(records, TWO, "full")) == [0]


@pytest.mark.parametrize("state", ["failed", "infeasible", "stopped", "running"])
def test_a_front_holds_complete_trials_alone(state: str) -> None:
    better = record(1, 99, 1, state=state)
    assert numbers(front_of([record(0, 80, 100), better], TWO, "short")) == [0]
