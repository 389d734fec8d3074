"""Building blocks of well-known families of networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, act: str = "relu") -> nn.Module:
    """Convolution, BatchNorm and perhaps an activation."""
    layers = [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([_ACTIVATIONS[act]()] if act else []))


class Residual(nn.Module):
    """The sum of a body and a shortcut, perhaps with a ReLU behind."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: bool = True) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, or the body's."""
        y: Tensor = self.act(self.body(x) + self.shortcut(x))
        return y


class Joined(nn.Module):
    """The outputs of branches side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels of all branches, height, width]`."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Scaled(nn.Module):
    """Channels weighted by what their means say (squeeze and excitation)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = (nn.Conv2d(width, width // 4, 1), nn.ReLU(), nn.Conv2d(width // 4, width, 1), nn.Sigmoid())
        self.weight = nn.Sequential(nn.AdaptiveAvgPool2d(1), *inner)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        y: Tensor = x * self.weight(x)
        return y


class Mixed(nn.Module):
    """The block of ConvNeXt: a depthwise convolution, then two linear layers over channels that stand last."""

    def __init__(self, width: int, size: int, growth: int) -> None:
        super().__init__()
        self.spatial, self.norm = nn.Conv2d(width, width, size, 1, size // 2, groups=width), nn.LayerNorm(width)
        self.channels = nn.Sequential(nn.Linear(width, growth * width), nn.GELU(), nn.Linear(growth * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        y: Tensor = self.channels(self.norm(self.spatial(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class Shuffled(nn.Module):
    """The block of ShuffleNetV2: half of the channels pass by, and then all change places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(conv(half, half, 1), conv(half, half, groups=half, act=""), conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        first, second = x.chunk(2, 1)
        y = torch.cat([first, self.body(second)], 1)
        batch, channels, height, width = y.shape
        return y.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class Attention(nn.Module):
    """A layer of a vision transformer as many write it: one linear layer for queries, keys and values."""

    def __init__(self, width: int, heads: int, inner: int, act: str, first: bool) -> None:
        super().__init__()
        self.heads, self.first = heads, first
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(nn.Linear(width, inner), _ACTIVATIONS[act](), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, tokens, width]`, as it came."""
        y: Tensor = x + self._attended(self.norms[0](x) if self.first else x)
        if not self.first:
            y = self.norms[0](y)
        inner: Tensor = self.mlp(self.norms[1](y) if self.first else y)
        if self.first:
            return y + inner
        last: Tensor = self.norms[1](y + inner)
        return last

    def _attended(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        split = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind(0)
        found = F.scaled_dot_product_attention(queries, keys, values)
        y: Tensor = self.out(found.transpose(1, 2).reshape(batch, tokens, width))
        return y


class Transformer(nn.Module):
    """Layers of a transformer over square patches."""

    def __init__(self, patch: int, width: int, layers: nn.Module, norm: bool = False) -> None:
        super().__init__()
        self.patches, self.layers = nn.Conv2d(3, width, patch, patch), layers
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, classes]`."""
        y: Tensor = self.head(self.norm(self.layers(self.patches(x).flatten(2).transpose(1, 2))).mean(1))
        return y


class Segmenting(nn.Module):
    """A small U-Net: two steps down, two up, joined with what was there before; a class for every pixel."""

    def __init__(self, widths: tuple[int, int, int], transposed: bool) -> None:
        super().__init__()
        first, second, third = widths
        self.transposed = transposed
        self.down = nn.ModuleList([conv(3, first), conv(first, second), conv(second, third)])
        rise: Callable[[int, int], nn.Module] = (
            (lambda i, o: nn.ConvTranspose2d(i, o, 2, 2)) if transposed else (lambda i, o: nn.Conv2d(i, o, 1))
        )
        self.rise = nn.ModuleList([rise(third, second), rise(second, first)])
        self.up = nn.ModuleList([conv(2 * second, second), conv(2 * first, first)])
        self.head = nn.Conv2d(first, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, classes * height * width]`."""
        found = [self.down[0](x)]
        for step in (1, 2):
            found.append(self.down[step](F.max_pool2d(found[-1], 2)))
        y: Tensor = found[2]
        for rise, up, beside in zip(self.rise, self.up, found[1::-1], strict=True):
            y = up(torch.cat([self._risen(rise, y), beside], 1))
        classes: Tensor = self.head(y).flatten(1)
        return classes

    def _risen(self, rise: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = rise(x if self.transposed else F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


def head(width: int) -> list[nn.Module]:
    """Means of the channels, then classes."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]


def encoder(width: int, heads: int, inner: int, depth: int, act: str = "relu", first: bool = False) -> nn.Module:
    """A transformer encoder as PyTorch has it."""
    layer = nn.TransformerEncoderLayer(width, heads, inner, 0.0, act, batch_first=True, norm_first=first)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


def basic(inputs: int, outputs: int, stride: int, inner: int | None = None) -> nn.Module:
    """The block of ResNet-18."""
    inner = inner or outputs
    body = nn.Sequential(conv(inputs, inner, 3, stride), conv(inner, outputs, act=""))
    return Residual(body, _shortcut(inputs, outputs, stride))


def bottleneck(inputs: int, outputs: int, stride: int, groups: int = 1, share: int = 4) -> nn.Module:
    """The block of ResNet-50, or with groups of ResNeXt."""
    inner = max(groups, outputs // share // groups * groups)
    body = (conv(inputs, inner, 1), conv(inner, inner, 3, stride, groups), conv(inner, outputs, 1, act=""))
    return Residual(nn.Sequential(*body), _shortcut(inputs, outputs, stride))


def inverted(
    inputs: int, outputs: int, stride: int, scaled: bool = False, growth: int = 4, size: int = 3, act: str = "relu"
) -> nn.Module:
    """The block of MobileNetV2, with squeeze and excitation that of EfficientNet."""
    inner = growth * inputs
    middle = [conv(inputs, inner, 1, act=act), conv(inner, inner, size, stride, inner, act)]
    body = nn.Sequential(*middle, *([Scaled(inner)] if scaled else []), conv(inner, outputs, 1, act=""))
    return Residual(body, act=False) if inputs == outputs and stride == 1 else body


def dense(inputs: int, outputs: int, stride: int, grown: int | None = None, deep: bool = False) -> nn.Module:
    """A layer of DenseNet, brought to a width again."""
    grown = grown or outputs // 2
    layer = [conv(inputs, 2 * grown, 1), conv(2 * grown, grown)] if deep else [conv(inputs, grown)]
    joined = Joined(nn.Identity(), nn.Sequential(*layer))
    return nn.Sequential(joined, conv(inputs + grown, outputs, 1), *([nn.AvgPool2d(2)] if stride > 1 else []))


def fire(inputs: int, outputs: int, stride: int, share: int = 4) -> nn.Module:
    """The block of SqueezeNet."""
    thin, half = max(4, inputs // share), outputs // 2
    joined = nn.Sequential(conv(inputs, thin, 1), Joined(conv(thin, half, 1), conv(thin, outputs - half, 3)))
    return nn.Sequential(*([nn.MaxPool2d(2)] if stride > 1 else []), joined)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    return None if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride, act="")
