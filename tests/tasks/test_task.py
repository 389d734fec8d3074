"""Task, its checks and its metric."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autocompress.errors import InputError, RunError
from autocompress.tasks import Split, Task, check_task, classification, collect_outputs, distillation_loss
from autocompress.tasks import evaluate_metric as measure

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 2


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, x, z):
        return self.a(x), {"score": self.b(z).squeeze(1)}


def two_heads_task() -> Task:
    data = Split.of((X, X[:, :2], (Y, X[:, 0])))
    return Task(
        name="two heads",
        model=TwoHeads(),
        example_inputs=(X[:1], X[:1, :2]),
        train=data,
        validation=data,
        test=data,
        loss=lambda outputs, targets: (
            F.cross_entropy(outputs[0], targets[0]) + F.mse_loss(outputs[1]["score"], targets[1])
        ),
        metric=lambda outputs, targets: float((outputs[1]["score"] - targets[1]).abs().mean()),
        metric_name="mae",
        metric_unit="points",
        higher_is_better=False,
    )


def classify(**changes) -> Task:
    data = {"train": (X, Y), "validation": (X, Y), "test": (X, Y)}
    return classification("toy", changes.pop("model", linear()), **{**data, **changes})


def test_any_inputs_outputs_loss_and_metric():
    task = two_heads_task()
    check_task(task)
    outputs, targets = collect_outputs(task.model, task.test, batch_size=7)
    assert outputs[0].shape == (40, 2)
    assert torch.equal(targets[1], X[:, 0])
    assert measure(task.model, task, task.test) == pytest.approx(task.metric(outputs, targets))
    assert torch.isfinite(task.distill_loss(outputs, outputs, 2.0))


def test_classification_measures_top1_and_leaves_the_model_as_it_was():
    task = classify()
    task.model.train()
    check_task(task)
    expected = 100.0 * float((linear().eval()(X).argmax(1) == Y).float().mean())
    assert measure(task.model, task, task.validation) == pytest.approx(expected)
    assert all(module.training for module in task.model.modules())
    assert task.calibration.name == "calibration"
    assert len(task.calibration) == 40


def test_a_runtime_can_be_measured_like_a_model():
    task = classify()
    weight, bias = task.model[0].weight.detach().numpy(), task.model[0].bias.detach().numpy()
    assert measure(lambda x: torch.from_numpy(x.numpy() @ weight.T + bias), task, task.test) == pytest.approx(
        measure(task.model, task, task.test)
    )


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 2)

    def forward(self, x):
        x = self.conv(x)
        return self.head(x.view(len(x), -1))


def test_a_model_that_looks_at_planes_by_a_view_is_measured():
    model, images = Viewed().eval(), torch.randn(20, 1, 6, 6)
    labels = model(images).argmax(1)
    parts = dict.fromkeys(("train", "validation", "test"), (images, labels))
    task = classification("planes", model, **parts)
    assert measure(task.model, task, task.test) == 100.0


def test_a_metric_that_is_not_finite_stops_the_run():
    task = dataclasses.replace(classify(), metric=lambda outputs, targets: math.nan)
    with pytest.raises(RunError, match="accuracy on test is nan"):
        measure(task.model, task, task.test)
    with pytest.raises(InputError, match="the metric 'accuracy' is nan"):
        check_task(task)


def test_distillation_is_zero_for_equal_outputs_and_has_a_gradient():
    teacher = torch.randn(5, 4, 3)
    assert float(distillation_loss(teacher, teacher, 4.0)) == pytest.approx(0.0, abs=1e-6)
    student = torch.zeros(5, 4, 3, requires_grad=True)
    loss = distillation_loss(student, teacher, 1.0)
    uniform = math.log(4) - torch.distributions.Categorical(logits=teacher.transpose(1, 2)).entropy().mean()
    assert float(loss.detach()) == pytest.approx(float(uniform), rel=1e-4)
    loss.backward()
    assert float(student.grad.abs().sum()) > 0
    one_column = distillation_loss(torch.zeros(5, 1), torch.ones(5, 1), 3.0)
    assert float(one_column) == pytest.approx(1.0)


def test_augment_and_digests():
    task = classify(augment=lambda x, generator: x + torch.rand(x.shape, generator=generator))
    first, second = (task.augmented((X,), torch.Generator().manual_seed(1))[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, X)
    assert task.data_digest == classify().data_digest != classify(test=(X + 1, Y)).data_digest
    assert task.model_digest == classify().model_digest != classify(model=nn.Linear(3, 2)).model_digest


def _with(value: float, index: int) -> torch.Tensor:
    changed = X.clone()
    changed[index, 1] = value
    return changed


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(1, 3)[:, :2]


BAD = {
    "label out of range": (
        {"train": (X, torch.where(torch.arange(40) == 17, 9, Y))},
        r"train: the label of sample 17 is 9; allowed: 0 to 1",
    ),
    "float labels": ({"test": (X, Y.float())}, r"test: the labels are torch.float32 \[40\]"),
    "NaN": ({"validation": (_with(math.nan, 5), Y)}, "validation: sample 5 holds a NaN or an infinity"),
    "infinity": ({"train": (_with(math.inf, 6), Y)}, "train: sample 6 holds a NaN or an infinity"),
    "forward fails": (
        {"model": nn.Linear(4, 2)},
        r"the model fails on the example inputs \(\[1, 3\]\): RuntimeError: mat1 and mat2",
    ),
    "no logits": ({"model": nn.Sequential(nn.Linear(3, 2), nn.Flatten(0))}, "classification needs logits"),
    "fixed batch": ({"model": FixedBatch()}, "the model fails on the example inputs as a batch of 2"),
    "student alone": ({"student": linear}, "student and student_choices belong together"),
    "learning rate": ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_bad_task_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check_task(classify(**changes))
    assert "\n" not in str(caught.value)


def test_a_plain_tuple_is_refused_with_what_to_write():
    with pytest.raises(InputError, match=r"test is a tuple; write test=Split.of\(data, 'test'\)"):
        dataclasses.replace(two_heads_task(), test=(X, Y))


def test_a_failing_loss_is_named():
    task = dataclasses.replace(classify(), loss=lambda outputs, targets: outputs[9, 9, 9])
    with pytest.raises(InputError, match="train: the loss or the metric fails on the first samples: IndexError"):
        check_task(task)
