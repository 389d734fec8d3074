"""Latencies of files on this machine are told relative to one measurement of the dense model."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.core.plan import Plan
from autocompress.emit.onnx_export import export_onnx
from autocompress.proxy import timing
from autocompress.proxy.context import Context
from autocompress.proxy.evaluate import evaluate
from autocompress.proxy.timing import latencies_of_files, reference_latency_ms, steady_latency
from autocompress.targets.measure import MeasuredLatency
from tests.run.tiny import laws_of_another_device, tiny_context


@pytest.fixture(autouse=True)
def laws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.targets.calibrate.local_laws", laws_of_another_device)


def test_a_file_takes_its_share_of_what_the_dense_model_took_when_the_run_began(tmp_path: Path) -> None:
    context = tiny_context(target="local")
    path = tmp_path / "same.onnx"
    export_onnx(context.dense.module, context.dense.inputs, path, opset=context.target.profile.opset)
    context.reference_ms = 500.0
    latency = steady_latency(path, context)
    assert latency.origin == "measured"
    # It is the dense model itself, whatever this machine does meanwhile.
    assert 250.0 < latency.value < 1000.0
    assert latency.low <= latency.value <= latency.high
    assert 250.0 < evaluate(Plan(), "short", context).metrics["latency_ms"].value < 1000.0


def test_without_a_reference_the_first_measurement_becomes_it(tmp_path: Path) -> None:
    context = tiny_context(target="local")
    assert context.reference_ms is None
    path = tmp_path / "same.onnx"
    path.write_bytes(context.dense_file)
    first = steady_latency(path, context)
    assert context.reference_ms is not None
    assert 0.5 < first.value / context.reference_ms < 2.0
    alone, again = latencies_of_files([context.dense_file, path], context)
    assert 0.5 < alone.value / again.value < 2.0


def _passes(monkeypatch: pytest.MonkeyPatch, dense_and_file: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Timing passes that take what is told, one after another; those that are left."""
    left = list(dense_and_file)

    def measured(files: list[object], context: Context) -> list[MeasuredLatency]:
        return [MeasuredLatency(ms, ms * 0.9, ms * 1.2, 15, "1") for ms in left.pop(0)[: len(files)]]

    monkeypatch.setattr(timing, "_measured", measured)
    monkeypatch.setattr(timing, "_PAUSE_S", 0.0)
    return left


def test_a_disturbed_pass_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = tiny_context(target="local")
    context.reference_ms = 0.7
    left = _passes(monkeypatch, [(1.0, 0.45), (0.98, 0.44), (0.72, 0.27), (0.5, 0.1)])
    latency = steady_latency(tmp_path / "file", context)
    assert latency.value == pytest.approx(0.7 * 0.27 / 0.72)
    assert (latency.low, latency.high) == (pytest.approx(latency.value * 0.9), pytest.approx(latency.value * 1.2))
    assert left == [(0.5, 0.1)]


def test_the_fastest_pass_of_each_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = tiny_context(target="local")
    passes = [(1.0 + 0.01 * abs(number - 6), 0.4 + 0.01 * abs(number - 3)) for number in range(timing._PASSES)]
    _passes(monkeypatch, passes)
    assert reference_latency_ms(context) == 1.0
    context.reference_ms = 2.0
    left = _passes(monkeypatch, passes)
    dense, file = latencies_of_files([context.dense_file, tmp_path / "file"], context)
    assert (dense.value, file.value) == (1.0, 0.4)
    assert left == []
    # A trial waits no longer than for a few passes.
    context.reference_ms = 0.5
    left = _passes(monkeypatch, passes)
    assert steady_latency(tmp_path / "file", context).value == pytest.approx(0.5 * 0.41 / 1.04)
    assert len(left) == timing._PASSES - timing._TRIAL_PASSES
