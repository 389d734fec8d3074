"""The choices that save ever more of one cost with the least sum of losses, found exactly by `additive_front`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.pareto import non_dominated
from autocompress.search.additive import AdditiveFront, additive_front
from autocompress.search.parts import Part, Prices, Table, union

_LEAST_LEFT = 0.01


@dataclass(frozen=True)
class Descent:
    """The choices of some groups that save ever more of one cost, each with the least sum of losses.

    Attributes:
        items: By group, what can be chosen.
        front: Of the items.
        least: The ratio of the cost where it ends.
        cost: What is saved.
        prices: Of what is chosen together.
    """

    items: Sequence[Sequence[Part]]
    front: AdditiveFront
    least: float
    cost: str
    prices: Prices

    def steps(self, levels: int) -> list[tuple[float, dict[int, int]]]:
        """Ratios spread evenly down to the least, each with the choices that save as much."""
        found = []
        for level in range(1, levels + 1):
            ratio = self.least ** (level / levels)
            options = self.front.at_least(1.0 - ratio)
            if options is not None:
                chosen = union(item[option].chosen for item, option in zip(self.items, options, strict=True))
                found.append((ratio, self._needed(chosen)))
        return found

    def _needed(self, chosen: Mapping[int, int]) -> dict[int, int]:
        """Without what saves nothing beside the rest: savings were added up as if they did not meet."""
        kept, least = dict(chosen), self.prices.share(chosen, self.cost)
        while kept and least is not None:
            fewer = [{other: option for other, option in kept.items() if other != place} for place in kept]
            shares = [self.prices.share(less, self.cost) for less in fewer]
            told = [(share, index) for index, share in enumerate(shares) if share is not None]
            share, index = min(told, default=(math.inf, 0))
            if share > least:
                break
            kept, least = fewer[index], share
        return kept


def descents_of(
    table: Table,
    groups: Sequence[Sequence[tuple[int, ...]]],
    costs: Sequence[str],
    worst: float,
    prices: Prices,
) -> list[Descent]:
    """A descent for every cost that can be saved, as far as the worst sum of losses allows."""
    found = []
    for cost in costs:
        items = [_items(table, prices, group, cost) for group in groups]
        losses = [[part.loss for part in item] for item in items]
        savings = [[1.0 - part.ratios[cost] for part in item] for item in items]
        if any(saving > 0 for group_savings in savings for saving in group_savings):
            front = additive_front(losses, savings)
            found.append(Descent(items, front, max(_LEAST_LEFT, 1.0 - front.most_within(worst)), cost, prices))
    return found


def choices(descents: Sequence[Descent], levels: int) -> list[dict[int, int]]:
    """The choices on every descent, each once."""
    chosen = [chosen for descent in descents for _, chosen in descent.steps(levels)]
    return list({tuple(sorted(one.items())): one for one in chosen}.values())


def _items(table: Table, prices: Prices, group: Sequence[tuple[int, ...]], cost: str) -> list[Part]:
    """What can be chosen for a group: nothing, or any options of one alternative that no other choice beats."""
    found = [table.part({})]
    for places in group:
        partial = [table.part({})]
        for place in places:
            options = [{}, *({place: option} for option in table.usable(place, cost))]
            joined = [table.part({**one.chosen, **other}) for one in partial for other in options]
            told = (part if len(part.chosen) < 2 else prices.of(part) for part in joined)
            partial = _kept([part for part in told if part is not None], cost)
        found += [part for part in partial if part.chosen]
    return found


def _kept(parts: Sequence[Part], cost: str) -> list[Part]:
    return [parts[index] for index in non_dominated([(part.loss, part.ratios[cost]) for part in parts])]
