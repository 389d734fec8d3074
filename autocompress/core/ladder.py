"""The uniform plans of a space: what an engineer would try first, and what a search has to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

from autocompress.core.decision import Decision, Option, Vector, describe, ordered, strength
from autocompress.core.plan import LowRank, Prune, Quantize, Sparsify

MAX_RUNGS = 20
MIDDLE_BITS = 4
DIAGONAL = (0.5, 0.75, 1.0)

Rung = tuple[str, Vector]


def uniform_vectors(decisions: Sequence[Decision]) -> list[Rung]:
    """At most `MAX_RUNGS` distinct named vectors, as `Space.uniform_plans` says."""
    seen: set[Vector] = {(0,) * len(decisions)}

    def fresh(rungs: Iterator[Rung]) -> list[Rung]:
        kept = []
        for name, vector in rungs:
            if vector not in seen:
                seen.add(vector)
                kept.append((name, vector))
        return kept

    middle = _middle(decisions)
    families = [
        fresh(_quantized(decisions)),
        fresh(_ends_protected(decisions)),
        *(fresh(_one_op(decisions, op, middle)) for op in (Prune, LowRank, Sparsify)),
        *(fresh(_inside_blocks(decisions, middle, smaller)) for smaller in (False, True)),
        fresh(_architectures(decisions, middle)),
        fresh(_diagonal(decisions)),
    ]
    rungs = _thinned(families, MAX_RUNGS)
    return sorted(rungs, key=lambda rung: _mean_position(decisions, rung[1]))


def _distinct(decisions: Sequence[Decision], op: type) -> list[Option]:
    """Every option of one class, weakest first; of equally strong ones first what most targets have."""
    # So an embedding, whose options have no activations, neither names a rung nor decides for the other layers.
    counts = Counter(option for decision in decisions for option in decision.options if isinstance(option, op))
    return sorted(ordered(counts), key=lambda option: (strength(option), -counts[option]))


def _middle(decisions: Sequence[Decision]) -> Quantize | None:
    offered = [option for option in _distinct(decisions, Quantize) if isinstance(option, Quantize)]
    return min(offered, key=lambda option: (abs(option.w_bits - MIDDLE_BITS), -option.w_bits), default=None)


def _choice(decision: Decision, wanted: Option) -> int:
    """The index of `wanted`, else of the strongest option of its class that is not stronger, else 0."""
    if wanted in decision.options:
        return decision.options.index(wanted)
    weaker = [
        index
        for index, option in enumerate(decision.options)
        if type(option) is type(wanted) and strength(option) <= strength(wanted)
    ]
    return max(weaker, default=0)


def _everywhere(decisions: Sequence[Decision], *ops: Option) -> Vector:
    """Every decision that offers the class of one of `ops` at that op, all others at their first option."""
    return tuple(max((_choice(decision, op) for op in ops if op is not None), default=0) for decision in decisions)


def _quantized(decisions: Sequence[Decision]) -> Iterator[Rung]:
    for option in _distinct(decisions, Quantize):
        yield f"uniform {describe(option)}", _everywhere(decisions, option)


def _ends_protected(decisions: Sequence[Decision]) -> Iterator[Rung]:
    places = [place for place, decision in enumerate(decisions) if decision.kind == "quantize"]
    if len(places) < 3:
        return
    ends = {place: _most_precise(decisions[place]) for place in (places[0], places[-1])}
    best = decisions[places[0]].options[ends[places[0]]]
    for option in _distinct(decisions, Quantize):
        vector = _everywhere(decisions, option)
        protected = tuple(ends.get(place, index) for place, index in enumerate(vector))
        yield f"{describe(option)}, ends {describe(best)}", protected


def _most_precise(decision: Decision) -> int:
    return next((index for index, option in enumerate(decision.options) if isinstance(option, Quantize)), 0)


def _one_op(decisions: Sequence[Decision], op: type, middle: Quantize | None) -> Iterator[Rung]:
    for option in _distinct(decisions, op):
        yield _with_middle(describe(option), middle), _everywhere(decisions, option, middle)


def _inside_blocks(decisions: Sequence[Decision], middle: Quantize | None, smaller: bool) -> Iterator[Rung]:
    """Prunes only channels that one layer makes, at the full or at the first smaller input."""
    shared = [place for place, decision in enumerate(decisions) if decision.kind == "prune" and decision.layers > 1]
    sizes = [p for p, d in enumerate(decisions) if smaller and d.kind == "resolution" and len(d.options) > 1]
    said = " inside blocks" * bool(shared) + "".join(f" at resolution {decisions[place].options[1]}" for place in sizes)
    for option in _distinct(decisions, Prune):
        changed = {**dict.fromkeys(shared, 0), **dict.fromkeys(sizes, 1)}
        base = _everywhere(decisions, option, middle)
        vector = tuple(changed.get(place, index) for place, index in enumerate(base))
        yield _with_middle(f"{describe(option)}{said}", middle), vector


def _diagonal(decisions: Sequence[Decision]) -> Iterator[Rung]:
    """Everything at once, up to the most compression that the space has: the far end of its front."""
    for share in DIAGONAL:
        seen: Counter[str] = Counter()
        vector = []
        for decision in decisions:
            before, seen[decision.kind] = seen[decision.kind], seen[decision.kind] + 1
            most = len(decision.options) - 1
            # Of choices with two options, such as blocks to drop, that share of them.
            every = int((before + 1) * share) - int(before * share)
            vector.append(every if most == 1 else round(share * most))
        yield f"{share:.0%} of every choice", tuple(vector)


def _with_middle(name: str, middle: Quantize | None) -> str:
    return f"{name}, {describe(middle)}" if middle is not None else name


def _architectures(decisions: Sequence[Decision], middle: Quantize | None) -> Iterator[Rung]:
    base = _everywhere(decisions, middle)

    def rung(name: str, changed: dict[int, int]) -> Rung:
        return _with_middle(name, middle), tuple(changed.get(place, index) for place, index in enumerate(base))

    drops = [place for place, decision in enumerate(decisions) if len(decision.options) > 1 and decision.kind == "drop"]
    sizes = [place for place, decision in enumerate(decisions) if decision.kind == "resolution"]
    smallest = {place: len(decisions[place].options) - 1 for place in sizes}
    said = "".join(f" at resolution {decisions[place].options[-1]}" for place in sizes)
    for kind in ("resolution", "student"):
        places = [place for place, decision in enumerate(decisions) if decision.kind == kind]
        for step in range(1, max((len(decisions[place].options) for place in places), default=0)):
            chosen = {place: min(step, len(decisions[place].options) - 1) for place in places}
            words = (f"{decisions[p].target or kind} {decisions[p].options[i]}" for p, i in chosen.items())
            yield rung(" ".join(words), chosen)
    if drops:
        half = dict.fromkeys(drops[1::2] or drops, 1)
        yield rung("every second block dropped", half)
        yield rung(f"every second block dropped{said}", {**half, **smallest})
    if len(drops) > 2:
        # One late block is left: early ones see too little of the input.
        late = drops[3 * len(drops) // 4]
        yield rung(f"one block left{said}", {**{place: 1 for place in drops if place != late}, **smallest})


def _thinned(families: Sequence[list[Rung]], room: int) -> list[Rung]:
    """Takes rungs from the longest family until all fit in `room`; what stays is spread evenly over the family."""
    counts = [len(family) for family in families]
    while sum(counts) > room:
        counts[counts.index(max(counts))] -= 1
    return list(chain.from_iterable(_spread(family, count) for family, count in zip(families, counts, strict=True)))


def _spread(family: list[Rung], count: int) -> list[Rung]:
    last = len(family) - 1
    if count == 1:
        return [family[last // 2]]
    return [family[round(step * last / (count - 1))] for step in range(count)]


def _mean_position(decisions: Sequence[Decision], vector: Vector) -> float:
    positions = [index / (len(d.options) - 1) for d, index in zip(decisions, vector, strict=True) if len(d.options) > 1]
    return sum(positions) / len(positions) if positions else 0.0
