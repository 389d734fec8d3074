"""What plans are expected to lose in a trial, by laws for all of them and what the trials nearest to them showed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autocompress.core.space import Space, Vector
from autocompress.search.covering import Scale, covering
from autocompress.search.parts import SIZES, Part, places_of, vector_of
from autocompress.search.recovery import expected_rest, recoveries_of

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
# So many laws are taken as likely beside the one that suits trials best. What is measured, and what is tried, is what
# adds most in the mean over all: where little is known of what training brings back, one law is a guess.
_DRAWS = 8
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
        samples: int,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        """Fits the laws.

        Args:
            space: Of the plans.
            tried: May be empty.
            chance: Loss of a model that knows nothing.
            costs: That count; none where all that counts is accuracy.
            samples: How many a trial's accuracy is of.
            limits: By cost, the share of the dense model's that is allowed, where plans are limited in any way.
        """
        self._space, self._is_limited, self._limits = space, limits is not None, limits or {}
        self._chance = max(chance, 1e-12)
        blur = _STANDARD_ERRORS * math.sqrt(_TYPICAL_ACCURACY * (1.0 - _TYPICAL_ACCURACY) / max(1, samples))
        self._scale = Scale(tuple(costs), WORST_LOST, blur)
        self._sizes = set(places_of(space, SIZES))
        self._tried = [one.part for one in tried]
        true = np.array([one.lost for one in tried], dtype=np.float64)
        self._stays = true * self._weights(self._tried)
        self._least = self._reachable()
        known = self._known(self._tried)
        # Without costs the plans are put in order, by the law that suits best.
        self._laws = recoveries_of(np.column_stack([known, true]), _DRAWS if costs else 0)
        expected = self._by_laws(known)
        self._vectors = self._matrix(self._tried)
        self._beside = np.log((np.maximum(0.0, true) + blur) / (expected + blur))

    def reached(self, count: int) -> list[Part]:
        """At most `count` of the plans that were tried: those that cover most."""
        within = [index for index, part in enumerate(self._tried) if self.is_within(part)]
        tried = [self._tried[index] for index in within]
        return self._covering(tried, self._stays[np.newaxis, within], [], np.empty((1, 0)), count)

    def lost(self, parts: Sequence[Part]) -> list[float]:
        """The shares of the accuracy that trials are expected to lose, by the law that suits best."""
        found: list[float] = self._lost(parts)[0].tolist()
        return found

    def _lost(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """The same by every law, [laws, parts]."""
        expected = self._by_laws(self._known(parts))
        if len(self._tried) and len(parts):
            beside, blur = self._told_beside(parts, self._vectors, self._beside), self._scale.blur
            expected = (expected + blur) * np.exp(beside) - blur
        found: NDArray[np.float64] = np.clip(expected, 0.0, 1.0)
        return found

    def _by_laws(self, known: NDArray[np.float64]) -> NDArray[np.float64]:
        """What every law tells of plans, [laws, plans]."""
        return np.array([law.lost(*known.T) for law in self._laws])

    def corrected(
        self, parts: Mapping[Vector, Part], guessed: Sequence[Part], measured: Sequence[Part | None]
    ) -> dict[Vector, Part]:
        """Parts whose losses were added up, corrected by what measuring the guessed ones nearest to them showed."""
        pairs = [(one, other) for one, other in zip(guessed, measured, strict=True) if other is not None]
        if not pairs or not parts:
            return dict(parts)
        least = _LEAST_LOSS * self._chance
        apart = np.array([math.log((other.loss + least) / (one.loss + least)) for one, other in pairs])
        factors = np.exp(self._told_beside(list(parts.values()), self._matrix([one for one, _ in pairs]), apart))
        return {
            vector: replace(
                part, loss=part.loss * factor, rounding=part.rounding * factor, shrinking=part.shrinking * factor
            )
            for (vector, part), factor in zip(parts.items(), factors.tolist(), strict=True)
        }

    def _told_beside(
        self, parts: Sequence[Part], others: NDArray[np.int8], told: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What the nearest of some other plans told, [..., others], the less the more decisions differ."""
        vectors = self._matrix(parts)
        least, nearest = np.full(len(parts), np.inf), np.zeros(len(parts), dtype=np.intp)
        for index, other in enumerate(others):
            apart = (vectors != other).sum(axis=1)
            is_nearer = apart < least
            least[is_nearer], nearest[is_nearer] = apart[is_nearer], index
        found: NDArray[np.float64] = np.exp(-least / _REACH) * told[..., nearest]
        return found

    def best(self, parts: Sequence[Part], count: int, coming: Sequence[Part] = ()) -> list[Part]:
        """At most `count` parts that cover most of the front beside what was tried, and are not far beyond it.

        Args:
            parts: To choose among.
            count: How many.
            coming: Parts that are being tried, taken to end where they are expected.
        """
        near = [part for part in parts if self._is_near(part) and self.is_within(part)]
        tried = np.broadcast_to(self._stays, (len(self._laws), len(self._tried)))
        ready = np.hstack([tried, self._stays_of(coming)])
        return self._covering(near, self._stays_of(near), [*self._tried, *coming], ready, count)

    def _stays_of(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """What counts as lost of what trials are expected to lose, [laws, parts]."""
        return self._lost(parts) * self._weights(parts)

    def _covering(
        self,
        parts: Sequence[Part],
        stays: NDArray[np.float64],
        beside: Sequence[Part],
        beside_stays: NDArray[np.float64],
        count: int,
    ) -> list[Part]:
        """Those that cover most beside others; where nothing is to be saved, those that lose least."""
        if not self._scale.costs:
            return [parts[index] for index in np.argsort(stays[0], kind="stable")[:count]]
        scale = self._scale_of(stays[0])
        points = scale.points(stays, [part.ratios for part in parts])
        ready = scale.points(beside_stays, [part.ratios for part in beside])
        return [parts[index] for index in covering(points, ready, scale, count)]

    def _is_near(self, part: Part) -> bool:
        return all(part.ratios.get(cost, 1.0) >= least for cost, least in self._least.items())

    def is_within(self, part: Part) -> bool:
        """Whether a part seems to keep to the limits."""
        return all(part.ratios.get(cost, 1.0) <= _GUESSED * most for cost, most in self._limits.items())

    def _scale_of(self, stays: NDArray[np.float64]) -> Scale:
        """What counts among plans that lose so much: where limits leave nothing better, also what loses much."""
        if not self._is_limited or not len(stays):
            return self._scale
        return replace(self._scale, worst_lost=max(self._scale.worst_lost, _ROOM * float(stays.min())))

    def _reachable(self) -> dict[str, float]:
        """By cost, the share that a plan has to leave; nothing before there were trials."""
        good = [part for part, lost in zip(self._tried, self._stays, strict=True) if lost <= WORST_LOST]
        least = {cost: min(part.ratios.get(cost, 1.0) for part in good) for cost in self._scale.costs if good}
        return {cost: _LEAP * min(share, self._limits.get(cost, 1.0)) for cost, share in least.items()}

    def _weights(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """What counts of a loss: where more stays lost than of other plans, more."""
        smaller = expected_rest("resolution") / expected_rest("")
        return np.array([1.0 if self._sizes.isdisjoint(part.chosen) else smaller for part in parts])

    def _known(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """What a law is of, [parts, 4]: the losses of cuts, rounding and a smaller input, and the weights left."""
        rows = [(part.cuts, part.rounding, part.shrinking, part.ratios.get("params", 1.0)) for part in parts]
        return np.array(rows).reshape(-1, 4) / [self._chance, self._chance, self._chance, 1.0]

    def _matrix(self, parts: Sequence[Part]) -> NDArray[np.int8]:
        return np.array([vector_of(self._space, part.chosen) for part in parts], dtype=np.int8)
