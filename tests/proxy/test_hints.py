from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from autocompress.compress.apply import Compressed, compress
from autocompress.core.plan import LowRank, Plan, Prune, Quantize, Student
from autocompress.graph.info import Traced, trace_model
from autocompress.proxy import finetune as finetuning
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.evaluate import evaluate, hint_weight, hints_for, realise
from autocompress.proxy.finetune import Training, finetune
from autocompress.proxy.hints import SIDE, Hint, hint_error, hint_layers, hints_of, watched
from autocompress.proxy.teacher import Teacher
from autocompress.targets.profile import load_target
from tests.nets import NETS, build
from tests.run.tiny import CLASSES, tiny_task


def traced(name: str) -> Traced:
    net = build(name)
    return trace_model(net.model, net.example_inputs)


def error(dense: nn.Module, own: nn.Module, hints: tuple[Hint, ...], x: Tensor) -> float:
    with (
        torch.no_grad(),
        watched(dense, [hint.dense for hint in hints]) as wanted,
        watched(own, [hint.own for hint in hints]) as seen,
    ):
        dense(x), own(x)
    found = hint_error(hints, seen, wanted)
    assert found is not None
    return float(found)


class Fixed(fx.Interpreter):
    """Runs a graph in which what one layer reads is given."""

    def __init__(self, module: fx.GraphModule, layer: str, value: Tensor | None = None) -> None:
        super().__init__(module)
        node: Any = next(node for node in module.graph.nodes if node.op == "call_module" and node.target == layer)
        self._source, self.value = node.args[0], value

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n is not self._source:
            return result
        self.value = result if self.value is None else self.value
        return self.value


@pytest.mark.parametrize("name", NETS)
def test_all_that_the_outputs_depend_on_passes_through_a_hint(name: str) -> None:
    module = traced(name).module
    first, second = (build(name).example_inputs[0], build(name).example_inputs[0].flip(-1))
    layers = hint_layers(module)
    assert layers or name in ("attention", "shared")
    with torch.no_grad():
        for layer in layers:
            before = Fixed(module, layer)
            wanted = before.run(first)
            assert torch.equal(Fixed(module, layer, before.value).run(second), wanted)
            assert not torch.equal(module(second), wanted)


def test_hints_lie_between_stages_and_before_the_classes() -> None:
    assert hint_layers(traced("resnext").module) != ()
    assert hint_layers(traced("lenet").module)[-1] == "9"
    # Two paths from the first layer to the last: only what joins them knows everything.
    assert set(hint_layers(traced("unet").module)) == {"merge1.0.0", "out"}


