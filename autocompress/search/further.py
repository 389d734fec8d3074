"""Plans a little stronger than one that was measured: where the front goes on beyond what adds up."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from autocompress.proxy.sensitivity import Effects
from autocompress.search.parts import BITS, Part, Table, places_of, vector_of

# So many decisions are taken one option further at once.
_STEPS = (1, 2, 4, 8, 16, 32)
# Sizes are only guessed before they are measured; so much of one is left at least.
_LEAST_LEFT = 0.2


def further_parts(effects: Effects, table: Table, part: Part, places: Collection[int]) -> Iterator[Part]:
    """The part with ever more decisions one option further, those that save most for what they lose first.

    Args:
        effects: Prices plans.
        table: What single options do.
        part: Measured as a whole.
        places: The decisions that change anything.
    """
    steps, bits = sorted(_steps(table, part, places)), set(places_of(effects.space, BITS))
    alone = table.part(part.chosen).loss
    together = max(1.0, part.loss / alone) if alone > 0.0 else 1.0
    left = sum(table.largest(place, "size_bytes") for place in places) or 1.0
    start = effects.structure_costs_of(vector_of(effects.space, part.chosen))
    for count in [count for count in _STEPS if count <= len(steps)]:
        taken = steps[:count]
        chosen = {**part.chosen, **{place: option for _, place, option in taken}}
        costs = effects.structure_costs_of(vector_of(effects.space, chosen))
        if start is None or costs is None:
            continue
        more = {p: max(0.0, table.loss(p, o) - table.loss(p, part.chosen.get(p, 0))) for _, p, o in taken}
        saved = sum(_saved(table, part, p, o) for _, p, o in taken)
        ratios = {name: part.ratios[name] * costs[name] / max(start[name], 1e-12) for name in costs}
        size = part.ratios["size_bytes"] * max(_LEAST_LEFT, 1.0 - max(0.0, saved) / left)
        loss = part.loss + together * sum(more.values())
        rounding = part.rounding + together * sum(added for p, added in more.items() if p in bits)
        yield Part(chosen, loss, {**part.ratios, **ratios, "size_bytes": size}, rounding)


def _steps(table: Table, part: Part, places: Collection[int]) -> Iterator[tuple[float, int, int]]:
    """Loss for what is saved, decision and option, of every next option that saves anything."""
    for place in places:
        now = part.chosen.get(place, 0)
        option = min((index for index in table.usable(place) if index > now), default=None)
        if option is not None:
            saved = _saved(table, part, place, option)
            if saved > 0.0:
                yield max(0.0, table.loss(place, option) - table.loss(place, now)) / saved, place, option


def _saved(table: Table, part: Part, place: int, option: int) -> float:
    """What an option saves of the size beside the one that the part has."""
    return table.saving(place, option, "size_bytes") - table.saving(place, part.chosen.get(place, 0), "size_bytes")
