"""Plans put together from the effects of single options, before any was trained.

Losses and savings of options are added, as if they did not meet: the best structures (blocks, channels, ranks) for
every latency, size and amount of work, and the best bits for every size, are then found exactly by `additive_front`.
Structures, whose parts meet, are measured as wholes. They are combined with widths of the channels that blocks share,
bits and input sizes by adding losses and multiplying ratios; of the combinations that cover most of the front they
predict twice as many as are wanted are measured, and those that then cover most are taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autocompress.core.model_info import BlockInfo
from autocompress.core.pareto import hypervolume, non_dominated
from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import Effect, Effects, Sensitivity
from autocompress.search.additive import additive_front
from autocompress.search.record import Objective, Record, accuracy_of, lost_share

STRUCTURE_LEVELS = 12
STREAM_LEVELS = 4
BIT_LEVELS = 12
# Losses count by their logarithm between these shares of the loss of a model that knows nothing: below, training
# brings everything back; above, nothing is left to train, unless a trial showed otherwise.
_LOSSES = (0.005, 0.3)
# Choices are not spread beyond the saving where their added losses reach this share: what they lose together is more.
_WORST_ADDED = 0.5
# A trial that lost no more than this share of the accuracy shows that what its options lose can be brought back.
_BROUGHT_BACK = 0.1
_RATIO_SCALE = 4.0
# Costs count up to this: a plan that is only smaller is not worthless for doing as much work as the dense one.
_WORST_COST = 1.25
_LEAST_LEFT = 0.01
_STRUCTURE = ("drop", "prune", "shape")
_MEASURED = 2
_Groups = list[list[tuple[int, ...]]]


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

    def taking(self, cost: str, share: float) -> Part:
        """The same with another share of one cost."""
        return Part(self.chosen, self.loss, {**self.ratios, cost: share})


_NOTHING = Part({}, 0.0, {})


def planned_vectors(
    effects: Effects,
    options: Sensitivity,
    blocks: Sequence[BlockInfo],
    objectives: Sequence[Objective],
    known: Sequence[Record],
    count: int,
) -> list[tuple[str, Vector]]:
    """At most `count` named plans that together cover most of the predicted front, the most useful first.

    Args:
        effects: Measures whole structures.
        options: What single options do.
        blocks: That may be dropped.
        objectives: Of the run.
        known: Trials that say how much of a loss training brings back; without the dense model they say nothing.
        count: How many are wanted.
    """
    space = effects.space
    named_costs = [o.name for o in objectives if o.name in options.dense.costs]
    base = _base(effects, options)
    table = _Table(space, _based(effects, options, base), named_costs)
    # Work counts beside the objectives: of two plans that cost the same, the one that does less trains longer.
    costs = list(dict.fromkeys([*named_costs, "macs"]))
    bearable = _bearable(table, objectives, known) / max(options.chance, 1e-12)
    worst = max(_WORST_ADDED, bearable) * options.chance
    groups, shared = _structure_groups(space, blocks)
    structures = _fronts(table, groups, ("macs", "params", "latency_ms"), STRUCTURE_LEVELS, worst)
    wholes = [_NOTHING, *_measured(effects, structures, base)]
    streams = _fronts(table, shared, ("macs", "params"), STREAM_LEVELS, worst)
    most = max(_LOSSES[1], bearable)
    parts = list(_combined(effects, table, blocks, wholes, [{}, *streams], worst))
    points = [_coordinates(part, options, costs, most) for part in parts]
    # What adds up only roughly is measured for twice as many as are wanted.
    found = list(_measured(effects, [parts[i].chosen for i in _covering(points, _MEASURED * count)], {}))
    chosen = _covering([_coordinates(part, options, costs, most) for part in found], count)
    return [(f"planned, {_told(found[i], costs)}", _vector(space, found[i].chosen)) for i in chosen]


def _base(effects: Effects, options: Sensitivity) -> dict[int, int]:
    """The mildest bits everywhere if they save time: structures are then chosen by what they save beside them.

    Integer kernels take other widths than those for floats; a structure that is never shipped in floats is not judged
    in them.
    """
    space = effects.space
    places = _places(space, ("quantize",))
    if any(options.options[space.decisions[place].name][1:][:1] in ((), (None,)) for place in places):
        return {}
    base = dict.fromkeys(places, 1)
    costs = effects.costs_of(_vector(space, base))
    return base if costs["latency_ms"] < options.dense.costs["latency_ms"] else {}


def _based(effects: Effects, options: Sensitivity, base: Mapping[int, int]) -> Sensitivity:
    """The same losses, and for structures the costs that they save beside the bits of the base."""
    if not base:
        return options
    space, dense = effects.space, options.dense.costs
    start = effects.costs_of(_vector(space, base))
    found = dict(options.options)
    for place in _places(space, _STRUCTURE):
        name = space.decisions[place].name
        told = []
        for index, effect in enumerate(found[name]):
            if index and effect is not None:
                costs = effects.costs_of(_vector(space, {**base, place: index}))
                effect = Effect(effect.loss, {cost: dense[cost] * costs[cost] / start[cost] for cost in dense})
            told.append(effect)
        found[name] = tuple(told)
    return replace(options, options=found)


def _combined(
    effects: Effects,
    table: _Table,
    blocks: Sequence[BlockInfo],
    wholes: Sequence[Part],
    streams: Sequence[Mapping[int, int]],
    worst: float,
) -> Collection[Part]:
    """Every structure with every width of the streams, the best bits for every size and every input size."""
    space = table.space
    quantizers = _places(space, ("quantize",))
    bits = [{}, *_fronts(table, [[(place,)] for place in quantizers], ("size_bytes",), BIT_LEVELS, worst)]
    # A layer in integers between two in floats pays for the way there and back: time does not add up.
    shares = [table.share(effects.costs_of(_vector(space, chosen)), "latency_ms") for chosen in bits]
    sizes = [{place: index} for place in _places(space, ("resolution",)) for index in table.usable(place)]
    alone = [[table.part(chosen) for chosen in family] for family in (streams, [{}, *sizes])]
    found: dict[Vector, Part] = {}
    for whole in wholes:
        left = _undropped(space, blocks, whole, quantizers)
        stored = [
            table.part_of(chosen, left, quantizers).taking("latency_ms", share)
            for chosen, share in zip(bits, shares, strict=True)
        ]
        for combination in itertools.product([whole], stored, *alone):
            part = _together(combination)
            if part.chosen:
                found.setdefault(_vector(space, part.chosen), part)
    return found.values()


def _bearable(table: _Table, objectives: Sequence[Objective], known: Sequence[Record]) -> float:
    """The largest loss that the options of a trial add up to and that training brought back."""
    accuracy = accuracy_of(objectives)
    done = [record for record in known if record.state == "complete"]
    dense = next((record.metrics for record in done if record.vector == table.space.dense_vector), None)
    if accuracy is None or dense is None:
        return 0.0
    kept = [record.vector for record in done if lost_share(accuracy, record.metrics, dense) <= _BROUGHT_BACK]
    chosen = [{place: index for place, index in enumerate(vector) if index} for vector in kept]
    return max(table.part(one).loss for one in chosen if all(table.is_known(p, o) for p, o in one.items()))


def _undropped(space: Space, blocks: Sequence[BlockInfo], whole: Part, places: Sequence[int]) -> set[int]:
    """The places whose layers a structure keeps: what is decided for the others changes nothing."""
    dropped = {space.decisions[place].target for place in whole.chosen if space.decisions[place].kind == "drop"}
    gone = {layer for block in blocks if block.name in dropped for layer in block.layers}
    return {place for place in places if space.decisions[place].target not in gone}


def _vector(space: Space, chosen: Mapping[int, int]) -> Vector:
    return tuple(chosen.get(place, 0) for place in range(len(space.decisions)))


def _measured(effects: Effects, family: Sequence[Mapping[int, int]], base: Mapping[int, int]) -> Iterator[Part]:
    """The plans of a family measured as wholes beside a base; those that cannot be applied are left out."""
    vectors = [_vector(effects.space, {**base, **chosen}) for chosen in ({}, *family)]
    start, *measured = effects.of(vectors)
    assert start is not None
    for chosen, effect in zip(family, measured, strict=True):
        if effect is not None:
            ratios = {cost: effect.costs[cost] / max(start.costs[cost], 1e-12) for cost in start.costs}
            yield Part(chosen, max(0.0, effect.loss - start.loss), ratios)


class _Table:
    """Effects by place and option, relative to the dense plan."""

    def __init__(self, space: Space, effects: Sensitivity, objectives: Sequence[str]) -> None:
        self.space = space
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

    def part_of(self, chosen: Mapping[int, int], left: Collection[int], places: Sequence[int]) -> Part:
        """Losses and savings added up where only some places are left, as shares of what those cost together.

        What a place costs is told by its strongest option.
        """
        part = self.part({place: option for place, option in chosen.items() if place in left})
        if len(left) == len(places):
            return part
        ratios = {}
        for cost, ratio in part.ratios.items():
            most = {p: max((self.saving(p, o, cost) for o in self.usable(p)), default=0.0) for p in places}
            share = sum(max(0.0, most[p]) for p in left) / max(sum(max(0.0, m) for m in most.values()), 1e-12)
            ratios[cost] = 1.0 - (1.0 - ratio) / share if share > 0 else 1.0
        return Part(part.chosen, part.loss, ratios)

    def share(self, costs: Mapping[str, float], cost: str) -> float:
        return costs[cost] / max(self._dense.costs[cost], 1e-12)

    def is_known(self, place: int, option: int) -> bool:
        return self._effects[place][option] is not None

    def _effect(self, place: int, option: int) -> Effect:
        effect = self._effects[place][option]
        assert effect is not None
        return effect


def _places(space: Space, kinds: Sequence[str]) -> list[int]:
    return [place for place, decision in enumerate(space.decisions) if decision.kind in kinds]


def _structure_groups(space: Space, blocks: Sequence[BlockInfo]) -> tuple[_Groups, _Groups]:
    """Groups of alternatives, each a set of places decided together: a block is dropped, or its layers are changed.

    Channels that blocks share are groups apart: what cutting them saves depends on how many blocks are left.
    """
    left = {place: space.decisions[place] for place in _places(space, _STRUCTURE)}
    groups: _Groups = []
    for block in blocks:
        drop = [place for place, d in left.items() if d.kind == "drop" and d.target == block.name]
        inside = [place for place, d in left.items() if d.kind != "drop" and d.target in block.layers and d.layers == 1]
        if drop:
            groups.append([*((place,) for place in drop), tuple(inside)])
            for place in (*drop, *inside):
                del left[place]
    shared = [place for place, decision in left.items() if groups and decision.layers > 1]
    groups.extend([(place,)] for place in left if place not in shared)
    return groups, [[(place,)] for place in shared]


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


def _coordinates(part: Part, effects: Sensitivity, costs: Sequence[str], most: float) -> tuple[float, ...]:
    """Loss and costs by their logarithms; the dense model's costs are 1, a loss of 1, at `most`, is worthless."""
    least = _LOSSES[0]
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
