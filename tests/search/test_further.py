from __future__ import annotations

from dataclasses import replace

import pytest

from autocompress.core.space import Space
from autocompress.proxy.context import Context
from autocompress.proxy.sensitivity import Effects, Meter
from autocompress.search.further import further_parts, milder_parts
from autocompress.search.parts import Part, Table, places_of, vector_of
from tests.search.nano import joint_space, nano_context


@pytest.fixture(scope="module")
def context() -> Context:
    return nano_context("lenet")


@pytest.fixture(scope="module")
def space(context: Context) -> Space:
    return joint_space(context)


def measured(effects: Effects, chosen: dict[int, int]) -> Part:
    dense, effect = effects.of([effects.space.dense_vector, vector_of(effects.space, chosen)])
    assert dense is not None
    assert effect is not None
    return Part(
        chosen, effect.loss - dense.loss, {name: effect.costs[name] / dense.costs[name] for name in effect.costs}
    )


def test_a_plan_is_taken_further_step_by_step(
    context: Context, space: Space, tmp_path_factory: pytest.TempPathFactory
) -> None:
    effects = Effects(Meter(space, context), tmp_path_factory.mktemp("effects") / "table")
    table = Table(space, effects.of_options(), ["size_bytes", "latency_ms"])
    quantizers = places_of(space, ("quantize",))
    start = measured(effects, dict.fromkeys(quantizers, 2))
    found = list(further_parts(effects, table, start, places_of(space, ("prune", "shape", "quantize")), ["size_bytes"]))
    assert len(found) >= 3
    sizes = [part.ratios["size_bytes"] for part in (start, *found)]
    assert sizes == sorted(sizes, reverse=True)
    for part in found:
        after, before = vector_of(space, part.chosen), vector_of(space, start.chosen)
        assert all(new in (old, old + 1) for new, old in zip(after, before, strict=True))
        true = measured(effects, dict(part.chosen)).ratios
        assert part.ratios["macs"] == pytest.approx(true["macs"], rel=0.02)
        assert part.ratios["size_bytes"] == pytest.approx(true["size_bytes"], rel=0.5)
    assert not list(further_parts(effects, table, start, [], ["size_bytes"]))


def test_a_plan_is_taken_back_step_by_step_what_loses_most_first(
    context: Context, space: Space, tmp_path_factory: pytest.TempPathFactory
) -> None:
    effects = Effects(Meter(space, context), tmp_path_factory.mktemp("effects") / "table")
    table = Table(space, effects.of_options(), ["size_bytes", "latency_ms"])
    places = places_of(space, ("prune", "shape", "quantize"))
    strong = {place: table.usable(place)[-1] for place in places_of(space, ("prune", "quantize"))}
    start = measured(effects, strong)
    found = list(milder_parts(effects, table, start, places, ["size_bytes", "macs"]))
    assert len(found) >= 3
    sizes = [part.ratios["size_bytes"] for part in (start, *found)]
    losses = [part.loss for part in (start, *found)]
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    for part in found:
        assert all(0 <= part.chosen.get(place, 0) <= option for place, option in strong.items())
        assert 0.0 <= part.rounding <= part.rounding + part.shrinking <= part.loss
        true = measured(effects, dict(part.chosen)).ratios
        assert part.ratios["macs"] == pytest.approx(true["macs"], rel=0.02)
        assert part.ratios["size_bytes"] == pytest.approx(true["size_bytes"], rel=0.5)
    dense = measured(effects, {})
    assert not list(milder_parts(effects, table, dense, places, ["size_bytes"]))


def test_what_a_smaller_input_loses_stays_a_part_of_the_loss(
    context: Context, space: Space, tmp_path_factory: pytest.TempPathFactory
) -> None:
    effects = Effects(Meter(space, context), tmp_path_factory.mktemp("effects") / "table")
    table = Table(space, effects.of_options(), ["size_bytes", "latency_ms"])
    strong = measured(effects, {place: table.usable(place)[-1] for place in places_of(space, ("prune", "quantize"))})
    start = replace(strong, shrinking=0.9 * strong.loss, rounding=0.1 * strong.loss)
    places = places_of(space, ("prune", "shape", "quantize"))
    for part in (
        *milder_parts(effects, table, start, places, ["size_bytes", "macs"]),
        *further_parts(effects, table, start, places, ["size_bytes"]),
    ):
        assert part.shrinking <= start.shrinking
        assert part.rounding + part.shrinking <= part.loss * (1 + 1e-9)
