from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from autocompress.core.constraint import parse_constraint
from autocompress.core.metric import Metric
from autocompress.core.model_info import BlockInfo
from autocompress.core.space import Space, Vector
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_plan
from autocompress.proxy.sensitivity import Effect, Effects, Meter, Sensitivity
from autocompress.run.limits import limits_of
from autocompress.search import planned as planning
from autocompress.search.descent import descents_of
from autocompress.search.outlook import WORST_LOST
from autocompress.search.parts import BITS, SIZES, Part, Prices, Table, base_of, based, places_of, vector_of
from autocompress.search.planned import Planner
from autocompress.search.record import Objective, Record
from autocompress.search.recovery import expected_rest, recoveries_of, rest_kind
from autocompress.search.structures import ratio_at, structure_groups, uniform_structures
from tests.search.nano import joint_space, nano_context

OBJECTIVES = (Objective("accuracy", True), Objective("size_bytes", False), Objective("latency_ms", False))
COUNT = 8
SAMPLES = 5_000
# Of the dense model.
KNOWN = {"accuracy": Metric.exact(90.0, "percent")}


def planned_vectors(
    effects: Effects,
    options: Sensitivity,
    blocks: Sequence[BlockInfo],
    objectives: Sequence[Objective],
    known: Sequence[Record],
    count: int,
) -> list[tuple[str, Vector]]:
    return picked(free(effects, options, blocks, objectives), known, count)


def free(
    effects: Effects, options: Sensitivity, blocks: Sequence[BlockInfo], objectives: Sequence[Objective] = OBJECTIVES
) -> Planner:
    """One that may take any plan."""
    return Planner(effects, options, blocks, objectives, SAMPLES, KNOWN)


def picked(planner: Planner, known: Sequence[Record], count: int) -> list[tuple[str, Vector]]:
    """A wave, all of it under way at once."""
    planner.prepare(known, count)
    found: list[tuple[str, Vector]] = []
    while len(found) < count:
        one = planner.pick(known, [vector for _, vector in found])
        if one is None:
            break
        found.append(one)
    return found


def tried(number: int, vector: Vector, lost: float) -> Record:
    metrics = {"accuracy": Metric.exact(90.0 - lost, "percent")}
    return Record(number, "known", vector, "complete", "short", metrics, {})


@pytest.fixture(scope="module")
def context() -> Context:
    return nano_context("senet", (1.0, 0.5))


@pytest.fixture(scope="module")
def space(context: Context) -> Space:
    return joint_space(context)


@pytest.fixture(scope="module")
def effects(context: Context, space: Space, tmp_path_factory: pytest.TempPathFactory) -> Effects:
    return Effects(Meter(space, context), tmp_path_factory.mktemp("effects") / "table")


@pytest.fixture(scope="module")
def options(effects: Effects) -> Sensitivity:
    return effects.of_options()


