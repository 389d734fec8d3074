"""One suite for every controller, over histories of every kind."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.core.metric import Metric
from autocompress.core.plan import Prune, Quantize
from autocompress.core.space import Decision, Space, Vector
from autocompress.errors import InputError
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.sensitivity import Effects, Meter, Sensitivity
from autocompress.search import agent, evolution, scalarised
from autocompress.search.controller import Controller, telling
from autocompress.search.controllers import CONTROLLERS
from autocompress.search.controllers import make_controller as make
from autocompress.search.record import Objective, Record
from autocompress.targets.profile import load_target
from autocompress.tasks import classification

ALL = (Objective("accuracy", True), Objective("size_bytes", False), Objective("latency_ms", False))
SPACE = Space(
    "small",
    (
        Decision("resolution", "", (1.0, 0.75)),
        Decision("prune", "a", (None, Prune(0.25), Prune(0.5))),
        Decision("quantize", "a", (None, Quantize(8), Quantize(4))),
        Decision("quantize", "b", (Quantize(8),)),
    ),
)
LONG = Space("long", tuple(Decision("quantize", f"l{i}", (None, Quantize(8), Quantize(4))) for i in range(12)))
ONE = Space("one", (Decision("quantize", "a", (Quantize(8),)), Decision("prune", "a", (Prune(0.5),))))


def record(number: int, vector: Vector, state: str = "complete", label: str = "search") -> Record:
    """A result that follows from the vector, so that histories repeat."""
    metrics = {
        "accuracy": Metric.exact(90.0 - sum(vector) ** 1.5, "percent"),
        "size_bytes": Metric.exact(1000.0 / (1 + sum(vector)), "bytes"),
        "latency_ms": Metric.exact(5.0 - 0.1 * vector[0], "ms"),
    }
    known = {"complete": metrics, "stopped": metrics, "infeasible": {"size_bytes": metrics["size_bytes"]}}.get(
        state, {}
    )
    fidelity = "cost" if state == "infeasible" else "short"
    return Record(number, label, vector, state, fidelity, known, {}, None if state == "complete" else state)


class _Toy(nn.Module):
    """Has what `SPACE` and `ONE` decide."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.relu(self.a(x)).mean((2, 3)))
        return y


