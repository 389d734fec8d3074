"""Small networks of many kinds, and tiny tasks for them that can be learned in seconds.

`build(name)` gives a Net with random weights that depend on the name alone, in evaluation mode; batch norms carry
random statistics, so that folding or cutting them wrongly shows. `make_task(name)` gives the task with synthetic data.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.tasks import Split, Task, classification
from autocompress.tasks.builtin.images import data_files

CLASSES = 4
WORDS = 64
LENGTH = 16


class Net(NamedTuple):
    model: nn.Module
    example_inputs: tuple[Tensor, ...]


def _conv_bn(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class _Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.expand = _conv_bn(inputs, hidden, 1)
        self.depthwise = _conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.project = _conv_bn(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        y = self.project(y)
        return x + y if self.residual else y


def mobilenet() -> nn.Module:
    """MobileNetV2-like: depthwise convolutions inside inverted residuals."""
    blocks = [(16, 16, 1, 2), (16, 24, 2, 4), (24, 24, 1, 4), (24, 32, 2, 4), (32, 32, 1, 4)]
    return nn.Sequential(_conv_bn(3, 16, 3, 2), nn.ReLU6(), *(_InvertedResidual(*block) for block in blocks), _Head(32))


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)


def densenet() -> nn.Module:
    """DenseNet-like: every layer's output is concatenated to its input."""
    first = nn.Sequential(_conv_bn(3, 12), *(_DenseLayer(12 + 8 * number, 8) for number in range(3)))
    second = nn.Sequential(nn.Conv2d(36, 18, 1), nn.AvgPool2d(2), *(_DenseLayer(18 + 8 * n, 8) for n in range(3)))
    return nn.Sequential(first, second, nn.BatchNorm2d(42), nn.ReLU(), _Head(42))


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(_conv_bn(3, 8), nn.ReLU())
        self.down2 = nn.Sequential(_conv_bn(8, 16, 3, 2), nn.ReLU())
        self.middle = nn.Sequential(_conv_bn(16, 24, 3, 2), nn.ReLU())
        self.up2 = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.merge2 = nn.Sequential(_conv_bn(32, 16), nn.ReLU())
        self.merge1 = nn.Sequential(_conv_bn(24, 8), nn.ReLU())
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        low = self.down2(high)
        y = self.merge2(torch.cat([self.up2(self.middle(low)), low], dim=1))
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.out(self.merge1(torch.cat([y, high], dim=1)))


