"""Measures ONNX models in ONNX Runtime so that the numbers hold on a machine that does other things as well."""

from __future__ import annotations

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

ROUNDS = 5
# A sample counts only if the process had the core for itself for this share of the time.
LARGEST_GAP = 0.15
SHORTEST_SAMPLE_S = 1e-3
WARM_UP_S = 0.02

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class MeasuredLatency:
    """Milliseconds per run: the median with the 10 % and 90 % quantiles of `n` undisturbed samples."""

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
        repeats: Samples wanted; a sample is one run, or several where one run is shorter than a millisecond.
        threads: Threads within one operator; samples are checked for disturbance only with one.

    Raises:
        InputError: `repeats` or `threads` is below 1, or ONNX Runtime cannot open a model or does not take its inputs.
    """
    for name, value in (("repeats", repeats), ("threads", threads)):
        if value < 1:
            raise InputError(f"{name} is {value}; allowed: 1 or more")
    sessions = [open_session(model, threads) for model in models]
    return [_summary(times) for times in time_sessions(sessions, feeds, repeats, check=threads == 1)]


def time_sessions(
    sessions: Sequence[onnxruntime.InferenceSession], feeds: Sequence[Feeds], repeats: int, check: bool = True
) -> list[list[float]]:
    """Milliseconds of single runs of each session, taken in interleaved rounds.

    Disturbed samples are taken again, up to three times as many; after that the least disturbed ones count.
    """
    inner = [_warm_up(session, one) for session, one in zip(sessions, feeds, strict=True)]
    taken: list[list[tuple[float, float]]] = [[] for _ in sessions]
    per_round = -(-repeats // ROUNDS)
    for round_index in range(3 * ROUNDS):
        for session, one, count, samples in zip(sessions, feeds, inner, taken, strict=True):
            if _undisturbed(samples) < repeats or round_index == 0:
                samples += [_sample(session, one, count) for _ in range(per_round)]
        if round_index + 1 >= ROUNDS and all(not check or _undisturbed(samples) >= repeats for samples in taken):
            break
    result = []
    for samples in taken:
        samples.sort()
        keep = max(repeats, _undisturbed(samples)) if check else len(samples)
        result.append([ms for _, ms in samples[:keep]])
    return result


def _undisturbed(samples: Sequence[tuple[float, float]]) -> int:
    return sum(gap <= LARGEST_GAP for gap, _ in samples)


def _sample(session: onnxruntime.InferenceSession, feeds: Feeds, count: int) -> tuple[float, float]:
    wall, own = time.perf_counter(), time.process_time()
    for _ in range(count):
        session.run(None, feeds)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return abs(wall - own) / wall, wall * 1e3 / count


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
    p10, p50, p90 = np.quantile(samples_ms, [0.1, 0.5, 0.9])
    return MeasuredLatency(float(p50), float(p10), float(p90), len(samples_ms), onnxruntime.__version__)
