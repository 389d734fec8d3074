"""The task most people have: one label for each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.check import require_finite, require_labels
from autocompress.tasks.data import DataLike, Split
from autocompress.tasks.evaluate import run_model
from autocompress.tasks.task import CALIBRATION_SAMPLES, Task


def top1_percent(outputs: Tensor, targets: Tensor) -> float:
    """The share of samples whose largest logit, `[n, classes]`, is their label, `[n]`; in percent."""
    return 100.0 * float((outputs.argmax(dim=1) == targets).double().mean())


def classification(
    name: str,
    model: nn.Module,
    train: DataLike,
    validation: DataLike,
    test: DataLike,
    *,
    example_inputs: tuple[Tensor, ...] | None = None,
    calibration: DataLike | None = None,
    learning_rate: float = 0.01,
    batch_size: int = 128,
    augment: Callable[..., Any] | None = None,
    student: Callable[..., nn.Module] | None = None,
    student_choices: Mapping[str, Sequence[str | int | float | bool]] | None = None,
    notes: tuple[str, ...] = (),
) -> Task:
    """A Task with cross entropy and top-1 accuracy in percent; the data and the labels are checked.

    Args:
        name: How the report calls it.
        model: Maps inputs to logits `[n, classes]`.
        train: What `Split.of` takes: `(inputs..., labels)`, a Dataset or a DataLoader; labels are integers `[n]`.
        validation: As `train`.
        test: As `train`.
        example_inputs: The first sample of `validation` unless given.
        calibration: The first 512 of `train` unless given.
        learning_rate: Where fine-tuning starts.
        batch_size: Samples in a training batch.
        augment: `augment(*inputs, generator) -> inputs` on a training batch.
        student: Builds another architecture from `student_choices`.
        student_choices: Options of every argument of `student`.
        notes: Sentences for the report.

    Raises:
        InputError: the model fails on the example, a label is out of range or a number is not finite.
    """
    given = {"train": train, "calibration": calibration, "validation": validation, "test": test}
    splits = {key: Split.of(source, key) for key, source in given.items() if source is not None}
    example = example_inputs or next(splits["validation"].batches(1))[0]
    outputs = run_model(model, example)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"task {name!r}: the model returns {got}; classification needs logits [n, classes]")
    for split in splits.values():
        require_finite(split)
        require_labels(split, outputs.shape[1])
    return Task(
        name=name,
        model=model,
        example_inputs=example,
        loss=F.cross_entropy,
        metric=top1_percent,
        learning_rate=learning_rate,
        batch_size=batch_size,
        augment=augment,
        student=student,
        student_choices=student_choices or {},
        notes=notes,
        train=splits["train"],
        calibration=splits.get("calibration") or splits["train"].head(CALIBRATION_SAMPLES),
        validation=splits["validation"],
        test=splits["test"],
    )
