"""Short training of a compressed model with the dense one as teacher.

Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2 (soft targets beside the labels),
and hints from inside of the dense model, see `hints`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import clip_grad_norm_

from autocompress.compress.quantizer import WeightQuantizer
from autocompress.compress.rectified import rectified
from autocompress.errors import RunError
from autocompress.graph.couple import NORM_MODULES
from autocompress.proxy.hints import Hint, hint_error, watched
from autocompress.proxy.rungs import Keeper, Rungs, UnderWay
from autocompress.proxy.teacher import Answer, Teacher, autocast, layout
from autocompress.tasks.evaluate import placed
from autocompress.tasks.task import Task
from autocompress.tasks.tree import map_tensors, mean_alone

_MAX_GRADIENT_NORM = 5.0
_WEIGHT_DECAY = 1e-4
_WARM_UP = 0.05


@dataclass(frozen=True)
class Training:
    """How a compressed model is trained.

    Attributes:
        steps: Optimiser steps.
        temperature: Of the soft targets.
        weight: Share of the teacher in the loss, 0 to 1: of its outputs and, in their units, of its hints.
        seed: Order and augmentation of the batches, and of anything else that is random in training.
        device: `cpu` or `cuda`.
        learning_rate: Where the cosine starts; None takes the task's.
        hints: Where the model is compared with its teacher inside.
        hint_weight: What knowing nothing there costs at the first step, beside knowing nothing at the end; it falls to
            zero along a line.
    """

    steps: int
    temperature: float
    weight: float
    seed: int
    device: str = "cpu"
    learning_rate: float | None = None
    hints: tuple[Hint, ...] = ()
    hint_weight: float = 0.0


def finetune(
    model: nn.Module,
    teacher: Teacher,
    task: Task,
    training: Training,
    progress: Callable[[int, int], None] | None = None,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    halfway: Callable[[nn.Module], bool] | None = None,
    rungs: Rungs | None = None,
) -> bool:
    """Trains `model` in place; it comes back in evaluation mode on the CPU. False if it was stopped half way.

    Models with BatchNorm are trained by SGD with Nesterov momentum, others by AdamW at a tenth of the rate; the rate
    warms up over one step in twenty and falls to zero along a cosine.

    Args:
        model: What is trained.
        teacher: Of the same task.
        task: Its training split, loss and learning rate.
        training: How.
        progress: Called with the steps done and their total.
        turn: What each step is done under.
        halfway: Called after half of the steps with a model that computes the same; False stops the training.
        rungs: Where the training is kept on the way, and gone on with from; it gives the same as without a break.

    Raises:
        RunError: the loss is not finite.
    """
    if training.steps <= 0:
        return True
    with rectified(model) if isinstance(model, fx.GraphModule) else nullcontext(model) as trained:
        goes_on = _train(trained, teacher, task, training, progress, turn, halfway, rungs)
    model.eval()
    return goes_on


def _train(
    model: nn.Module,
    teacher: Teacher,
    task: Task,
    training: Training,
    progress: Callable[[int, int], None] | None,
    turn: Callable[[], AbstractContextManager[None]],
    halfway: Callable[[nn.Module], bool] | None,
    rungs: Rungs | None,
) -> bool:
    device = torch.device(training.device)
    form = layout(model, device)
    _move(model, device, form)
    optimiser = _optimiser(model, training.learning_rate or task.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, training.steps))
    model.train()
    own = [hint.own for hint in training.hints]
    generator = torch.Generator().manual_seed(training.seed)
    torch.manual_seed(training.seed)
    half = (training.steps + 1) // 2
    keeper = Keeper(rungs, half, halfway is not None)
    under_way = UnderWay(model, optimiser, schedule, generator, device)
    try:
        start = keeper.resumed(under_way)
        if halfway is not None and start == half and not halfway(model):
            return False
        # BatchNorm cannot train on a single sample.
        least = 2 if any(isinstance(part, NORM_MODULES) for part in model.modules()) else 1
        for step, (inputs, targets) in enumerate(_batches(task, training, least, start), start):
            with turn(), watched(model, own) as seen:
                inputs = task.augmented(inputs, generator)
                answer = teacher.answer(inputs) if training.weight > 0 else None
                inputs = tuple(placed(x, device, form) for x in inputs)
                with autocast(device):
                    outputs = model(*inputs)
                hints = training.hint_weight * (1.0 - step / training.steps)
                loss = _loss(outputs, seen, answer, task, training, hints, _moved(targets, device))
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise RunError(f"training diverged: the loss is {value} at step {step + 1} of {training.steps}")
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
                optimiser.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, training.steps)
            keeper.keep(under_way, step + 1)
            if halfway is not None and step + 1 == half and not halfway(model):
                return False
        return True
    finally:
        _move(model, torch.device("cpu"), torch.contiguous_format)
        model.eval()


def _move(module: Any, device: torch.device, layout: torch.memory_format) -> None:
    module.to(device=device, memory_format=layout)


def _loss(
    outputs: Any,
    seen: Mapping[str, Tensor],
    answer: Answer | None,
    task: Task,
    training: Training,
    hint_weight: float,
    targets: Any,
) -> Tensor:
    outputs = map_tensors(outputs, _float)
    loss = task.loss(outputs, targets) * (1.0 - training.weight)
    if answer is not None:
        soft = map_tensors(answer.outputs, _float)
        loss = loss + task.distill_loss(outputs, soft, training.temperature) * training.weight
        error = hint_error(training.hints, seen, answer.hints)
        if error is not None:
            # In units of what a student loses that knows nothing, so that it suits every task's own distance.
            nothing = task.distill_loss(mean_alone(soft), soft, training.temperature)
            loss = loss + hint_weight * nothing * error * training.weight
    return loss


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _moved(targets: Any, device: torch.device) -> Any:
    return map_tensors(targets, lambda tensor: tensor.to(device))


def _batches(task: Task, training: Training, least: int, start: int) -> Iterator[tuple[tuple[Tensor, ...], Any]]:
    """The batches from `start` on, of `least` samples or more: epoch after epoch, each in an order of its own."""
    size, count = task.batch_size, len(task.train)
    if min(size, count) < least:
        raise RunError(
            f"task {task.name!r}: batches have {min(size, count)} sample; "
            f"to train a model with BatchNorm they need {least} or more: raise batch_size"
        )
    per_epoch = count // size + (count % size >= least)
    first, skipped = divmod(start, per_epoch)
    left = training.steps - start
    for epoch in itertools.count(first):
        if left <= 0:
            return
        batches = task.train.batches(size, seed=training.seed * 7919 + epoch)
        whole = (batch for batch in batches if len(batch[0][0]) >= least)
        for batch in itertools.islice(whole, skipped, skipped + left):
            yield batch
            left -= 1
        skipped = 0


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, round(steps * _WARM_UP))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _optimiser(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Weights with decay; norms, biases and quantizer steps without."""
    steps = [m.scale for m in model.modules() if isinstance(m, WeightQuantizer)]
    names = {id(p) for p in steps}
    decayed = [p for p in model.parameters() if p.dim() > 1 and id(p) not in names]
    plain = [p for p in model.parameters() if p.dim() <= 1 and id(p) not in names]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": _WEIGHT_DECAY},
        {"params": plain, "weight_decay": 0.0},
    ]
    if any(isinstance(m, NORM_MODULES) for m in model.modules()):
        groups.append({"params": steps, "weight_decay": 0.0, "lr": rate * 0.1})
        return torch.optim.SGD([g for g in groups if g["params"]], lr=rate, momentum=0.9, nesterov=True)
    groups.append({"params": steps, "weight_decay": 0.0})
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate * 0.1)
