"""Plans a little stronger or milder than one that was measured: the front goes on where nothing adds up any more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from autocompress.proxy.sensitivity import Effects
from autocompress.search.parts import Part, Table, vector_of

# So many decisions are taken one option further, or back, at once.
_STEPS = (1, 2, 4, 8, 16, 32)
# Sizes are only guessed before they are measured; so much of one is left at least.
_LEAST_LEFT = 0.2
# Decision and the option that it takes instead.
_Step = tuple[int, int]
# Loss for what is saved, and the step.
_Ranked = tuple[float, int, int]


def further_parts(
    effects: Effects, table: Table, part: Part, places: Collection[int], costs: Sequence[str]
) -> Iterator[Part]:
    """The part with ever more decisions one option further, those that save most for what they lose first.

    Args:
        effects: Prices plans.
        table: What single options do.
        part: Measured as a whole.
        places: The decisions that change anything.
        costs: What is saved, in shares of the dense model's.
    """
    steps = sorted(_further(table, part, places, costs))
    left = sum(table.largest(place, "size_bytes") for place in places) or 1.0

    def size(taken: Sequence[_Step]) -> float:
        saved = sum(_saved(table, part, place, option, "size_bytes") for place, option in taken)
        return part.ratios["size_bytes"] * max(_LEAST_LEFT, 1.0 - max(0.0, saved) / left)

    return _stepped(effects, table, part, steps, size)


def milder_parts(
    effects: Effects, table: Table, part: Part, places: Collection[int], costs: Sequence[str]
) -> Iterator[Part]:
    """The part with ever more decisions one option back, those that lose most for what they save first.

    Args:
        effects: Prices plans.
        table: What single options do.
        part: Measured as a whole.
        places: The decisions that change anything.
        costs: What is saved, in shares of the dense model's.
    """
    steps = sorted(_milder(table, part, places, costs), reverse=True)
    dense = table.dense("size_bytes")
    # A weight that comes back is stored in as many bits as the others, and a bit only for the weights that are left.
    params = max(part.ratios["params"], 1e-12)
    stored = part.ratios["size_bytes"] / params

    def size(taken: Sequence[_Step]) -> float:
        back = sum(
            -_saved(table, part, place, option, "size_bytes") / dense * (params if place in table.bits else stored)
            for place, option in taken
        )
        return part.ratios["size_bytes"] + max(0.0, back)

    return _stepped(effects, table, part, steps, size)


def _stepped(
    effects: Effects, table: Table, part: Part, steps: Sequence[_Ranked], size: Callable[[Sequence[_Step]], float]
) -> Iterator[Part]:
    """The part with ever more steps taken, where it can be priced; losses change as much more as they did together."""
    start = effects.structure_costs_of(vector_of(effects.space, part.chosen))
    alone = table.part(part.chosen).loss
    together = max(1.0, part.loss / alone) if alone > 0.0 else 1.0
    for count in [count for count in _STEPS if count <= len(steps)]:
        taken = [(place, option) for _, place, option in steps[:count]]
        chosen = {place: option for place, option in {**part.chosen, **dict(taken)}.items() if option}
        costs = effects.structure_costs_of(vector_of(effects.space, chosen))
        if start is None or costs is None:
            continue
        more = {place: together * _lost(table, part, place, option) for place, option in taken}
        loss = max(0.0, part.loss + sum(more.values()))
        shrinking = min(part.shrinking, loss)
        rounding = part.rounding + sum(added for place, added in more.items() if place in table.bits)
        ratios = {name: part.ratios[name] * costs[name] / max(start[name], 1e-12) for name in costs}
        ratios = {**part.ratios, **ratios, "size_bytes": size(taken)}
        yield Part(chosen, loss, ratios, min(loss - shrinking, max(0.0, rounding)), shrinking)


def _further(table: Table, part: Part, places: Collection[int], costs: Sequence[str]) -> Iterator[_Ranked]:
    """Loss for what is saved, decision and option, of every next option that saves anything."""
    for place in places:
        now = part.chosen.get(place, 0)
        option = min((index for index in table.usable(place) if index > now), default=None)
        if option is not None:
            saved = sum(_saved(table, part, place, option, cost) / table.dense(cost) for cost in costs)
            if saved > 0.0:
                yield _lost(table, part, place, option) / saved, place, option


def _milder(table: Table, part: Part, places: Collection[int], costs: Sequence[str]) -> Iterator[_Ranked]:
    """Loss for what it saves, decision and the option before, of every option that loses anything."""
    for place in places:
        now = part.chosen.get(place, 0)
        if not now:
            continue
        option = max((index for index in table.usable(place) if index < now), default=0)
        lost = -_lost(table, part, place, option)
        if lost > 0.0:
            saved = sum(-_saved(table, part, place, option, cost) / table.dense(cost) for cost in costs)
            yield lost / max(saved, 1e-9), place, option


def _lost(table: Table, part: Part, place: int, option: int) -> float:
    """What an option loses beside the one that the part has; a stronger one never loses less."""
    now = part.chosen.get(place, 0)
    lost = table.loss(place, option) - table.loss(place, now)
    return max(0.0, lost) if option > now else lost


def _saved(table: Table, part: Part, place: int, option: int, cost: str) -> float:
    """What an option saves of a cost beside the one that the part has."""
    return table.saving(place, option, cost) - table.saving(place, part.chosen.get(place, 0), cost)
