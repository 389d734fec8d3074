"""Structures put together with widths of shared channels, bits and input sizes, by adding losses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.model_info import BlockInfo
from autocompress.core.space import Vector
from autocompress.proxy.sensitivity import Effects
from autocompress.search.parts import BITS, SIZES, Part, Table, places_of, together, undropped, vector_of


@dataclass(frozen=True)
class Bits:
    """Bits of the layers, and what is known of all of them together.

    Attributes:
        latency: The share of the dense latency. A layer in integers between two in floats pays for the way there and
            back: time does not add up.
        packing: Size as a share of what is added up: what unpacks one layer in few bits unpacks others too.
    """

    chosen: Mapping[int, int]
    latency: float
    packing: float


def priced_bits(effects: Effects, table: Table, family: Sequence[Mapping[int, int]]) -> Iterator[Bits]:
    """Bits with what they come to in the dense structure; those that cannot be applied are left out."""
    for chosen in family:
        costs = effects.costs_of(vector_of(table.space, chosen))
        if costs is not None:
            packing = table.share(costs, "size_bytes") / table.part(chosen).ratios["size_bytes"]
            yield Bits(chosen, table.share(costs, "latency_ms"), packing)


def combined(
    table: Table,
    blocks: Sequence[BlockInfo],
    wholes: Sequence[Part],
    streams: Sequence[Mapping[int, int]],
    bits: Sequence[Bits],
) -> dict[Vector, Part]:
    """Every structure with every width of the streams, the best bits for every size and every input size."""
    space = table.space
    quantizers = places_of(space, BITS)
    sizes = [{place: index} for place in places_of(space, SIZES) for index in table.usable(place)]
    alone = [[table.part(chosen) for chosen in family] for family in (streams, [{}, *sizes])]
    found: dict[Vector, Part] = {}
    for whole in wholes:
        left = undropped(space, blocks, whole, quantizers)
        stored = [_stored(table.part_of(one.chosen, left, quantizers), one) for one in bits]
        for combination in itertools.product([whole], stored, *alone):
            part = together(combination)
            if part.chosen:
                found.setdefault(vector_of(space, part.chosen), part)
    return found


def _stored(part: Part, bits: Bits) -> Part:
    """A part that is bits alone, with what they take together."""
    size = part.ratios["size_bytes"] * bits.packing
    return part.taking("latency_ms", bits.latency).taking("size_bytes", size)
