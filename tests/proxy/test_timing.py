"""Latencies of files on this machine are told relative to one measurement of the dense model."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.core.plan import Plan
from autocompress.emit.onnx_export import export_onnx
from autocompress.proxy.evaluate import evaluate
from autocompress.proxy.timing import latencies_of_files, steady_latency
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