class _TextEncoder(nn.Module):
    def __init__(self, words: int, length: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(1, length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.encoder(self.embedding(tokens) + self.position).mean(dim=1))


class _AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = torch.softmax(query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5, dim=-1)
        x = x + self.proj((weights @ value).transpose(1, 2).reshape(count, length, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class _AttentionNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, stride=8)
        self.blocks = nn.Sequential(_AttentionBlock(32, 4), _AttentionBlock(32, 4))
        self.norm = nn.LayerNorm(32)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        return self.fc(self.norm(self.blocks(tokens)).mean(dim=1))


class _ShuffleBlock(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.reduce = _conv_bn(channels, channels, 1, groups=groups)
        self.depthwise = _conv_bn(channels, channels, 3, groups=channels)
        self.expand = _conv_bn(channels, channels, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.reduce(x))
        count, channels, height, width = y.shape
        y = y.view(count, self.groups, channels // self.groups, height, width).transpose(1, 2)
        y = self.depthwise(y.reshape(count, channels, height, width))
        return F.relu(x + self.expand(y))


def shufflenet() -> nn.Module:
    """ShuffleNet-like: grouped 1 x 1 convolutions with a channel shuffle between them."""
    return nn.Sequential(_conv_bn(3, 24, 3, 2), nn.ReLU(), _ShuffleBlock(24, 3), _ShuffleBlock(24, 3), _Head(24))


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv_bn(channels, channels)
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + y * gate


def senet() -> nn.Module:
    """Squeeze-and-excitation blocks: a gate from the global pool multiplies the channels."""
    stem = (_conv_bn(3, 16), nn.ReLU(), _SqueezeExcite(16), nn.MaxPool2d(2))
    return nn.Sequential(*stem, _conv_bn(16, 24), nn.ReLU(), _SqueezeExcite(24), _Head(24))


class _ResNeXtBlock(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv_bn(inputs, hidden, 1)
        self.conv2 = _conv_bn(hidden, hidden, 3, stride, groups=4)
        self.conv3 = _conv_bn(hidden, outputs, 1)
        self.shortcut = _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnext() -> nn.Module:
    """ResNeXt-like: grouped 3 x 3 convolutions in bottlenecks with convolutional shortcuts."""
    blocks = (_ResNeXtBlock(16, 16, 32, 1), _ResNeXtBlock(32, 32, 48, 2))
    return nn.Sequential(_conv_bn(3, 16, 3, 2), nn.ReLU(), *blocks, _Head(48))


def lenet() -> nn.Module:
    """LeNet-like: convolutions with bias, a flatten, linear layers."""
    features = (nn.Conv2d(3, 8, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 16, 5), nn.MaxPool2d(2), nn.ReLU())
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(400, 48), nn.ReLU(), nn.Linear(48, CLASSES))


def groupnorm() -> nn.Module:
    """Group norm instead of batch norm."""
    first = (nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.SiLU(), _Head(32))


def inplace() -> nn.Module:
    """In-place activations after every convolution."""
    first = (_conv_bn(3, 16), nn.ReLU(inplace=True), nn.MaxPool2d(2), _conv_bn(16, 16), nn.ReLU(inplace=True))
    return nn.Sequential(*first, _conv_bn(16, 24, 3, 2), nn.Hardswish(inplace=True), _Head(24))


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn(3, 16, 3, 2)
        self.shared = nn.Conv2d(16, 16, 3, padding=1)
        self.tail = nn.Conv2d(16, 24, 3, padding=1)
        self.head = _Head(24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.shared(x))
        x = F.relu(self.shared(x))
        return self.head(F.relu(self.tail(x)))


def _image() -> Tensor:
    return torch.randn(1, 3, 32, 32)


def _tokens() -> Tensor:
    return torch.randint(0, WORDS, (1, LENGTH))


# name -> (the model's builder, the example's builder)
NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mobilenet": (mobilenet, _image),
    "densenet": (densenet, _image),
    "unet": (_UNet, _image),
    "text_encoder": (lambda: _TextEncoder(WORDS, LENGTH, 32, CLASSES), _tokens),
    "attention": (_AttentionNet, _image),
    "shufflenet": (shufflenet, _image),
    "senet": (senet, _image),
    "resnext": (resnext, _image),
    "lenet": (lenet, _image),
    "groupnorm": (groupnorm, _image),
    "inplace": (inplace, _image),
    "shared": (_Shared, _image),
}


def build(name: str) -> Net:
    """The net of that name with its example, in evaluation mode; the same every time."""
    make, example = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        return Net(model.eval(), (example(),))


def make_task(name: str, steps: int = 0) -> Task:
    """A task for the net of that name: 256 / 64 / 64 synthetic samples.

    Args:
        name: A key of NETS.
        steps: Training steps to take first; 40 are enough to be far above chance.
    """
    model = build(name).model
    generator = torch.Generator().manual_seed(1)
    if name == "unet":
        task = _segmentation_task(model, generator)
    else:
        data = _texts(384, generator) if name == "text_encoder" else _images(384, generator)
        parts = [tuple(column[start:stop] for column in data) for start, stop in ((0, 256), (256, 320), (320, 384))]
        task = classification(name, model, *parts, batch_size=32)
    train(task, steps)
    return task


def train(task: Task, steps: int) -> None:
    """Takes `steps` Adam steps on the task's model, in place."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    task.model.train()
    for step in range(steps):
        inputs, targets = next(task.train.batches(task.batch_size, seed=step))
        optimizer.zero_grad()
        task.loss(task.model(*inputs), targets).backward()
        optimizer.step()
    task.model.eval()


def _images(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A smooth pattern for each class under noise."""
    patterns = F.interpolate(torch.randn(CLASSES, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return patterns[labels] + 0.7 * torch.randn(count, 3, 32, 32, generator=generator), labels


def _texts(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random words, a third of them from the class's own part of the vocabulary."""
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    part = WORDS // CLASSES
    own = labels[:, None] * part + torch.randint(0, part, (count, LENGTH), generator=generator)
    other = torch.randint(0, WORDS, (count, LENGTH), generator=generator)
    return torch.where(torch.rand(count, LENGTH, generator=generator) < 0.33, own, other), labels


def iou_percent(outputs: Tensor, targets: Tensor) -> float:
    """Intersection over union of class 1, in percent."""
    found, wanted = outputs.argmax(dim=1) == 1, targets == 1
    return 100.0 * float((found & wanted).sum()) / max(1, int((found | wanted).sum()))


def _segmentation_task(model: nn.Module, generator: torch.Generator) -> Task:
    """Find the bright square of 8 to 16 pixels in noise."""
    images = torch.randn(384, 3, 32, 32, generator=generator)
    masks = torch.zeros(384, 32, 32, dtype=torch.int64)
    for index in range(384):
        size, top, left = (
            int(torch.randint(*limits, (), generator=generator)) for limits in ((8, 17), (0, 16), (0, 16))
        )
        masks[index, top : top + size, left : left + size] = 1
    images += 1.5 * masks[:, None]
    return Task(
        name="unet",
        model=model,
        example_inputs=(images[:1],),
        train=Split.of((images[:256], masks[:256])),
        validation=Split.of((images[256:320], masks[256:320])),
        test=Split.of((images[320:], masks[320:])),
        loss=F.cross_entropy,
        metric=iou_percent,
        metric_name="iou",
        batch_size=32,
    )


def sst2_task(train_limit: int = 8_000, steps: int = 0) -> Task:
    """SST-2 with words looked up in a vocabulary of 2,000 and cut to 32; reads AUTOCOMPRESS_DATA.

    Train is the first `train_limit` sentences, validation the first 2,000 of the dev file, test the test file.
    """
    names = tuple(f"sst2/sst2_{part}.tsv.gz" for part in ("train", "dev", "test"))
    train_rows, dev_rows, test_rows = (_read_sentences(path) for path in data_files("sst2", names))
    counts = Counter(word for words, _ in train_rows for word in words)
    numbers = {word: index for index, (word, _) in enumerate(counts.most_common(1_998), start=2)}

    def encode(rows: list[tuple[list[str], int]]) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros(len(rows), 32, dtype=torch.int64)
        for index, (words, _) in enumerate(rows):
            for position, word in enumerate(words[:32]):
                tokens[index, position] = numbers.get(word, 1)
        return tokens, torch.tensor([label for _, label in rows])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _TextEncoder(2_000, 32, 64, 2).eval()
    task = classification("sst2", model, encode(train_rows[:train_limit]), encode(dev_rows[:2_000]), encode(test_rows))
    train(task, steps)
    return task


def _read_sentences(path: Path) -> list[tuple[list[str], int]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        next(file)
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [(sentence.lower().split(), int(label)) for sentence, label in rows]
