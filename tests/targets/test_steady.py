"""What is timed on a machine that is slow for a while; the slowness is made, since no test can wait for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autocompress.targets import steady
from autocompress.targets.inside import Measurements, Network
from autocompress.targets.learning import told_ms
from autocompress.targets.probes import Probe, probes_path, read_probes
from autocompress.targets.steady import measured_steadily
from tests.run.tiny import laws_of_another_device

LAWS = dict.fromkeys(("fp32", "int8"), laws_of_another_device()["fp32"])


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    monkeypatch.setattr(steady, "_PAUSE_S", 0.0)
    return read_probes(probes_path())[1:4]


def slow_by(factors: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Has every network take so many times what the laws say, in one attempt after another; gives those to come."""
    coming = list(factors)

    def measured(probes: Sequence[Probe], rounds: int) -> Measurements:
        factor = coming.pop(0)
        networks = []
        for probe in probes:
            kernels_ms = tuple(factor * LAWS["fp32"].kernel_ms(kernel, kernel.dtype) for kernel in probe.kernels)
            networks.append(Network(0, probe.kernels, kernels_ms, factor * told_ms(LAWS, probe.kernels)))
        return Measurements(tuple(networks), 0.0)

    monkeypatch.setattr(steady, "measured", measured)
    return coming


@pytest.mark.parametrize(
    ("factors", "left", "counts"),
    [
        # Fast enough at once, after a while, and faster than when the laws were learnt.
        ((1.04, 9.0), 1, 1.04),
        ((1.5, 1.3, 1.02, 9.0), 1, 1.02),
        ((0.8, 9.0), 1, 0.8),
        # A little slow throughout, as it may always be, and slow: as if it had not been.
        ((1.08, 1.5, 1.07, 1.08), 0, 1.07),
        ((1.5, 1.3, 1.2, 1.4), 0, 1.0),
    ],
)
def test_what_counts_was_timed_on_a_machine_as_fast_as_its_laws_say(
    factors: Sequence[float], left: int, counts: float, own: list[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = slow_by(factors, monkeypatch)
    networks = measured_steadily(LAWS, own, 1)
    assert len(coming) == left
    assert [one.kernels for one in networks] == [probe.kernels for probe in own]
    for network, probe in zip(networks, own, strict=True):
        assert network.whole_ms == pytest.approx(counts * told_ms(LAWS, probe.kernels))
        told = sum(LAWS["fp32"].kernel_ms(kernel, kernel.dtype) for kernel in probe.kernels)
        assert sum(network.kernels_ms) == pytest.approx(counts * told)
