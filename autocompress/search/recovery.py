"""How much accuracy is lost after a short training, and how much of that after a final one."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

# What trials show: of ResNet-20 on CIFAR-10 a factor of 0.11 and powers of 0.5, from a hundredth of the loss of a model
# that knows nothing up to three times as much; on the digits 0.01 to 0.05, 0.2 to 0.7 and 0.4 to 0.6.
# Weights learn their steps: what few bits add to a loss comes back more easily than what was cut. So does what a
# smaller input adds. Half of it counts on CIFAR-10, less on the digits, where half of the side loses next to nothing.
_EXPECTED = np.array([math.log(0.1), 0.5, 0.5, math.log(0.5), math.log(0.5)])
_SPREAD = np.array([1.0, 0.15, 0.2, 0.5, 1.0])
_BOUNDS = (np.array([-10.0, 0.05, 0.0, -5.0, -6.0]), np.array([1.0, 2.0, 2.0, 1.0, 1.0]))
# Of the root of a lost share; trials that lie further off are exceptions.
_NOISE = 0.03
_LEAST_LOSS = 1e-6
# What a final training leaves of what a short one lost: after one as long as was asked for, and at least. It falls
# with the steps, whatever was lost: of ResNet-20 on CIFAR-10, with 704 steps asked for, 0.74 and 0.86 were left after
# 120 and 156, 0.58 to 0.42 after 311 to 359, 0.35 and 0.26 after 647 and 683, 0.16 to 0.25 after 1,000 and more. Bits
# alone come back faster, 0.14 to 0.3 after 277 to 450. A smaller input starts best and gains least: at three quarters
# of the side 0.46 to 0.65 was left.
_RESTS = {"resolution": (0.55, 0.4), "bits": (0.03, 0.15)}
_REST = (0.3, 0.2)

Numbers = float | NDArray[np.float64]


class Trained(NamedTuple):
    """What a trial shows.

    Attributes:
        cuts: Loss before training in full bits at the full size, as a share of the loss of a model that knows nothing.
        rounding: What few bits add to it.
        shrinking: What a smaller input adds.
        params: Share of the dense model's weights that is left.
        lost: Share of the dense accuracy that is lost after it.
    """

    cuts: float
    rounding: float
    shrinking: float
    params: float
    lost: float


@dataclass(frozen=True)
class Recovery:
    """Lost accuracy as `factor * (cuts + ease * rounding + size_ease * shrinking)^power / params^need`.

    Attributes:
        factor: The share lost by a plan with all weights that at first knows nothing.
        power: How the lost share grows with the loss.
        need: How it grows with the weights that are gone.
        ease: What counts of the loss that rounding adds.
        size_ease: What counts of the loss that a smaller input adds.
    """

    factor: float
    power: float
    need: float
    ease: float
    size_ease: float

    def lost(self, cuts: Numbers, rounding: Numbers, shrinking: Numbers, params: Numbers) -> NDArray[np.float64]:
        """The share of the dense accuracy that is lost after a trial's training, 1 at most."""
        counted = np.asarray(cuts) + self.ease * np.asarray(rounding) + self.size_ease * np.asarray(shrinking)
        grown = self.factor * np.maximum(counted, _LEAST_LOSS) ** self.power
        return np.minimum(1.0, grown / np.asarray(params) ** self.need)


def rest_kind(changed: Collection[str]) -> str:
    """What tells how much training leaves: `resolution` where it changed, `bits` where nothing else did, else ""."""
    if "resolution" in changed:
        return "resolution"
    return "bits" if set(changed) == {"quantize"} else ""


def expected_rest(kind: str, length: float = 1.0) -> float:
    """The share of what a trial lost that is expected to be lost for good.

    Args:
        kind: What `rest_kind` says.
        length: Of the final training, 1 as long as was asked for.
    """
    whole, least = _RESTS.get(kind, _REST)
    return float(max(least, whole**length))


def length_for(kind: str, rest: float) -> float:
    """The length of a final training after which so large a share, or the least there is, is expected to be lost."""
    whole, least = _RESTS.get(kind, _REST)
    return math.log(max(least, rest)) / math.log(whole)


def recoveries_of(tried: Sequence[Trained] | NDArray[np.float64], draws: int) -> list[Recovery]:
    """The law that trials follow, and others that they leave likely.

    Args:
        tried: May be few: then the law that others followed counts as well.
        draws: How many others, an even number; they are drawn in pairs around the first, from the normal distribution
            with its curvature, as far as that stays within what a law may be.
    """
    data = np.asarray(tried, dtype=np.float64).reshape(-1, 5)
    cuts, rounding, shrinking, params = *data.T[:3], np.log(data[:, 3])
    roots = np.sqrt(np.maximum(data[:, 4], 0.0))

    def residuals(at: NDArray[np.float64]) -> NDArray[np.float64]:
        counted = cuts + np.exp(at[3]) * rounding + np.exp(at[4]) * shrinking
        loss = np.log(np.maximum(counted, _LEAST_LOSS))
        predicted = np.exp(np.minimum(0.0, at[0] + at[1] * loss - at[2] * params) / 2.0)
        return np.concatenate([(predicted - roots) / _NOISE, (at - _EXPECTED) / _SPREAD])

    found = least_squares(residuals, _EXPECTED, loss="soft_l1", bounds=_BOUNDS)
    # What has come to a bound stays there.
    free = found.active_mask == 0
    half = np.zeros((draws // 2, len(free)))
    spread = np.linalg.inv(np.linalg.cholesky(found.jac[:, free].T @ found.jac[:, free]))
    half[:, free] = np.random.default_rng(0).standard_normal(half.shape)[:, free] @ spread
    return [_law(found.x + _within(found.x, step)) for step in (np.zeros(len(free)), *half, *-half)]


def _within(start: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """The step, shortened where it leaves the bounds: cut off in one number only, it would be no likely law."""
    moves = step != 0.0
    room = np.where(step > 0.0, _BOUNDS[1] - start, _BOUNDS[0] - start)
    shortened: NDArray[np.float64] = step * min([1.0, *(room[moves] / step[moves])])
    return shortened


def _law(at: NDArray[np.float64]) -> Recovery:
    factor, power, need, ease, size_ease = at.tolist()
    return Recovery(math.exp(factor), power, need, math.exp(ease), math.exp(size_ease))
