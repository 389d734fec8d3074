"""How far predictions for this machine are from whole networks timed on it: `python scripts/bench_local.py`.

Thirty networks of ten kinds, never trained, as fp32 and int8 files in ONNX Runtime on one thread. The law was fitted to
other, small models when `local` was first used here. Prints the machine, versions and seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from autocompress.config import wire
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan
from autocompress.emit.onnx_export import export_onnx
from autocompress.proxy.context import Context
from autocompress.proxy.cost import latency_of_plan
from autocompress.proxy.evaluate import realise
from autocompress.proxy.timing import latencies_of_files
from autocompress.run.environment import versions
from autocompress.run.settings import SearchConfig
from autocompress.targets.calibrate import cpu_model
from autocompress.tasks import classification

SEED = 0
CLASSES = 10


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm and perhaps ReLU."""
    layers = [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


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


class Encoder(nn.Module):
    """A transformer encoder over patches of 4 x 4 pixels."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, classes]`."""
        y: Tensor = self.head(self.layers(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        return y


def head(width: int) -> list[nn.Module]:
    """Means of the channels, then classes."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]


def plain(width: int) -> nn.Module:
    """A VGG-like net."""
    body = [conv(3, width), conv(width, width), nn.MaxPool2d(2), conv(width, 2 * width), conv(2 * width, 2 * width)]
    return nn.Sequential(*body, nn.MaxPool2d(2), conv(2 * width, 4 * width), *head(4 * width))


def stages(block: Callable[[int, int, int], nn.Module], width: int, depth: int) -> nn.Module:
    """A stem and three stages of blocks, each after the first half as large and twice as wide."""
    body: list[nn.Module] = [conv(3, width)]
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        for number in range(depth):
            body.append(block(inputs, outputs, 2 if stage and not number else 1))
            inputs = outputs
    return nn.Sequential(*body, *head(inputs))


def basic(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The block of ResNet-18."""
    shortcut = None if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride, act=False)
    return Residual(nn.Sequential(conv(inputs, outputs, 3, stride), conv(outputs, outputs, act=False)), shortcut)


def bottleneck(inputs: int, outputs: int, stride: int, groups: int = 1) -> nn.Module:
    """The block of ResNet-50, or with groups of ResNeXt."""
    inner = max(groups, outputs // 4)
    body = nn.Sequential(
        conv(inputs, inner, 1), conv(inner, inner, 3, stride, groups), conv(inner, outputs, 1, act=False)
    )
    return Residual(body, None if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride, act=False))


def inverted(inputs: int, outputs: int, stride: int, scaled: bool = False) -> nn.Module:
    """The block of MobileNetV2, with squeeze and excitation that of EfficientNet."""
    inner = 4 * inputs
    middle = [conv(inputs, inner, 1), conv(inner, inner, 3, stride, inner), *([Scaled(inner)] if scaled else [])]
    body = nn.Sequential(*middle, conv(inner, outputs, 1, act=False))
    return Residual(body, act=False) if inputs == outputs and stride == 1 else body


def dense(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A layer of DenseNet, brought to a width again."""
    grown = Joined(nn.Identity(), nn.Sequential(conv(inputs, outputs // 2)))
    return nn.Sequential(grown, conv(inputs + outputs // 2, outputs, 1), *([nn.AvgPool2d(2)] if stride > 1 else []))


def fire(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The block of SqueezeNet."""
    thin, half = max(4, inputs // 4), outputs // 2
    joined = nn.Sequential(conv(inputs, thin, 1), Joined(conv(thin, half, 1), conv(thin, half, 3)))
    return nn.Sequential(*([nn.MaxPool2d(2)] if stride > 1 else []), joined)


KINDS: dict[str, tuple[Callable[..., nn.Module], Sequence[tuple[int, ...]]]] = {
    "plain": (plain, ((16,), (32,), (48,))),
    "resnet": (partial(stages, basic), ((16, 3), (24, 2), (32, 5))),
    "bottleneck": (partial(stages, bottleneck), ((32, 2), (64, 3), (96, 2))),
    "resnext": (partial(stages, partial(bottleneck, groups=8)), ((64, 2), (96, 3), (128, 2))),
    "mobilenet": (partial(stages, inverted), ((8, 3), (16, 2), (24, 4))),
    "efficientnet": (partial(stages, partial(inverted, scaled=True)), ((8, 3), (16, 2), (24, 3))),
    "densenet": (partial(stages, dense), ((16, 3), (24, 4), (40, 3))),
    "squeezenet": (partial(stages, fire), ((16, 2), (32, 3), (64, 2))),
    "transformer": (Encoder, ((64, 2), (96, 3), (128, 4))),
    "mixed": (
        partial(stages, lambda i, o, s: nn.Sequential(basic(i, o, s), inverted(o, o, 1))),
        ((16, 2), (24, 2), (32, 1)),
    ),
}
SIDES = (32, 48, 64)


def networks() -> Iterator[tuple[str, nn.Module, int]]:
    """Name, model and side of the images."""
    for kind, (build, sizes) in KINDS.items():
        for side, size in zip(SIDES, sizes, strict=True):
            torch.manual_seed(SEED)
            yield f"{kind}-{'-'.join(map(str, size))}", build(*size).eval(), side


def compared(name: str, model: nn.Module, side: int) -> Iterator[tuple[str, float, float, float, float]]:
    """Precision, prediction with its interval, and what was measured."""
    data = torch.randn(64, 3, side, side), torch.arange(64) % CLASSES
    task = classification(name, model, data, data, data)
    wired = wire(SearchConfig(task=name, target="local", space="quantize"), task)
    context = wired.context
    eight_bits = next(plan for label, plan in wired.space.uniform_plans() if label.startswith("uniform w8"))
    plans = {"fp32": Plan(), "int8": eight_bits}
    measured = timed(list(plans.values()), context)
    for (precision, plan), metric in zip(plans.items(), measured, strict=True):
        estimate = latency_of_plan(plan, context)
        yield precision, estimate.ms, estimate.low_ms, estimate.high_ms, metric.value


def timed(plans: Sequence[Plan], context: Context) -> list[Metric]:
    """The files of plans, timed in the same rounds."""
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.onnx" for number in range(len(plans))]
        for plan, file in zip(plans, files, strict=True):
            export_onnx(realise(plan, context).module, context.dense.inputs, file, opset=context.target.profile.opset)
        return latencies_of_files(files, context)


def main() -> None:
    """Times all networks; prints one line for each file, and shares for each precision."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, float, bool]]] = {"fp32": [], "int8": []}
    print("| network | side | precision | predicted, ms | measured, ms | error |\n|---|---|---|---|---|---|")
    for name, model, side in networks():
        for precision, ms, low, high, measured in compared(name, model, side):
            rows[precision].append((ms, measured, low <= measured <= high))
            error = f"{100 * (ms / measured - 1):+.1f} %"
            print(
                f"| {name} | {side} | {precision} | {ms:.3f} [{low:.3f}, {high:.3f}] | {measured:.3f} | {error} |",
                flush=True,
            )
    print("\n| precision | within 5 / 10 / 20 % | mean error | Spearman | inside the 80 % interval |")
    print("|---|---|---|---|---|")
    for precision, found in rows.items():
        predictions, times, inside = (np.array(column) for column in zip(*found, strict=True))
        error = np.abs(predictions / times - 1.0)
        shares = " / ".join(f"{100 * np.mean(error < share):.0f}" for share in (0.05, 0.1, 0.2))
        rank = spearmanr(predictions, times).statistic
        print(f"| {precision} | {shares} % | {100 * error.mean():.1f} % | {rank:.3f} | {100 * inside.mean():.0f} % |")
    print(f"\nSeed {SEED}; {cpu_model()}; {', '.join(f'{name} {value}' for name, value in versions().items())}.")


if __name__ == "__main__":
    main()
