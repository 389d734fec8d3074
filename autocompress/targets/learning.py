"""Laws of this machine, learnt from networks that are run on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from autocompress.core.kernel import Kernel
from autocompress.targets import quiet
from autocompress.targets.correction import FLOOR_MS, learnt, likeness
from autocompress.targets.fit import TERM_NAMES, design, ranges_of, solve, spread_of
from autocompress.targets.inside import Measurements, Network, measured
from autocompress.targets.law import FAMILIES, TERMS, Law, Tiling
from autocompress.targets.probes import probes_path, read_probes

DTYPES = ("fp32", "int8")
# ONNX Runtime's blocked kernels compute 16 output channels at a time; those for int8 need multiples of 4.
TILINGS = {
    "fp32": Tiling(channels=16, narrow_channels=16, blocked=4),
    "int8": Tiling(channels=16, narrow_channels=16, aligned=4, least_channels=16),
}
FOLDS = 4
# Milliseconds per unit on an ordinary core: 30 GMAC/s, 10 GB/s, 1 ns per pooled output, 20 ns per pixel
# off the fast path, 2 us per kernel; that a tensor lies in a branch, or is read by unlike convolutions, costs a
# processor nothing.
PRIOR = {
    name: 1 / 30 if unit == "million MACs" else 1 / 10 if unit == "million bytes" else 2e-3
    for name, unit in TERMS.items()
} | {"pool": 1.0, "gather": 0.1, "unaligned": 20.0, "branch_reads": 1e-6, "mixed_reads": 1e-6}
PULL = 0.005
# No call costs less, and beside this a time counts little.
_LEAST_MS, _SMALL_MS = 5e-4, 0.02


def measure_laws() -> dict[str, Law]:
    """Times the networks that were shipped for it and fits a law for each dtype."""
    probes = read_probes(probes_path())
    with quiet.measuring():
        networks = measured(probes)
    return fit_laws(networks)


def fit_laws(measurements: Measurements) -> dict[str, Law]:
    """One law for each dtype, with an interval from networks that were left out in turn.

    Args:
        measurements: A kernel computes in the dtype that it says.
    """
    ratios: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for fold in range(FOLDS):
        kept = [one for one in measurements.networks if one.family % FOLDS != fold]
        laws = _laws(replace(measurements, networks=tuple(kept)))
        for network in measurements.networks:
            if network.family % FOLDS == fold:
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
