"""One plan evaluated at one fidelity: applied, calibrated, trained, measured."""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, fx, nn

from autocompress.compress.apply import Compressed, with_values
from autocompress.compress.calibrate import calibrate
from autocompress.core.metric import Metric
from autocompress.core.plan import LowRank, Plan
from autocompress.core.target import LatencyEstimate
from autocompress.emit.fold import fold_batchnorm
from autocompress.emit.onnx_export import export_onnx
from autocompress.emit.settle import settle_biases
from autocompress.errors import RunError
from autocompress.graph.couple import NORM_MODULES
from autocompress.graph.info import layer_infos, total_macs
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_model
from autocompress.proxy.finetune import Training, finetune
from autocompress.proxy.hints import Hint, hints_of
from autocompress.proxy.rungs import Rungs
from autocompress.proxy.timing import steady_latency
from autocompress.tasks.evaluate import evaluate_metric

_LONGEST_TRAINING = 4.0
# The more was cut, the further the rest is from its optimum. ResNet-20 without half of its inner channels is at
# 87.86 % after an epoch that starts at the task's rate, at 88.46 % from three times and 86.64 % from ten times of it;
# without an eighth of them three times the rate costs 0.2 points, and at three quarters of the input side 0.6. As
# columns and rows with half of the MACs it is after 600 steps at 91.1 % from twice and 90.9 % from five times the rate.
_MOST_RATE = 3.0
# The longer the training, the higher it may start. ResNet-20 with all weights in 2 bits and an eighth of some channels
# cut is after 1,022 steps at 90.9 % from 1.2 times the task's rate, at 91.1 % from 4 and 90.6 % from 12 times of it.
# Five small plans of the digits' network, mean: 98.8 % after 1,000 steps from 3 times the rate, 99.0 % from 9 times.
_SHORT_STEPS, _LONGER = 40, 1.0 / 3.0
# Higher than this nothing was gained: with half of the MACs cut, two models after 7,000 steps from 3 and from 10 times
# the rate are at 90.7 % alike.
_MOST_RATE_OF_LONG = 5.0
# Norms, activations, sums and their gradients take as long for each output of a layer as so many MACs: 57 % of a
# training step of ResNet-20 with 188,000 outputs and 40.6 million MACs, on a CPU with AMX in bf16.
_MACS_PER_OUTPUT = 280
# Whatever the student, a step reads samples and asks the teacher, most of the time for a batch that it has not seen:
# so much of a step of the dense model. Without it, models with half of the work took 1.3 to 1.5 times as long as it.
_TEACHING = 0.25
# What knowing nothing inside costs at first, beside knowing nothing at the end; for a model with less than half of the
# weights in proportion to them, since it cannot do inside what the dense one does. ResNet-20 in 4 bits without half of
# its inner channels, validation and test half together, after 61 steps: 85.7 % without hints, 87.0 % with them. Five
# plans with 7 to 18 % of the weights of the digits' network, mean: 98.1 % without, 98.3 % with them, 95.3 % with all
# of it to the end.
_HINTS, _FOLLOWING = 3.0, 0.5
# Validation samples that a model is looked at with half way: of 5,000 of CIFAR-10 a fortieth of a trial's time.
_LOOKED_AT = 512


class StoppedError(RunError):
    """A training was ended half way."""


@dataclass(frozen=True)
class Evaluation:
    """What is known of a plan after one evaluation.

    Attributes:
        metrics: By name, each with its origin.
        module: The model the numbers are of.
        seconds: Wall time by phase: apply, train, evaluate, measure.
        notes: What the plan asked for and did not get.
    """

    plan: Plan
    fidelity: str
    metrics: Mapping[str, Metric]
    latency: LatencyEstimate
    module: fx.GraphModule
    seconds: Mapping[str, float]
    notes: tuple[str, ...]