class _Deep(nn.Module):
    """Has what `LONG` decides."""

    def __init__(self) -> None:
        super().__init__()
        for place in range(len(LONG.decisions)):
            self.add_module(f"l{place}", nn.Linear(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1).flatten(1)[:, :12]
        for layer in self.children():
            x = torch.relu(layer(x))
        return x


@cache
def tables_of(name: str) -> tuple[Effects, Sensitivity]:
    """Real tables of a real model."""
    space = {one.name: one for one in (SPACE, LONG, ONE)}[name]
    torch.manual_seed(0)
    data = torch.randn(64, 3, 16, 16), torch.arange(64) % 4
    task = classification(name, (_Deep() if space is LONG else _Toy()).eval(), data, data, data)
    context = Context(task, load_target("jetson-nano"), "fp16", Effort(2, 32), shares=(1.0, 0.75))
    effects = Effects(Meter(space, context), Path(tempfile.mkdtemp()) / "table")
    return effects, effects.of_options()


def make_controller(name: str, space: Space, objectives: Sequence[Objective], seed: int) -> Controller:
    return make(name, space, objectives, seed, lambda: tables_of(space.name))


def asked(controller: Controller, count: int, state: str = "complete") -> list[Record]:
    history: list[Record] = []
    for number in range(count):
        history.append(record(number, controller.ask(history), state))
    return history


# Each question of the evolution measures dozens of plans: it has a shorter suite below.
@pytest.fixture(params=sorted(CONTROLLERS.keys() - {"evolution"}))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    # Fewer of the same steps: these tests ask some hundred times.
    monkeypatch.setattr(agent, "_STEPS", 20)
    return str(request.param)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_plans_are_legal_whatever_the_objectives(name: str, dimensions: int) -> None:
    history = asked(make_controller(name, LONG, ALL[:dimensions], 3), 22)
    for one in history:
        assert LONG.encode(LONG.decode(one.vector)) == one.vector
        assert all(type(index) is int for index in one.vector)
    assert len({one.vector for one in history}) == 22


def test_what_is_asked_follows_from_history_and_seed(name: str) -> None:
    history = asked(make_controller(name, LONG, ALL, 0), 14)
    again = make_controller(name, LONG, ALL, 0)
    # Forth and back, and in between another history of the same length.
    for length in (13, 0, 1, 9, 13):
        assert again.ask(history[:length]) == history[length].vector
        again.ask([replace(one, vector=one.vector[::-1]) for one in history[:length]])
    other = make_controller(name, LONG, ALL, 1)
    assert [other.ask(history[:length]) for length in range(5)] != [one.vector for one in history[:5]]


def test_the_number_of_trials_decides_too(name: str) -> None:
    controller = make_controller(name, LONG, ALL, 0)
    history = [record(number, LONG.dense_vector) for number in range(6)]
    assert len({controller.ask(history[:length]) for length in range(6)}) > 1


@pytest.mark.parametrize("state", ["failed", "infeasible", "running", "stopped"])
def test_a_history_without_a_single_result(name: str, state: str) -> None:
    history = asked(make_controller(name, SPACE, ALL, 0), SPACE.size, state)
    assert len({one.vector for one in history}) == SPACE.size == 18


def test_a_history_of_every_kind(name: str) -> None:
    controller = make_controller(name, LONG, ALL, 0)
    states = ["complete", "failed", "stopped", "infeasible", "running"]
    baselines = [LONG.dense_vector, LONG.centre_vector, LONG.extreme_vector]
    history = [record(number, vector, label="baseline") for number, vector in enumerate(baselines)]
    for number in range(3, 40):
        vector = controller.ask(history) if number % 5 else baselines[number % 3]
        assert number % 5 == 0 or vector not in {one.vector for one in history}
        history.append(record(number, vector, states[number % len(states)]))
    assert len({one.vector for one in history}) == 40 - 7


def test_no_plan_is_repeated_until_all_were_tried(name: str) -> None:
    controller = make_controller(name, SPACE, ALL, 5)
    history = asked(controller, SPACE.size)
    assert len({one.vector for one in history}) == SPACE.size
    assert controller.ask(history) in {one.vector for one in history}


def test_the_last_of_many_plans_is_found() -> None:
    space = Space("wide", LONG.decisions[:6])
    missing = (1, 2, 0, 1, 2, 0)
    others = [vector for vector in itertools.product(range(3), repeat=6) if vector != missing]
    history = [record(number, vector, "infeasible") for number, vector in enumerate(others)]
    assert make_controller("random", space, ALL, 0).ask(history) == missing


def test_a_space_of_one_plan(name: str) -> None:
    controller = make_controller(name, ONE, ALL, 0)
    assert controller.ask([]) == (0, 0)
    assert controller.ask([record(0, (0, 0))]) == (0, 0)


def test_the_evolution_asks_for_other_plans_that_follow_from_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "_GENERATIONS", 1)
    monkeypatch.setattr(evolution, "_OFFSPRING", 2)
    history = asked(make_controller("evolution", SPACE, ALL, 0), 4)
    assert len({one.vector for one in history}) == 4
    assert all(SPACE.encode(SPACE.decode(one.vector)) == one.vector for one in history)
    again = make_controller("evolution", SPACE, ALL, 0)
    assert [again.ask(history[:length]) for length in (1, 3)] == [history[1].vector, history[3].vector]
    others = [replace(one, state="failed", metrics={}) for one in history[:2]]
    assert make_controller("evolution", SPACE, ALL, 0).ask(others) not in {one.vector for one in others}


def test_of_many_trials_the_front_and_the_latest_tell() -> None:
    # The first forty are the front, each later one is worse than the one before.
    scaled = np.array([[n, 40 - n] if n < 40 else [n, n] for n in range(100)], dtype=np.float64)
    assert telling(scaled, 100) == list(range(100))
    assert telling(scaled, 20) == [*range(30, 40), *range(90, 100)]
    assert telling(scaled[:45], 44) == list(range(1, 45))
    assert telling(scaled[50:], 20) == [0, *range(31, 50)]


@pytest.mark.parametrize("name", ["gp", "amc"])
def test_a_long_history_is_not_all_learnt_from(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalarised, "_MOST_KNOWN", 10)
    monkeypatch.setattr(agent, "_REPLAYED", 10)
    monkeypatch.setattr(agent, "_STEPS", 5)
    history = asked(make_controller(name, LONG, ALL, 0), 25)
    assert len({one.vector for one in history}) == 25
    assert make_controller(name, LONG, ALL, 0).ask(history[:24]) == history[24].vector


def test_tables_are_asked_for_by_name() -> None:
    with pytest.raises(InputError, match="needs tables"):
        make("ilp", SPACE, ALL, 0).ask([])


def test_an_unknown_controller_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown controller 'tpee'; did you mean 'tpe'"):
        make_controller("tpee", SPACE, ALL, 0)
