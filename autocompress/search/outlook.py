"""What plans are expected to lose in a trial: a law for all of them, and what the trials nearest to them showed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autocompress.core.pareto import non_dominated
from autocompress.core.space import Space, Vector
from autocompress.search.covering import Place, Scale, covering
from autocompress.search.parts import SIZES, Part, places_of, vector_of
from autocompress.search.recovery import Recovery, Trained, expected_rest, recovery_of

# A plan that loses more than this share of the accuracy in a trial covers nothing: of what ResNet-20 on CIFAR-10 loses
# there three tenths are left after its final training, and a fiftieth of the accuracy is the most that counts then.
WORST_LOST = 0.07
# Shares of the accuracy are known no better than some standard errors of an accuracy of 98 %: by a trial on 5,000
# images to one in 190, on 357 to one in 50. With one in 200 there, half of the trials on the digits went to plans
# several times as large as others that seemed to lose two images more, and the final training made them equal.
_STANDARD_ERRORS, _TYPICAL_ACCURACY = 2.7, 0.98
# Of what a trial lost beside the law, a plan that differs in so many decisions is expected to share 1/e.
_REACH = 8.0
# What is expected far from all trials is seldom true: of no cost is less left than this share of what was left by the
# cheapest trial that covers anything. Without it, plans of 1 kB followed trials of 8 kB, and lost all.
_LEAP = 0.5
# Where limits leave only plans that lose more than `WORST_LOST`, those that lose up to so many times the best count.
_ROOM = 2.0
# Costs of plans that were not measured are guessed; what seems to pass a limit by so much may keep to it.
_GUESSED = 1.1
# Losses below this share of what a model that knows nothing loses are all alike.
_LEAST_LOSS = 1e-4


@dataclass(frozen=True)
class Tried:
    """A plan measured as a whole before its training, and the share of the dense accuracy that its trial lost."""

    part: Part
    lost: float


class Outlook:
    """Expectations from trials."""

    def __init__(
        self,
        space: Space,
        tried: Sequence[Tried],
        chance: float,
        costs: Sequence[str],
        asked: Sequence[str],
        samples: int,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        """Fits the law.

        Args:
            space: Of the plans.
            tried: May be empty.
            chance: Loss of a model that knows nothing.
            costs: That count; none where all that counts is accuracy.
            asked: Those of them that were asked for.
            samples: How many a trial's accuracy is of.
            limits: By cost, the share of the dense model's that is allowed, where plans are limited in any way.
        """
        self._space, self._is_limited, self._limits = space, limits is not None, limits or {}
        self._chance = max(chance, 1e-12)
        blur = _STANDARD_ERRORS * math.sqrt(_TYPICAL_ACCURACY * (1.0 - _TYPICAL_ACCURACY) / max(1, samples))
        self._scale, self._asked = Scale(tuple(costs), WORST_LOST, blur), tuple(asked)
        self._tried = [one.part for one in tried]
        self._sizes = set(places_of(space, SIZES))
        self._ready = [self._place(one.lost, one.part) for one in tried]
        self._least = self._reachable()
        self._law: Recovery = recovery_of([Trained(*self._known(one.part), one.lost) for one in tried])
        expected = [self._law.lost(*self._known(one.part)) for one in tried]
        self._beside = np.array(
            [math.log((max(0.0, t.lost) + blur) / (law + blur)) for t, law in zip(tried, expected, strict=True)]
        )

    def reached(self, count: int) -> list[Part]:
        """At most `count` of the plans that were tried: those that cover most."""
        within = [index for index, part in enumerate(self._tried) if self.is_within(part)]
        places = [self._ready[index] for index in within]
        return [self._tried[within[index]] for index in self._covering(places, [], count)]

    def lost(self, parts: Sequence[Part]) -> list[float]:
        """The shares of the accuracy that trials are expected to lose."""
        expected = np.array([self._law.lost(*self._known(part)) for part in parts])
        if len(self._tried) and len(parts):
            beside, blur = self._told_beside(parts, self._tried, self._beside), self._scale.blur
            expected = (expected + blur) * np.exp(beside) - blur
        return [float(min(1.0, max(0.0, lost))) for lost in expected]

    def corrected(
        self, parts: Mapping[Vector, Part], guessed: Sequence[Part], measured: Sequence[Part | None]
    ) -> dict[Vector, Part]:
        """Parts whose losses were added up, corrected by what measuring the guessed ones nearest to them showed."""
        pairs = [(one, other) for one, other in zip(guessed, measured, strict=True) if other is not None]
        if not pairs or not parts:
            return dict(parts)
        least = _LEAST_LOSS * self._chance
        apart = np.array([math.log((other.loss + least) / (one.loss + least)) for one, other in pairs])
        factors = np.exp(self._told_beside(list(parts.values()), [one for one, _ in pairs], apart))
        return {
            vector: replace(
                part, loss=part.loss * factor, rounding=part.rounding * factor, shrinking=part.shrinking * factor
            )
            for (vector, part), factor in zip(parts.items(), factors.tolist(), strict=True)
        }

    def _told_beside(
        self, parts: Sequence[Part], others: Sequence[Part], told: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What the nearest of some other parts told, the less the more decisions differ."""
        vectors = self._matrix(parts)
        apart = np.stack([(vectors != one).sum(axis=1) for one in self._matrix(others)], axis=1)
        nearest = apart.argmin(axis=1)
        weights = np.exp(-apart[np.arange(len(parts)), nearest] / _REACH)
        found: NDArray[np.float64] = weights * told[nearest]
        return found

    def best(self, parts: Sequence[Part], count: int, coming: Sequence[Part] = ()) -> list[Part]:
        """At most `count` parts that cover most of the front beside what was tried, and are not far beyond it.

        Args:
            parts: To choose among.
            count: How many.
            coming: Parts that are being tried, taken to end where they are expected.
        """
        near = [part for part in parts if self._is_near(part) and self.is_within(part)]
        ready = [*self._ready, *self._expected(coming)]
        places = self._expected(near)
        left = self._unbeaten(places, ready)
        return [near[left[index]] for index in self._covering([places[index] for index in left], ready, count)]

    def _unbeaten(self, places: Sequence[Place], ready: Sequence[Place]) -> list[int]:
        """The places that no other beats in all that was asked for: none is tried for its work alone."""
        if not self._asked:
            return list(range(len(places)))
        asked = replace(self._scale_of(places), costs=self._asked)
        found = non_dominated([asked.coordinates(place) for place in (*places, *ready)])
        return [index for index in found if index < len(places)]

    def _covering(self, places: Sequence[Place], ready: Sequence[Place], count: int) -> Sequence[int]:
        """Those that cover most; where nothing is to be saved, those that lose least."""
        if not self._scale.costs:
            return sorted(range(len(places)), key=lambda index: places[index].lost)[:count]
        return covering(places, ready, self._scale_of(places), count)

    def _is_near(self, part: Part) -> bool:
        return all(part.ratios.get(cost, 1.0) >= least for cost, least in self._least.items())

    def is_within(self, part: Part) -> bool:
        """Whether a part seems to keep to the limits."""
        return all(part.ratios.get(cost, 1.0) <= _GUESSED * most for cost, most in self._limits.items())

    def _scale_of(self, places: Sequence[Place]) -> Scale:
        """What counts among some places: where limits leave nothing better, also what loses much."""
        if not self._is_limited or not places:
            return self._scale
        least = min(place.lost for place in places)
        return replace(self._scale, worst_lost=max(self._scale.worst_lost, _ROOM * least))

    def _expected(self, parts: Sequence[Part]) -> list[Place]:
        """Where trials of parts are expected to end."""
        return [self._place(lost, part) for lost, part in zip(self.lost(parts), parts, strict=True)]

    def _reachable(self) -> dict[str, float]:
        """By cost, the share that a plan has to leave; nothing before there were trials."""
        good = [place for place in self._ready if place.lost <= WORST_LOST]
        least = {cost: min(place.ratios.get(cost, 1.0) for place in good) for cost in self._scale.costs if good}
        return {cost: _LEAP * min(share, self._limits.get(cost, 1.0)) for cost, share in least.items()}

    def _place(self, lost: float, part: Part) -> Place:
        """Where a part stands; where more stays lost than of other plans, more counts as lost."""
        if not self._sizes.isdisjoint(part.chosen):
            lost *= expected_rest("resolution") / expected_rest("")
        return Place(lost, part.ratios)

    def _known(self, part: Part) -> tuple[float, float, float, float]:
        """What the law is of: the losses of cuts, of rounding and of a smaller input, and the weights that are left."""
        cuts, rounding, shrinking = (loss / self._chance for loss in (part.cuts, part.rounding, part.shrinking))
        return cuts, rounding, shrinking, part.ratios.get("params", 1.0)

    def _matrix(self, parts: Sequence[Part]) -> NDArray[np.int8]:
        return np.array([vector_of(self._space, part.chosen) for part in parts], dtype=np.int8)