def evaluate(
    plan: Plan,
    fidelity: str,
    context: Context,
    *,
    steps: int | None = None,
    start: Mapping[str, Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
    halfway: Callable[[float], bool] | None = None,
    rungs: Rungs | None = None,
) -> Evaluation:
    """Applies, calibrates and trains a plan and measures it on the validation split.

    The same plan, fidelity and seed give the same numbers, whenever and wherever it runs on one kind of machine.

    Args:
        plan: Of the space of the run.
        fidelity: `untrained`, `short` or `full`.
        context: What the run shares.
        steps: Optimiser steps that the dense model would get; by default those of the fidelity. See
            `affordable_steps`.
        start: Trained weights of this very plan to go on from.
        progress: Called with the steps done and their total.
        halfway: Called after half of the training with the metric on the first validation samples, of the dense model
            at once; False ends it there.
        rungs: Where the training is kept on the way, and gone on with from.

    Raises:
        RunError: training diverged or the metric is not finite.
        StoppedError: `halfway` said so.
    """
    clock = [time.perf_counter()]
    with context.working():
        compressed = realise(plan, context)
    if start is not None:
        compressed.module.load_state_dict(dict(start))
    clock.append(time.perf_counter())
    steps = steps if steps is not None else 0 if fidelity == "untrained" else context.effort.short_steps
    steps = affordable_steps(steps, compressed.module, context)
    if not plan.is_dense:
        training = _training(plan, compressed, context, steps)
        look = None if halfway is None else partial(_goes_on, halfway, context)
        whole = finetune(
            compressed.module, context.teacher, context.task, training, progress, context.working, look, rungs
        )
        if not whole:
            raise StoppedError(f"stopped after half of {steps} steps")
        settle_biases(compressed.module)
    elif halfway is not None:
        _goes_on(halfway, context, compressed.module)
    clock.append(time.perf_counter())
    with context.working():
        # Folded it computes what its file does.
        folded = fold_batchnorm(compressed.module).module
        value = evaluate_metric(folded, context.task, context.validation)
        clock.append(time.perf_counter())
        cost = cost_of_model(compressed.module, context)
    metrics = {"accuracy": Metric.exact(value, context.task.metric_unit), **cost.metrics}
    if context.target.profile.measured and fidelity != "untrained":
        metrics.update(measured_on_file(compressed.module, context))
    clock.append(time.perf_counter())
    phases = ("apply", "train", "evaluate", "measure")
    seconds = {name: clock[i + 1] - clock[i] for i, name in enumerate(phases)}
    return Evaluation(plan, fidelity, metrics, cost.latency, compressed.module, seconds, compressed.notes)


def _goes_on(halfway: Callable[[float], bool], context: Context, model: nn.Module) -> bool:
    with context.working():
        return halfway(evaluate_metric(model, context.task, context.validation.head(_LOOKED_AT)))


def affordable_steps(steps: int, module: fx.GraphModule, context: Context) -> int:
    """Steps for the same work: a model with half of it in a step is trained twice as long, but not longer."""
    dense = training_work(context.dense.module)
    share = (1.0 + _TEACHING) * dense / max(1.0, training_work(module) + _TEACHING * dense)
    return round(steps * min(_LONGEST_TRAINING, max(1.0, share)))


def training_work(module: fx.GraphModule) -> float:
    """What a training step costs for each sample, in MACs: those of the layers, and what reads and writes outputs."""
    outputs = sum(math.prod(layer.out_shape) * layer.calls for layer in layer_infos(module))
    return total_macs(module) + _MACS_PER_OUTPUT * outputs


def realise(plan: Plan, context: Context) -> Compressed:
    """The compressed and calibrated model of a plan, before any training."""
    torch.manual_seed(_seed(plan, context))
    traced = context.traced(plan)
    shaped = context.shaped(plan)
    compressed = with_values(traced, replace(shaped, module=copy.deepcopy(shaped.module)), plan)
    if not plan.is_dense:
        statistics = context.statistics(plan)
        calibrate(compressed.module, context.calibration, statistics, traced.coupling, compressed.removed)
    return compressed


def measured_on_file(module: fx.GraphModule, context: Context) -> dict[str, Metric]:
    """Bytes and latency of the exported file on this machine, at batch 1 and one thread."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with context.working():
            exported = export_onnx(module, context.dense.inputs, path, opset=context.target.profile.opset)
        size = Metric.exact(exported.size_bytes, "bytes")
        return {"size_bytes": size, "latency_ms": steady_latency(path, context)}


def starting_rate(plan: Plan, module: fx.GraphModule, context: Context, steps: int) -> float:
    """Where the learning rate starts: above the task's, the more was cut and the longer the training is.

    It grows with the square of how much less the same inputs cost now and the cube root of the steps. What factors save
    does not count: they come close to the layers they stand for.
    """
    rate = context.task.learning_rate
    if not any(isinstance(part, NORM_MODULES) for part in module.modules()):
        return rate
    layers = tuple((name, tuple(op for op in ops if not isinstance(op, LowRank))) for name, ops in plan.layers)
    whole = context.network(replace(plan, layers=layers))
    cut = context.traced(plan).info.macs / max(1, sum(operator.macs for operator in whole.operators))
    longer: float = max(1.0, steps / _SHORT_STEPS) ** _LONGER
    return rate * min(_MOST_RATE_OF_LONG, longer * min(_MOST_RATE, max(1.0, cut) ** 2))


def hints_for(plan: Plan, compressed: Compressed, context: Context) -> tuple[Hint, ...]:
    """Where the dense model can be followed inside; nowhere by an architecture of the user's own."""
    if plan.student.choices:
        return ()
    return hints_of(context.teacher.hints, context.traced(plan).coupling, compressed)


def hint_weight(module: fx.GraphModule, context: Context) -> float:
    """What hints weigh at the first step: the more of the weights is left, the better the dense model is followed."""
    left, whole = (sum(p.numel() for p in m.parameters()) for m in (module, context.dense.module))
    return _HINTS * min(1.0, left / max(1, whole) / _FOLLOWING)


def _training(plan: Plan, compressed: Compressed, context: Context, steps: int) -> Training:
    """The same batches for every plan: plans are compared on equal terms and the teacher sees each batch once."""
    effort = context.effort
    return Training(
        steps,
        effort.temperature,
        effort.distill_weight,
        context.seed,
        context.device,
        learning_rate=starting_rate(plan, compressed.module, context, steps),
        hints=hints_for(plan, compressed, context),
        hint_weight=hint_weight(compressed.module, context),
    )


def _seed(plan: Plan, context: Context) -> int:
    return zlib.crc32(f"{context.seed}/{plan.digest}".encode())
