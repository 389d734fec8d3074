"""What is said of a plan is what its model costs without each of its choices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autocompress.core.model_info import BlockInfo
from autocompress.core.rules import build_space, load_rules
from autocompress.core.space import Space, Vector
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.cost import cost_of_plan
from autocompress.proxy.sensitivity import Effects, Meter, Sensitivity
from autocompress.search.explain import RELAXED_BY, explain, plain
from autocompress.targets.profile import load_target
from tests.nets import make_task

RULES = """
name: few
rules:
  - {op: drop}
  - {op: prune, sparsity: [0.5]}
  - {op: quantize, w_bits: [8, 4]}
"""
COSTS = ("size_bytes", "latency_ms", "macs")


@pytest.fixture(scope="module")
def context() -> Context:
    target = load_target("jetson-nano")
    return Context(make_task("resnext", steps=5), target, "fp16", Effort(2, 64))


@pytest.fixture(scope="module")
def space(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Space:
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    path.write_text(RULES)
    return build_space(load_rules(str(path)), context.dense.info)


@pytest.fixture(scope="module")
def effects(context: Context, space: Space, tmp_path_factory: pytest.TempPathFactory) -> Effects:
    return Effects(Meter(space, context), tmp_path_factory.mktemp("effects") / "table")


@pytest.fixture(scope="module")
def options(effects: Effects) -> Sensitivity:
    return effects.of_options()


@pytest.fixture(scope="module")
def blocks(context: Context) -> tuple[BlockInfo, ...]:
    return tuple(context.dense.info.blocks)


@pytest.fixture(scope="module")
def vector(space: Space) -> Vector:
    """A plan with a dropped block, and every other decision at random."""
    rng = np.random.default_rng(0)
    drops = [place for place, decision in enumerate(space.decisions) if decision.kind == "drop"]
    drawn = list(space.random(rng))
    for place in drops:
        drawn[place] = int(place == drops[-1])
    for place in range(0, len(drawn), 3):
        if place not in drops:
            drawn[place] = 0
    return tuple(drawn)


def test_every_choice_is_told_with_what_the_plan_costs_without_it(
    context: Context,
    space: Space,
    effects: Effects,
    options: Sensitivity,
    vector: Vector,
    blocks: tuple[BlockInfo, ...],
) -> None:
    found = explain(effects, options, vector, blocks)
    taken = [space.decisions[place].name for place, option in enumerate(vector) if option]
    assert sorted(choice.decision for choice in found.choices) == sorted(taken)
    assert [c.loss for c in found.choices] == sorted((c.loss for c in found.choices), reverse=True)
    whole = cost_of_plan(space.decode(vector), context).metrics
    dense = cost_of_plan(space.decode(space.dense_vector), context).metrics
    for choice in found.choices:
        place = next(place for place, decision in enumerate(space.decisions) if decision.name == choice.decision)
        without = cost_of_plan(space.decode((*vector[:place], 0, *vector[place + 1 :])), context).metrics
        assert (choice.option == "dropped") == (space.decisions[place].kind == "drop")
        for cost in COSTS:
            share = (without[cost].value - whole[cost].value) / dense[cost].value
            assert choice.saves[cost] == pytest.approx(share, abs=1e-12)


def test_what_a_looser_limit_buys_stays_within_it(
    effects: Effects, options: Sensitivity, vector: Vector, blocks: tuple[BlockInfo, ...]
) -> None:
    found = explain(effects, options, vector, blocks)
    assert [one.cost for one in found.relaxed] == list(COSTS)
    named = {choice.decision: choice for choice in found.choices}
    for one in found.relaxed:
        back = [named[name] for name in one.taken_back]
        assert all(choice.saves[one.cost] > 0 for choice in back)
        more = sum(choice.saves[one.cost] for choice in back)
        assert more <= RELAXED_BY * one.share * (1 + 1e-9) + 1e-9
        assert one.relief == pytest.approx(sum(choice.loss for choice in back))
        # Nothing that alone fits, and loses more than all that is taken back, stays.
        fits = [c.loss for c in found.choices if 1e-4 < c.saves[one.cost] < 0.99 * RELAXED_BY * one.share]
        assert one.relief >= max(fits, default=0.0) * (1 - 1e-9)


def test_every_decision_is_taken_or_said_why_not(
    space: Space, effects: Effects, options: Sensitivity, vector: Vector, blocks: tuple[BlockInfo, ...]
) -> None:
    found = explain(effects, options, vector, blocks)
    left = {one.decision: one.why for one in found.left}
    free = {d.name for d, option in zip(space.decisions, vector, strict=True) if not option and len(d.options) > 1}
    assert set(left) == free
    dropped = {d.target for d, option in zip(space.decisions, vector, strict=True) if d.kind == "drop" and option}
    gone = {layer for block in blocks if block.name in dropped for layer in block.layers}
    assert gone
    for decision in space.decisions:
        if decision.name in left:
            assert ("is dropped" in left[decision.name]) == (decision.target in gone)


def test_the_dense_plan_takes_nothing(
    space: Space, effects: Effects, options: Sensitivity, blocks: tuple[BlockInfo, ...], tmp_path: Path
) -> None:
    found = explain(effects, options, space.dense_vector, blocks)
    assert found.choices == ()
    assert all(one.taken_back == () and one.relief == 0.0 for one in found.relaxed)
    told = plain(found)
    assert set(told) == {"choices", "relaxed", "left"}
    assert len(told["left"]) == sum(len(decision.options) > 1 for decision in space.decisions)
