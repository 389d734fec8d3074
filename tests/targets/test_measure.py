from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from autocompress.core.kernel import Kernel
from autocompress.errors import InputError
from autocompress.targets import calibrate
from autocompress.targets.law import Law
from autocompress.targets.measure import (
    MOST_ROUNDS,
    ROUNDS,
    measure_onnx,
    measure_together,
    time_sessions,
    undisturbed,
)
from autocompress.targets.probes import Probe, build, probes
from autocompress.targets.profile import load_target
from autocompress.targets.session import open_session


def test_measures_models_alone_and_together(tmp_path: Path) -> None:
    small, large = build(Probe("conv", 16, 8, 3)), build(Probe("conv", 128, 8, 3))
    result = measure_onnx(small.model, small.feeds, repeats=10)
    assert 0.0 < result.p50_ms <= result.p90_ms
    assert 0.0 < result.p10_ms <= result.p90_ms
    assert result.runtime_version == onnxruntime.__version__
    path = tmp_path / "model.onnx"
    path.write_bytes(large.model)
    first, second = measure_together([path, small.model], [large.feeds, small.feeds], repeats=10)
    assert first.p50_ms > second.p50_ms


def test_samples_are_taken_until_enough_were_undisturbed() -> None:
    built = build(Probe("conv", 16, 8, 3))
    (samples,) = time_sessions([open_session(built.model)], [built.feeds], repeats=10)
    assert len(undisturbed(samples)) >= 10 or len(samples) == MOST_ROUNDS * 10 // ROUNDS


def test_disturbed_samples_do_not_count() -> None:
    assert undisturbed([5.0, 1.0, 3.0, 1.08, 1.2]) == [1.0, 1.08]
    assert undisturbed([]) == []


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    built = build(Probe("add", 4, 8))
    with pytest.raises(InputError, match="repeats is 0"):
        measure_onnx(built.model, built.feeds, repeats=0)
    with pytest.raises(InputError, match="cannot open it"):
        measure_onnx(b"no model", built.feeds, repeats=1)
    with pytest.raises(InputError, match=r"missing\.onnx: there is no such file"):
        measure_onnx(tmp_path / "missing.onnx", built.feeds, repeats=1)
    with pytest.raises(InputError, match="cannot run"):
        measure_onnx(built.model, {"y": built.feeds["x0"]}, repeats=1)


@pytest.mark.parametrize("dtype", calibrate.DTYPES)
def test_probes_are_valid_and_name_their_kernels(dtype: str) -> None:
    for probe in probes(dtype):
        built = build(probe)
        assert len(built.kernels) == 4
        assert {kernel.dtype for kernel in built.kernels} == {dtype}


def test_a_law_is_recovered_from_times_that_follow_it() -> None:
    networks = [build(probe).kernels for probe in probes("fp32")]
    truth = np.array([calibrate.PRIOR[term] * 1.3 for term in calibrate.TERM_NAMES])
    times = calibrate.design(networks, "fp32", calibrate.TILINGS["fp32"]) @ truth
    law = calibrate.fit_law(networks, times, "fp32")
    assert law.kernel_ms(networks[0][0], "fp32") * 4 == pytest.approx(times[0], rel=0.1)
    assert law.spreads["small"].low > 0.8


def test_int8_convolutions_off_the_fast_path_cost_more() -> None:
    networks = [build(probe).kernels for probe in probes("int8")]
    truth = np.array([calibrate.PRIOR[term] for term in calibrate.TERM_NAMES])
    law = calibrate.fit_law(networks, calibrate.design(networks, "int8", calibrate.TILINGS["int8"]) @ truth, "int8")

    def ms(inputs: int, outputs: int) -> float:
        (kernel,) = build(Probe("conv", inputs, 32, 3, dtype="int8")).kernels[:1]
        weight, macs = (outputs, inputs, 3, 3), outputs * inputs * 9 * 32 * 32
        return law.kernel_ms(replace(kernel, out_shape=(outputs, 32, 32), weight_shape=weight, macs=macs), "int8")

    pixels_ms = calibrate.PRIOR["unaligned"] * 32 * 32 * 1e-6
    for inputs, outputs in ((14, 16), (16, 18), (16, 12)):
        assert ms(inputs, outputs) > ms(16, 16) + 0.3 * pixels_ms
    assert ms(16, 20) < ms(16, 18)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    calibrate.local_laws.cache_clear()
    return calibrate.cache_path()


def made_up() -> dict[str, Law]:
    """Laws of a machine that computes int8 four times as fast."""
    laws = {}
    for dtype, faster in (("fp32", 1.0), ("int8", 4.0)):
        networks = [build(probe).kernels for probe in probes(dtype)]
        scale = np.array([1.0 if "MACs" not in unit else 1 / faster for unit in calibrate.TERMS.values()])
        prior = np.array(list(calibrate.PRIOR.values()))
        times = calibrate.design(networks, dtype, calibrate.TILINGS[dtype]) @ (prior * scale)
        laws[dtype] = calibrate.fit_law(networks, times, dtype)
    return laws


@pytest.mark.parametrize("content", ["", "[]", "{", '{"fp32": {}}'])
def test_a_corrupt_cache_is_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    laws = made_up()
    cache.write_text(content)
    monkeypatch.setattr(calibrate, "measure_laws", lambda: laws)
    assert calibrate.local_laws() == laws
    calibrate.local_laws.cache_clear()
    monkeypatch.setattr(calibrate, "measure_laws", lambda: pytest.fail("measured although cached"))
    assert calibrate.local_laws() == laws


@pytest.mark.usefixtures("cache")
def test_calibrates_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "REPEATS", 5)
    kernel = build(Probe("conv", 64, 32, 3)).kernels[0]
    target = load_target("local")
    full, quantized = (
        target.estimate_kernels([kernel_of(kernel, dtype)], "fp32").layers[0] for dtype in ("fp32", "int8")
    )
    assert 0.0 < quantized.ms < full.ms
    assert full.origin == "interpolated"


def kernel_of(kernel: Kernel, dtype: str) -> Kernel:
    return Kernel(**{**vars(kernel), "dtype": dtype})
