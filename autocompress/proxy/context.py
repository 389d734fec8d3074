"""What every evaluation of a run shares: the task, the target, and what is computed once of the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from autocompress.compress.apply import Compressed, compress, reshape
from autocompress.compress.calibrate import Statistics, batch_statistics
from autocompress.compress.planned import PlannedNetworks
from autocompress.compress.repair import Reference, reference_outputs
from autocompress.core.network import Network
from autocompress.core.plan import Plan, Student
from autocompress.emit.fold import fold_batchnorm
from autocompress.emit.onnx_export import export_onnx, payload_of
from autocompress.errors import PlanError, nearest
from autocompress.graph.info import Traced, runnable_resolutions, trace_model
from autocompress.graph.kernels import network_of
from autocompress.proxy.hints import hint_layers
from autocompress.proxy.teacher import Teacher
from autocompress.targets import quiet
from autocompress.targets.profile import Target
from autocompress.tasks.data import Split
from autocompress.tasks.evaluate import layout_in_fp32, placed
from autocompress.tasks.task import Task

# More samples fit the weights a little better before training, and take longer than the training that makes up for it.
_FITTED_SAMPLES = 256
_Architecture = tuple[float, tuple[tuple[str, object], ...]]


def _architecture(plan: Plan) -> _Architecture:
    """What decides which traced model a plan starts from."""
    return plan.student.resolution, plan.student.choices


@dataclass(frozen=True)
class Effort:
    """How much work each fidelity is given.

    Attributes:
        short_steps: Optimiser steps of a trial.
        calibration_samples: Samples for statistics and ranges.
        validation_samples: Samples a trial is judged on; None takes all of the validation split.
        temperature: Of distillation; distill_weight: share of the teacher in the loss.
    """

    short_steps: int = 60
    calibration_samples: int = 512
    validation_samples: int | None = None
    temperature: float = 4.0
    distill_weight: float = 0.7


@dataclass(eq=False)
class Context:
    """A task on a target; the dense model is traced once per architecture.

    Attributes:
        precision: What unquantized layers run in on the target.
        device: Where fine-tuning runs.
        shares: Shares of the input side that the space would like to try.
        reference_ms: What the dense file took on this machine when the run began, where it is the target.
    """

    task: Task
    target: Target
    precision: str
    effort: Effort
    seed: int = 0
    device: str = "cpu"
    shares: tuple[float, ...] = (1.0,)
    reference_ms: float | None = None
    _traced: dict[_Architecture, Traced] = field(default_factory=dict, repr=False)
    _planned: dict[_Architecture, PlannedNetworks] = field(default_factory=dict, repr=False)
    _statistics: dict[_Architecture, Statistics] = field(default_factory=dict, repr=False)
    _references: dict[_Architecture, Reference] = field(default_factory=dict, repr=False)
    _shaped: dict[Plan, Compressed] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, object]:
        """What another process needs; what was computed from it is computed there again."""
        given = {entry.name for entry in fields(self)}
        computed: dict[str, object] = {name: {} for name in given if name.startswith("_")}
        return {name: value for name, value in vars(self).items() if name in given} | computed

    @cached_property
    def resolutions(self) -> tuple[float, ...]:
        """The shares of the input side at which the model runs."""
        return runnable_resolutions(self.task.model, self.task.example_inputs, self.shares)

    def with_calibration(self, samples: int) -> Context:
        """The same with fewer calibration samples; the traced models are shared."""
        effort = replace(self.effort, calibration_samples=samples)
        return replace(self, effort=effort, _statistics={}, _references={}, _shaped={})

    def working(self) -> AbstractContextManager[None]:
        """Is held while something is computed: where this machine is the target, measurements wait for its end."""
        return quiet.working() if self.target.profile.measured else nullcontext()

    @property
    def dense(self) -> Traced:
        """The model as the user trained it."""
        return self.traced(Plan())

    @property
    def validation(self) -> Split:
        """What trials are judged on."""
        split, samples = self.task.validation, self.effort.validation_samples
        return split if samples is None else split.head(samples)

    @cached_property
    def teacher(self) -> Teacher:
        """The dense model on the device of the training, its BatchNorms folded: a tenth faster."""
        return Teacher(fold_batchnorm(self.dense.module).module, self.device, hint_layers(self.dense.module))

    def traced(self, plan: Plan) -> Traced:
        """The lifted model that a plan starts from: at its resolution, from the user's builder if it chooses so.

        Raises:
            PlanError: the model does not run at that resolution, or the task's builder has no such choice.
        """
        key = _architecture(plan)
        if key not in self._traced:
            self._check(plan.student)
            self._traced[key] = trace_model(
                self._source(plan),
                self.task.example_inputs,
                resolutions=self.resolutions,
                student_choices=self.task.student_choices,
                resolution=plan.student.resolution,
            )
        return self._traced[key]

    def shaped(self, plan: Plan) -> Compressed:
        """The plan's structure, its weights fitted; the last one is kept, since plans are measured that share theirs.

        Raises:
            PlanError: as `traced`, or the plan names what the model does not have.
        """
        structure = plan.structure
        if structure not in self._shaped:
            self._shaped.clear()
            self._shaped[structure] = self._reshaped(structure)
        return self._shaped[structure]

    def _reshaped(self, plan: Plan) -> Compressed:
        is_taylor = any(op.criterion == "taylor" for _, op in plan.groups)
        if is_taylor and plan.student.choices:
            raise PlanError(
                "criterion 'taylor' needs gradients, which an untrained student has none of: use 'l1' or 'l2'"
            )
        gradients = self.gradients if is_taylor else None
        reference = self.reference(plan) if plan.changes_shapes else None
        return reshape(self.traced(plan), plan, gradients=gradients, reference=reference, seed=self.seed)

    def network(self, plan: Plan) -> Network:
        """The operators of the compressed model, from the plan alone wherever that is possible.

        Raises:
            PlanError: as `traced`, or the plan names what the model does not have.
        """
        traced = self.traced(plan)
        key = _architecture(plan)
        if key not in self._planned:
            self._planned[key] = PlannedNetworks(traced)
        network = self._planned[key].network(plan)
        return network if network is not None else network_of(compress(traced, plan, weights=False).module)

    def _check(self, student: Student) -> None:
        task, offered = self.task, self.task.student_choices
        for name, value in student.choices:
            if name not in offered:
                raise PlanError(f"plan.student.choices: task {task.name!r} has no {name!r}; {nearest(name, offered)}")
            if value not in offered[name]:
                allowed = ", ".join(map(repr, offered[name]))
                raise PlanError(f"plan.student.choices.{name} is {value!r}; allowed: {allowed}")
        share = student.resolution
        if share < 1.0 and share not in runnable_resolutions(task.model, task.example_inputs, (share,)):
            raise PlanError(f"plan.student.resolution is {share}; the model of task {task.name!r} does not run there")

    def _source(self, plan: Plan) -> nn.Module:
        if not plan.student.choices:
            return self.task.model
        assert self.task.student is not None
        torch.manual_seed(self.seed)
        return self.task.student(**dict(plan.student.choices))

    def statistics(self, plan: Plan) -> Statistics:
        """BatchNorm inputs of the architecture before compression, on the calibration batch."""
        key = _architecture(plan)
        if key not in self._statistics:
            self._statistics[key] = batch_statistics(self.traced(plan).module, self.calibration)
        return self._statistics[key]

    def reference(self, plan: Plan) -> Reference:
        """Outputs of the layers of the architecture before compression, on the first calibration samples."""
        key = _architecture(plan)
        if key not in self._references:
            self._references[key] = reference_outputs(
                self.traced(plan).module, tuple(x[:_FITTED_SAMPLES] for x in self.calibration)
            )
        return self._references[key]

    @cached_property
    def calibration(self) -> tuple[Tensor, ...]:
        """One batch of calibration inputs, images as they are computed fastest."""
        samples = min(self.effort.calibration_samples, len(self.task.calibration))
        inputs, _ = next(self.task.calibration.batches(samples))
        return self.laid_out(inputs)

    def laid_out(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Inputs of the dense model in the memory format that it computes fastest in, in fp32 on the CPU."""
        form = layout_in_fp32(self.dense.module)
        return tuple(placed(x, "cpu", form) for x in inputs)

    @cached_property
    def gradients(self) -> Mapping[str, Tensor]:
        """Gradients of the task's loss on the calibration samples, by parameter path of the dense model."""
        module = self.dense.module
        module.zero_grad()
        samples = min(self.effort.calibration_samples, len(self.task.calibration))
        inputs, targets = next(self.task.calibration.batches(samples))
        self.task.loss(module(*inputs), targets).backward()  # type: ignore[no-untyped-call]
        found = {name: p.grad.detach().clone() for name, p in module.named_parameters() if p.grad is not None}
        module.zero_grad()
        return found

    @cached_property
    def dense_file(self) -> bytes:
        """The dense model as an ONNX file for the target."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "dense.onnx"
            export_onnx(self.dense.module, self.dense.inputs, path, opset=self.target.profile.opset)
            return path.read_bytes()

    @cached_property
    def overhead_bytes_per_node(self) -> float:
        """What one graph node takes in a file besides weights, from an export of the dense model."""
        module = self.dense.module
        rest = len(self.dense_file) - payload_of(module).now
        return max(0.0, rest / len(module.graph.nodes))
