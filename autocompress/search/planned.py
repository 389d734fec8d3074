"""Plans put together from the effects of single options, before any was trained.

Losses and savings of options are added, as if they did not meet: the best structures (blocks, channels, ranks) for
every latency, size and amount of work, and the best bits for every size, are then found exactly by `additive_front`.
Structures, whose parts meet, are measured as wholes. They are combined with bits and input sizes by adding losses and
multiplying ratios, and the combinations are taken that cover most of the front they predict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.model_info import BlockInfo
from autocompress.core.pareto import hypervolume, non_dominated
from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import Effect, Effects, Sensitivity
from autocompress.search.additive import additive_front
from autocompress.search.record import Objective

STRUCTURE_LEVELS = 12
BIT_LEVELS = 12
# Losses count by their logarithm between these shares of the loss of a model that knows nothing: below, training
# brings everything back; above, nothing is left to train.
_LOSSES = (0.005, 0.3)
# Choices are not spread beyond the saving where their added losses reach this share: what they lose together is more.
_WORST_ADDED = 0.5
_RATIO_SCALE = 4.0
# Costs count up to this: a plan that is only smaller is not worthless for doing as much work as the dense one.
_WORST_COST = 1.25
_LEAST_LEFT = 0.05
_STRUCTURE = ("drop", "prune", "shape")


@dataclass(frozen=True)
class Part:
    """Some decisions with what they are expected to do together.

    Attributes:
        chosen: Option by place of the decision.
        loss: Sum of the losses that the options add to the dense plan's.
        ratios: By cost, the share of the dense cost that is left.
    """

    chosen: Mapping[int, int]
    loss: float
    ratios: Mapping[str, float]


def planned_vectors(
    effects: Effects, options: Sensitivity, blocks: Sequence[BlockInfo], objectives: Sequence[Objective], count: int
) -> list[tuple[str, Vector]]:
    """At most `count` named plans that together cover most of the predicted front, the most useful first."""
    space = effects.space
    named_costs = [o.name for o in objectives if o.name in options.dense.costs]
    table = _Table(space, options, named_costs)
    # Work counts beside the objectives: of two plans that cost the same, the one that does less trains longer.
    costs = list(dict.fromkeys([*named_costs, "macs"]))
    groups = _structure_groups(space, blocks)
    worst = _WORST_ADDED * options.chance
    structures = _fronts(table, groups, ("macs", "params", "latency_ms"), STRUCTURE_LEVELS, worst)
    quantizers = [[(place,)] for place in _places(space, ("quantize",))]
    bits = _fronts(table, quantizers, ("size_bytes",), BIT_LEVELS, worst)
    sizes = [{place: index} for place in _places(space, ("resolution",)) for index in table.usable(place)]
    nothing = Part({}, 0.0, {})
    alone = [[nothing, *(table.part(chosen) for chosen in family)] for family in (bits, sizes)]
    wholes = [nothing, *_measured(effects, options, structures)]
    parts = [_together(combination) for combination in itertools.product(wholes, *alone)]
    parts = [part for part in parts if part.chosen]
    points = [_coordinates(part, options, costs) for part in parts]
    named: dict[Vector, str] = {}
    for index in _covering(points, count):
        named.setdefault(_vector(space, parts[index].chosen), f"planned, {_told(parts[index], costs)}")
    return [(name, vector) for vector, name in named.items()]


def _vector(space: Space, chosen: Mapping[int, int]) -> Vector:
    return tuple(chosen.get(place, 0) for place in range(len(space.decisions)))


def _measured(effects: Effects, options: Sensitivity, family: Sequence[Mapping[int, int]]) -> Iterator[Part]:
    """The plans of a family measured as wholes; those that cannot be applied are left out."""
    dense = options.dense
    measured = effects.of([_vector(effects.space, chosen) for chosen in family])
    for chosen, effect in zip(family, measured, strict=True):
        if effect is not None:
            ratios = {cost: effect.costs[cost] / max(dense.costs[cost], 1e-12) for cost in dense.costs}
            yield Part(chosen, max(0.0, effect.loss - dense.loss), ratios)


class _Table:
    """Effects by place and option, relative to the dense plan."""

    def __init__(self, space: Space, effects: Sensitivity, objectives: Sequence[str]) -> None:
        self._effects = [effects.options[decision.name] for decision in space.decisions]
        self._dense = effects.dense
        self._objectives = objectives

    def usable(self, place: int, cost: str | None = None) -> list[int]:
        """The options beside the first that could be applied.

        Work stands for what the tables do not see; what the tables see to take longer does not save any. Factors, for
        one, halve the MACs of a small layer and double its time.
        """
        found = [index for index, effect in enumerate(self._effects[place]) if index and effect is not None]
        if cost != "macs" or "macs" in self._objectives:
            return found
        return [index for index in found if self.saving(place, index, "latency_ms") >= 0.0]

    def loss(self, place: int, option: int) -> float:
        return max(0.0, self._effect(place, option).loss - self._dense.loss)

    def saving(self, place: int, option: int, cost: str) -> float:
        return self._dense.costs[cost] - self._effect(place, option).costs[cost]

    def part(self, chosen: Mapping[int, int]) -> Part:
        """Losses and savings added up."""
        loss = sum(self.loss(place, option) for place, option in chosen.items())
        ratios = {
            cost: 1.0 - sum(self.saving(p, o, cost) for p, o in chosen.items()) / max(dense, 1e-12)
            for cost, dense in self._dense.costs.items()
        }
        return Part(dict(chosen), loss, ratios)

    def _effect(self, place: int, option: int) -> Effect:
        effect = self._effects[place][option]
        assert effect is not None
        return effect


def _places(space: Space, kinds: Sequence[str]) -> list[int]:
    return [place for place, decision in enumerate(space.decisions) if decision.kind in kinds]


def _structure_groups(space: Space, blocks: Sequence[BlockInfo]) -> list[list[tuple[int, ...]]]:
    """Groups of alternatives, each a set of places decided together: a block is dropped, or its layers are changed."""
    left = {place: space.decisions[place] for place in _places(space, _STRUCTURE)}
    groups: list[list[tuple[int, ...]]] = []
    for block in blocks:
        drop = [place for place, d in left.items() if d.kind == "drop" and d.target == block.name]
        inside = [place for place, d in left.items() if d.kind != "drop" and d.target in block.layers and d.layers == 1]
        if drop:
            groups.append([*((place,) for place in drop), tuple(inside)])
            for place in (*drop, *inside):
                del left[place]
    groups.extend([(place,)] for place in left)
    return groups


def _fronts(
    table: _Table, groups: Sequence[Sequence[tuple[int, ...]]], costs: Sequence[str], levels: int, worst: float
) -> list[dict[int, int]]:
    """For every cost the choices with the least loss, at ratios spread evenly as far as the worst loss allows."""
    found: dict[tuple[tuple[int, int], ...], dict[int, int]] = {}
    for cost in costs:
        items = [_items(table, group, cost) for group in groups]
        losses = [[part.loss for part in item] for item in items]
        savings = [[1.0 - part.ratios[cost] for part in item] for item in items]
        if not any(saving > 0 for group_savings in savings for saving in group_savings):
            continue
        front = additive_front(losses, savings)
        least = max(_LEAST_LEFT, 1.0 - front.most_within(worst))
        for level in range(1, levels + 1):
            options = front.at_least(1.0 - least ** (level / levels))
            if options is None:
                continue
            chosen = _union(item[option].chosen for item, option in zip(items, options, strict=True))
            found[tuple(sorted(chosen.items()))] = chosen
    return list(found.values())


def _items(table: _Table, group: Sequence[tuple[int, ...]], cost: str) -> list[Part]:
    """What can be chosen for a group: nothing, or any options of one alternative that no other choice beats."""
    chosen: list[dict[int, int]] = [{}]
    for places in group:
        pools = [[{}, *({place: option} for option in table.usable(place, cost))] for place in places]
        partial: list[dict[int, int]] = [{}]
        for pool in pools:
            partial = [{**one, **other} for one in partial for other in pool]
            partial = _kept([table.part(one) for one in partial], cost)
        chosen += [one for one in partial if one]
    return [table.part(one) for one in chosen]


def _kept(parts: Sequence[Part], cost: str) -> list[dict[int, int]]:
    kept = non_dominated([(part.loss, part.ratios[cost]) for part in parts])
    return [dict(parts[index].chosen) for index in kept]


def _union(chosen: Iterator[Mapping[int, int]] | Sequence[Mapping[int, int]]) -> dict[int, int]:
    return {place: option for one in chosen for place, option in one.items()}


def _together(parts: Sequence[Part]) -> Part:
    """Losses add, shares of the costs multiply."""
    costs = {cost for part in parts for cost in part.ratios}
    ratios = {cost: math.prod(part.ratios.get(cost, 1.0) for part in parts) for cost in costs}
    return Part(_union([part.chosen for part in parts]), sum(part.loss for part in parts), ratios)


def _coordinates(part: Part, effects: Sensitivity, costs: Sequence[str]) -> tuple[float, ...]:
    """Loss and costs by their logarithms; the dense model's costs are 1, a loss of 1 is worthless."""
    least, most = _LOSSES
    share = max(least, (effects.dense.loss + part.loss) / max(effects.chance, 1e-12))
    loss = math.log(share / least) / math.log(most / least)
    return (min(1.0, loss), *(1.0 + math.log(part.ratios.get(cost, 1.0)) / _RATIO_SCALE for cost in costs))


def _covering(points: Sequence[tuple[float, ...]], count: int) -> list[int]:
    """Greedily, the points that add most hypervolume."""
    left = non_dominated(points)
    chosen: list[int] = []
    width = len(points[0]) if points else 0
    reference, dense = [1.0, *[_WORST_COST] * (width - 1)], (0.0, *[1.0] * (width - 1))
    while left and len(chosen) < count:
        ready = [dense, *(points[index] for index in chosen)]
        best = max(left, key=lambda index: (hypervolume([*ready, points[index]], reference), -index))
        chosen.append(best)
        left.remove(best)
    return chosen


def _told(part: Part, costs: Sequence[str]) -> str:
    return ", ".join(f"{name.split('_')[0]} 1/{1.0 / part.ratios.get(name, 1.0):.2g}" for name in costs)
