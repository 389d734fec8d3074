"""Plans put together from the effects of single options, before any was trained.

Losses and savings of options are added, as if they did not meet: the best structures (blocks, channels, ranks) for
every latency, size and amount of work, and the best bits for every size, are then found exactly by `additive_front`.
Structures, whose parts meet, are measured as wholes: what they lose together is up to twenty times the sum, so a few
are measured first, to see how far a cost can be saved, and then more within that. They are combined with widths of the
channels that blocks share, bits and input sizes by adding losses and multiplying ratios; of the combinations that cover
most of the front they predict twice as many as are wanted are measured, and those that then cover most are taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autocompress.core.model_info import BlockInfo
from autocompress.core.pareto import hypervolume, non_dominated
from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import Effects, Sensitivity
from autocompress.search.descent import Descent, choices, descents_of
from autocompress.search.parts import STRUCTURE, Part, Table, base_of, based, places_of, together, vector_of
from autocompress.search.record import Objective, Record, accuracy_of, lost_share

STRUCTURE_LEVELS = 10
# So many structures of a cost are measured first, over the whole range of what it can save.
_FIRST_LEVELS = 5
STREAM_LEVELS = 4
BIT_LEVELS = 12
# Losses count by their logarithm between shares of the loss of a model that knows nothing. Below the first of these
# training brings everything back on hard tasks; where too few plans are left by that, smaller losses count as well.
_LEAST_LOSSES = (0.005, 0.0005, 0.00005)
# Above this nothing is left to train, unless a trial showed otherwise.
_MOST_LOSS = 0.3
# Choices are not spread beyond the saving where their added losses reach this share: what they lose together is more.
_WORST_ADDED = 0.5
# A trial that lost no more than this share of the accuracy shows that what its options lose can be brought back.
_BROUGHT_BACK = 0.1
_RATIO_SCALE = 4.0
# Costs count up to this: a plan that is only smaller is not worthless for doing as much work as the dense one.
_WORST_COST = 1.25
# A plan that adds less to the volume adds nothing: it loses more than can be brought back.
_LEAST_GAIN = 1e-9
_MEASURED = 2
_Groups = list[list[tuple[int, ...]]]
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
    base = base_of(effects, options)
    table = Table(space, based(effects, options, base), named_costs)
    # Work counts beside the objectives: of two plans that cost the same, the one that does less trains longer.
    costs = list(dict.fromkeys([*named_costs, "macs"]))
    bearable = _bearable(table, objectives, known) / max(options.chance, 1e-12)
    worst = max(_WORST_ADDED, bearable) * options.chance
    most = max(_MOST_LOSS, bearable)
    groups, shared = _structure_groups(space, blocks)
    descents = descents_of(table, groups, ("macs", "params", "latency_ms"), worst)
    wholes = [_NOTHING, *_structures(effects, descents, base, most * options.chance)]
    streams = choices(descents_of(table, shared, ("macs", "params"), worst), STREAM_LEVELS)
    parts = list(_combined(effects, table, blocks, wholes, [{}, *streams], worst))
    scale = _Scale(options.dense.loss, options.chance, most, costs)
    # What adds up only roughly is measured for twice as many as are wanted.
    found = list(_measured(effects, [parts[i].chosen for i in _covering(parts, scale, _MEASURED * count)], {}))
    chosen = [found[i] for i in _covering(found, scale, count)]
    return [(f"planned, {_told(part, costs)}", vector_of(space, part.chosen)) for part in chosen]


def _combined(
    effects: Effects,
    table: Table,
    blocks: Sequence[BlockInfo],
    wholes: Sequence[Part],
    streams: Sequence[Mapping[int, int]],
    worst: float,
) -> Collection[Part]:
    """Every structure with every width of the streams, the best bits for every size and every input size."""
    space = table.space
    quantizers = places_of(space, ("quantize",))
    bits: list[tuple[Mapping[int, int], float]] = []
    descents = descents_of(table, [[(place,)] for place in quantizers], ("size_bytes",), worst)
    for chosen in [{}, *choices(descents, BIT_LEVELS)]:
        # A layer in integers between two in floats pays for the way there and back: time does not add up.
        told = effects.costs_of(vector_of(space, chosen))
        if told is not None:
            bits.append((chosen, table.share(told, "latency_ms")))
    sizes = [{place: index} for place in places_of(space, ("resolution",)) for index in table.usable(place)]
    alone = [[table.part(chosen) for chosen in family] for family in (streams, [{}, *sizes])]
    found: dict[Vector, Part] = {}
    for whole in wholes:
        left = _undropped(space, blocks, whole, quantizers)
        stored = [table.part_of(chosen, left, quantizers).taking("latency_ms", share) for chosen, share in bits]
        for combination in itertools.product([whole], stored, *alone):
            part = together(combination)
            if part.chosen:
                found.setdefault(vector_of(space, part.chosen), part)
    return found.values()


def _bearable(table: Table, objectives: Sequence[Objective], known: Sequence[Record]) -> float:
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


def _measured(effects: Effects, family: Sequence[Mapping[int, int]], base: Mapping[int, int]) -> Iterator[Part]:
    """The plans of a family measured as wholes beside a base; those that cannot be applied are left out."""
    vectors = [vector_of(effects.space, {**base, **chosen}) for chosen in ({}, *family)]
    start, *measured = effects.of(vectors)
    for chosen, effect in zip(family, measured, strict=True):
        if start is not None and effect is not None:
            ratios = {cost: effect.costs[cost] / max(start.costs[cost], 1e-12) for cost in start.costs}
            yield Part(chosen, max(0.0, effect.loss - start.loss), ratios)


def _structure_groups(space: Space, blocks: Sequence[BlockInfo]) -> tuple[_Groups, _Groups]:
    """Groups of alternatives, each a set of places decided together: a block is dropped, or its layers are changed.

    Channels that blocks share are groups apart: what cutting them saves depends on how many blocks are left.
    """
    left = {place: space.decisions[place] for place in places_of(space, STRUCTURE)}
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


def _structures(
    effects: Effects, descents: Sequence[Descent], base: Mapping[int, int], most: float
) -> Collection[Part]:
    """Structures measured as wholes, close together up to where they lose `most` and far apart beyond."""

    def measure(chosen: Sequence[Mapping[int, int]]) -> dict[Vector, Part]:
        return {vector_of(effects.space, part.chosen): part for part in _measured(effects, chosen, base)}

    found = measure(choices(descents, _FIRST_LEVELS))
    nearer = []
    for descent in descents:
        steps = [(ratio, found.get(vector_of(effects.space, chosen))) for ratio, chosen in descent.steps(_FIRST_LEVELS)]
        known = [(ratio, part.loss) for ratio, part in steps if part is not None]
        nearer.append(replace(descent, least=_ratio_at(most, known)) if known else descent)
    return (found | measure(choices(nearer, STRUCTURE_LEVELS))).values()


def _ratio_at(most: float, steps: Sequence[tuple[float, float]]) -> float:
    """The ratio at which `(ratio, loss)`, from mild to strong, first pass the loss; the last one if none does."""
    before, lost = 1.0, 0.0
    for ratio, loss in steps:
        if loss > most:
            return float(before * (ratio / before) ** ((most - lost) / (loss - lost)))
        before, lost = ratio, loss
    return before


@dataclass(frozen=True)
class _Scale:
    """How losses and costs count: the dense model's costs are 1, a loss of 1, at `most`, is worthless."""

    dense: float
    chance: float
    most: float
    costs: Sequence[str]

    def coordinates(self, part: Part, least: float) -> tuple[float, ...]:
        """Loss and costs by their logarithms."""
        share = max(least, (self.dense + part.loss) / max(self.chance, 1e-12))
        loss = math.log(share / least) / math.log(self.most / least)
        ratios = (1.0 + math.log(part.ratios.get(cost, 1.0)) / _RATIO_SCALE for cost in self.costs)
        return (min(1.0, loss), *ratios)


def _covering(parts: Sequence[Part], scale: _Scale, count: int) -> list[int]:
    """Greedily, the parts that add most hypervolume, if any; by ever smaller losses, until they are enough."""
    chosen: list[int] = []
    width = 1 + len(scale.costs)
    reference, dense = [1.0, *[_WORST_COST] * (width - 1)], (0.0, *[1.0] * (width - 1))
    for least in _LEAST_LOSSES:
        points = [scale.coordinates(part, least) for part in parts]
        left = [index for index in non_dominated(points) if index not in chosen]
        ready = [dense, *(points[index] for index in chosen)]
        covered = hypervolume(ready, reference)
        while left and len(chosen) < count:
            most, best = max((hypervolume([*ready, points[index]], reference), -index) for index in left)
            if most <= covered + _LEAST_GAIN:
                break
            covered, best = most, -best
            chosen.append(best)
            ready.append(points[best])
            left.remove(best)
    return chosen


def _told(part: Part, costs: Sequence[str]) -> str:
    times = {name: 1.0 / part.ratios.get(name, 1.0) for name in costs}
    return ", ".join(
        f"{name.split('_')[0]} 1/{value:{'.0f' if value >= 10 else '.2g'}}" for name, value in times.items()
    )
