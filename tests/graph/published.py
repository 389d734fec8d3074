"""Networks in the forms they were published in, small: what a user may bring beside the nets of `tests/nets.py`."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.tasks.builtin.resnet import resnet20
from tests.nets import NETS, Net, build


def conv_bn(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, hidden: int, stride: int = 1) -> None:
        super().__init__()
        outputs = hidden * 4
        self.reduce, self.middle = conv_bn(inputs, hidden), conv_bn(hidden, hidden, 3, stride)
        self.expand = conv_bn(hidden, outputs)
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if inputs != outputs or stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.middle(self.relu(self.reduce(x))))
        y = self.expand(y)
        y += self.shortcut(x)
        return self.relu(y)


def bottleneck_resnet() -> nn.Module:
    stem = (conv_bn(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    blocks = (Bottleneck(8, 8), Bottleneck(32, 8), Bottleneck(32, 12, 2), Bottleneck(48, 12))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(48, 10))


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (8, 16, 24):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True), nn.MaxPool2d(2)]
        inputs = outputs
    classifier = (nn.Flatten(), nn.Linear(24 * 16, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((4, 4)), *classifier)


class MobileBlock(nn.Module):
    """MobileNetV3 and EfficientNet: inverted residual with squeeze-and-excitation behind the depthwise layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int, size: int, stride: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.expand, self.act = conv_bn(inputs, hidden), act()
        self.depthwise = conv_bn(hidden, hidden, size, stride, hidden)
        self.squeeze, self.excite = nn.Conv2d(hidden, hidden // 4, 1), nn.Conv2d(hidden // 4, hidden, 1)
        self.gate = nn.Hardsigmoid() if act is nn.Hardswish else nn.Sigmoid()
        self.project = conv_bn(hidden, outputs)
        self.same = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.depthwise(self.act(self.expand(x))))
        scale = y.mean((2, 3), keepdim=True)
        scale = self.gate(self.excite(F.relu(self.squeeze(scale))))
        y = self.project(scale * y)
        return y + x if self.same else y


class MobileNetV3(nn.Module):
    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 8, 3, 2), act())
        self.blocks = nn.Sequential(
            MobileBlock(8, 16, 8, 3, 1, act), MobileBlock(8, 24, 16, 5, 2, act), MobileBlock(16, 48, 16, 3, 1, act)
        )
        self.last = nn.Sequential(conv_bn(16, 48), act())
        self.head = nn.Sequential(nn.Linear(48, 64), act(), nn.Dropout(0.2), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), 1)
        return self.head(torch.flatten(x, 1))


class VisionTransformer(nn.Module):
    """Patches by a convolution, a class token, learned positions, pre-norm encoder layers of torch."""

    def __init__(self, width: int = 32, heads: int = 4, patch: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, heads, 64, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.encoder(x))[:, 0])


class _TimmAttention(nn.Module):
    """Attention as timm writes it: one projection, reshape to five dimensions, the fused product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.proj(y.transpose(1, 2).reshape(count, length, width))


class TimmTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 1, 24))
        self.attention, self.norm1, self.norm2 = _TimmAttention(24, 3), nn.LayerNorm(24), nn.LayerNorm(24)
        self.scale = nn.Parameter(torch.rand(24))
        self.fc1, self.fc2, self.head = nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.size(0), -1, -1), x), 1)
        x = x + self.scale * self.attention(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


class SeparateAttention(nn.Module):
    """Attention with a projection of its own for query, key and value, without norms: everything can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out, self.head = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, 10)
        self.query, self.key, self.value = (nn.Linear(24, 24) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.flatten(1)[:, :72].view(-1, 12, 6))
        count, length, _ = x.shape
        query, key, value = (f(x).view(count, length, 4, 6).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(-1, -2) / 6**0.5, -1)
        y = (weights @ value).transpose(1, 2).contiguous().view(count, length, 24)
        return self.head((x + self.out(y)).mean(1))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 12, 3, 2), nn.ReLU())
        self.one, self.three = conv_bn(12, 8), nn.Sequential(conv_bn(12, 6), nn.ReLU(), conv_bn(6, 10, 3))
        self.five = nn.Sequential(conv_bn(12, 4), nn.ReLU(), conv_bn(4, 6, 5))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(12, 4))
        self.after, self.head = nn.Sequential(conv_bn(28, 16, 3), nn.ReLU()), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1))
        return self.head(self.after(x).amax((2, 3)))


