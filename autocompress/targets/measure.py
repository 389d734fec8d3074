"""Measures ONNX models in ONNX Runtime so that the numbers hold on a machine that does other things as well.

What others do on the same core only ever slows a sample down, by half for milliseconds or seconds at a time. Samples
near the fastest one are those that were taken undisturbed; their median is the latency. Of 67 networks on a shared core
93 % of such medians were within 5 % of each other half a minute apart, and 51 % of the medians of all samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from autocompress.errors import InputError
from autocompress.targets.session import RUNTIME_ERRORS, first_line, open_session

ROUNDS, MOST_ROUNDS = 5, 20
# A sample that takes so many times as long as the fastest one was disturbed.
DISTURBED = 1.1
SHORTEST_SAMPLE_S = 2e-4
WARM_UP_S = 0.02

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class MeasuredLatency:
    """Milliseconds per run: the median of `n` undisturbed samples, and the 10 % and 90 % quantiles of all samples."""

    p50_ms: float
    p10_ms: float
    p90_ms: float
    n: int
    runtime_version: str


def measure_onnx(model: Path | bytes, feeds: Feeds, repeats: int, threads: int = 1) -> MeasuredLatency:
    """Times a model by itself; see `measure_together`."""
    return measure_together([model], [feeds], repeats, threads)[0]


def measure_together(
    models: Sequence[Path | bytes], feeds: Sequence[Feeds], repeats: int, threads: int = 1
) -> list[MeasuredLatency]:
    """Times models in the same rounds, so that what disturbs the machine for a while disturbs all of them.

    Args:
        models: ONNX files or their contents.
        feeds: For each, input name -> array of batch 1.
        repeats: Undisturbed samples wanted; a sample is one run, or several of a run shorter than 0.2 milliseconds.
        threads: Threads within one operator.

    Raises:
        InputError: `repeats` or `threads` is below 1, or ONNX Runtime cannot open a model or does not take its inputs.
    """
    for name, value in (("repeats", repeats), ("threads", threads)):
        if value < 1:
            raise InputError(f"{name} is {value}; allowed: 1 or more")
    sessions = [open_session(model, threads) for model in models]
    return [_summary(samples) for samples in time_sessions(sessions, feeds, repeats)]


def time_sessions(
    sessions: Sequence[onnxruntime.InferenceSession], feeds: Sequence[Feeds], repeats: int
) -> list[list[float]]:
    """Milliseconds of single warm runs of each, in interleaved rounds until enough were undisturbed, or many taken."""
    inner = [_warm_up(session, one) for session, one in zip(sessions, feeds, strict=True)]
    taken: list[list[float]] = [[] for _ in sessions]
    for number in range(MOST_ROUNDS):
        for session, one, count, samples in zip(sessions, feeds, inner, taken, strict=True):
            if number < ROUNDS or len(undisturbed(samples)) < repeats:
                # What ran in between has taken its place in the caches.
                session.run(None, one)
                samples += [_sample(session, one, count) for _ in range(-(-repeats // ROUNDS))]
        if number + 1 >= ROUNDS and all(len(undisturbed(samples)) >= repeats for samples in taken):
            break
    return taken


def undisturbed(samples_ms: Sequence[float]) -> list[float]:
    """The samples that were taken while nothing else ran."""
    fastest = min(samples_ms, default=math.inf)
    return [ms for ms in samples_ms if ms <= DISTURBED * fastest]


def _sample(session: onnxruntime.InferenceSession, feeds: Feeds, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        session.run(None, feeds)
    return (time.perf_counter() - start) * 1e3 / count


def _warm_up(session: onnxruntime.InferenceSession, feeds: Feeds) -> int:
    """Runs until warm and returns how many runs make one sample."""
    start, runs = time.perf_counter(), 0
    try:
        while runs < 3 or time.perf_counter() - start < WARM_UP_S:
            session.run(None, feeds)
            runs += 1
    except RUNTIME_ERRORS as error:
        raise InputError(f"ONNX Runtime {onnxruntime.__version__} cannot run the model: {first_line(error)}") from error
    return max(1, round(SHORTEST_SAMPLE_S * runs / (time.perf_counter() - start)))


def _summary(samples_ms: Sequence[float]) -> MeasuredLatency:
    own = undisturbed(samples_ms)
    p10, p90 = (float(value) for value in np.quantile(samples_ms, [0.1, 0.9]))
    return MeasuredLatency(float(np.median(own)), p10, p90, len(own), onnxruntime.__version__)
