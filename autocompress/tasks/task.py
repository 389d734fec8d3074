"""Task: the model, its data, its loss and its metric."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.data import Split, as_tuple
from autocompress.tasks.tree import leaves

CALIBRATION_SAMPLES = 512
SPLITS = ("train", "calibration", "validation", "test")
_HEAD_OF_TRAIN = Split("calibration", (), None, torch.arange(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is compressed: any model, loss, metric and output (a tensor, or a tuple of tensors).

    Attributes:
        name: How the report calls it.
        model: The trained model. It is never changed: work on a copy.
        example_inputs: What `model(*example_inputs)` takes; dimension 0 of each is the batch, of one sample or more.
        train: For fine-tuning.
        calibration: For the ranges of activations and for sensitivity; the first 512 of `train` unless given.
        validation: What the search looks at.
        test: What the final table is measured on; the search never sees it.
        loss: `loss(outputs, targets)`, a scalar.
        metric: `metric(outputs, targets)` over all samples of a split at once, on the CPU.
        metric_name: What the metric is called.
        metric_unit: The unit it is in.
        higher_is_better: False for an error, a loss or a perplexity.
        distill: `distill(student_outputs, teacher_outputs, temperature)`, a scalar; None takes `distillation_loss`.
        learning_rate: Where fine-tuning starts.
        batch_size: Samples in a training batch.
        augment: `augment(*inputs, generator) -> inputs` on a training batch on the CPU, or None.
        student: Builds another architecture for the same inputs and outputs from the choices, or None.
        student_choices: Options of every argument of `student`.
        notes: What a reader of the report must know of the data, a sentence each.
    """

    name: str
    model: nn.Module = field(repr=False)
    example_inputs: tuple[Tensor, ...] = field(repr=False)
    train: Split
    validation: Split
    test: Split
    loss: Callable[[Any, Any], Tensor]
    metric: Callable[[Any, Any], float]
    calibration: Split = _HEAD_OF_TRAIN
    metric_name: str = "accuracy"
    metric_unit: str = "percent"
    higher_is_better: bool = True
    distill: Callable[[Any, Any, float], Tensor] | None = None
    learning_rate: float = 0.01
    batch_size: int = 128
    augment: Callable[..., Any] | None = None
    student: Callable[..., nn.Module] | None = None
    student_choices: Mapping[str, Sequence[str | int | float | bool]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.train, Split) and self.calibration is _HEAD_OF_TRAIN:
            object.__setattr__(self, "calibration", Split.of(self.train.head(CALIBRATION_SAMPLES), "calibration"))
        for name in SPLITS:
            value: object = getattr(self, name)
            if not isinstance(value, Split):
                raise InputError(
                    f"task {self.name!r}: {name} is a {type(value).__name__}; write {name}=Split.of(data, {name!r})"
                )
            object.__setattr__(self, name, Split.of(value, name))
        object.__setattr__(self, "example_inputs", as_tuple(self.example_inputs))
        self._check_values()

    def _check_values(self) -> None:
        where = f"task {self.name!r}"
        model: object = self.model
        if not isinstance(model, nn.Module):
            raise InputError(f"{where}: model is a {type(model).__name__}; it must be a torch.nn.Module")
        if not self.learning_rate > 0:
            raise InputError(f"{where}: learning_rate is {self.learning_rate}; it must be above 0")
        if self.batch_size < 1:
            raise InputError(f"{where}: batch_size is {self.batch_size}; it must be 1 or more")
        if bool(self.student_choices) != (self.student is not None):
            raise InputError(f"{where}: student and student_choices belong together; give both or neither")
        empty = [name for name, options in self.student_choices.items() if not list(options)]
        if empty:
            raise InputError(f"{where}: student_choices[{empty[0]!r}] is empty; list one option or more")

    def augmented(self, inputs: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        """A training batch as `augment` changes it; the batch itself without `augment`."""
        return as_tuple(self.augment(*inputs, generator)) if self.augment is not None else inputs

    def distill_loss(self, student_outputs: Any, teacher_outputs: Any, temperature: float) -> Tensor:
        """How far the student is from its teacher, a scalar, by `distill` or `distillation_loss`."""
        return (self.distill or distillation_loss)(student_outputs, teacher_outputs, temperature)

    @property
    def data_digest(self) -> str:
        """Twelve hex digits that name the four splits."""
        text = " ".join(getattr(self, name).digest for name in SPLITS)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def model_digest(self) -> str:
        """Twelve hex digits that name the model's weights and buffers."""
        digest = hashlib.sha256()
        for name, value in self.model.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]


def distillation_loss(student_outputs: Any, teacher_outputs: Any, temperature: float) -> Tensor:
    """The default distance of two outputs, summed over their tensors.

    Logits, `[n, classes, ...]` with two classes or more, are compared by the KL divergence of their softmax over
    dimension 1 at `temperature`, times its square, averaged over everything else; other tensors by the mean square.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2.
    """
    total = torch.zeros(())
    for student, teacher in zip(leaves(student_outputs), leaves(teacher_outputs), strict=True):
        if student.is_floating_point() and student.dim() >= 2 and student.shape[1] > 1:
            log_student = F.log_softmax(student.float() / temperature, dim=1)
            log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
            divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
            total = total.to(student.device) + divergence.mean() * temperature**2
        else:
            total = total.to(student.device) + F.mse_loss(student.float(), teacher.float())
    return total
