"""Laws of this machine, learnt from networks that are run on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from autocompress.core.kernel import Kernel
from autocompress.targets import quiet
from autocompress.targets.correction import FLOOR_MS, learnt, likeness
from autocompress.targets.fit import TERM_NAMES, design, ranges_of, solve, spread_of
from autocompress.targets.law import FAMILIES, TERMS, Law, Tiling
from autocompress.targets.measure import time_sessions, undisturbed
from autocompress.targets.probes import Probe, filled, probes_path, read_probes
from autocompress.targets.profiled import RunNode, attributed, profiled
from autocompress.targets.session import feeds_of, open_session

DTYPES = ("fp32", "int8")
# ONNX Runtime's blocked kernels compute 16 output channels at a time; those for int8 need multiples of 4.
TILINGS = {
    "fp32": Tiling(channels=16, narrow_channels=16, blocked=4),
    "int8": Tiling(channels=16, narrow_channels=16, aligned=4, least_channels=16),
}
# The profiler keeps all it sees in memory, and others on the machine slow it down for seconds or minutes at a time. So
# networks are run some at a time, and all of them come up in several rounds, of which the fastest counts.
ROUNDS, TOGETHER = 3, 100
# How often each network is run under the profiler: passes over those that are open, and runs in each.
PROFILE_PASSES, RUNS = 4, 4
# Of every so many networks the files are timed as wholes, each so often.
EVERY, REPEATS = 5, 10
FOLDS = 4
# Milliseconds per unit on an ordinary core: 30 GMAC/s, 10 GB/s, 1 ns per pooled output, 20 ns per pixel
# off the fast path, 2 us per kernel; that a tensor lies in a branch costs a processor nothing.
PRIOR = {
    name: 1 / 30 if unit == "million MACs" else 1 / 10 if unit == "million bytes" else 2e-3
    for name, unit in TERMS.items()
} | {"pool": 1.0, "gather": 0.1, "unaligned": 20.0, "branch_reads": 1e-6}
PULL = 0.005
# No call costs less, and beside this a time counts little.
_LEAST_MS, _SMALL_MS = 5e-4, 0.02


@dataclass(frozen=True)
class Network:
    """A network with the time of each of its kernels inside of it.

    Attributes:
        family: Networks of one family are left out together.
        kernels: Of the network.
        kernels_ms: Their times, zero where a runtime fused one away.
        whole_ms: The time of its file, None where that was not taken.
    """

    family: int
    kernels: tuple[Kernel, ...]
    kernels_ms: tuple[float, ...]
    whole_ms: float | None


@dataclass(frozen=True)
class Measurements:
    """Networks as they were measured, and what a call costs beside its kernels."""

    networks: tuple[Network, ...]
    call_ms: float


def measure_laws() -> dict[str, Law]:
    """Times the networks that were shipped for it and fits a law for each dtype."""
    probes = read_probes(probes_path())
    with quiet.measuring():
        networks = measured(probes)
    return fit_laws(networks)


def measured(probes: Sequence[Probe]) -> Measurements:
    """The networks as they were measured."""
    nodes: dict[str, list[RunNode]] = {}
    whole_ms: dict[str, float] = {}
    for _ in range(ROUNDS):
        for first in range(0, len(probes), TOGETHER):
            some = probes[first : first + TOGETHER]
            ran = profiled([filled(probe.model) for probe in some], PROFILE_PASSES, RUNS)
            for probe, found in zip(some, ran, strict=True):
                nodes[probe.name] = min(nodes.get(probe.name, found), found, key=_taken_ms)
            for name, ms in _whole_ms([probe for probe in some if _family(probe) % EVERY == 0]).items():
                whole_ms[name] = min(whole_ms.get(name, ms), ms)
    added = _added_by_profiler([(nodes[name], ms) for name, ms in whole_ms.items()])
    networks = []
    for probe in probes:
        counted = attributed(probe.kernels, nodes[probe.name])
        kernels_ms = tuple(max(0.0, sum(node.ms - added.node_ms(node) for node in one)) for one in counted)
        networks.append(Network(_family(probe), probe.kernels, kernels_ms, whole_ms.get(probe.name)))
    return Measurements(tuple(networks), added.call_ms)


def _taken_ms(nodes: Sequence[RunNode]) -> float:
    return sum(node.ms for node in nodes)


def _whole_ms(probes: Sequence[Probe]) -> dict[str, float]:
    """How long files take as wholes."""
    sessions = [open_session(filled(probe.model)) for probe in probes]
    taken = time_sessions(sessions, [feeds_of(session) for session in sessions], REPEATS)
    return {probe.name: float(np.median(undisturbed(ms))) for probe, ms in zip(probes, taken, strict=True)}


def _family(probe: Probe) -> int:
    return int(probe.name.split("-")[1])


class _Added(NamedTuple):
    """What the profiler adds to a node, and to each tensor it reads, and what a call costs beside its nodes."""

    each_ms: float
    read_ms: float
    call_ms: float

    def node_ms(self, node: RunNode) -> float:
        """What it adds to one node."""
        return self.each_ms + self.read_ms * (len(node.inputs) + node.stored)


def _added_by_profiler(timed: Sequence[tuple[Sequence[RunNode], float]]) -> _Added:
    """What makes nodes add up to whole files.

    By least squares on the faster half: there it is most of the time, and what disturbs a run is small beside it.
    """
    whole = np.array([ms for _, ms in timed])
    fast = whole <= np.median(whole)
    counts = np.array([(len(nodes), sum(len(one.inputs) + one.stored for one in nodes), -1.0) for nodes, _ in timed])
    added = np.array([sum(node.ms for node in nodes) for nodes, _ in timed]) - whole
    found, _ = nnls((counts / whole[:, None])[fast], (added / whole)[fast])
    return _Added(*map(float, found))


def fit_laws(measurements: Measurements) -> dict[str, Law]:
    """One law for each dtype, with an interval from networks that were left out in turn.

    Args:
        measurements: A kernel computes in the dtype that it says.
    """
    ratios: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for fold in range(FOLDS):
        kept = [one for one in measurements.networks if one.family // EVERY % FOLDS != fold]
        laws = _laws(replace(measurements, networks=tuple(kept)))
        for network in measurements.networks:
            if network.family // EVERY % FOLDS == fold and network.whole_ms is not None:
                ratios[_dtype(network)].append(network.whole_ms / told_ms(laws, network.kernels))
    spreads = {dtype: spread_of(np.array(found)) for dtype, found in ratios.items()}
    return {
        dtype: replace(law, spreads=dict.fromkeys(FAMILIES, spreads[dtype]))
        for dtype, law in _laws(measurements).items()
    }


def told_ms(laws: Mapping[str, Law], kernels: Sequence[Kernel]) -> float:
    """What laws by dtype say of a network, whose kernels compute in the dtypes that they say."""
    network_ms = laws["fp32"].coefficients["network"]
    return network_ms + sum(laws[kernel.dtype].kernel_ms(kernel, kernel.dtype) for kernel in kernels)


def _dtype(network: Network) -> str:
    """The one whose interval a network tells something of."""
    return max(DTYPES, key=lambda dtype: any(kernel.dtype == dtype for kernel in network.kernels) * DTYPES.index(dtype))


def _laws(measurements: Measurements) -> dict[str, Law]:
    """Laws without an interval."""
    times: dict[Kernel, list[float]] = {}
    for network in measurements.networks:
        for kernel, ms in zip(network.kernels, network.kernels_ms, strict=True):
            times.setdefault(kernel, []).append(ms)
    laws, likenesses, told, wanted = {}, [], [], []
    for dtype in DTYPES:
        rows = [(kernel, float(np.median(ms))) for kernel, ms in times.items() if kernel.dtype == dtype]
        law = _terms([(kernel, ms) for kernel, ms in rows if ms > 0.0], dtype, measurements.call_ms)
        laws[dtype] = law
        likenesses += [likeness(kernel, dtype) for kernel, _ in rows]
        told += [law.kernel_ms(kernel, dtype) for kernel, _ in rows]
        wanted += [ms for _, ms in rows]
    correction = learnt(likenesses, np.array(told), np.array(wanted))
    return {dtype: replace(law, correction=correction) for dtype, law in laws.items()}


def _terms(rows: Sequence[tuple[Kernel, float]], dtype: str, call_ms: float) -> Law:
    """The terms alone, fitted to kernels with their times."""
    matrix = design([(kernel,) for kernel, _ in rows], dtype, TILINGS[dtype])
    network = TERM_NAMES.index("network")
    matrix[:, network] = 0.0
    times = np.maximum([ms for _, ms in rows], FLOOR_MS)
    prior = np.array([PRIOR[term] for term in TERM_NAMES])
    weights = np.sqrt(times / (times + _SMALL_MS))
    pull = np.full(len(prior), PULL)
    found = solve(matrix, times, prior, prior * 1e-3, prior * np.inf, weights, pull, tolerance=0.5)
    found[network] = max(call_ms, _LEAST_MS)
    coefficients = dict(zip(TERM_NAMES, map(float, found), strict=True))
    return Law(coefficients, TILINGS[dtype], ranges_of([[kernel] for kernel, _ in rows]), {})
