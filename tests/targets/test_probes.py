from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autocompress.targets.probes import Probe, emptied, filled, probes_path, read_probes, write_probes
from autocompress.targets.session import feeds_of, open_session
from tests.targets.chains import Link, build


@pytest.fixture(scope="module")
def shipped() -> list[Probe]:
    return read_probes(probes_path())


def test_an_archive_gives_back_what_was_written(tmp_path: Path) -> None:
    written = [
        Probe(f"chain-{number}-{dtype}", build(Link("conv", 16, 8, 3, dtype=dtype)).kernels, f"model {number}".encode())
        for number, dtype in enumerate(("fp32", "int8"))
    ]
    for name in ("one", "other"):
        write_probes(tmp_path / name, written)
    assert read_probes(tmp_path / "one") == written
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert written[0].macs == 4 * 16 * 16 * 9 * 64


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_large_tensors_are_left_out_and_filled_again(dtype: str) -> None:
    model = onnx.load_from_string(build(Link("conv", 32, 8, 3, dtype=dtype)).model)
    small = emptied(model)
    assert len(small) < len(model.SerializeToString()) / 3
    again = onnx.load_from_string(filled(small))
    onnx.checker.check_model(again)
    for before, after in zip(model.graph.initializer, again.graph.initializer, strict=True):
        one, other = numpy_helper.to_array(before), numpy_helper.to_array(after)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.size > 256 or np.array_equal(one, other)
        assert np.isfinite(other).all()
        assert other.size == 1 or other.any() == one.any()


def test_the_shipped_networks_run(shipped: list[Probe]) -> None:
    for probe in shipped[::20]:
        session = open_session(filled(probe.model))
        assert all(np.isfinite(found).all() for found in session.run(None, feeds_of(session)))


def test_biases_and_zero_points_are_kept_however_many_there_are() -> None:
    kept = [
        numpy_helper.from_array(np.zeros(1000, np.int8), "zero points"),
        numpy_helper.from_array(np.full(1000, 7, np.int32), "biases"),
    ]
    weights = numpy_helper.from_array(np.ones((100, 10), np.float32), "weights")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "none", [], [], [*kept, weights]))
    again = onnx.load_from_string(filled(emptied(model))).graph.initializer
    assert [numpy_helper.to_array(one).tolist() for one in again[:2]] == [[0] * 1000, [7] * 1000]
    assert numpy_helper.to_array(again[2]).std() > 0.01


def test_packed_codes_are_kept_for_their_number_decides_what_is_read() -> None:
    codes = numpy_helper.from_array(np.arange(1000, dtype=np.uint8).reshape(100, 10), "codes")
    cast = onnx.helper.make_node("Cast", ["codes"], ["values"], to=onnx.TensorProto.FLOAT)
    model = onnx.helper.make_model(onnx.helper.make_graph([cast], "packed", [], [], [codes]))
    (again,) = onnx.load_from_string(filled(emptied(model))).graph.initializer
    assert np.array_equal(numpy_helper.to_array(again), numpy_helper.to_array(codes))


def test_the_shipped_networks_hold_what_networks_are_made_of(shipped: list[Probe]) -> None:
    assert len(shipped) == len({probe.name for probe in shipped}) >= 300
    kernels = {kernel for probe in shipped for kernel in probe.kernels}
    for op in ("conv2d", "conv_transpose2d", "linear", "matmul", "softmax", "norm", "elementwise", "pool", "copy"):
        assert len({kernel for kernel in kernels if kernel.op == op}) >= 10, op
    assert {kernel.dtype for kernel in kernels} == {"fp32", "int8"}
    assert any(len({kernel.dtype for kernel in probe.kernels}) == 2 for probe in shipped)
    assert all(probe.kernels and probe.macs <= 600_000_000 for probe in shipped)
