"""Structures of a space: which decisions go together, which choices are looked at, and what those do as wholes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from autocompress.core.model_info import BlockInfo
from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import Effects
from autocompress.search.descent import Descent, choices
from autocompress.search.outlook import WORST_LOST, Outlook
from autocompress.search.parts import STRUCTURE, Part, Table, places_of, vector_of

STRUCTURE_LEVELS = 10
# So many structures of a cost are measured first, over the whole range of what it can save.
_FIRST_LEVELS = 5
# So many structures choose the same everywhere.
_UNIFORM_LEVELS = 4
# By group its alternatives, each a set of places.
Groups = list[list[tuple[int, ...]]]


def structure_groups(space: Space, blocks: Sequence[BlockInfo]) -> tuple[Groups, Groups]:
    """Groups of alternatives, each a set of places decided together: a block is dropped, or its layers are changed.

    Outside of blocks the options of one layer are decided together. Channels that blocks share are groups apart: what
    cutting them saves depends on how many blocks are left.
    """
    left = {place: space.decisions[place] for place in places_of(space, STRUCTURE)}
    groups: Groups = []
    for block in blocks:
        drop = [place for place, d in left.items() if d.kind == "drop" and d.target == block.name]
        inside = [place for place, d in left.items() if d.kind != "drop" and d.target in block.layers and d.layers == 1]
        if drop:
            groups.append([*((place,) for place in drop), tuple(inside)])
            for place in (*drop, *inside):
                del left[place]
    shared = [place for place, decision in left.items() if groups and decision.layers > 1]
    alone: dict[str, list[int]] = {}
    for place in left:
        if place not in shared:
            alone.setdefault(left[place].target, []).append(place)
    groups.extend([tuple(places)] for places in alone.values())
    return groups, [[(place,)] for place in shared]


def uniform_structures(table: Table, groups: Groups) -> list[dict[int, int]]:
    """The first option of every decision of a kind, the second of every one, and so on; blocks stay."""
    places = {place for group in groups for alternative in group for place in alternative}
    found = []
    for kind in ("prune", "shape"):
        usable = {place: table.usable(place) for place in places_of(table.space, (kind,)) if place in places}
        usable = {place: options for place, options in usable.items() if options}
        most = max(map(len, usable.values()), default=0)
        levels = sorted({round(most * level / _UNIFORM_LEVELS) for level in range(1, _UNIFORM_LEVELS + 1)} - {0})
        for level in levels:
            found.append({place: options[min(level, len(options)) - 1] for place, options in usable.items()})
    return found


def structures_of(
    effects: Effects,
    descents: Sequence[Descent],
    uniform: Sequence[Mapping[int, int]],
    base: Mapping[int, int],
    outlook: Outlook,
) -> Collection[Part]:
    """Structures measured as wholes, close together up to where too much is lost for good, and far apart beyond."""

    def measure(chosen: Sequence[Mapping[int, int]]) -> dict[Vector, Part]:
        return {vector_of(effects.space, part.chosen): part for part in measured_beside(effects, chosen, base)}

    found = measure([*choices(descents, _FIRST_LEVELS), *uniform])
    nearer = []
    for descent in descents:
        steps = [(ratio, found.get(vector_of(effects.space, chosen))) for ratio, chosen in descent.steps(_FIRST_LEVELS)]
        there = [(ratio, part) for ratio, part in steps if part is not None]
        lost = outlook.lost([part for _, part in there])
        known = [(ratio, share) for (ratio, _), share in zip(there, lost, strict=True)]
        nearer.append(replace(descent, least=ratio_at(WORST_LOST, known)) if known else descent)
    return (found | measure(choices(nearer, STRUCTURE_LEVELS))).values()


def measured_beside(effects: Effects, family: Sequence[Mapping[int, int]], base: Mapping[int, int]) -> Iterator[Part]:
    """The plans of a family measured as wholes beside a base; those that cannot be applied are left out."""
    vectors = [vector_of(effects.space, {**base, **chosen}) for chosen in ({}, *family)]
    start, *measured = effects.of(vectors)
    for chosen, effect in zip(family, measured, strict=True):
        if start is not None and effect is not None:
            ratios = {cost: effect.costs[cost] / max(start.costs[cost], 1e-12) for cost in start.costs}
            yield Part(chosen, max(0.0, effect.loss - start.loss), ratios)


def ratio_at(most: float, steps: Sequence[tuple[float, float]]) -> float:
    """The ratio at which `(ratio, loss)`, from mild to strong, first pass the loss; the last one if none does."""
    before, lost = 1.0, 0.0
    for ratio, loss in steps:
        if loss > most:
            return float(before * (ratio / before) ** ((most - lost) / (loss - lost)))
        before, lost = ratio, loss
    return before
