"""Well-known networks on images, as torchvision writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from autocompress.core.network import Network
from autocompress.targets.published.writer import Map, Writer


def alexnet(side: int = 224) -> Network:
    """AlexNet; its adaptive pool changes nothing at 224 x 224."""
    net = Writer()
    x = net.pool(net.relu(net.conv(net.image(side), 64, 11, 4, 2)), 3, 2)
    x = net.pool(net.relu(net.conv(x, 192, 5)), 3, 2)
    for width in (384, 256, 256):
        x = net.relu(net.conv(x, width))
    return _classifier(net, net.pool(x, 3, 2))


def _classifier(net: Writer, x: Map) -> Network:
    for width in (4096, 4096):
        x = net.relu(net.linear(x, width))
    return net.network(net.linear(x, 1000))


def vgg(counts: Sequence[int], norm: bool = False, side: int = 224) -> Network:
    """A VGG with so many convolutions before each of its five pools."""
    net = Writer()
    x = net.image(side)
    for width, count in zip((64, 128, 256, 512, 512), counts, strict=True):
        for _ in range(count):
            x = net.conv_norm_relu(x, width) if norm else net.relu(net.conv(x, width))
        x = net.pool(x, 2, 2)
    return _classifier(net, x)


def resnet(blocks: Sequence[int], bottleneck: bool, groups: int = 1, base: int = 64, side: int = 224) -> Network:
    """A ResNet or, with groups, a ResNeXt; `base` is the inner width per group."""
    net = Writer()
    x = net.pool(net.conv_norm_relu(net.image(side), 64, 7, 2), 3, 2, 1)
    for stage, count in enumerate(blocks):
        for index in range(count):
            x = _residual(net, x, 64 << stage, bottleneck, 2 if stage and index == 0 else 1, groups, base)
    return net.network(net.linear(net.global_pool(x), 1000))


def _residual(net: Writer, x: Map, width: int, bottleneck: bool, stride: int, groups: int, base: int) -> Map:
    out = width * (4 if bottleneck else 1)
    if bottleneck:
        inner = width * base // 64 * groups
        y = net.conv_norm_relu(net.conv_norm_relu(x, inner, 1), inner, 3, stride, groups=groups)
        y = net.conv_norm(y, out, 1)
    else:
        y = net.conv_norm(net.conv_norm_relu(x, width, 3, stride), width)
    shortcut = x if (x.channels, x.side) == (out, y.side) else net.conv_norm(x, out, 1, stride)
    return net.relu(net.add(y, shortcut))


def squeezenet(first: int, k: int, pools: Sequence[int], side: int = 224) -> Network:
    """A SqueezeNet: its first convolution, and the fire modules that a pool follows."""
    net = Writer()
    x = net.pool(net.relu(net.conv(net.image(side), first, k, 2, 0)), 3, 2, ceil=True)
    for index, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        small = net.relu(net.conv(x, squeeze, 1))
        wide = (net.relu(net.conv(small, 4 * squeeze, window)) for window in (1, 3))
        x = net.cat(*wide)
        if index in pools:
            x = net.pool(x, 3, 2, ceil=True)
    return net.network(net.global_pool(net.relu(net.conv(x, 1000, 1))))


def densenet(first: int, growth: int, blocks: Sequence[int], side: int = 224) -> Network:
    """A DenseNet: every layer reads the concatenation of all before it."""
    net = Writer()
    x = net.pool(net.conv_norm_relu(net.image(side), first, 7, 2), 3, 2, 1)
    for stage, count in enumerate(blocks):
        for _ in range(count):
            y = net.conv_norm_relu(net.relu(net.norm(x)), 4 * growth, 1)
            x = net.cat(x, net.conv(y, growth))
        x = net.relu(net.norm(x))
        if stage < len(blocks) - 1:
            x = net.pool(net.conv(x, x.channels // 2, 1), 2, 2, kind="avg_pool2d")
    return net.network(net.linear(net.global_pool(x), 1000))


_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_MNAS = (
    *((3, 24, 3, 2, 3), (3, 40, 3, 2, 5), (6, 80, 3, 2, 5), (6, 96, 2, 1, 3), (6, 192, 4, 2, 5)),
    (6, 320, 1, 1, 3),
)


def _inverted(net: Writer, x: Map, expand: int, out: int, stride: int, k: int, activation: str) -> Map:
    y = x if expand == 1 else net.relu(net.conv_norm(x, x.channels * expand, 1), activation)
    y = net.relu(net.conv_norm(y, y.channels, k, stride, groups=y.channels), activation)
    y = net.conv_norm(y, out, 1)
    return net.add(x, y) if (x.channels, x.side) == (y.channels, y.side) else y


def mobilenet_v2(side: int = 224) -> Network:
    """MobileNetV2."""
    net = Writer()
    x = net.relu(net.conv_norm(net.image(side), 32, 3, 2), "hardtanh")
    for expand, out, count, first in _V2:
        for index in range(count):
            x = _inverted(net, x, expand, out, first if index == 0 else 1, 3, "hardtanh")
    x = net.relu(net.conv_norm(x, 1280, 1), "hardtanh")
    return net.network(net.linear(net.global_pool(x), 1000))


def mnasnet1_0(side: int = 224) -> Network:
    """MNASNet at depth multiplier 1."""
    net = Writer()
    x = net.conv_norm_relu(net.image(side), 32, 3, 2)
    x = net.conv_norm(net.conv_norm_relu(x, 32, groups=32), 16, 1)
    for expand, out, count, first, k in _MNAS:
        for index in range(count):
            x = _inverted(net, x, expand, out, first if index == 0 else 1, k, "relu")
    return net.network(net.linear(net.global_pool(net.conv_norm_relu(x, 1280, 1)), 1000))


def shufflenet_v2(widths: Sequence[int], side: int = 224) -> Network:
    """ShuffleNetV2: half of the channels pass by, then all are shuffled."""
    net = Writer()
    x = net.pool(net.conv_norm_relu(net.image(side), widths[0], 3, 2), 3, 2, 1)
    for width, count in zip(widths[1:-1], (4, 8, 4), strict=True):
        for index in range(count):
            stride, half = (2, width // 2) if index == 0 else (1, width // 2)
            read = x if stride == 2 else net.half(x)
            left = read
            if stride == 2:
                left = net.conv_norm(x, x.channels, 3, 2, groups=x.channels)
                left = net.conv_norm_relu(left, half, 1)
            right = net.conv_norm_relu(read, half, 1)
            right = net.conv_norm(right, half, 3, stride, groups=half)
            x = net.shuffle(net.cat(left, net.conv_norm_relu(right, half, 1)))
    x = net.global_pool(net.conv_norm_relu(x, widths[-1], 1))
    return net.network(net.linear(x, 1000))


WHOLE: dict[str, Callable[..., Network]] = {
    "alexnet": alexnet,
    "vgg11": partial(vgg, (1, 1, 2, 2, 2)),
    "vgg13": partial(vgg, (2, 2, 2, 2, 2)),
    "vgg16": partial(vgg, (2, 2, 3, 3, 3)),
    "vgg19": partial(vgg, (2, 2, 4, 4, 4)),
    "resnet18": partial(resnet, (2, 2, 2, 2), False),
    "resnet34": partial(resnet, (3, 4, 6, 3), False),
    "resnet50": partial(resnet, (3, 4, 6, 3), True),
    "resnet101": partial(resnet, (3, 4, 23, 3), True),
    "resnet152": partial(resnet, (3, 8, 36, 3), True),
    "resnext50_32x4d": partial(resnet, (3, 4, 6, 3), True, 32, 4),
    "wide_resnet50_2": partial(resnet, (3, 4, 6, 3), True, 1, 128),
    "squeezenet1_0": partial(squeezenet, 96, 7, (2, 6)),
    "squeezenet1_1": partial(squeezenet, 64, 3, (1, 3)),
    "densenet121": partial(densenet, 64, 32, (6, 12, 24, 16)),
    "densenet161": partial(densenet, 96, 48, (6, 12, 36, 24)),
    "densenet169": partial(densenet, 64, 32, (6, 12, 32, 32)),
    "densenet201": partial(densenet, 64, 32, (6, 12, 48, 32)),
    "mobilenet_v2": mobilenet_v2,
    "mnasnet1_0": mnasnet1_0,
    "shufflenet_v2_x0_5": partial(shufflenet_v2, (24, 48, 96, 192, 1024)),
    "shufflenet_v2_x1_0": partial(shufflenet_v2, (24, 116, 232, 464, 1024)),
}
