"""Latency of files on this machine, at batch 1 and one thread, while nothing else of ours runs.

A machine that others share is a third slower for seconds at a time, and integer kernels suffer more than those for
floats. Files that are compared are timed in the same rounds, those of trials, which are minutes apart, each beside the
dense model; and again a little later, since what disturbs a file only ever slows it down.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import onnx

from autocompress.core.metric import Metric
from autocompress.proxy.context import Context
from autocompress.targets import quiet
from autocompress.targets.measure import MeasuredLatency, measure_together

_REPEATS = 15
_PASSES = 12
_TRIAL_PASSES = 3
_PAUSE_S = 0.3
# Others slow the dense model down by a third; within this it is undisturbed.
_UNDISTURBED = 1.1


def latencies_of_files(files: Sequence[Path | bytes], context: Context) -> list[Metric]:
    """Median latencies of files, timed in the same rounds; 10th and 90th percentile are the interval.

    The files take the inputs of the dense model in its order.
    """
    return [_metric(measured) for measured in _undisturbed(files, context, _PASSES)]


def reference_latency_ms(context: Context) -> float:
    """The latency of the dense model's file, measured with care; to be kept for the whole run."""
    return _undisturbed([context.dense_file], context, _PASSES)[0].p50_ms


def steady_latency(file: Path, context: Context) -> Metric:
    """The latency of a file as it would be if the dense model took what it took when the run began.

    Both are timed in the same rounds; their ratio is what stays when the machine slows down.
    """
    if context.reference_ms is None:
        context.reference_ms = reference_latency_ms(context)
    enough_ms = context.reference_ms * _UNDISTURBED
    dense, measured = _undisturbed([context.dense_file, file], context, _TRIAL_PASSES, enough_ms)
    return _metric(measured, context.reference_ms / dense.p50_ms)


def _undisturbed(
    files: Sequence[Path | bytes], context: Context, passes: int, enough_ms: float = 0.0
) -> list[MeasuredLatency]:
    """Of several passes over all files the fastest of each; they end early if the first file takes `enough_ms`."""
    best = _measured(files, context)
    for _ in range(passes - 1):
        if best[0].p50_ms <= enough_ms:
            break
        time.sleep(_PAUSE_S)
        found = _measured(files, context)
        best = [min(pair, key=lambda one: one.p50_ms) for pair in zip(best, found, strict=True)]
    return best


def _measured(files: Sequence[Path | bytes], context: Context) -> list[MeasuredLatency]:
    feeds = []
    for file in files:
        model = onnx.load_from_string(file) if isinstance(file, bytes) else onnx.load(file, load_external_data=False)
        names = [entry.name for entry in model.graph.input]
        feeds.append({name: x[:1].numpy() for name, x in zip(names, context.dense.inputs, strict=True)})
    with quiet.measuring():
        return measure_together(files, feeds, _REPEATS)


def _metric(measured: MeasuredLatency, factor: float = 1.0) -> Metric:
    low, high = min(measured.p10_ms, measured.p50_ms), max(measured.p90_ms, measured.p50_ms)
    return Metric(measured.p50_ms * factor, low * factor, high * factor, "measured", "ms")
