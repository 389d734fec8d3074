"""A user's student builder: other architectures than the dense model's, in the same search."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from autocompress.core.plan import Plan, Prune, Quantize, Student
from autocompress.core.rules import SpaceRules, build_space
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.evaluate import evaluate
from autocompress.targets.profile import load_target
from autocompress.tasks import Split, classification


class Net(nn.Module):
    def __init__(self, depth: int = 3, width: int = 8) -> None:
        super().__init__()
        channels = [1] + [width] * depth
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(channels))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = torch.relu(conv(x))
        return self.head(x.mean((2, 3)))


def context() -> Context:
    torch.manual_seed(0)
    images, labels = torch.randn(48, 1, 8, 8), torch.arange(48) % 3
    split = Split.of((images, labels), "train")
    task = classification(
        "tiny", Net(), split, split, split, student=Net, student_choices={"depth": [3, 2], "width": [8, 4]}
    )
    return Context(task, load_target("jetson-nano"), "fp16", Effort(short_steps=2))


def test_a_student_of_other_shape_takes_what_fits_of_the_plan() -> None:
    shared = context()
    plan = Plan(
        Student(choices=(("depth", 2), ("width", 4))),
        groups=(("convs.0", Prune(0.5)),),
        layers=(("convs.0", (Quantize(4),)), ("convs.2", (Quantize(4),)), ("head", (Quantize(8),))),
    )
    result = evaluate(plan, "short", shared)
    assert result.plan == plan
    assert result.notes == ("convs.2: not in the student that was built",)
    assert result.module.get_submodule("convs.0").weight.shape == (2, 1, 3, 3)  # type: ignore[union-attr]
    dense = evaluate(Plan(), "short", shared)
    assert result.metrics["size_bytes"].value < dense.metrics["size_bytes"].value
    assert result.metrics["macs"].value < dense.metrics["macs"].value


def test_student_choices_are_decisions_of_a_space() -> None:
    shared = context()
    rules = SpaceRules.from_dict({"name": "s", "rules": [{"op": "quantize", "w_bits": [8, 4]}], "student": "all"})
    space = build_space(rules, shared.dense.info)
    assert {"student:depth", "student:width"} <= {decision.name for decision in space.decisions}
    plan = space.decode(space.extreme_vector)
    assert dict(plan.student.choices) == {"depth": 2, "width": 4}
    assert evaluate(plan, "untrained", shared).metrics["params"].value < shared.dense.info.params
