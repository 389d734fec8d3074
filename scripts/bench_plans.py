"""How many plans a second have their latency predicted: `python scripts/bench_plans.py`.

Random plans of the joint space on the Jetson Nano, none of them seen before, on one core. Prints the machine, versions
and seed.

    AUTOCOMPRESS_DATA=... python scripts/bench_plans.py
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autocompress.core.collector import rest_set_aside
from autocompress.core.plan import Plan
from autocompress.proxy.cost import cost_of_plan, latency_of_plan
from autocompress.run.environment import versions
from autocompress.run.settings import SearchConfig
from autocompress.tasks import Task, classification
from autocompress.wired import wire

SEED = 0
SLOW_PLANS = 5


class InvertedResidual(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * 4
        self.layers = nn.Sequential(
            *(nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()),
            *(nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()),
            *(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.has_shortcut = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, inputs, height, width]` to `[batch, outputs, height / stride, width / stride]`."""
        y: torch.Tensor = self.layers(x)
        return x + y if self.has_shortcut else y


def mobilenet() -> Task:
    """A MobileNetV2 of 12 blocks on 64 x 64 images, never trained: only its shapes count."""
    torch.manual_seed(SEED)
    blocks = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 32, 1)]
    blocks += [(32, 64, 2), (64, 64, 1), (64, 64, 1), (64, 96, 1), (96, 96, 1), (96, 96, 1)]
    stem = (nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
    body = (InvertedResidual(*block) for block in blocks)
    model = nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))
    data = torch.randn(64, 3, 64, 64), torch.arange(64) % 10
    return classification("mobilenet", model, data, data, data)


@dataclass(frozen=True)
class Row:
    """One net: plans a second from the plan alone, the first one included, and by way of the compressed model."""

    net: str
    plans: int
    operators: int
    direct: float
    slow: float


def measured(net: str, task: Task | None, plans: int) -> Row:
    """Times the plans of one net."""
    wired = wire(SearchConfig(task=task.name if task else net, target="jetson-nano", space="joint"), task)
    context, space = wired.context, wired.space
    rng = np.random.default_rng(SEED)
    drawn = [space.decode(space.random(rng)) for _ in range(plans)]
    for plan in drawn:
        context.traced(plan)
    operators = len(context.network(Plan()).operators)
    with rest_set_aside():
        start = time.perf_counter()
        for plan in drawn:
            latency_of_plan(plan, context)
        direct = time.perf_counter() - start
    start = time.perf_counter()
    for plan in drawn[:SLOW_PLANS]:
        cost_of_plan(plan, context)
    slow = time.perf_counter() - start
    return Row(net, plans, operators, plans / direct, SLOW_PLANS / slow)


def main() -> None:
    """Times both nets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=1000, help="plans of each net")
    plans = parser.parse_args().plans
    torch.set_num_threads(1)
    print("| net | operators | plans | plans a second | with the compressed model |")
    print("|---|---|---|---|---|")
    for net, task in (("cifar10-resnet20", None), ("mobilenet", mobilenet())):
        row = measured(net, task, plans)
        print(f"| {row.net} | {row.operators} | {row.plans} | {row.direct:.0f} | {row.slow:.1f} |")
    print(f"\nSeed {SEED}; {', '.join(f'{name} {value}' for name, value in versions().items())}.")


if __name__ == "__main__":
    main()