class TextCnn(nn.Module):
    """Convolutions of several widths over words, the maximum over time of each, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16, padding_idx=0)
        self.convs = nn.ModuleList(nn.Conv1d(16, 8, size) for size in (2, 3, 4))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x).transpose(1, 2)
        found = [F.max_pool1d(F.relu(conv(x)), 13).squeeze(2) for conv in self.convs]
        return self.head(torch.cat(found, 1))


class TransposedUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Sequential(conv_bn(3, 8, 3), nn.ReLU()), nn.Sequential(conv_bn(8, 16, 3), nn.ReLU())
        self.middle = nn.Sequential(conv_bn(16, 24, 3), nn.ReLU())
        self.up2, self.up1 = nn.ConvTranspose2d(24, 16, 2, 2), nn.ConvTranspose2d(16, 8, 4, 2, 1, groups=2)
        self.merge2, self.merge1 = conv_bn(32, 16, 3), conv_bn(16, 8, 3)
        self.depthwise_up = nn.ConvTranspose2d(8, 8, 3, 1, 1, groups=8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        low = self.down2(F.max_pool2d(high, 2))
        y = self.up2(self.middle(F.max_pool2d(low, 2)))
        y = F.leaky_relu(self.merge2(torch.cat([y, low], 1)), 0.1)
        y = F.relu(self.merge1(torch.cat([high, self.up1(y)], 1)))
        return self.out(self.depthwise_up(y))


class ShuffleV2(nn.Module):
    """ShuffleNetV2: one half of the channels passes, the other is computed, then both are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2), nn.ReLU())
        self.branch = nn.ModuleList(
            nn.Sequential(conv_bn(8, 8), nn.ReLU(), conv_bn(8, 8, 3, 1, 8), conv_bn(8, 8), nn.ReLU()) for _ in range(2)
        )
        self.tail, self.head = conv_bn(16, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branch:
            kept, changed = x.chunk(2, dim=1)
            x = torch.cat((kept, branch(changed)), dim=1)
            count, channels, height, width = x.size()
            x = x.view(count, 2, channels // 2, height, width).transpose(1, 2).contiguous()
            x = x.view(count, channels, height, width)
        return self.head(F.relu(self.tail(x)).mean([2, 3]))


class PixelShuffleNet(nn.Module):
    """Super-resolution: channels become pixels at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.prelu = nn.PReLU(16)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.second(self.prelu(self.first(x))), 2)


class ConvNext(nn.Module):
    """A depthwise layer, then linear layers on the channels in the last dimension, a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)
        self.depthwise, self.norm = nn.Conv2d(16, 16, 7, padding=3, groups=16), nn.LayerNorm(16)
        self.fc1, self.fc2, self.gamma = nn.Linear(16, 48), nn.Linear(48, 16), nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.fc2(F.gelu(self.fc1(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(x.mean([-2, -1]))


class GatedMlp(nn.Module):
    """A gate and a value from one projection, as in gated linear units."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.both, self.out = nn.Linear(48, 32), nn.Linear(32, 48), nn.Linear(24, 32)
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.enter(x.flatten(1)[:, :48])))
        gate, value = self.both(x).chunk(2, -1)
        return self.head(x + self.out(torch.sigmoid(gate) * value))


class InstanceNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, 2, 1)
        self.norm1, self.norm2 = nn.InstanceNorm2d(12, affine=True), nn.GroupNorm(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.norm1(self.first(x)))
        x = F.mish(self.norm2(self.second(x)))
        return self.head(F.adaptive_max_pool2d(x, 1).flatten(1))


class ConvMixer(nn.Module):
    """Convolutions that take tokens for channels and slide over what is cut elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(32, 24), nn.Linear(24, 10)
        self.first, self.second = nn.Conv1d(96, 96, 1), nn.Conv1d(96, 96, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.flatten(1, 2))
        x = x + self.first(x)
        return self.head((x + self.second(x)).mean(1))


class MlpMixer(nn.Module):
    """Linear layers over tokens and over channels, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(32, 24), nn.Linear(24, 10)
        self.tokens1, self.tokens2 = nn.Linear(96, 40, bias=False), nn.Linear(40, 96, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.flatten(1, 2))
        x = x + self.tokens2(F.relu(self.tokens1(x.transpose(1, 2)))).transpose(1, 2)
        return self.head(x.mean(1))


class SharedNorm(nn.Module):
    """One batch norm behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.norm(self.second(x))).mean((2, 3)))


class Attend(nn.Module):
    """Channel and spatial gates (CBAM): maxima and means over channels, a map of one channel for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3)
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)
        self.map, self.head = nn.Conv2d(2, 1, 7, padding=3), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        gate = sum(self.excite(F.relu(self.squeeze(pool))) for pool in (x.mean((2, 3)), x.amax((2, 3))))
        x = x * torch.sigmoid(gate)[:, :, None, None]
        seen = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        x = x * torch.sigmoid(self.map(seen))
        return self.head(F.relu(self.second(x)).max(3)[0].mean(2))


class Decoder(nn.Module):
    """A vector becomes an image: a linear layer's outputs are channels times places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 24), nn.Linear(24, 64)
        self.up, self.out = nn.ConvTranspose2d(16, 6, 4, 2, 1), nn.Conv2d(6, 2, 1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x.mean((1, 2))))))
        x = self.norm(F.interpolate(x.view(-1, 16, 2, 2), scale_factor=2.0))
        return self.out(F.relu(self.up(F.relu(x))))


