"""Laws of this machine, learnt from networks that are run on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from autocompress.core.kernel import Kernel
from autocompress.targets import quiet
from autocompress.targets.correction import learnt, likeness
from autocompress.targets.fit import TERM_NAMES, design, ranges_of, solve, spread_of
from autocompress.targets.law import FAMILIES, TERMS, Law, Tiling
from autocompress.targets.measure import undisturbed_ms
from autocompress.targets.probes import Probe, filled, probes_path, read_probes
from autocompress.targets.profiled import RunNode, attributed, profiled
from autocompress.targets.session import open_session

DTYPES = ("fp32", "int8")
# ONNX Runtime's blocked kernels compute 16 output channels at a time; those for int8 need multiples of 4.
TILINGS = {
    "fp32": Tiling(channels=16, narrow_channels=16),
    "int8": Tiling(channels=16, narrow_channels=16, aligned=4, least_channels=16),
}
# The profiler runs so many networks at a time, since it keeps all it sees in memory: each so often in each of several
# passes over them.
TOGETHER, PROFILE_PASSES, RUNS = 100, 12, 4
# Of every so many networks the files are timed as wholes, in so many passes over all of them.
EVERY, PASSES = 4, 12
FOLDS = 4
# Milliseconds per unit on an ordinary core: 30 GMAC/s, 10 GB/s, 1 ns per pooled output, 20 ns per pixel
# off the fast path, 2 us per kernel; that a tensor lies in a branch costs a processor nothing.
PRIOR = {
    name: 1 / 30 if unit == "million MACs" else 1 / 10 if unit == "million bytes" else 2e-3
    for name, unit in TERMS.items()
} | {"pool": 1.0, "gather": 0.1, "unaligned": 20.0, "branch_reads": 1e-6}
PULL = 0.005
# Below this a time is as good as none, and beside this one it counts little.
_LEAST_MS, _SMALL_MS = 5e-4, 0.02


@dataclass(frozen=True)
class Measured:
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


def measure_laws() -> dict[str, Law]:
    """Times the networks that were shipped for it and fits a law for each dtype."""
    probes = read_probes(probes_path())
    with quiet.measuring():
        return fit_laws(measured(probes))


def measured(probes: Sequence[Probe]) -> list[Measured]:
    """The networks as they were measured."""
    timed = {probe.name: probe for probe in probes if _family(probe) % EVERY == 0}
    sessions = [open_session(filled(probe.model)) for probe in timed.values()]
    whole_ms = dict(zip(timed, undisturbed_ms(sessions, PASSES), strict=True))
    nodes: dict[str, list[RunNode]] = {}
    for first in range(0, len(probes), TOGETHER):
        some = probes[first : first + TOGETHER]
        ran = profiled([filled(probe.model) for probe in some], PROFILE_PASSES, RUNS)
        nodes.update(zip((probe.name for probe in some), ran, strict=True))
    added_ms = _added_by_profiler({name: (nodes[name], ms) for name, ms in whole_ms.items()})
    found = []
    for probe in probes:
        counted = attributed(probe.kernels, nodes[probe.name])
        kernels_ms = tuple(max(0.0, sum(node.ms - added_ms(node) for node in one)) for one in counted)
        found.append(Measured(_family(probe), probe.kernels, kernels_ms, whole_ms.get(probe.name)))
    return found


def _family(probe: Probe) -> int:
    return int(probe.name.split("-")[1])


def _added_by_profiler(timed: Mapping[str, tuple[Sequence[RunNode], float]]) -> Callable[[RunNode], float]:
    """The milliseconds that the profiler adds to a node, by its inputs, so that nodes make up the time of whole files.

    By least squares on the faster half: there it is most of the time, and what disturbs a run is small beside it.
    """
    whole = np.array([ms for _, ms in timed.values()])
    fast = whole <= np.median(whole)
    counts = np.array([(len(nodes), sum(len(node.inputs) for node in nodes)) for nodes, _ in timed.values()])
    added = np.array([sum(node.ms for node in nodes) for nodes, _ in timed.values()]) - whole
    (each, an_input), _ = nnls((counts / whole[:, None])[fast], (added / whole)[fast])
    return lambda node: float(each + an_input * len(node.inputs))


def fit_laws(networks: Sequence[Measured]) -> dict[str, Law]:
    """One law for each dtype, with an interval from networks that were left out in turn.

    Args:
        networks: As they were measured; a kernel computes in the dtype that it says.
    """
    ratios = []
    for fold in range(FOLDS):
        kept = [network for network in networks if network.family // EVERY % FOLDS != fold]
        laws = _laws(kept)
        for network in networks:
            if network.family // EVERY % FOLDS == fold and network.whole_ms is not None:
                told = sum(laws[one.dtype].kernel_ms(one, one.dtype) for one in network.kernels)
                ratios.append(network.whole_ms / told)
    spread = spread_of(np.array(ratios))
    return {dtype: replace(law, spreads=dict.fromkeys(FAMILIES, spread)) for dtype, law in _laws(networks).items()}


def _laws(networks: Sequence[Measured]) -> dict[str, Law]:
    """Laws without an interval."""
    times: dict[Kernel, list[float]] = {}
    for network in networks:
        for kernel, ms in zip(network.kernels, network.kernels_ms, strict=True):
            times.setdefault(kernel, []).append(ms)
    laws, likenesses, told, wanted = {}, [], [], []
    for dtype in DTYPES:
        rows = [(kernel, float(np.median(ms))) for kernel, ms in times.items() if kernel.dtype == dtype]
        law = _terms(rows, dtype)
        laws[dtype] = law
        likenesses += [likeness(kernel, dtype) for kernel, _ in rows]
        told += [law.kernel_ms(kernel, dtype) for kernel, _ in rows]
        wanted += [ms for _, ms in rows]
    correction = learnt(likenesses, np.array(told), np.array(wanted))
    return {dtype: replace(law, correction=correction) for dtype, law in laws.items()}


def _terms(rows: Sequence[tuple[Kernel, float]], dtype: str) -> Law:
    """The terms alone, fitted to kernels with their times."""
    matrix = design([(kernel,) for kernel, _ in rows], dtype, TILINGS[dtype])
    network = TERM_NAMES.index("network")
    matrix[:, network] = 0.0
    times = np.array([ms for _, ms in rows]) + _LEAST_MS
    prior = np.array([PRIOR[term] for term in TERM_NAMES])
    weights = np.sqrt(times / (times + _SMALL_MS))
    pull = np.full(len(prior), PULL)
    found = solve(matrix, times, prior, prior * 1e-3, prior * np.inf, weights, pull, tolerance=0.5)
    found[network] = _LEAST_MS
    coefficients = dict(zip(TERM_NAMES, map(float, found), strict=True))
    return Law(coefficients, TILINGS[dtype], ranges_of([[kernel] for kernel, _ in rows]), {})