def test_plans_are_distinct_and_spread_from_little_to_much(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    blocks = context.dense.info.blocks
    planned = planned_vectors(effects, options, blocks, OBJECTIVES, (), COUNT)
    assert 4 <= len(planned) <= COUNT
    vectors = [vector for _, vector in planned]
    assert len(set(vectors)) == len(vectors)
    assert space.dense_vector not in vectors
    assert all(name.startswith("planned, size 1/") for name, _ in planned)
    sizes = [cost_of_plan(space.decode(vector), context).metrics["size_bytes"].value for vector in vectors]
    assert max(sizes) > 1.5 * min(sizes)
    assert max(sizes) < options.dense.costs["size_bytes"]
    assert planned_vectors(effects, options, blocks, OBJECTIVES, (), COUNT) == planned
    assert len(planned_vectors(effects, options, blocks, OBJECTIVES, (), 3)) == 3


def test_work_counts_only_where_no_table_has_what_was_asked_for(
    context: Context, effects: Effects, options: Sensitivity
) -> None:
    memory = (*OBJECTIVES[:2], Objective("peak_memory_bytes", False))
    for objectives, counting in ((OBJECTIVES, ["size", "latency"]), (memory, ["size", "macs"])):
        [(label, _)] = picked(free(effects, options, context.dense.info.blocks, objectives), (), 1)
        assert [part.split()[0] for part in label.split(", ")[1:]] == counting


def test_nothing_is_done_inside_a_block_that_is_dropped(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    blocks = {block.name: block for block in context.dense.info.blocks}
    latency = (Objective("accuracy", True), Objective("latency_ms", False))
    plans = [space.decode(v) for _, v in planned_vectors(effects, options, tuple(blocks.values()), latency, (), COUNT)]
    dropped = [(plan, blocks[name]) for plan in plans for name in plan.student.drop]
    assert dropped
    for plan, block in dropped:
        assert not {name for name, _ in plan.groups} & set(block.layers)


def test_no_plan_loses_more_than_can_be_brought_back(context: Context, effects: Effects, options: Sensitivity) -> None:
    planned = [v for _, v in planned_vectors(effects, options, context.dense.info.blocks, OBJECTIVES, (), 2 * COUNT)]
    law, dense = recoveries_of([], 0)[0], options.dense
    bits, sizes = (set(places_of(effects.space, kinds)) for kinds in (BITS, SIZES))
    unrounded = [tuple(0 if place in bits else one for place, one in enumerate(vector)) for vector in planned]
    full = [tuple(0 if place in sizes else one for place, one in enumerate(vector)) for vector in unrounded]
    measured = zip(*map(effects.of, (planned, unrounded, full)), strict=True)
    lost = [
        law.lost(
            max(0.0, cuts.loss - dense.loss) / options.chance,
            max(0.0, effect.loss - whole.loss) / options.chance,
            max(0.0, whole.loss - cuts.loss) / options.chance,
            effect.costs["params"] / dense.costs["params"],
        )
        * max(1.0, expected_rest(rest_kind(effects.space.changed(vector))) / expected_rest(""))
        for vector, (effect, whole, cuts) in zip(planned, measured, strict=True)
        if effect is not None and whole is not None and cuts is not None
    ]
    assert len(lost) == len(planned) >= COUNT
    assert max(lost) < WORST_LOST


@pytest.mark.parametrize("cost", ["size_bytes", "peak_memory_bytes"])
def test_every_plan_meets_the_limits(
    cost: str, context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    dense = cost_of_plan(space.decode(space.dense_vector), context).metrics
    among = [space.decode(space.random(np.random.default_rng(number))) for number in range(20)]
    limit = min(cost_of_plan(plan, context).metrics[cost].value for plan in among)
    constraint = parse_constraint(f"{cost}<={100.1 * limit / dense[cost].value}%")
    limits = limits_of([constraint], space, context, dense, options)
    planner = Planner(effects, options, context.dense.info.blocks, OBJECTIVES, SAMPLES, KNOWN, limits)
    first = [vector for _, vector in picked(planner, (), 4)]
    assert len(first) >= 2
    # None of them comes near the dense model: there is more to find all the same.
    known = [tried(number, vector, 40.0 + number) for number, vector in enumerate(first)]
    more = [vector for _, vector in picked(planner, known, 4)]
    assert more
    costs = [cost_of_plan(space.decode(vector), context).metrics[cost].value for vector in (*first, *more)]
    assert max(costs) <= 1.001 * limit < dense[cost].value


def test_where_only_accuracy_is_asked_for_plans_use_the_limit(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    dense = cost_of_plan(space.decode(space.dense_vector), context).metrics
    limits = limits_of([parse_constraint("size<=20%")], space, context, dense, options)

    def losses_and_sizes(*objectives: Objective) -> tuple[float, float]:
        planner = Planner(effects, options, context.dense.info.blocks, objectives, SAMPLES, KNOWN, limits)
        planned = picked(planner, (), 6)
        assert len(planned) == 6
        assert all(name.startswith("planned, size 1/") for name, _ in planned)
        found = [effect for effect in effects.of([vector for _, vector in planned]) if effect is not None]
        sizes = [effect.costs["size_bytes"] / options.dense.costs["size_bytes"] for effect in found]
        assert max(sizes) <= 0.2
        return max(effect.loss for effect in found), min(sizes)

    loss, size = losses_and_sizes(Objective("accuracy", True))
    loss_of_front, size_of_front = losses_and_sizes(*OBJECTIVES[:2])
    assert loss < loss_of_front
    assert size > size_of_front
    assert losses_and_sizes(Objective("size_bytes", False)) == (loss_of_front, size_of_front)


def test_a_limit_on_macs_asks_for_them(context: Context, space: Space, effects: Effects, options: Sensitivity) -> None:
    dense = cost_of_plan(space.decode(space.dense_vector), context).metrics
    limits = limits_of([parse_constraint("macs<=60%")], space, context, dense, options)
    blocks, objectives = context.dense.info.blocks, [Objective("accuracy", True)]
    found = [
        vector for _, vector in picked(Planner(effects, options, blocks, objectives, SAMPLES, KNOWN, limits), (), 4)
    ]
    # Factors take longer here, and are the mildest way to fewer MACs.
    shapes = places_of(space, ("shape",))
    assert any(vector[place] for vector in found for place in shapes)
    measured = [effect for effect in effects.of(found) if effect is not None]
    alike = uniform_structures(Table(space, options, ["macs"]), structure_groups(space, blocks)[0])
    uniform = [effect for effect in effects.of([vector_of(space, chosen) for chosen in alike]) if effect is not None]
    most = 0.6 * options.dense.costs["macs"]
    assert all(effect.costs["macs"] <= most for effect in measured)
    assert min(effect.loss for effect in measured) <= min(e.loss for e in uniform if e.costs["macs"] <= most)


def test_uniform_structures_choose_the_same_everywhere(context: Context, space: Space, options: Sensitivity) -> None:
    groups, shared = structure_groups(space, context.dense.info.blocks)
    found = uniform_structures(Table(space, options, ["macs"]), groups)
    assert found
    for chosen in found:
        kinds = {space.decisions[place].kind for place in chosen}
        assert len(kinds) == 1
        most = max(chosen.values())
        assert all(option == min(most, len(space.decisions[place].options) - 1) for place, option in chosen.items())
        assert not {place for group in shared for places in group for place in places} & set(chosen)


def test_the_next_wave_covers_what_the_first_left_open(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    blocks = context.dense.info.blocks

    def waves() -> tuple[list[Vector], list[Vector]]:
        planner = free(effects, options, blocks)
        first = [vector for _, vector in picked(planner, (), COUNT)]
        known = [tried(number, vector, 1.0) for number, vector in enumerate([space.dense_vector, *first])]
        return first, [vector for _, vector in picked(planner, known, COUNT)]

    first, second = waves()
    assert second
    assert not set(second) & set(first)
    assert waves() == (first, second), "whatever else was measured meanwhile"


def test_a_pick_goes_by_what_the_ones_before_it_showed(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    def second(lost: float) -> tuple[str, Vector] | None:
        planner = free(effects, options, context.dense.info.blocks)
        planner.prepare((), COUNT)
        first = planner.pick((), ())
        assert first is not None
        known = [tried(0, space.dense_vector, 0.0), tried(1, first[1], lost)]
        assert planner.pick(known, ()) not in (None, first)
        return planner.pick(known, ())

    assert second(0.0) != second(4.0)


def test_structures_of_earlier_waves_are_still_put_together_with_bits(
    context: Context, space: Space, effects: Effects, options: Sensitivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = free(effects, options, context.dense.info.blocks)
    planner.prepare((), COUNT)
    combine, seen = planning.combined, list[set[Vector]]()

    def noted(*arguments: Any) -> dict[Vector, Part]:
        seen.append({vector_of(space, whole.chosen) for whole in arguments[2]})
        return combine(*arguments)

    monkeypatch.setattr(planning, "combined", noted)
    planner.prepare((), COUNT)
    before = set.union(*seen)
    assert len(before) > COUNT
    seen.clear()
    monkeypatch.setattr(planning, "structures_of", lambda *_: [])
    planner.prepare((), COUNT)
    assert set.union(*seen) == before


def test_nothing_is_measured_for_a_pick(
    context: Context, space: Space, effects: Effects, options: Sensitivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = free(effects, options, context.dense.info.blocks)
    planner.prepare((), COUNT)
    first = planner.pick((), ())
    assert first is not None
    known = [tried(0, space.dense_vector, 0.0), tried(1, first[1], 1.0)]
    second = planner.pick(known, ())

    def busy(vectors: Sequence[Vector]) -> Iterator[tuple[Vector, Effect | None]]:
        raise AssertionError(f"asked to measure {len(vectors)} plans")

    monkeypatch.setattr(effects, "_measure", busy)
    # Of a plan whose effect is not known, nothing is learnt.
    unknown = tried(2, tuple(len(decision.options) - 1 for decision in space.decisions), 0.0)
    assert planner.pick([*known, unknown], ()) == second


def test_options_of_one_block_do_not_save_more_than_there_is(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    table = Table(space, options, ["latency_ms"])
    groups, _ = structure_groups(space, context.dense.info.blocks)
    prices = Prices(effects, {})
    dense = effects.structure_costs_of(space.dense_vector)
    assert dense is not None
    compared = 0
    for descent in descents_of(table, groups, ("params",), 10.0 * options.chance, prices):
        for ratio, chosen in descent.steps(10):
            costs = effects.structure_costs_of(vector_of(space, chosen))
            assert costs is not None
            assert costs["params"] / dense["params"] == pytest.approx(ratio, rel=0.35), chosen
            compared += 1
    assert compared >= 8


def test_structures_are_close_together_where_little_is_lost() -> None:
    assert ratio_at(0.3, [(0.8, 0.1), (0.6, 0.2), (0.4, 0.25)]) == 0.4
    assert ratio_at(0.3, [(0.8, 0.1), (0.6, 0.5), (0.4, 0.1)]) == pytest.approx((0.8 * 0.6) ** 0.5)
    assert ratio_at(0.3, [(0.5, 0.6)]) == pytest.approx(0.5**0.5)


def test_no_bits_are_chosen_for_what_is_dropped(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    blocks = context.dense.info.blocks
    planned = [vector for _, vector in planned_vectors(effects, options, blocks, OBJECTIVES, (), 2 * COUNT)]
    inside = {layer: block.name for block in blocks for layer in block.layers}
    dropped = 0
    for vector in planned:
        chosen = {space.decisions[place].name for place, index in enumerate(vector) if index}
        gone = {layer for layer, block in inside.items() if f"drop:{block}" in chosen}
        dropped += bool(gone)
        assert not {f"quantize:{layer}" for layer in gone} & chosen
    assert dropped


def test_plans_go_further_where_a_trial_shows_that_losses_come_back(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    uniform = [space.encode(plan) for _, plan in space.uniform_plans()]

    def smallest(lost: float) -> float:
        known = [tried(0, space.dense_vector, 0.0), *(tried(n, vector, lost) for n, vector in enumerate(uniform, 1))]
        planned = planned_vectors(effects, options, context.dense.info.blocks, OBJECTIVES, known, 2 * COUNT)
        return min((cost_of_plan(space.decode(v), context).metrics["macs"].value for _, v in planned), default=math.inf)

    assert smallest(lost=0.5) < smallest(lost=20.0)


def test_bits_go_where_they_cost_least(context: Context, space: Space, effects: Effects, options: Sensitivity) -> None:
    places = [place for place, decision in enumerate(space.decisions) if decision.kind == "quantize"]
    table = dict(options.options)

    def smallest(place: int) -> float:
        effect = options.options[space.decisions[place].name][-1]
        assert effect is not None
        return effect.costs["size_bytes"]

    dearest = min(places, key=smallest)
    name = space.decisions[dearest].name

    def worse(effect: Effect | None) -> Effect | None:
        return effect and Effect(effect.loss + 100.0, effect.costs)

    table[name] = (table[name][0], *(worse(effect) for effect in table[name][1:]))
    spoiled = Sensitivity(options.dense, table, options.chance)
    size = (Objective("accuracy", True), Objective("size_bytes", False))
    chosen = [v[dearest] for _, v in planned_vectors(effects, spoiled, (), size, (), COUNT)]
    plain = [v[dearest] for _, v in planned_vectors(effects, options, (), size, (), COUNT)]
    assert sum(chosen) < sum(plain)
    assert 0 in chosen


def test_options_that_cannot_be_applied_are_left_out(
    context: Context, space: Space, effects: Effects, options: Sensitivity
) -> None:
    table = {
        decision.name: tuple(
            effect if index == 0 or decision.kind == "quantize" else None
            for index, effect in enumerate(options.options[decision.name])
        )
        for decision in space.decisions
    }
    left = Sensitivity(options.dense, table, options.chance)
    for _, vector in planned_vectors(effects, left, context.dense.info.blocks, OBJECTIVES, (), COUNT):
        changed = {space.decisions[place].kind for place, index in enumerate(vector) if index}
        assert changed == {"quantize"}


def test_what_takes_longer_saves_no_work(space: Space, options: Sensitivity) -> None:
    place = next(place for place, decision in enumerate(space.decisions) if decision.kind == "prune")
    name = space.decisions[place].name

    def slower(effect: Effect | None) -> Effect | None:
        return effect and Effect(effect.loss, {**effect.costs, "latency_ms": options.dense.costs["latency_ms"] * 1.1})

    effects = {**options.options, name: (options.dense, *(slower(each) for each in options.options[name][1:]))}
    table = Table(space, Sensitivity(options.dense, effects, options.chance), ["size_bytes"])
    every = list(range(1, len(space.decisions[place].options)))
    assert table.usable(place, "params") == every
    assert table.usable(place, "macs") == []
    patient = Table(space, Sensitivity(options.dense, effects, options.chance), ["size_bytes"], patient=("prune",))
    assert patient.usable(place, "macs") == every
    # Who asks for fewer MACs gets them.
    assert Table(space, Sensitivity(options.dense, effects, options.chance), ["macs"]).usable(place, "macs") == every


def test_structures_are_judged_beside_bits_where_those_save_time(
    space: Space, effects: Effects, options: Sensitivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizers, prunes = (places_of(space, (kind,)) for kind in ("quantize", "prune"))
    dense = options.dense.costs

    def integers_need_whole_widths(vector: Vector) -> dict[str, float]:
        quantized, pruned = (any(vector[place] for place in places) for places in (quantizers, prunes))
        return {**dense, "latency_ms": dense["latency_ms"] * (0.5 if quantized else 1.0) * (2.0 if pruned else 1.0)}

    assert base_of(effects, options) == {}  # fewer bits save no time on this board
    assert based(effects, options, {}) is options
    monkeypatch.setattr(effects, "costs_of", integers_need_whole_widths)
    monkeypatch.setattr(effects, "structure_costs_of", integers_need_whole_widths)
    base = base_of(effects, options)
    assert base == dict.fromkeys(quantizers, 1)
    table = Table(space, based(effects, options, base), ["latency_ms"])
    for place in prunes:
        for index in table.usable(place):
            assert table.saving(place, index, "latency_ms") == pytest.approx(-dense["latency_ms"])
    monkeypatch.setattr(effects, "structure_costs_of", lambda vector: None)
    assert base_of(effects, options) == {}


def test_savings_that_add_up_to_more_than_all_leave_a_little(space: Space, options: Sensitivity) -> None:
    free = Effect(options.dense.loss, dict.fromkeys(options.dense.costs, 0.0))
    effects = {name: (options.dense, *(free for _ in rest)) for name, (_, *rest) in options.options.items()}
    table = Table(space, Sensitivity(options.dense, effects, options.chance), ["size_bytes"])
    every = list(range(len(space.decisions)))
    everything = dict.fromkeys(every, 1)
    for part in (table.part(everything), table.part_of(everything, every[:2], every)):
        assert all(0.0 < ratio < 0.01 for ratio in part.ratios.values())
