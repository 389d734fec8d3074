"""Checks a task before a run: every message names the split and the sample, or the model and its input."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from autocompress.core.user_code import USER_CODE_ERRORS, first_line
from autocompress.errors import InputError
from autocompress.tasks.data import Split
from autocompress.tasks.evaluate import evaluating, run_model
from autocompress.tasks.task import SPLITS, Task
from autocompress.tasks.tree import leaves

_BATCH = 8


def check_task(task: Task) -> None:
    """Runs the model, the loss and the metric on a few samples; the model is left as it was.

    Raises:
        InputError: the batch is not dimension 0 of every input and output or may not vary, data are not finite, or
            the model, the loss or the metric fails.
    """
    _check_batch(task)
    for name in SPLITS:
        require_finite(getattr(task, name))
    for name in ("train", "validation", "test"):
        inputs, targets = next(getattr(task, name).batches(_BATCH))
        outputs = run_model(task.model, inputs, f"the first samples of {name}")
        try:
            with evaluating(task.model):
                loss, metric = float(task.loss(outputs, targets)), float(task.metric(outputs, targets))
        except USER_CODE_ERRORS as error:
            raise InputError(
                f"{name}: the loss or the metric fails on the first samples: {first_line(error)}"
            ) from error
        for what, value in (("the loss", loss), (f"the metric {task.metric_name!r}", metric)):
            if not math.isfinite(value):
                raise InputError(f"{name}: {what} is {value} on the first samples; it must be finite")


def _check_batch(task: Task) -> None:
    """Runs the example with its own batch, one sample and two."""
    if not task.example_inputs or any(tensor.dim() == 0 for tensor in task.example_inputs):
        raise InputError("example_inputs must hold one tensor or more with the batch as dimension 0")
    sizes = {tensor.shape[0] for tensor in task.example_inputs}
    if len(sizes) > 1:
        raise InputError(f"example_inputs hold batches of {sorted(sizes)} samples; dimension 0 of all must agree")
    one = tuple(tensor[:1] for tensor in task.example_inputs)
    two = tuple(torch.cat([tensor, tensor]) for tensor in one)
    for inputs, count in ((task.example_inputs, sizes.pop()), (one, 1), (two, 2)):
        outputs = run_model(task.model, inputs, f"the example inputs as a batch of {count}")
        for output in leaves(outputs):
            if output.dim() == 0 or output.shape[0] != count:
                raise InputError(
                    f"the model returns {list(output.shape)} for a batch of {count}; dimension 0 must be the batch"
                )


def require_finite(split: Split) -> None:
    """Checks inputs and targets for NaN and infinity: every sample in memory, the first 256 of a Dataset.

    Raises:
        InputError: a number is not finite; names the split and the sample.
    """
    for column in leaves(split.sample_columns()):
        if column.is_floating_point() and not bool(torch.isfinite(column).all()):
            index = int((~torch.isfinite(column)).reshape(len(column), -1).any(dim=1).nonzero()[0])
            raise InputError(f"{split.name}: sample {index} holds a NaN or an infinity; remove or repair it")


def require_labels(split: Split, classes: int) -> None:
    """Checks that labels are integers `[n]` in `[0, classes)`: every one in memory, the first 256 of a Dataset.

    Raises:
        InputError: they are not; names the split, the sample and the label.
    """
    labels = split.sample_columns()[-1]
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.dim() != 1:
        got = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"{split.name}: the labels are {got}; they must be torch.int64 [n], one class each")
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise InputError(
            f"{split.name}: the label of sample {index} is {int(labels[index])}; allowed: 0 to {classes - 1} "
            f"(the model has {classes} outputs)"
        )