def silent_task_model() -> nn.Sequential:
    """Of its eight channels, number 2 and 5 are nothing but zeros."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 36, 4)),
    )
    first: Any = model[0]
    with torch.no_grad():
        for channel in (2, 5):
            first.weight[channel], first.bias[channel] = 0.0, 0.0
    return model.eval()


def test_what_is_left_is_compared_with_the_same_channels() -> None:
    model, x = silent_task_model(), torch.randn(4, 3, 12, 12)
    dense = trace_model(model, (x,))
    group = dense.info.groups[0].name
    compressed = compress(dense, Plan(groups=((group, Prune(0.25)),)))
    layers = hint_layers(dense.module)
    hints = hints_of(layers, dense.coupling, compressed)
    assert layers == ("2", "5")
    kept = hints[0].channels
    assert kept is not None
    assert kept.tolist() == [0, 1, 3, 4, 6, 7]
    assert hints[1].channels is None
    # Without channels that are zero anyway the model computes the same.
    assert error(dense.module, compressed.module, hints, x) < 1e-10
    wrong = Hint("2", "2", torch.arange(6), 1)
    assert error(dense.module, compressed.module, (wrong,), x) > 0.1


def test_flattened_channels_are_compared_too() -> None:
    model, x = silent_task_model(), torch.randn(4, 3, 12, 12)
    dense = trace_model(model, (x,))
    compressed = compress(dense, Plan(groups=((dense.info.groups[1].name, Prune(0.5)),)))
    hint = hints_of(("5",), dense.coupling, compressed)[0]
    assert hint.channels is not None
    assert (len(hint.channels), hint.channel_dim) == (3 * 36, -1)
    assert error(dense.module, compressed.module, (hint,), x) < 1e-10


def test_who_knows_only_the_mean_is_off_by_one() -> None:
    wanted = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    mean = wanted.mean().expand_as(wanted)
    found = hint_error((Hint("a", "b", None, 1),), {"b": mean}, {"a": wanted})
    assert found is not None
    assert float(found) == pytest.approx(1.0)


def test_other_shapes_and_constants_are_not_compared() -> None:
    hint = (Hint("a", "b", None, 1),)
    assert hint_error(hint, {"b": torch.zeros(2, 3)}, {"a": torch.zeros(2, 4)}) is None
    assert hint_error(hint, {"b": torch.zeros(2, 3)}, {"a": torch.ones(2, 3)}) is None
    assert hint_error((), {}, {}) is None


def test_large_maps_are_compared_by_means() -> None:
    conv = nn.Conv2d(1, 1, 1)
    x = torch.randn(2, 1, 4 * SIDE, SIDE // 2)
    model = nn.Sequential(conv)
    with watched(model, ["0"]) as seen:
        model(x)
        assert torch.allclose(seen["0"], x.unflatten(2, (SIDE, 4)).mean(3))
    model(x * 0.0)
    assert not torch.equal(seen["0"], torch.zeros_like(seen["0"]))


def test_factors_are_watched_where_the_layer_was() -> None:
    task = tiny_task()
    dense = trace_model(task.model, task.example_inputs)
    compressed: Compressed = compress(dense, Plan(layers=(("3", (LowRank(0.5),)),)))
    hints = hints_of(hint_layers(dense.module), dense.coupling, compressed)
    assert [hint.dense for hint in hints] == ["3", "8"]
    assert hints[0].own == compressed.factors["3"][0]


def test_training_with_hints_brings_the_inside_nearer() -> None:
    task = tiny_task()
    dense = trace_model(task.model, task.example_inputs)
    plan = Plan(groups=(("0", Prune(0.5)),), layers=(("3", (Quantize(3),)),))
    teacher = Teacher(dense.module, hints=hint_layers(dense.module))
    x = next(task.validation.batches(64))[0][0]
    errors = []
    for with_hints in (True, False):
        compressed = compress(dense, plan)
        hints = hints_of(teacher.hints, dense.coupling, compressed)
        training = Training(40, 4.0, 0.7, 0, hints=hints, hint_weight=3.0 if with_hints else 0.0)
        finetune(compressed.module, teacher, task, training)
        errors.append(error(dense.module, compressed.module, hints, x))
    assert errors[0] < 0.8 * errors[1]


def test_hints_weigh_less_where_less_is_left_and_nothing_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task()
    context = Context(task, load_target("jetson-nano"), "fp32", Effort())
    half, most = (realise(Plan(groups=(("0", Prune(share)),)), context).module for share in (0.125, 0.75))
    assert hint_weight(realise(Plan(), context).module, context) == hint_weight(half, context) > 0.0
    left = sum(p.numel() for p in most.parameters()) / sum(p.numel() for p in context.dense.module.parameters())
    assert left < 0.5
    assert hint_weight(most, context) == pytest.approx(hint_weight(half, context) * left / 0.5)

    weights: list[float] = []
    monkeypatch.setattr(finetuning, "_loss", lambda *args: (weights.append(args[5]), args[0].square().mean())[1])
    finetune(half, context.teacher, task, Training(4, 4.0, 0.7, 0, hint_weight=2.0))
    assert weights == [2.0, 1.5, 1.0, 0.5]


def test_an_architecture_of_the_users_own_has_no_hints() -> None:
    task = tiny_task()
    own = {"width": (8, 16)}

    def student(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)
        )

    context = Context(replace(task, student=student, student_choices=own), load_target("jetson-nano"), "fp32", Effort())
    plan = Plan(student=Student(choices=(("width", 16),)))
    assert hints_for(plan, realise(plan, context), context) == ()
    assert len(hints_for(Plan(), realise(Plan(), context), context)) == 2
    assert evaluate(plan, "short", context, steps=2).metrics["accuracy"].value >= 0.0
