from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from autocompress.core.kernel import Kernel
from autocompress.errors import InputError
from autocompress.targets import calibrate, inside, learning
from autocompress.targets.law import Law, terms_of
from autocompress.targets.measure import (
    MOST_ROUNDS,
    ROUNDS,
    measure_onnx,
    measure_together,
    time_sessions,
    undisturbed,
)
from autocompress.targets.probes import read_probes
from autocompress.targets.profile import load_target
from autocompress.targets.session import open_session
from tests.targets.chains import Link, build


def test_measures_models_alone_and_together(tmp_path: Path) -> None:
    small, large = build(Link("conv", 16, 8, 3)), build(Link("conv", 128, 8, 3))
    result = measure_onnx(small.model, small.feeds, repeats=10)
    assert 0.0 < result.p50_ms <= result.p90_ms
    assert 0.0 < result.p10_ms <= result.p90_ms
    assert result.runtime_version == onnxruntime.__version__
    path = tmp_path / "model.onnx"
    path.write_bytes(large.model)
    first, second = measure_together([path, small.model], [large.feeds, small.feeds], repeats=10)
    assert first.p50_ms > second.p50_ms


def test_samples_are_taken_until_enough_were_undisturbed() -> None:
    built = build(Link("conv", 16, 8, 3))
    (samples,) = time_sessions([open_session(built.model)], [built.feeds], repeats=10)
    assert len(undisturbed(samples)) >= 10 or len(samples) == MOST_ROUNDS * 10 // ROUNDS


def test_disturbed_samples_do_not_count() -> None:
    assert undisturbed([5.0, 1.0, 3.0, 1.08, 1.2]) == [1.0, 1.08]
    assert undisturbed([]) == []


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    built = build(Link("add", 4, 8))
    with pytest.raises(InputError, match="repeats is 0"):
        measure_onnx(built.model, built.feeds, repeats=0)
    with pytest.raises(InputError, match="cannot open it"):
        measure_onnx(b"no model", built.feeds, repeats=1)
    with pytest.raises(InputError, match=r"missing\.onnx: there is no such file"):
        measure_onnx(tmp_path / "missing.onnx", built.feeds, repeats=1)
    with pytest.raises(InputError, match="cannot run"):
        measure_onnx(built.model, {"y": built.feeds["x0"]}, repeats=1)


def measured_by(scales: dict[str, dict[str, float]], networks: Sequence[Sequence[Kernel]]) -> inside.Measurements:
    """Networks whose kernels follow the prior law exactly, but for terms that are scaled, by dtype."""

    def ms(kernel: Kernel) -> float:
        terms = terms_of(kernel, kernel.dtype, learning.TILINGS[kernel.dtype])
        scale = scales.get(kernel.dtype, {})
        return sum(learning.PRIOR[term] * scale.get(term, 1.0) * amount for term, amount in terms.items())

    found = []
    for family, network in enumerate(networks):
        times = tuple(map(ms, network))
        found.append(inside.Network(family, tuple(network), times, sum(times) + CALL_MS))
    return inside.Measurements(tuple(found), CALL_MS)


def links(dtype: str) -> list[Link]:
    convs = [(c, side, 3) for c in (4, 8, 12, 14, 16, 20, 32, 48, 64, 128) for side in (8, 16, 32)]
    convs += [(c, 16, 1) for c in (16, 22, 64, 256)]
    return [
        *(Link("conv", *shape, dtype=dtype) for shape in convs),
        *(Link("depthwise", c, 16, 3, dtype=dtype) for c in (16, 64, 128)),
        *(Link("linear", c, dtype=dtype) for c in (64, 512)),
        *(Link("add", c, 32, dtype=dtype) for c in (4, 64)),
    ]


# What a call costs beside its kernels.
CALL_MS = 0.005


def chains() -> list[tuple[Kernel, ...]]:
    return [build(link).kernels for dtype in learning.DTYPES for link in links(dtype)]


def test_a_law_is_recovered_from_times_that_follow_it() -> None:
    networks = chains()
    measured = measured_by({"fp32": {"conv3x3": 1.3}, "int8": {"conv3x3": 0.3}}, networks)
    laws = learning.fit_laws(measured)
    for network in measured.networks:
        assert learning.told_ms(laws, network.kernels) == pytest.approx(network.whole_ms, rel=0.1)
    assert laws["int8"].spreads["small"].low > 0.7


def test_int8_convolutions_off_the_fast_path_cost_more() -> None:
    networks = chains()
    law = learning.fit_laws(measured_by({}, networks))["int8"]

    def ms(inputs: int, outputs: int) -> float:
        (kernel,) = build(Link("conv", inputs, 32, 3, dtype="int8")).kernels[:1]
        weight, macs = (outputs, inputs, 3, 3), outputs * inputs * 9 * 32 * 32
        return law.kernel_ms(replace(kernel, out_shape=(outputs, 32, 32), weight_shape=weight, macs=macs), "int8")

    pixels_ms = learning.PRIOR["unaligned"] * 32 * 32 * 1e-6
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
    networks = chains()
    faster = {term: 0.25 for term, unit in learning.TERMS.items() if "MACs" in unit}
    return learning.fit_laws(measured_by({"int8": faster}, networks))


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{", "[" * 100_000, '{"fp32": {}}', '{"known": [], "weights": [1.0]}'),
        '{"known": [["a"]], "weights": [1.0]}',
        '{"known": [["a", "b", "c", "d", "e", 1, 2, 3, 4, NaN]], "weights": [1.0]}',
        '{"known": [["a", "b", "c", "d", "e", 1, 2, 3, 4, 5]], "weights": [Infinity]}',
        '{"known": 1, "weights": 2}',
    ],
)
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
    monkeypatch.setattr(inside, "ROUNDS", 1)
    monkeypatch.setattr(inside, "REPEATS", 5)
    monkeypatch.setattr(learning, "read_probes", lambda path: read_probes(path)[::4])
    kernel = build(Link("conv", 64, 32, 3)).kernels[0]
    target = load_target("local")
    full, quantized = (
        target.estimate_kernels([replace(kernel, dtype=dtype)], "fp32").layers[0] for dtype in ("fp32", "int8")
    )
    assert 0.0 < quantized.ms < full.ms
    assert full.origin == "interpolated"
