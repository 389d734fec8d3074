"""What options do, added up: the parts that plans are put together from."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autocompress.core.model_info import BlockInfo
from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import Effect, Effects, Sensitivity

STRUCTURE = ("drop", "prune", "shape")
BITS = ("quantize",)
SIZES = ("resolution",)
# Savings that meet may add up to more than there is; so much is left of any cost.
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class Part:
    """Some decisions with what they are expected to do together.

    Attributes:
        chosen: Option by place of the decision.
        loss: Sum of the losses that the options add to the dense plan's.
        ratios: By cost, the share of the dense cost that is left.
        rounding: What few bits have of the loss.
        shrinking: What a smaller input has of it.
    """

    chosen: Mapping[int, int]
    loss: float
    ratios: Mapping[str, float]
    rounding: float = 0.0
    shrinking: float = 0.0

    @property
    def cuts(self) -> float:
        """What is left of the loss: that of what was cut."""
        return max(0.0, self.loss - self.rounding - self.shrinking)

    def taking(self, cost: str, share: float) -> Part:
        """The same with another share of one cost."""
        return replace(self, ratios={**self.ratios, cost: share})


class Table:
    """Effects by place and option, relative to the dense plan."""

    def __init__(
        self, space: Space, effects: Sensitivity, objectives: Sequence[str], patient: Collection[str] = ()
    ) -> None:
        """Reads the effects.

        Args:
            space: Of the plans.
            effects: Of every option.
            objectives: The costs that a run asks for.
            patient: Kinds of decisions that may take longer if they save work.
        """
        self.space = space
        self._patient = {place for place, decision in enumerate(space.decisions) if decision.kind in patient}
        self.bits = set(places_of(space, BITS))
        self._sizes = set(places_of(space, SIZES))
        self._effects = [effects.options[decision.name] for decision in space.decisions]
        self._dense = effects.dense
        self._objectives = objectives
        self._largest: dict[tuple[int, str], float] = {}

    def usable(self, place: int, cost: str | None = None) -> list[int]:
        """The options beside the first that could be applied.

        Work stands for what the tables do not see; what the tables see to take longer does not save any. Factors, for
        one, halve the MACs of a small layer and double its time.
        """
        found = [index for index, effect in enumerate(self._effects[place]) if index and effect is not None]
        if cost != "macs" or "macs" in self._objectives or place in self._patient:
            return found
        return [index for index in found if self.saving(place, index, "latency_ms") >= 0.0]

    def loss(self, place: int, option: int) -> float:
        """What an option adds to the loss of the dense plan."""
        return max(0.0, self._effect(place, option).loss - self._dense.loss)

    def saving(self, place: int, option: int, cost: str) -> float:
        """What an option takes off a cost of the dense plan; negative where it adds to it."""
        return self._dense.costs[cost] - self._effect(place, option).costs[cost]

    def part(self, chosen: Mapping[int, int]) -> Part:
        """Losses and savings added up."""
        losses = {place: self.loss(place, option) for place, option in chosen.items()}
        rounding = sum(loss for place, loss in losses.items() if place in self.bits)
        shrinking = sum(loss for place, loss in losses.items() if place in self._sizes)
        ratios = {
            cost: max(_LEAST_SHARE, 1.0 - sum(self.saving(p, o, cost) for p, o in chosen.items()) / self.dense(cost))
            for cost in self._dense.costs
        }
        return Part(dict(chosen), sum(losses.values()), ratios, rounding, shrinking)

    def part_of(self, chosen: Mapping[int, int], left: Collection[int], places: Sequence[int]) -> Part:
        """Losses and savings added up where only some places are left, as shares of what those cost together.

        What a place costs is told by its strongest option.
        """
        part = self.part({place: option for place, option in chosen.items() if place in left})
        if len(left) == len(places):
            return part
        ratios = {}
        for cost, ratio in part.ratios.items():
            share = sum(self.largest(p, cost) for p in left) / max(sum(self.largest(p, cost) for p in places), 1e-12)
            ratios[cost] = max(_LEAST_SHARE, 1.0 - (1.0 - ratio) / share) if share > 0 else 1.0
        return replace(part, ratios=ratios)

    def dense(self, cost: str) -> float:
        """A cost of the dense plan."""
        return max(self._dense.costs[cost], 1e-12)

    def share(self, costs: Mapping[str, float], cost: str) -> float:
        """What is left of a dense cost."""
        return costs[cost] / self.dense(cost)

    def largest(self, place: int, cost: str) -> float:
        """The largest saving of a place, 0 if none of its options saves any."""
        if (place, cost) not in self._largest:
            self._largest[place, cost] = max([0.0, *(self.saving(place, o, cost) for o in self.usable(place))])
        return self._largest[place, cost]

    def _effect(self, place: int, option: int) -> Effect:
        effect = self._effects[place][option]
        assert effect is not None
        return effect


class Prices:
    """Exact costs of structures beside a base: options of one layer save less together than one by one."""

    def __init__(self, effects: Effects, base: Mapping[int, int]) -> None:
        """Takes what prices a plan, and the options that are chosen everywhere."""
        self._effects = effects
        self._base = base
        self._known: dict[Vector, Mapping[str, float] | None] = {}

    def of(self, part: Part) -> Part | None:
        """The part with the shares of the base's costs that are left, None if it cannot be applied."""
        shares = self._shares(part.chosen)
        if shares is None:
            return None
        return replace(part, ratios={**part.ratios, **{cost: max(_LEAST_SHARE, one) for cost, one in shares.items()}})

    def share(self, chosen: Mapping[int, int], cost: str) -> float | None:
        """What choices leave of a cost of the base; None if it is no cost of structures or they cannot be applied."""
        shares = self._shares(chosen)
        return None if shares is None else shares.get(cost)

    def _shares(self, chosen: Mapping[int, int]) -> dict[str, float] | None:
        start, told = self._costs({}), self._costs(chosen)
        if start is None or told is None:
            return None
        return {cost: told[cost] / max(start[cost], 1e-12) for cost in told}

    def _costs(self, chosen: Mapping[int, int]) -> Mapping[str, float] | None:
        vector = vector_of(self._effects.space, {**self._base, **chosen})
        if vector not in self._known:
            self._known[vector] = self._effects.structure_costs_of(vector)
        return self._known[vector]


