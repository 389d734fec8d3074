"""Random small networks of well-known families, the same for the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from networks import (
    CLASSES,
    Attention,
    Joined,
    Mixed,
    Scaled,
    Segmenting,
    Shuffled,
    Transformer,
    basic,
    bottleneck,
    conv,
    dense,
    encoder,
    fire,
    head,
    inverted,
)
from torch import nn


@dataclass(frozen=True)
class Drawn:
    """A random network: what it is made of, and the side of its images, `[batch, 3, side, side]`."""

    family: str
    model: nn.Module
    side: int


def random_network(seed: int) -> Drawn:
    """The same network for the same seed: up to some hundred million MACs, in evaluation mode, never trained."""
    random = Random(seed)
    torch.manual_seed(seed)
    share = random.random()
    drawn = next(draw for limit, draw in _DRAWS if share < limit)(random)
    drawn.model.eval()
    return drawn


def _width(random: Random, low: float, high: float) -> int:
    """Mostly a multiple of 8 or 16, as people choose; sometimes any number, as pruning leaves."""
    step = random.choice([16, 8, 8, 4, 4, 1])
    wanted = low * math.pow(high / low, random.random())
    return max(step, round(wanted / step) * step)


def _transformer(random: Random) -> Drawn:
    side = random.choice([24, 32, 48, 64])
    patch = random.choice([size for size in (4, 8, 16) if 2 <= side // size <= 14])
    heads = random.choice([2, 3, 4, 6])
    width = heads * min(random.choice([8, 16, 16, 32, 32, 64]), 192 // heads)
    depth, inner, first = random.choice([1, 2, 3, 4]), width * random.choice([1, 2, 3, 4]), random.random() < 0.5
    act = random.choice(["relu", "gelu"])
    if random.random() < 0.5:
        layers = encoder(width, heads, inner, depth, act, first)
    else:
        layers = nn.Sequential(*(Attention(width, heads, inner, act, first) for _ in range(depth)))
    return Drawn("transformer", Transformer(patch, width, layers, norm=first), side)


def _segmenting(random: Random) -> Drawn:
    widths = _width(random, 8, 24), _width(random, 16, 48), _width(random, 24, 96)
    return Drawn("segmenting", Segmenting(widths, random.random() < 0.5), random.choice([24, 32, 48, 64, 96]))


def _flattening(random: Random) -> Drawn:
    """A LeNet: two convolutions, each halved, and linear layers on what is left."""
    side, size = random.choice([24, 28, 32]), random.choice([3, 5])
    first, second, inner = _width(random, 4, 32), _width(random, 8, 64), _width(random, 32, 512)
    padding = random.choice([0, size // 2])
    left = side
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, first), (first, second)):
        layers += [nn.Conv2d(inputs, outputs, size, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
        left = (left + 2 * padding - size + 1) // 2
    layers += [nn.Flatten(), nn.Linear(second * left * left, inner), nn.ReLU(), nn.Linear(inner, CLASSES)]
    return Drawn("flattening", nn.Sequential(*layers), side)


def _staged(random: Random) -> Drawn:
    """A stem and stages of blocks, of one family or each of another."""
    side = random.choice([24, 28, 32, 32, 40, 48, 56, 64, 64, 80, 96, 112, 128, 160, 224])
    family = random.choice(list(_BLOCKS)) if random.random() < 0.6 else None
    width = _width(random, 8, 48 if side <= 64 else 32)
    first = 1 if side <= 40 else 2
    body: list[nn.Module] = [conv(3, width, random.choice([3, 3, 3, 5, 7]), first)]
    left = side // first
    if side > 128 or (first == 2 and random.random() < 0.3):
        body.append(nn.MaxPool2d(3, 2, 1))
        left //= 2
    for stage in range(random.choice([2, 3, 3, 4])):
        block = _BLOCKS[family or random.choice(list(_BLOCKS))]
        wanted = width if stage == 0 and random.random() < 0.5 else min(512, _width(random, width, 2.2 * width))
        for number in range(random.choice([1, 2, 2, 3])):
            stride = 2 if number == 0 and stage and left >= 8 and left % 2 == 0 else 1
            layer, width = block(random, width, wanted, stride)
            body.append(layer)
            wanted, left = width, left // stride
    if random.random() < 0.3:
        wanted = _width(random, width, 3 * width)
        body.append(conv(width, wanted, 1))
        width = wanted
    return Drawn(family or "staged", nn.Sequential(*body, *head(width)), side)


_Block = Callable[[Random, int, int, int], tuple[nn.Module, int]]


def _plain_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    pooled = stride > 1 and random.random() < 0.6
    layer = conv(inputs, outputs, random.choice([3, 3, 5]), 1 if pooled else stride)
    return nn.Sequential(*([nn.MaxPool2d(2)] if pooled else []), layer), outputs


def _pointwise_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    return conv(inputs, outputs, 1, stride), outputs


def _basic_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    inner = outputs if random.random() < 0.6 else _width(random, max(4, outputs // 4), outputs)
    return basic(inputs, outputs, stride, inner), outputs


def _bottleneck_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    return bottleneck(inputs, outputs, stride, 1, random.choice([2, 4])), outputs


def _grouped_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    return bottleneck(inputs, outputs, stride, random.choice([2, 4, 8, 16]), random.choice([2, 4])), outputs


def _inverted_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    growth, size = random.choice([2, 3, 4, 6]), random.choice([3, 3, 3, 5])
    act = random.choice(["relu", "relu6", "relu6", "hardswish", "silu"])
    return inverted(inputs, outputs, stride, random.random() < 0.35, growth, size, act), outputs


def _separable_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    size = random.choice([3, 3, 3, 5])
    return nn.Sequential(conv(inputs, inputs, size, stride, inputs), conv(inputs, outputs, 1)), outputs


def _dense_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    return dense(inputs, outputs, stride, _width(random, 8, max(9, outputs)), random.random() < 0.5), outputs


def _fire_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    return fire(inputs, outputs, stride, random.choice([2, 4])), outputs


def _inception_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    thin, part = max(4, inputs // 2), max(4, outputs // 3)
    pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(thin, part, 1))
    joined = Joined(conv(thin, part, 1), conv(thin, part, random.choice([3, 5])), pooled)
    return nn.Sequential(*([nn.MaxPool2d(2)] if stride > 1 else []), conv(inputs, thin, 1), joined), 3 * part


def _scaled_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    return nn.Sequential(conv(inputs, outputs, 3, stride), Scaled(outputs)), outputs


def _mixed_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    first = [] if inputs == outputs and stride == 1 else [nn.Conv2d(inputs, outputs, stride, stride)]
    return nn.Sequential(*first, Mixed(outputs, random.choice([3, 5, 7]), random.choice([2, 4]))), outputs


def _shuffled_block(random: Random, inputs: int, outputs: int, stride: int) -> tuple[nn.Module, int]:
    outputs = max(8, outputs // 4 * 4)
    first = [] if inputs == outputs and stride == 1 else [conv(inputs, outputs, 1, stride)]
    return nn.Sequential(*first, Shuffled(outputs)), outputs


_BLOCKS: dict[str, _Block] = {
    "plain": _plain_block,
    "pointwise": _pointwise_block,
    "basic": _basic_block,
    "bottleneck": _bottleneck_block,
    "grouped": _grouped_block,
    "inverted": _inverted_block,
    "separable": _separable_block,
    "dense": _dense_block,
    "fire": _fire_block,
    "inception": _inception_block,
    "scaled": _scaled_block,
    "mixed": _mixed_block,
    "shuffled": _shuffled_block,
}
# Up to which share of the random numbers what is drawn.
_DRAWS: tuple[tuple[float, Callable[[Random], Drawn]], ...] = (
    (0.12, _transformer),
    (0.17, _segmenting),
    (0.21, _flattening),
    (1.0, _staged),
)
