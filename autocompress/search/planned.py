"""Plans put together from the effects of single options.

Losses and savings of options are added, as if they did not meet: the best structures (blocks, channels, ranks) for
every latency, size and amount of work, and the best bits for every size, are then found exactly by `additive_front`.
Structures, whose parts meet, are measured as wholes: what they lose together is up to twenty times the sum, so a few
are measured first, to see how far a cost can be saved, and then more within that. They are combined with widths of the
channels that blocks share, bits and input sizes by adding losses and multiplying ratios; of the combinations that cover
most of the front they predict twice as many as are wanted are measured, again with what that tells of them, and those
that then cover most are taken.

How much loss training brings back is told by trials, so plans come in waves: each goes as far as those before it show.
Within a wave the next plan is chosen when its turn comes, by all trials that have ended and with those that are under
way where they are expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from autocompress.core.metric import Metric
from autocompress.core.model_info import BlockInfo
from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import Effect, Effects, Sensitivity
from autocompress.search.combined import combined, priced_bits
from autocompress.search.descent import choices, descents_of
from autocompress.search.further import further_parts, milder_parts
from autocompress.search.outlook import Outlook, Tried
from autocompress.search.parts import (
    BITS,
    SIZES,
    Part,
    Prices,
    Table,
    base_of,
    based,
    chosen_by,
    places_of,
    undropped,
    vector_of,
)
from autocompress.search.record import Objective, Record, accuracy_of, lost_share
from autocompress.search.structures import measured_beside, structure_groups, structures_of, uniform_structures

STREAM_LEVELS = 4
BIT_LEVELS = 12
# Choices are not spread beyond the saving where their added losses reach this share: what they lose together is more.
_WORST_ADDED = 0.5
# So many times as many as are wanted are measured, and again with what that tells.
_MEASURED, _ROUNDS = 2, 2
# So often plans that are not allowed are put aside before that.
_LOOKS = 16
# So many of the plans that were tried are taken further.
_EXTENDED = 12
_NOTHING = Part({}, 0.0, {})
# How the labels of trials of such plans begin.
PLANNED_LABEL = "planned"


@dataclass(frozen=True)
class Limits:
    """What the constraints of a run leave.

    Attributes:
        shares: By cost of the tables, how much of the dense model's.
        allows: Whether a plan meets all constraints that can be told before training.
        fits: Whether it meets those on what is no cost of the tables, told at once; None where there are none.
    """

    shares: Mapping[str, float]
    allows: Callable[[Vector], bool]
    fits: Callable[[Vector], bool] | None = None


class Planner:
    """Puts plans together, wave by wave, and chooses among them: what a wave measured, the next ones know."""

    def __init__(
        self,
        effects: Effects,
        options: Sensitivity,
        blocks: Sequence[BlockInfo],
        objectives: Sequence[Objective],
        samples: int,
        dense: Mapping[str, Metric],
        limits: Limits | None = None,
    ) -> None:
        """Finds what all waves have in common.

        Args:
            effects: Measures whole structures.
            options: What single options do.
            blocks: That may be dropped.
            objectives: Of the run.
            samples: How many the accuracy of a trial is of.
            dense: Metrics of the dense model.
            limits: That every plan keeps to, if there are any.
        """
        self._samples, self._dense, self._limits = samples, dense, limits
        limited = limits.shares if limits is not None else {}
        self._effects, self._options, self._blocks, self._objectives = effects, options, blocks, objectives
        space, named = effects.space, [o.name for o in objectives if o.name in options.dense.costs]
        # Of what no table has there is likely less where there is less work.
        others = [one.name for one in objectives if one.name not in ("accuracy", *named)]
        self._costs = list(dict.fromkeys([*named, "macs"])) if others else named
        # What it is worth to give up for accuracy.
        self._saved = sorted({*self._costs, *limited}) or ["macs"]
        self._base = base_of(effects, options)
        beside, asked = based(effects, options, self._base), [*named, *limited]
        self._table, self._prices = Table(space, beside, asked), Prices(effects, self._base)
        # Fewer channels are less work on any device, also where this one has slow kernels for so many.
        self._patient = Table(space, beside, asked, patient=("prune",))
        self._groups, self._shared = structure_groups(space, blocks)
        self._uniform = uniform_structures(self._table, self._groups)
        self._spread(_WORST_ADDED * options.chance)
        self._measured: dict[Vector, Part] = {}
        self._structures: dict[Vector, Part] = {}

    def _spread(self, worst: float) -> None:
        """Spreads choices over what can be saved up to a sum of losses."""
        table, prices = self._table, self._prices
        bits = [[(place,)] for place in places_of(table.space, BITS)]
        self._descents = [
            *descents_of(table, self._groups, ("macs", "params", "latency_ms"), worst, prices),
            *descents_of(self._patient, self._groups, ("macs",), worst, prices),
        ]
        self._streams = choices(descents_of(table, self._shared, ("macs", "params"), worst, prices), STREAM_LEVELS)
        chosen = choices(descents_of(table, bits, ("size_bytes",), worst, prices), BIT_LEVELS)
        self._bits = list(priced_bits(self._effects, table, [{}, *chosen]))
        self._worst = worst

    def prepare(self, known: Sequence[Record], count: int) -> None:
        """Measures, untrained, new plans that cover most of the predicted front beside the known ones.

        The same plans for the same trials, if the waves before were the same too.

        Args:
            known: Trials that say how much loss training brings back.
            count: How many will be picked.
        """
        outlook, gone = self._outlook(known), {record.vector for record in known}
        parts = self._parts(gone, outlook)
        if len(parts) < _MEASURED * count and self._limits is not None and self._worst < math.inf:
            # Limits have to be kept to whatever that loses.
            self._spread(math.inf)
            parts = self._parts(gone, outlook)
        self._measure_best(parts, gone, outlook, count)

    def _parts(self, gone: Collection[Vector], outlook: Outlook) -> dict[Vector, Part]:
        """What may be tried next, as far as it can be told before it is measured."""
        found = structures_of(self._effects, self._descents, self._uniform, self._base, outlook)
        new = {vector_of(self._effects.space, one.chosen): one for one in found}
        wholes = new.values()
        # What was measured is not beaten by what only seems better.
        alone = [vector_of(self._effects.space, {**self._base, **one.chosen}) for one in wholes]
        self._wholes([vector for vector in alone if self._is_allowed(vector)])
        parts = combined(self._table, self._blocks, [_NOTHING, *wholes], [{}, *self._streams], self._bits)
        # Those of earlier waves would be tried as they are if they were not put together with bits any more.
        earlier = [one for vector, one in self._structures.items() if vector not in new]
        parts = combined(self._table, self._blocks, earlier, [{}], self._bits) | parts
        self._structures |= new
        for vector, part in self._beside(outlook.reached(_EXTENDED)):
            parts.setdefault(vector, part)
        return self._allowed(parts | self._measured, gone, outlook)

    def _beside(self, parts: Sequence[Part]) -> Iterator[tuple[Vector, Part]]:
        """Plans a little stronger or milder than some that were measured."""
        space, effects = self._effects.space, self._effects
        places = places_of(space, ("prune", "shape", *BITS))
        for part in parts:
            left = undropped(space, self._blocks, part, places)
            further = further_parts(effects, self._table, part, left, ["size_bytes"] if self._costs else self._saved)
            for found in (*further, *milder_parts(effects, self._table, part, left, self._saved)):
                yield vector_of(space, found.chosen), found

    def _allowed(self, parts: Mapping[Vector, Part], gone: Collection[Vector], outlook: Outlook) -> dict[Vector, Part]:
        """Those that were not tried and seem to keep to the limits."""
        left = {vector: part for vector, part in parts.items() if vector not in gone}
        if self._limits is None:
            return left
        within = {vector: part for vector, part in left.items() if outlook.is_within(part)}
        fits = self._limits.fits
        return within if fits is None else {vector: part for vector, part in within.items() if fits(vector)}

    def pick(self, known: Sequence[Record], pending: Collection[Vector]) -> tuple[str, Vector] | None:
        """The measured plan that is expected to add most to the front, named; None if none adds anything.

        Args:
            known: Trials that have ended.
            pending: Plans under way; they are taken to end where they are expected.
        """
        gone = {record.vector for record in known}.union(pending)
        left = [part for vector, part in self._measured.items() if vector not in gone]
        coming = [self._measured[vector] for vector in pending if vector in self._measured]
        # Nothing is measured while trials run.
        dense = self._effects.space.dense_vector
        told = [one for one in known if one.vector == dense or self._is_known(one.vector)]
        best = self._outlook(told).best(left, 1, coming)
        if not best:
            return None
        label = f"{PLANNED_LABEL}, {_told(best[0], self._costs or self._saved)}"
        return label, vector_of(self._effects.space, best[0].chosen)

    def _is_known(self, vector: Vector) -> bool:
        if vector in self._measured:
            return True
        return all(self._effects.known(one) is not None for one in _twins(self._effects.space, vector, self._base))

    def _wholes(self, vectors: Collection[Vector]) -> dict[Vector, Part]:
        """Those of the plans that can be applied, measured as wholes."""
        new = [vector for vector in vectors if vector not in self._measured]
        self._measured |= _taken_apart(self._effects, new, self._base)
        return {vector: self._measured[vector] for vector in vectors if vector in self._measured}

    def _outlook(self, known: Sequence[Record]) -> Outlook:
        tried = []
        accuracy = accuracy_of(self._objectives)
        if accuracy is not None:
            done = {one.vector: one.metrics for one in known if one.state == "complete"}
            done.pop(self._effects.space.dense_vector, None)
            wholes = self._wholes(done)
            tried = [Tried(part, lost_share(accuracy, done[vector], self._dense)) for vector, part in wholes.items()]
        limits = None if self._limits is None else self._limits.shares
        chance = self._options.chance
        return Outlook(self._effects.space, tried, chance, self._costs, self._samples, limits)

    def _measure_best(self, parts: dict[Vector, Part], gone: Collection[Vector], outlook: Outlook, count: int) -> None:
        """Measures the best of the parts, since they add up only roughly: more are than are wanted.

        What measuring shows corrects what is guessed of others, and what lies beside the best is looked at too.
        """
        for rounds_left in reversed(range(_ROUNDS)):
            unknown = self._unmeasured(parts, outlook, _MEASURED * count)
            guessed = [parts.pop(vector) for vector in unknown]
            found = self._wholes(unknown)
            if not unknown or not rounds_left:
                return
            corrected = outlook.corrected(parts, guessed, [found.get(vector) for vector in unknown])
            best = outlook.best(list(self._measured.values()), count)
            parts = self._allowed(dict(self._beside(best)), gone, outlook) | corrected
            parts |= {vector: part for vector, part in self._measured.items() if vector in parts or vector in found}

    def _is_allowed(self, vector: Vector) -> bool:
        return self._limits is None or self._limits.allows(vector)

    def _unmeasured(self, parts: dict[Vector, Part], outlook: Outlook, count: int) -> list[Vector]:
        """Those of the best that are to be measured; what is not allowed is taken out of the parts."""
        space = self._effects.space
        for _ in range(_LOOKS):
            best = outlook.best(list(parts.values()), count)
            wanted = (vector_of(space, part.chosen) for part in best)
            unknown = [vector for vector in wanted if vector not in self._measured]
            refused = {vector for vector in unknown if not self._is_allowed(vector)}
            if not refused:
                return unknown
            for vector in refused:
                del parts[vector]
        return [vector for vector in unknown if vector not in refused]


def _taken_apart(effects: Effects, vectors: Sequence[Vector], base: Mapping[int, int]) -> dict[Vector, Part]:
    """Plans measured as wholes, and what a smaller input and their bits have of the loss."""
    space = effects.space
    # One after the other, since those of the same size share their cuts.
    effects.of([one for vector in vectors for one in _twins(space, vector, base)])
    found = {}
    for part in measured_beside(effects, list(map(chosen_by, vectors)), {}):
        vector = vector_of(space, part.chosen)
        whole, full, unrounded = map(effects.known, _twins(space, vector, base))
        shrinking = min(part.loss, _added(whole, full))
        found[vector] = replace(part, shrinking=shrinking, rounding=min(part.loss - shrinking, _added(full, unrounded)))
    return found


def _twins(space: Space, vector: Vector, base: Mapping[int, int]) -> tuple[Vector, Vector, Vector]:
    """The plan, the same at the full size, and that with the bits of a base.

    Bits are judged at the full size: at a smaller one a model may know nothing with any.
    """
    full = {**chosen_by(vector), **dict.fromkeys(places_of(space, SIZES), 0)}
    bits = {place: base.get(place, 0) for place in places_of(space, BITS)}
    return vector, vector_of(space, full), vector_of(space, {**full, **bits})


def _added(more: Effect | None, less: Effect | None) -> float:
    """What a plan loses beside a milder one; nothing where one of them cannot be applied."""
    return 0.0 if more is None or less is None else max(0.0, more.loss - less.loss)


def _told(part: Part, costs: Sequence[str]) -> str:
    times = {name: 1.0 / part.ratios.get(name, 1.0) for name in costs}
    return ", ".join(
        f"{name.split('_')[0]} 1/{value:{'.0f' if value >= 10 else '.2g'}}" for name, value in times.items()
    )
