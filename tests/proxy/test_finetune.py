from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.compress.apply import compress
from autocompress.core.plan import LowRank, Plan, Prune, Quantize
from autocompress.errors import RunError
from autocompress.graph.info import trace_model
from autocompress.proxy.finetune import Training, finetune
from autocompress.proxy.teacher import Teacher
from autocompress.tasks import Task, distillation_loss
from autocompress.tasks.evaluate import evaluate_metric
from tests.nets import make_task
from tests.run.tiny import tiny_task

PLAN = Plan(groups=(("0", Prune(0.5)), ("3", Prune(0.5))), layers=(("8", (Quantize(4),)),))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


@pytest.fixture(scope="module")
def models(task: Task) -> tuple[nn.Module, nn.Module]:
    """A student and its teacher."""
    traced = trace_model(task.model, task.example_inputs)
    return compress(traced, PLAN).module, traced.module


def trained(models: tuple[nn.Module, nn.Module], task: Task, training: Training) -> tuple[nn.Module, list[float]]:
    """A trained copy of the student, with the loss of every step."""
    student = copy.deepcopy(models[0])
    return student, losses_of(student, models[1], task, training)


def losses_of(student: nn.Module, teacher: nn.Module, task: Task, training: Training) -> list[float]:
    """Trains the student and returns the loss of every step."""
    own: list[float] = []
    soft: list[float] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = task.loss(outputs, targets)
        own.append(float(value.detach()))
        return value

    def distill(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        value = distillation_loss(outputs, wanted, temperature)
        soft.append(float(value.detach()))
        return value

    finetune(student, Teacher(teacher), replace(task, loss=loss, distill=distill), training)
    weight = training.weight
    return [(1 - weight) * a + weight * b for a, b in itertools.zip_longest(own, soft, fillvalue=0.0)]


def test_training_follows_from_the_seed(task: Task, models: tuple[nn.Module, nn.Module]) -> None:
    first, losses = trained(models, task, Training(6, 4.0, 0.7, 3))
    second, again = trained(models, task, Training(6, 4.0, 0.7, 3))
    other, others = trained(models, task, Training(6, 4.0, 0.7, 4))
    assert losses == again
    assert same(state(first), state(second))
    assert losses != others
    assert not same(state(first), state(other))
    assert len(losses) == 6


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
def test_the_loss_falls_and_the_accuracy_rises(task: Task, models: tuple[nn.Module, nn.Module], weight: float) -> None:
    student, losses = trained(models, task, Training(60, 4.0, weight, 0, learning_rate=0.05))
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])
    before = evaluate_metric(models[0], task, task.validation)
    assert evaluate_metric(student, task, task.validation) > before
    assert not student.training


def test_a_teacher_is_left_as_it_was(task: Task, models: tuple[nn.Module, nn.Module]) -> None:
    before = state(models[1])
    trained(models, task, Training(5, 4.0, 0.7, 0))
    assert same(state(models[1]), before)
    assert not models[1].training
    assert all(parameter.grad is None for parameter in models[1].parameters())
    assert all(value.is_contiguous() for value in models[1].parameters())


def test_no_steps_change_nothing(task: Task, models: tuple[nn.Module, nn.Module]) -> None:
    student, losses = trained(models, task, Training(0, 4.0, 0.7, 0))
    assert same(state(student), state(models[0]))
    assert losses == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_that_diverges_is_stopped(task: Task, models: tuple[nn.Module, nn.Module], value: float) -> None:
    broken = replace(task, loss=lambda outputs, targets: F.cross_entropy(outputs, targets) * 0.0 + value)
    with pytest.raises(RunError, match=rf"training diverged: the loss is {value} at step 1 of 4"):
        trained(models, broken, Training(4, 4.0, 0.0, 0))
    assert not models[1].training


def test_a_rate_that_is_far_too_high_is_told_or_survived(task: Task, models: tuple[nn.Module, nn.Module]) -> None:
    broken = replace(task, loss=lambda outputs, targets: (outputs**4).mean().exp())
    with pytest.raises(RunError, match="training diverged"):
        trained(models, broken, Training(200, 4.0, 0.0, 0, learning_rate=1e6))


def test_progress_is_told(task: Task, models: tuple[nn.Module, nn.Module]) -> None:
    told: list[tuple[int, int]] = []
    finetune(
        copy.deepcopy(models[0]), Teacher(models[1]), task, Training(3, 4.0, 0.7, 0), lambda *step: told.append(step)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_one_sample_left_over_is_skipped(task: Task, models: tuple[nn.Module, nn.Module]) -> None:
    _, losses = trained(models, replace(task, train=task.train.head(33)), Training(5, 4.0, 0.7, 0))
    assert len(losses) == 5


@pytest.mark.parametrize("name", ["text_encoder", "unet", "groupnorm"])
def test_every_kind_of_net_learns(name: str) -> None:
    task = make_task(name, steps=10)
    traced = trace_model(task.model, task.example_inputs)
    plan = Plan(layers=tuple((layer.name, (Quantize(8),)) for layer in traced.info.layers if not layer.frozen_reason))
    student = compress(traced, plan).module
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.0 + 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    losses = losses_of(student, traced.module, task, Training(16, 4.0, 0.7, 0))
    assert sum(losses[-4:]) < sum(losses[:4])


def test_factors_learn_too(task: Task) -> None:
    traced = trace_model(task.model, task.example_inputs)
    student = compress(traced, Plan(layers=(("3", (LowRank(0.5),)),))).module
    before = state(student)
    finetune(student, Teacher(traced.module), task, Training(3, 4.0, 0.7, 0))
    changed = {name for name, value in state(student).items() if not torch.equal(value, before[name])}
    assert {name for name, parameter in student.named_parameters() if parameter.requires_grad} <= changed


def test_batches_of_one_train_what_has_no_batchnorm_and_are_refused_elsewhere() -> None:
    task = replace(tiny_task(), batch_size=1)
    with pytest.raises(RunError, match="batches have 1 sample"):
        finetune(copy.deepcopy(task.model), Teacher(task.model), task, Training(2, 4.0, 0.5, 0))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    before = state(plain)
    finetune(plain, Teacher(task.model), task, Training(2, 4.0, 0.5, 0))
    assert not same(before, state(plain))
