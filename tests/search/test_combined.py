from __future__ import annotations

import pytest

from autocompress.proxy.context import Context
from autocompress.proxy.sensitivity import Effects, Meter
from autocompress.search.combined import combined, priced_bits
from autocompress.search.parts import BITS, SIZES, Part, Table, places_of, vector_of
from tests.search.nano import joint_space, nano_context


@pytest.fixture(scope="module")
def context() -> Context:
    return nano_context("senet", (1.0, 0.5))


@pytest.fixture(scope="module")
def effects(context: Context, tmp_path_factory: pytest.TempPathFactory) -> Effects:
    return Effects(Meter(joint_space(context), context), tmp_path_factory.mktemp("effects") / "table")


@pytest.fixture(scope="module")
def table(effects: Effects) -> Table:
    return Table(effects.space, effects.of_options(), ["size_bytes", "latency_ms"])


def test_bits_are_as_large_and_as_fast_as_they_are_together(context: Context, effects: Effects, table: Table) -> None:
    space = table.space
    everywhere = [{place: table.usable(place)[-1] for place in places_of(space, BITS)}, {}]
    bits = list(priced_bits(effects, table, everywhere))
    parts = combined(table, context.dense.info.blocks, [Part({}, 0.0, {})], [{}], bits)
    vector = vector_of(space, everywhere[0])
    costs, dense = effects.costs_of(vector), effects.costs_of(space.dense_vector)
    assert costs is not None
    assert dense is not None
    for name in ("size_bytes", "latency_ms"):
        assert parts[vector].ratios[name] == pytest.approx(costs[name] / dense[name], rel=1e-6)
    # Each layer by itself pays for all that unpacks it.
    added = table.part(everywhere[0])
    assert parts[vector].ratios["size_bytes"] < 0.95 * added.ratios["size_bytes"]


def test_everything_is_put_together_with_everything(context: Context, effects: Effects, table: Table) -> None:
    space = table.space
    width = next(place for place in places_of(space, ("prune",)))
    rounded, size = {places_of(space, BITS)[0]: 1}, {places_of(space, SIZES)[0]: 1}
    bits = list(priced_bits(effects, table, [{}, rounded]))
    parts = combined(table, context.dense.info.blocks, [Part({}, 0.0, {})], [{}, {width: 1}], bits)
    # Bits, widths and sizes, but for the plan that changes nothing.
    assert len(parts) == 2 * 2 * 2 - 1
    part = parts[vector_of(space, {width: 1, **rounded, **size})]
    alone = [table.part(one) for one in ({width: 1}, rounded, size)]
    assert part.loss == pytest.approx(sum(one.loss for one in alone))
    assert part.shrinking == alone[2].loss
    assert part.rounding == alone[1].loss
    assert part.cuts == pytest.approx(alone[0].loss)


def test_what_cannot_be_applied_is_left_out(effects: Effects, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    place = places_of(table.space, BITS)[0]
    monkeypatch.setattr(effects, "costs_of", lambda vector: None)
    assert not list(priced_bits(effects, table, [{place: 1}]))
