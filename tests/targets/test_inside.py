from __future__ import annotations

import pytest

from autocompress.targets import inside
from autocompress.targets.inside import Added, added_by_profiler, measured, shared
from autocompress.targets.probes import Probe, probes_path, read_probes
from autocompress.targets.profiled import RunNode
from tests.targets.chains import Link, build


def node(name: str, operator: str, ms: float, weight: tuple[int, ...] | None, elements: int, reads: str) -> RunNode:
    return RunNode(name, operator, (reads,), 1, (f"{name} wrote",), weight, elements, ms)


def test_the_time_of_the_whole_is_shared_as_the_profile_says() -> None:
    built = build(Link("conv", 16, 8, 3))
    probe = Probe("chain-7-fp32", built.kernels, b"")
    weight = built.kernels[0].weight_shape
    ran = [node(f"node{n}", "Conv", 0.1 + 0.1 * n, weight, 16 * 64, f"x{n}") for n in range(len(built.kernels))]
    network = shared(probe, ran, 1.1, Added(node_ms=0.02, read_ms=0.01, call_ms=0.1))
    assert (network.family, network.whole_ms) == (7, 1.1)
    assert sum(network.kernels_ms) == pytest.approx(1.0)
    # Of 0.1, 0.2, 0.3 and so on the profiler added 0.04 to each.
    own = [0.06 + 0.1 * n for n in range(len(built.kernels))]
    assert network.kernels_ms == pytest.approx([ms / sum(own) for ms in own])


def test_no_node_is_left_without_time() -> None:
    added = Added(node_ms=0.02, read_ms=0.01, call_ms=0.0)
    assert added.without(node("node0", "Relu", 0.03, None, 8, "x")) == pytest.approx(0.003)


def test_what_the_profiler_adds_is_microseconds() -> None:
    added = added_by_profiler()
    assert 0.0 < added.node_ms + added.read_ms < 0.1
    assert 0.0 <= added.call_ms < 0.5


def test_kernels_and_a_call_add_up_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "ROUNDS", 1)
    monkeypatch.setattr(inside, "TOGETHER", 2)
    found = measured(read_probes(probes_path())[:3])
    assert len(found.networks) == 3
    for network in found.networks:
        assert found.call_ms + sum(network.kernels_ms) == pytest.approx(network.whole_ms)
        assert min(network.kernels_ms) >= 0.0
