"""From a front of trials to verified files: final training, export, verification, measurement on the file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, fx

from autocompress.core.files import write_whole
from autocompress.core.metric import Metric
from autocompress.core.pareto import non_dominated
from autocompress.core.plan import Plan
from autocompress.core.target import LatencyEstimate
from autocompress.emit.artifact import update_metrics, write_artifact, write_manifest
from autocompress.emit.report_data import LayerRow
from autocompress.emit.verify import Verification, verify
from autocompress.errors import RunError
from autocompress.proxy.context import Context
from autocompress.proxy.evaluate import Evaluation, evaluate
from autocompress.proxy.timing import latencies_of_files
from autocompress.run.disk import writing
from autocompress.run.layer_table import layer_rows
from autocompress.run.places import Place
from autocompress.run.weights import KeptTraining, load_weights, save_weights
from autocompress.search.record import Objective, losses
from autocompress.targets.session import open_session
from autocompress.tasks.evaluate import evaluate_metric

LOG = logging.getLogger("autocompress")
VERIFIED_SAMPLES = 512


@dataclass(frozen=True)
class Point:
    """An artifact with what was measured on its file.

    Attributes:
        id: Name of its folder under `artifacts/`.
        metrics: `accuracy` on the test split and `size_bytes` are those of the file.
        validation: The task's metric of the file on the validation split.
        reason: Why it failed verification, or None.
    """

    id: str
    trial: int
    label: str
    fidelity: str
    plan: Plan
    metrics: Mapping[str, Metric]
    validation: float
    layers: tuple[LayerRow, ...]
    files: Mapping[str, int]
    agreement: Mapping[str, float]
    latency: LatencyEstimate | None
    reason: str | None
    notes: tuple[str, ...]

    @property
    def validation_metrics(self) -> dict[str, Metric]:
        """The metrics with the accuracy on the validation split: what a search may look at."""
        return {**self.metrics, "accuracy": Metric.exact(self.validation, self.metrics["accuracy"].unit)}


def emit_point(
    plan: Plan,
    trial: int,
    label: str,
    context: Context,
    folder: Path,
    *,
    steps: int,
    start: Callable[[], Mapping[str, Tensor] | None],
    dense: Mapping[str, Metric] | None,
    trained: Place | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Point:
    """Trains a plan to the end, writes its artifact and measures the written file.

    Args:
        plan: Of the trial.
        trial: Its number.
        label: Its name in tables.
        context: What the run shares.
        folder: `artifacts/<id>`; made anew.
        steps: Optimiser steps of the final training.
        start: Gives the weights the trial ended with; asked where it is trained or exported from them.
        dense: Metrics of the dense artifact, for the manifest; None while that one is made.
        trained: Where its weights after this training are kept; where there are any, it is not trained again.
        progress: Called with the steps done and their total.

    Raises:
        DiskError: there is no room or no permission to write it.
    """
    kept = load_weights(trained, plan) if trained is not None else None
    left = steps if kept is None else 0
    fidelity = "full" if steps else "short"
    rungs = KeptTraining(trained, plan) if trained is not None and left else None
    result = evaluate(plan, fidelity, context, steps=left, start=kept or start(), progress=progress, rungs=rungs)
    if rungs is not None:
        save_weights(rungs.weights, result)
        rungs.drop()
    profile = context.target.profile
    path = folder / "model.onnx"
    with context.working():
        with writing(folder):
            written = write_artifact(folder, result.module, plan, context.dense.inputs, opset=profile.opset, half=False)
        verification = verify(path, result.module, _batches(context), scores=_has_classes(context))
        metrics, validation = _measured(path, result, context)
    latency = None if profile.measured else result.latency
    rows = layer_rows(context.dense, plan, result.module, result.latency)
    point = Point(
        id=folder.name,
        trial=trial,
        label=label,
        fidelity="full" if plan.is_dense else fidelity,
        plan=plan,
        metrics=metrics,
        validation=validation,
        layers=rows,
        files=dict(written.files),
        agreement=_agreement(verification),
        latency=latency,
        reason=None if verification.passed else verification.reason,
        notes=result.notes,
    )
    with writing(folder):
        _write_manifest(folder, point, verification, context, dense or metrics)
    files = {child.name: child.stat().st_size for child in sorted(folder.iterdir())}
    return replace(point, files=files)


def _has_classes(context: Context) -> bool | None:
    """False where targets are no class numbers, so that the largest output means nothing; None where they may be."""
    _, targets = next(iter(context.task.validation.head(1).batches(1)))
    return None if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point() else False


def _batches(context: Context) -> list[tuple[Tensor, ...]]:
    split = context.task.validation.head(VERIFIED_SAMPLES)
    return [inputs for inputs, _ in split.batches(128)]


def _measured(path: Path, result: Evaluation, context: Context) -> tuple[dict[str, Metric], float]:
    """Metrics with those that a file can tell measured on the file, and the metric on the validation split."""
    session = open_session(path, max(1, torch.get_num_threads()))
    names = [entry.name for entry in session.get_inputs()]
    bare = isinstance(result.module.graph.output_node().args[0], fx.Node)

    def run(*inputs: Tensor) -> Any:
        outputs = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        return tensors[0] if bare else tensors

    task = context.task
    validation = evaluate_metric(run, task, task.validation)
    test = evaluate_metric(run, task, task.test)
    metrics = dict(result.metrics)
    metrics["accuracy"] = Metric.exact(test, task.metric_unit)
    metrics["size_bytes"] = Metric.exact(path.stat().st_size, "bytes")
    return metrics, validation


def timed_together(baseline: Point, points: Sequence[Point], artifacts: Path, context: Context) -> list[Point]:
    """The dense point and the others with latencies that were measured in the same rounds, manifests included.

    The latencies of a target that is not this machine are predicted and stay as they are.
    """
    every = [baseline, *points]
    if not context.target.profile.measured:
        return every
    latencies = latencies_of_files([artifacts / point.id / "model.onnx" for point in every], context)
    timed = [
        replace(point, metrics={**point.metrics, "latency_ms": latency})
        for point, latency in zip(every, latencies, strict=True)
    ]
    for point in timed:
        update_metrics(artifacts / point.id, dense_metrics=timed[0].metrics, metrics=point.metrics)
    return timed


def _agreement(verification: Verification) -> dict[str, float]:
    found = verification.agreement
    result = {
        "max_abs_error": found.max_abs_error,
        "relative_error": found.relative_error,
        "cosine": found.cosine,
    }
    if found.top1_agreement is not None:
        result["top1_agreement"] = found.top1_agreement
    return result


def _write_manifest(
    folder: Path, point: Point, verification: Verification, context: Context, dense: Mapping[str, Metric]
) -> None:
    task = context.task
    write_manifest(
        folder,
        dense_metrics=dense,
        metrics=point.metrics,
        agreement=verification.agreement,
        target=context.target.profile,
        runtime_version=f"onnxruntime {onnxruntime.__version__}",
        opset=context.target.profile.opset,
        layers=[vars(row) for row in point.layers],
        extra={
            "id": point.id,
            "trial": point.trial,
            "label": point.label,
            "fidelity": point.fidelity,
            "precision": context.precision,
            "verified": point.reason is None,
            "reason": point.reason,
            "task": task.name,
            "metric": {"name": task.metric_name, "unit": task.metric_unit, "validation": point.validation},
            "data_digest": task.data_digest,
            "model_digest": task.model_digest,
            "notes": list(point.notes),
        },
    )


def point_to_dict(point: Point) -> dict[str, Any]:
    """The entry of a point in `front.json`."""
    return {
        "id": point.id,
        "trial": point.trial,
        "fidelity": point.fidelity,
        "metrics": {name: metric.to_dict() for name, metric in point.metrics.items()},
        "plan": point.plan.to_dict(),
    }


def final_front(points: Sequence[Point], objectives: Sequence[Objective]) -> list[Point]:
    """The verified points that no other verified one dominates, smallest loss of the first objective first.

    Raises:
        RunError: points of different fidelities.
    """
    good = [point for point in points if point.reason is None]
    if len({point.fidelity for point in good}) > 1:
        raise RunError("points of different fidelities cannot share a front")
    kept = non_dominated([losses(objectives, point.metrics) for point in good])
    front = [good[index] for index in kept]
    return sorted(front, key=lambda point: losses(objectives, point.metrics)[0])


def write_front(path: Path, objectives: Sequence[Objective], baseline: Point, front: Sequence[Point]) -> None:
    """Writes `front.json`, complete or not at all."""
    data = {
        "objectives": [objective.name for objective in objectives],
        "baseline": point_to_dict(baseline),
        "points": [point_to_dict(point) for point in front],
    }
    write_whole(path, json.dumps(data, indent=2, sort_keys=True) + "\n")
