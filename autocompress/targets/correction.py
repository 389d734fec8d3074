"""What a law leaves of the times of kernels, learnt by a Gaussian process.

    t(kernel) = law(kernel) exp f(kernel),    f ~ GP(0, k)

    f(kernel) = k(kernel, known) a,    a = (K + N)^-1 log(t / law),    N = NOISE^2 + (FLOOR / law)^2

The covariance k is a sum over five ways in which two kernels may be alike (`Likeness`), each with a size and two
lengths, of channels and of sides, all as logarithms.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equations 2.25 and 2.26.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autocompress.core.kernel import Kernel
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.law import sizes_of

# Standard error of the logarithm of a time, and milliseconds; times below the latter are all alike.
NOISE, FLOOR_MS = 0.1, 0.001
# Of each way to be alike: how much f varies, and over which factors (e to the power of these) of channels and of sides.
WAYS = ((0.4, 4.0, 4.0), (0.2, 2.5, 4.0), (0.4, 3.0, 2.5), (0.3, 3.0, 2.5), (0.15, 1.0, 2.0))
# Nothing is corrected by more than this factor.
_MOST = 10.0
_BLOCKS = (16, 8, 4, 2)
_FREE = ("relu", "clamp")

Array = NDArray[np.float64]


class Likeness(NamedTuple):
    """What two kernels are compared by.

    Attributes:
        names: What alike kernels have in common: the op; how far its channels fill blocks as well; operator, window,
            steps and fusion beside the op; what wrote its inputs beside those; all of it.
        place: Logarithms of the channels read and written in a group, the sides of input and output, and the groups.
    """

    names: tuple[str, str, str, str, str]
    place: tuple[float, ...]


@dataclass(frozen=True)
class Correction:
    """The process as it was learnt: the kernels of known networks, and the weight of each."""

    known: tuple[Likeness, ...]
    weights: tuple[float, ...]

    def factor(self, kernel: Kernel, dtype: str) -> float:
        """What the law's time of a kernel that computes in `dtype` is multiplied by; 1 far from all that is known."""
        own = likeness(kernel, dtype)
        alike = self._by_kind.get(own.names[0])
        if alike is None:
            return 1.0
        places, weights = alike
        found = math.exp(float(_covariance(_Places.of([own]), places)[0] @ weights))
        return min(_MOST, max(1.0 / _MOST, found))

    @cached_property
    def _by_kind(self) -> Mapping[str, tuple[_Places, Array]]:
        weights = np.array(self.weights)
        return {kind: (places, weights[which]) for kind, which, places in _kinds(self.known)}


def learnt(kernels: Sequence[Likeness], law_ms: Array, measured_ms: Array) -> Correction:
    """What follows from kernels with their times.

    Args:
        kernels: Each once.
        law_ms: What the law says of them, `[kernels]`.
        measured_ms: Their times, `[kernels]`.
    """
    weights = np.zeros(len(kernels))
    left = np.log(np.maximum(measured_ms, FLOOR_MS) / np.maximum(law_ms, FLOOR_MS))
    noise = NOISE**2 + (FLOOR_MS / np.maximum(law_ms, FLOOR_MS)) ** 2
    for _, which, places in _kinds(kernels):
        weights[which] = np.linalg.solve(_covariance(places, places) + np.diag(noise[which]), left[which])
    return Correction(tuple(kernels), tuple(round(float(weight), 6) for weight in weights))


class _Places(NamedTuple):
    """Likenesses as arrays: `[kernels, 5]` hashes of the names and `[kernels, 5]`."""

    names: NDArray[np.int64]
    places: Array

    @staticmethod
    def of(likes: Sequence[Likeness]) -> _Places:
        names = np.array([[hash(name) for name in one.names] for one in likes])
        return _Places(names, np.array([one.place for one in likes]))


def _kinds(kernels: Sequence[Likeness]) -> Iterator[tuple[str, NDArray[np.int64], _Places]]:
    """The kernels of each kind, as numbers and as arrays; kernels of different kinds say nothing of each other."""
    found: dict[str, list[int]] = {}
    for number, one in enumerate(kernels):
        found.setdefault(one.names[0], []).append(number)
    for kind, which in found.items():
        yield kind, np.array(which), _Places.of([kernels[number] for number in which])


def likeness(kernel: Kernel, dtype: str) -> Likeness:
    """What a kernel that computes in `dtype` is compared by."""
    key = KernelKey.of(kernel, dtype)
    inputs, outputs, pixels = sizes_of(kernel)
    depthwise = kernel.is_depthwise
    groups = 1 if depthwise else kernel.groups
    read = math.prod(kernel.in_shapes[0]) // max(1, inputs) if kernel.in_shapes else 1
    kind = f"{dtype} {key.op} {'depthwise' if depthwise else 'grouped' if groups > 1 else ''}"
    window = key.weight_shape[2:] if key.weight_shape is not None else key.window
    fused = sorted(name for name in key.fused if name not in _FREE)
    family = f"{key.aten} {window} {key.stride} {key.dilation} {fused} {len(key.out_shape)} {len(key.in_shapes)}"
    sizes = [max(1, inputs // groups), max(1, outputs // groups)]
    blocks = [next((block for block in _BLOCKS if size % block == 0), 1) for size in sizes]
    filled = f"{blocks} {[size < _BLOCKS[0] for size in sizes]}"
    sides = [0.5 * math.log(max(1, each)) for each in (read, pixels)]
    place = (*(math.log(size) for size in sizes), *sides, math.log(groups))
    names = (
        kind,
        f"{kind} {filled}",
        f"{kind} {family}",
        f"{kind} {family} {kernel.sources}",
        f"{kind} {family} {kernel.sources} {filled}",
    )
    return Likeness(names, place)


def _covariance(some: _Places, others: _Places) -> Array:
    """`[some, others]`."""
    apart = some.places[:, None, :] - others.places[None]
    channels, sides = (apart[..., :2] ** 2).sum(-1) + apart[..., 4] ** 2, (apart[..., 2:4] ** 2).sum(-1)
    total = np.zeros(channels.shape)
    for way, (size, over_channels, over_sides) in enumerate(WAYS):
        same = some.names[:, way][:, None] == others.names[:, way][None]
        near = np.exp(-0.5 * (channels / over_channels**2 + sides / over_sides**2))
        total += size**2 * same * near
    return total
