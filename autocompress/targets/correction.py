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
from autocompress.targets.law import Factor, sizes_of

# Standard error of the logarithm of a time, and milliseconds; times below the latter are all alike.
NOISE, FLOOR_MS = 0.1, 0.001
# The same for kernels that took no time at all; whether a runtime fuses one away hangs on more than is compared.
GONE = 0.5
# Of each way to be alike: how much f varies, and over which factors (e to the power of these) of channels and of sides.
WAYS = ((1.0, 4.5, 3.0), (0.7, 4.0, 4.0), (0.5, 2.8, 2.9), (0.3, 3.3, 5.0), (0.3, 1.5, 3.0))
# Nothing is corrected by more than this factor.
_MOST = 10.0
_BLOCKS = (16, 8, 4, 2)
# Channels are computed on in blocks if they are multiples of this, and by slower kernels if not.
_WHOLE = 4
_FREE = ("relu", "clamp")

Array = NDArray[np.float64]


class Likeness(NamedTuple):
    """What two kernels are compared by.

    Attributes:
        names: What alike kernels have in common: the op; how far its channels fill blocks as well; operator, window,
            steps, fusion and whether blocks are whole beside the op; what wrote its inputs beside those; all of it.
        place: Logarithms of the channels read and written in a group, the sides of input and output, and the groups.
    """

    names: tuple[str, ...]
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
        found = math.exp(alike.at(own)) if alike is not None else 1.0
        return min(_MOST, max(1.0 / _MOST, found))

    @cached_property
    def _by_kind(self) -> Mapping[str, _Alike]:
        weights = np.array(self.weights)
        return {names[0][0]: _Alike.of(names, places, weights[which]) for which, names, places in _kinds(self.known)}


@dataclass(frozen=True)
class Chained:
    """A correction, and another one of what it left."""

    first: Factor
    second: Factor

    def factor(self, kernel: Kernel, dtype: str) -> float:
        """What the law's time of a kernel that computes in `dtype` is multiplied by."""
        return self.first.factor(kernel, dtype) * self.second.factor(kernel, dtype)


class _Alike(NamedTuple):
    """The known kernels of one kind: their places and weights, and by way and name which of them have that name."""

    places: Array
    weights: Array
    named: tuple[Mapping[str, NDArray[np.int64]], ...]

    @staticmethod
    def of(names: Sequence[tuple[str, ...]], places: Array, weights: Array) -> _Alike:
        named: list[dict[str, list[int]]] = [{} for _ in WAYS]
        for number, own in enumerate(names):
            for way, name in zip(named, own, strict=True):
                way.setdefault(name, []).append(number)
        return _Alike(places, weights, tuple({name: np.array(which) for name, which in way.items()} for way in named))

    def at(self, one: Likeness) -> float:
        """The mean of the process there."""
        total = 0.0
        for way, named, name in zip(WAYS, self.named, one.names, strict=True):
            which = named.get(name)
            if which is not None:
                near = _nearness(way, self.places[which] - np.array(one.place))
                total += way[0] ** 2 * float(near @ self.weights[which])
        return total


def learnt(kernels: Sequence[Likeness], law_ms: Array, measured_ms: Array) -> Correction:
    """What a law leaves of kernels with their times.

    Args:
        kernels: Each once.
        law_ms: What the law says of them, `[kernels]`.
        measured_ms: Their times, `[kernels]`; 0 for those that a runtime fused away.
    """
    weights = np.zeros(len(kernels))
    left = np.log(np.maximum(measured_ms, FLOOR_MS) / np.maximum(law_ms, FLOOR_MS))
    noise = np.where(measured_ms > 0.0, NOISE, GONE) ** 2 + (FLOOR_MS / np.maximum(law_ms, FLOOR_MS)) ** 2
    for which, names, places in _kinds(kernels):
        weights[which] = np.linalg.solve(_covariance(names, places) + np.diag(noise[which]), left[which])
    return Correction(tuple(kernels), tuple(round(float(weight), 6) for weight in weights))


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
    sizes = [max(1, inputs // groups), max(1, outputs // groups)]
    whole = [size % _WHOLE == 0 for size in sizes]
    filled = [(next((block for block in _BLOCKS if size % block == 0), 1), size < _BLOCKS[0]) for size in sizes]
    ranks = f"{len(key.out_shape)} {len(key.in_shapes)}"
    family = f"{kind} {key.aten} {window} {key.stride} {key.dilation} {fused} {ranks} {whole}"
    sides = [0.5 * math.log(max(1, each)) for each in (read, pixels)]
    place = (*(math.log(size) for size in sizes), *sides, math.log(groups))
    within = f"{family} {kernel.sources}"
    names = (kind, f"{kind} {filled}", family, within, f"{within} {filled}")
    return Likeness(names, place)


def _kinds(kernels: Sequence[Likeness]) -> Iterator[tuple[NDArray[np.int64], list[tuple[str, ...]], Array]]:
    """The kernels of each kind: as numbers, by their names, and by their places; other kinds say nothing of them."""
    found: dict[str, list[int]] = {}
    for number, one in enumerate(kernels):
        found.setdefault(one.names[0], []).append(number)
    for which in found.values():
        own = [kernels[number] for number in which]
        yield np.array(which), [one.names for one in own], np.array([one.place for one in own])


def _covariance(names: Sequence[tuple[str, ...]], places: Array) -> Array:
    """Of all kernels of a kind with each other, `[kernels, kernels]`."""
    apart = places[:, None, :] - places[None]
    total = np.zeros(apart.shape[:2])
    for number, way in enumerate(WAYS):
        own = np.unique([each[number] for each in names], return_inverse=True)[1]
        total += way[0] ** 2 * (own[:, None] == own[None]) * _nearness(way, apart)
    return total


def _nearness(way: tuple[float, float, float], apart: Array) -> Array:
    """From 1 for the same place down to 0, `[...]` of differences `[..., 5]`."""
    _, over_channels, over_sides = way
    scales = np.array([over_channels, over_channels, over_sides, over_sides, over_channels])
    return np.asarray(np.exp(-0.5 * ((apart / scales) ** 2).sum(-1)), dtype=np.float64)
