"""How far predictions for this machine are from whole networks timed on it: `python scripts/bench_local.py`.

Thirty networks of ten kinds, never trained, in ONNX Runtime on one thread: in floats, in 8 bits, and plans drawn at
random that were not run before. The law was learnt from other, small networks when `local` was first used here; a
search is told by it and by what sixteen plans of its own model took here, those in floats and in 8 bits among them.
Prints the machine, versions and seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from networks import CLASSES, Transformer, basic, bottleneck, conv, dense, encoder, fire, head, inverted
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from autocompress.core.metric import Metric
from autocompress.core.plan import Plan
from autocompress.core.target import LatencyEstimate
from autocompress.emit.onnx_export import export_onnx
from autocompress.proxy.context import Context
from autocompress.proxy.cost import latency_of_plan
from autocompress.proxy.evaluate import realise
from autocompress.proxy.timing import latencies_of_files
from autocompress.run.environment import versions
from autocompress.run.settings import SearchConfig
from autocompress.targets.calibrate import cpu_model
from autocompress.targets.profile import load_target
from autocompress.tasks import classification
from autocompress.wired import wire

SEED = 0
# Plans that were not run before: so many of each network, and what they are drawn by.
UNSEEN, UNSEEN_SEED = 2, 7


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


KINDS: dict[str, tuple[Callable[..., nn.Module], Sequence[tuple[int, ...]]]] = {
    "plain": (plain, ((16,), (32,), (48,))),
    "resnet": (partial(stages, basic), ((16, 3), (24, 2), (32, 5))),
    "bottleneck": (partial(stages, bottleneck), ((32, 2), (64, 3), (96, 2))),
    "resnext": (partial(stages, partial(bottleneck, groups=8)), ((64, 2), (96, 3), (128, 2))),
    "mobilenet": (partial(stages, inverted), ((8, 3), (16, 2), (24, 4))),
    "efficientnet": (partial(stages, partial(inverted, scaled=True)), ((8, 3), (16, 2), (24, 3))),
    "densenet": (partial(stages, dense), ((16, 3), (24, 4), (40, 3))),
    "squeezenet": (partial(stages, fire), ((16, 2), (32, 3), (64, 2))),
    "transformer": (
        lambda width, depth: Transformer(4, width, encoder(width, 4, 2 * width, depth)),
        ((64, 2), (96, 3), (128, 4)),
    ),
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


class Row(NamedTuple):
    """What a file was said to take, by the law of the machine alone and as a search is told, and what it took."""

    kind: str
    law: LatencyEstimate
    told: LatencyEstimate
    measured_ms: float


def compared(name: str, model: nn.Module, side: int) -> Iterator[Row]:
    """The files of one network."""
    data = torch.randn(64, 3, side, side), torch.arange(64) % CLASSES
    task = classification(name, model, data, data, data)
    wired = wire(SearchConfig(task=name, target="local", space="joint"), task)
    context, space = wired.context, wired.space
    law_alone = replace(context, target=load_target("local").calibrated())
    eight_bits = next(plan for label, plan in space.uniform_plans() if label.startswith("uniform w8"))
    generator = np.random.default_rng(UNSEEN_SEED)
    plans = [("fp32", Plan()), ("int8", eight_bits)]
    plans += [("random", space.decode(space.random(generator))) for _ in range(UNSEEN)]
    measured = timed([plan for _, plan in plans], context)
    for (kind, plan), metric in zip(plans, measured, strict=True):
        yield Row(kind, latency_of_plan(plan, law_alone), latency_of_plan(plan, context), metric.value)


def timed(plans: Sequence[Plan], context: Context) -> list[Metric]:
    """The files of plans, timed in the same rounds."""
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.onnx" for number in range(len(plans))]
        for plan, file in zip(plans, files, strict=True):
            export_onnx(realise(plan, context).module, context.dense.inputs, file, opset=context.target.profile.opset)
        return latencies_of_files(files, context)


def main() -> None:
    """Times all networks; prints one line for each file, and shares for each kind of files."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {"fp32": [], "int8": [], "random": []}
    print("| network | side | files | law alone, ms | told, ms | measured, ms | error |\n|---|---|---|---|---|---|---|")
    for name, model, side in networks():
        for row in compared(name, model, side):
            rows[row.kind].append(row)
            told, ms = row.told, row.measured_ms
            error = f"{100 * (told.ms / ms - 1):+.1f} %"
            interval = f"{told.ms:.3f} [{told.low_ms:.3f}, {told.high_ms:.3f}]"
            print(f"| {name} | {side} | {row.kind} | {row.law.ms:.3f} | {interval} | {ms:.3f} | {error} |", flush=True)
    print("\n| files | told by | within 5 / 10 / 20 % | mean error | Spearman | inside the 80 % interval |")
    print("|---|---|---|---|---|---|")
    for kind, found in rows.items():
        times = np.array([row.measured_ms for row in found])
        print_share(kind, "the law alone", [row.law for row in found], times)
        print_share(kind, "the law and its own plans", [row.told for row in found], times)
    print(f"\nSeed {SEED}; {cpu_model()}; {', '.join(f'{name} {value}' for name, value in versions().items())}.")


def print_share(kind: str, by: str, told: Sequence[LatencyEstimate], times: NDArray[np.float64]) -> None:
    """One line of the summary."""
    predictions = np.array([one.ms for one in told])
    inside = np.mean([one.low_ms <= ms <= one.high_ms for one, ms in zip(told, times, strict=True)])
    error = np.abs(predictions / times - 1.0)
    shares = " / ".join(f"{100 * np.mean(error < share):.0f}" for share in (0.05, 0.1, 0.2))
    rank = spearmanr(predictions, times).statistic
    print(f"| {kind} | {by} | {shares} % | {100 * error.mean():.1f} % | {rank:.3f} | {100 * inside:.0f} % |")


if __name__ == "__main__":
    main()
