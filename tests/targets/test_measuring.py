"""Kernels are measured once each, the important ones first, and what is done is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from autocompress.core.kernel import Kernel
from autocompress.errors import InputError
from autocompress.targets import measuring, runner
from autocompress.targets.measuring import MeasuredKernel, Outcome, in_order, measure_kernels
from autocompress.targets.remote import Where

HERE = Where()


def conv(channels: int, side: int = 16, layer: str = "c") -> Kernel:
    shape, weight = (channels, side, side), (channels, channels, 3, 3)
    macs = channels * channels * 9 * side * side
    return Kernel("conv2d", layer, "fp32", (shape,), shape, weight, (1, 1), (1, 1), 1, ("relu",), macs)


SMALL, LARGE = conv(16), conv(64)


def measure(
    wanted: list[tuple[Kernel, str]], seen: list[tuple[Outcome, int]] | None = None, runtime: str = "onnxruntime"
) -> measuring.Measuring:
    def on_done(outcome: Outcome, left: int) -> None:
        if seen is not None:
            seen.append((outcome, left))

    return measure_kernels(wanted, HERE, runtime=runtime, opset=17, repeats=5, on_done=on_done)


def test_each_kernel_once_and_the_important_ones_first() -> None:
    wanted = [(SMALL, "fp32"), (replace(SMALL, layer="again"), "fp32"), (LARGE, "fp32"), (SMALL, "int8")]
    assert in_order(wanted) == [(LARGE, "fp32"), (SMALL, "fp32"), (SMALL, "int8")]
    # Sixteen times as many multiply-accumulates count less than forty occurrences.
    many = [(replace(SMALL, layer=str(number)), "fp32") for number in range(40)]
    assert in_order([(LARGE, "fp32"), *many])[0][0].layer == "0"


def test_other_activations_and_windows_are_other_kernels() -> None:
    relu = Kernel("elementwise", "e", "fp32", ((4, 4),), (4, 4), aten="relu")
    pool = Kernel("pool", "p", "fp32", ((4, 8, 8),), (4, 4, 4), aten="max_pool2d", window=(2, 2))
    wanted = [
        (relu, "fp32"),
        (replace(relu, aten="gelu"), "fp32"),
        (pool, "fp32"),
        (replace(pool, window=(3, 3)), "fp32"),
    ]
    assert len(in_order(wanted)) == 4


def test_measures_in_openvino_where_it_is_installed() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    result = measure([(SMALL, "fp32"), (LARGE, "fp32"), (LARGE, "int8")], runtime="openvino")
    times = {(one.kernel, one.dtype): one.p50_ms for one in result.measured}
    assert not result.not_measured
    assert 0.0 < times[SMALL, "fp32"] < times[LARGE, "fp32"]
    assert "openvino 20" in result.source


def test_measures_here_and_says_what_it_could_not() -> None:
    other = Kernel("other", "o", "fp32", ((8, 8),), (8, 8), aten="fft")
    seen: list[tuple[Outcome, int]] = []
    result = measure([(SMALL, "fp32"), (LARGE, "fp32"), (SMALL, "fp16"), (other, "fp32")], seen)
    times = {one.kernel: one for one in result.measured}
    assert set(times) == {SMALL, LARGE}
    assert 0.0 < times[SMALL].p50_ms < times[LARGE].p50_ms
    for one in result.measured:
        assert one.p50_ms <= one.p90_ms
        assert one.n >= 5 or one.n + one.disturbed == runner.MOST_SAMPLES * 5
        assert (one.slowed >= 1.0, one.dtype) == (True, "fp32")
    reasons = {one.kernel.op: one.reason for one in result.not_measured}
    assert "onnxruntime computes exported files in fp32" in reasons["conv2d"]
    assert "nothing is known of the operator" in reasons["other"]
    assert result.call_ms is not None
    assert (result.call_ms > 0.0, result.interrupted) == (True, False)
    assert [left for _, left in seen[:4]] == [3, 2, 1, 0]
    assert {"cpu", "version", "threads"} <= set(dict(result.machine))
    assert f"onnxruntime {onnxruntime.__version__}, 1 thread(s)" in result.source


def test_what_the_runtime_refuses_is_named() -> None:
    # ONNX Runtime has no bicubic kernel for maps with one dimension.
    line = Kernel("resize", "r", "fp32", ((4, 8),), (4, 16), aten="upsample_bicubic1d")
    result = measure([(line, "fp32")])
    assert result.measured == ()
    assert result.not_measured[0].reason.startswith("the runtime refuses it: ")


def test_a_slow_time_of_the_machine_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "UNDISTURBED", 0.0)
    monkeypatch.setattr(measuring, "TRIES", 2)
    monkeypatch.setattr(measuring, "PAUSE_S", 0.0)
    seen: list[tuple[Outcome, int]] = []
    result = measure([(SMALL, "fp32")], seen)
    assert [left for _, left in seen] == [0, 0]
    (kept,) = result.measured
    assert isinstance(seen[0][0], MeasuredKernel)
    assert kept.p50_ms in [one.p50_ms for one, _ in seen if isinstance(one, MeasuredKernel)]


@pytest.mark.parametrize(("name", "value"), [("repeats", 0), ("threads", 0)])
def test_less_than_one_is_refused(name: str, value: int) -> None:
    settings = {"repeats": 5, "threads": 1} | {name: value}
    with pytest.raises(InputError, match=f"{name} is 0; allowed: 1 or more"):
        measure_kernels([], HERE, runtime="onnxruntime", opset=17, **settings)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(InputError, match="runtime is 'tflite'"):
        measure_kernels([(SMALL, "fp32")], HERE, runtime="tflite", opset=17)


def test_nothing_to_measure_starts_nothing() -> None:
    assert measure([]) == measuring.Measuring((), None, (), (), False)


INTERRUPTED = """
import sys
from autocompress.targets.measuring import measure_kernels
from autocompress.targets.remote import Where
from tests.targets.test_measuring import conv

result = measure_kernels(
    [(conv(channels), "fp32") for channels in range(4, 200)], Where(), runtime="onnxruntime", opset=17, repeats=5,
    on_done=lambda outcome, left: print(left, flush=True),
)
print("kept", len(result.measured) + len(result.not_measured), result.interrupted)
"""


def test_ctrl_c_keeps_what_is_done() -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["195\n", "194\n", "193\n"]
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    word, count, interrupted = rest[-1].split()
    assert (word, interrupted) == ("kept", "True")
    assert int(count) == 3 + len(rest) - 1
