"""A task and a space so small that a trial takes a fraction of a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.core.constraint import Constraint, parse_constraint
from autocompress.core.metric import Metric
from autocompress.core.rules import SpaceRules, build_space
from autocompress.core.space import Space, Vector
from autocompress.proxy.context import Context, Effort
from autocompress.run.adapt import adapt_rules
from autocompress.run.executors import InProcess
from autocompress.run.jobs import Shared
from autocompress.run.reach import dense_cost
from autocompress.run.study import Study
from autocompress.run.trials import Trials
from autocompress.search.controllers import make_controller
from autocompress.search.record import Objective, Record
from autocompress.targets.law import Law
from autocompress.targets.profile import load_target
from autocompress.tasks import Split, Task, top1_percent

CLASSES = 4
OBJECTIVES = (Objective("accuracy", True), Objective("size_bytes", False), Objective("latency_ms", False))
RULES = SpaceRules.from_dict(
    {
        "name": "tiny",
        "rules": [{"op": "prune", "sparsity": [0.25, 0.5]}, {"op": "quantize", "w_bits": [8, 4], "a_bits": 8}],
    }
)


# The same for another process.
TASK = "tests.run.tiny:tiny_task"
FILE_RULES = """
name: tiny
rules:
  - {op: prune, sparsity: [0.25, 0.5]}
  - {op: quantize, w_bits: [8, 4]}
"""


def tiny_model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = (nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        second = (nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)).eval()


def tiny_data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A quarter of the image is bright, and the label says which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    images = 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
    for index, label in enumerate(labels.tolist()):
        images[index, 0] += 0.6 * label
    return images, labels


def tiny_task(loss: Callable[[Any, Any], Tensor] = F.cross_entropy, trained: bool = True) -> Task:
    """64 training, 64 validation and 64 test images of 8 x 8 and a network of three layers."""
    train, validation, test = (tiny_data(64, seed) for seed in (1, 2, 3))
    model = tiny_model()
    if trained:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        model.train()
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(train[0]), train[1]).backward()
            optimizer.step()
    return Task(
        name="tiny",
        model=model.eval(),
        example_inputs=(validation[0][:1],),
        train=Split.of(train),
        validation=Split.of(validation),
        test=Split.of(test),
        loss=loss,
        metric=top1_percent,
        batch_size=32,
    )


def tiny_context(task: Task | None = None, target: str = "jetson-nano", steps: int = 2, seed: int = 0) -> Context:
    loaded = load_target(target)
    effort = Effort(short_steps=steps, calibration_samples=32)
    return Context(task or tiny_task(), loaded, loaded.profile.default_precision, effort, seed)


def tiny_space(context: Context, rules: SpaceRules = RULES) -> Space:
    return build_space(adapt_rules(rules, context.target.profile)[0], context.dense.info)


def laws_of_another_device() -> dict[str, Law]:
    """What stands in for the laws of this machine, which take too long to measure in a test."""
    law = load_target("jetson-nano").laws["fp32"]
    return {"fp32": law, "int8": law}


def run_little_here(patch: pytest.MonkeyPatch) -> None:
    """A search on this machine asks another device's laws, and runs few plans once."""
    patch.setattr("autocompress.targets.calibrate.local_laws", laws_of_another_device)
    patch.setattr("autocompress.proxy.own_networks.RANDOM_PLANS", 1)
    patch.setattr("autocompress.proxy.own_networks._ROUNDS", 1)
    # By such laws this machine may seem slow.
    for limit in ("UNDISTURBED", "SLOW"):
        patch.setattr(f"autocompress.targets.steady.{limit}", math.inf)


class Told:
    """A listener that remembers, and may interrupt the trial of a number."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.records: list[Record] = []
        self.said: list[str] = []
        self.interrupt_at = interrupt_at

    def begin(self, objectives: Sequence[Objective], records: Sequence[Record]) -> None:
        self.objectives = tuple(objectives)

    def trial(self, record: Record, done: int, budget: Any, seconds: float) -> None:
        self.records.append(record)

    def step(self, text: str, done: int, total: int) -> None:
        if text == f"trial {self.interrupt_at}":
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        self.said.append(text)


class Planned:
    """Waves that are written down; remembers the labels of what it is told."""

    def __init__(self, waves: Sequence[Sequence[tuple[str, Vector]]]) -> None:
        self.waves, self.asked = waves, list[tuple[list[str], int]]()
        self.before, self.counts = list[list[str]](), list[int]()

    def prepare(self, known: Sequence[Record], count: int) -> None:
        self.before.append([record.label for record in known])
        self.counts.append(count)
        assert len(self.counts) < 50, "a search that plans for ever"

    def pick(self, known: Sequence[Record], pending: Collection[Vector]) -> tuple[str, Vector] | None:
        assert all(record.state != "running" for record in known)
        self.asked.append(([record.label for record in known], len(pending)))
        gone = {record.vector for record in known}.union(pending)
        left = [one for wave in self.waves[: len(self.counts)] for one in wave if one[1] not in gone]
        return left[0] if left else None


def make_trials(
    folder: Path,
    context: Context,
    space: Space | None = None,
    constraints: Sequence[str] = (),
    listener: Told | None = None,
    baselines: tuple[tuple[str, Vector], ...] | None = None,
    controller: str = "random",
    study: Study | None = None,
) -> Trials:
    folder.mkdir(exist_ok=True)
    space = space or tiny_space(context)
    parsed: tuple[Constraint, ...] = tuple(parse_constraint(text) for text in constraints)
    return Trials(
        study=study or Study(folder, space, OBJECTIVES),
        space=space,
        controller=make_controller(controller, space, OBJECTIVES, 0),
        executor=InProcess(Shared(context, space)),
        constraints=parsed,
        baselines=baselines if baselines is not None else (("dense", space.dense_vector),),
        planner=Planned([]),
        waves=(),
        dense={"accuracy": Metric.exact(50.0, "percent"), **dense_cost(context)},
        checkpoints=folder / "checkpoints",
        listener=listener or Told(),
    )