class ChannelsLast(nn.Module):
    """Linear layers on images, moved dimensions, stacks, flips and scalars that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 16, 3), nn.Linear(16, 12), nn.Conv2d(12, 8, 3)
        self.share, self.head = nn.Parameter(torch.tensor(0.3)), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.movedim(F.relu(self.first(x)), 1, -1)
        x = F.relu(self.middle(x)).permute(0, 3, 1, 2)
        x = torch.stack([self.share * x, (1 - self.share) * x * 2], 0).sum(0)
        x = self.last(x).flip([2]).roll(1, 3)
        return self.head(x.mean((2, 3)).type_as(x))


class SequenceFirst(nn.Module):
    """Attention with the batch in the second dimension; no norm, so that the stream can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(32, 24), nn.Linear(24, 10)
        self.attention = nn.MultiheadAttention(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.flatten(1, 2)).permute(1, 0, 2)
        y, _ = self.attention(x, x, x, need_weights=False)
        return self.head((x + y).mean(0))


class BareWeights(nn.Module):
    """A matrix that no layer owns, and a grouped convolution on the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, groups=3), nn.Linear(12, 16)
        self.weight, self.head = nn.Parameter(torch.randn(16, 20)), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x)).mean((2, 3))))
        return self.head(F.relu(x @ self.weight))


def _image() -> Tensor:
    return torch.randn(1, 3, 32, 32)


def _words() -> Tensor:
    return torch.randint(0, 50, (1, 16))


class ChannelGate(nn.Module):
    """One channel decides how much of all others passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        return self.head(F.relu(self.second(y * y[:, 3].sigmoid().unsqueeze(1))).mean((2, 3)))


class Normalised(nn.Module):
    """Features of length one, as for embeddings, beside how long they were."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))
        return self.head(F.normalize(y, dim=1)) * y.norm(dim=1, keepdim=True)


class Frames(nn.Module):
    """Halves of an image as two frames that stand beside the samples, as in networks for video."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.unflatten(3, (2, x.shape[3] // 2)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        y = F.relu(self.second(F.relu(self.first(frames)))).mean((2, 3))
        return self.head(y.unflatten(0, (-1, 2)).mean(1))


class TiedHead(nn.Module):
    """Words in and words out by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.middle = nn.Embedding(50, 16), nn.Linear(16, 32)
        self.last = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.last(F.gelu(self.middle(self.words(x).mean(1)))), self.words.weight)


PUBLISHED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "resnet20": (resnet20, _image),
    "bottleneck_resnet": (bottleneck_resnet, _image),
    "vgg": (vgg, _image),
    "mobilenet_v3": (lambda: MobileNetV3(nn.Hardswish), _image),
    "efficientnet": (lambda: MobileNetV3(nn.SiLU), _image),
    "vision_transformer": (VisionTransformer, _image),
    "timm_transformer": (TimmTransformer, _image),
    "separate_attention": (SeparateAttention, _image),
    "inception": (Inception, _image),
    "text_cnn": (TextCnn, _words),
    "transposed_unet": (TransposedUNet, _image),
    "shufflenet_v2": (ShuffleV2, _image),
    "pixel_shuffle": (PixelShuffleNet, _image),
    "convnext": (ConvNext, _image),
    "gated_mlp": (GatedMlp, _image),
    "instance_norm": (InstanceNormNet, _image),
    "conv_mixer": (ConvMixer, _image),
    "mlp_mixer": (MlpMixer, _image),
    "shared_norm": (SharedNorm, _image),
    "attend": (Attend, _image),
    "decoder": (Decoder, _image),
    "channels_last": (ChannelsLast, _image),
    "sequence_first": (SequenceFirst, _image),
    "bare_weights": (BareWeights, _image),
    "channel_gate": (ChannelGate, _image),
    "normalised": (Normalised, _image),
    "frames": (Frames, _image),
    "tied_head": (TiedHead, _words),
}
ALL = (*NETS, *PUBLISHED)


def net(name: str) -> Net:
    """A net of either list with its example, random batch-norm statistics, in evaluation mode; always the same."""
    if name in NETS:
        return build(name)
    make, example = PUBLISHED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        model = make()
        randomise_norms(model)
        return Net(model.eval(), (example(),))


def randomise_norms(model: nn.Module) -> None:
    """Statistics and scales that a wrong cut or fold would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def batch_like(inputs: tuple[Tensor, ...], count: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Other inputs of the same kind, `count` samples each."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for x in inputs:
        shape = (count, *x.shape[1:])
        if x.is_floating_point():
            made.append(torch.randn(shape, generator=generator))
        else:
            made.append(torch.randint(0, int(x.max()) + 1, shape, generator=generator))
    return tuple(made)