def base_of(effects: Effects, options: Sensitivity) -> dict[int, int]:
    """The mildest bits everywhere if they save time, else nothing.

    Structures are chosen by what they save beside them: integer kernels take other widths than those for floats, and a
    structure that is never shipped in floats is not judged in them.
    """
    space = effects.space
    places = places_of(space, BITS)
    firsts = [options.options[space.decisions[place].name][1:2] for place in places]
    base = dict.fromkeys(places, 1) if all(first and first[0] is not None for first in firsts) else {}
    costs = effects.structure_costs_of(vector_of(space, base))
    faster = costs is not None and costs["latency_ms"] < options.dense.costs["latency_ms"]
    return base if faster else {}


def based(effects: Effects, options: Sensitivity, base: Mapping[int, int]) -> Sensitivity:
    """The same losses, and for structures the costs that they save beside the bits of the base."""
    start = effects.costs_of(vector_of(effects.space, base)) if base else None
    if start is None:
        return options
    space, dense = effects.space, options.dense.costs

    def beside(place: int, index: int, effect: Effect | None) -> Effect | None:
        costs = effects.costs_of(vector_of(space, {**base, place: index})) if effect is not None else None
        if effect is None or costs is None:
            return None
        return Effect(effect.loss, {cost: dense[cost] * costs[cost] / max(start[cost], 1e-12) for cost in dense})

    found = dict(options.options)
    for place in places_of(space, STRUCTURE):
        first, *rest = found[space.decisions[place].name]
        told = (beside(place, index, effect) for index, effect in enumerate(rest, start=1))
        found[space.decisions[place].name] = (first, *told)
    return replace(options, options=found)


def dropped_layers(space: Space, blocks: Sequence[BlockInfo], chosen: Mapping[int, int]) -> dict[str, str]:
    """The layers of the blocks that are dropped, each with its block: what is decided for them changes nothing."""
    dropped = {
        space.decisions[p].target for p, option in chosen.items() if option and space.decisions[p].kind == "drop"
    }
    return {layer: block.name for block in blocks if block.name in dropped for layer in block.layers}


def undropped(space: Space, blocks: Sequence[BlockInfo], whole: Part, places: Sequence[int]) -> set[int]:
    """The places whose layers a structure keeps: what is decided for the others changes nothing."""
    gone = dropped_layers(space, blocks, whole.chosen)
    return {place for place in places if space.decisions[place].target not in gone}


def places_of(space: Space, kinds: Sequence[str]) -> list[int]:
    """The places of the decisions of some kinds."""
    return [place for place, decision in enumerate(space.decisions) if decision.kind in kinds]


def vector_of(space: Space, chosen: Mapping[int, int]) -> Vector:
    """The plan with these options and the first one elsewhere."""
    vector = [0] * len(space.decisions)
    for place, option in chosen.items():
        vector[place] = option
    return tuple(vector)


def chosen_by(vector: Vector) -> dict[int, int]:
    """The options of a plan that are not the first of their decision."""
    return {place: option for place, option in enumerate(vector) if option}


def union(chosen: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """All choices in one."""
    return {place: option for one in chosen for place, option in one.items()}


def together(parts: Sequence[Part]) -> Part:
    """Losses add, shares of the costs multiply."""
    costs = {cost for part in parts for cost in part.ratios}
    ratios = {cost: math.prod(part.ratios.get(cost, 1.0) for part in parts) for cost in costs}
    return Part(
        union(part.chosen for part in parts),
        sum(part.loss for part in parts),
        ratios,
        sum(part.rounding for part in parts),
        sum(part.shrinking for part in parts),
    )
