"""What the fits of all targets share: rows split three ways, priors from a device's peaks, intervals and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from autocompress.core.fusion import launched
from autocompress.core.fusion_rules import Fusion
from autocompress.core.kernel import Kernel
from autocompress.targets.fit import TERM_NAMES, Array, design, ranges_of, solve, spread_of, spreads_of
from autocompress.targets.law import FAMILIES, Law, Tiling, family_of
from autocompress.targets.parse import law_to_dict, with_law
from autocompress.targets.published.rows import Row

SEED, FOLDS = 0, 5
HOST_TERMS = ("network", "launch", "window_launch", "branch_reads", "mixed_reads")
ARITHMETIC = ("conv3x3", "conv1x1", "conv", "conv_strided", "matmul")
Coefficients = dict[str, float]
# By term: lowest, prior, highest.
Bounds = dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Net:
    """A measured network as the kernels its runtime launches."""

    name: str
    kernels: tuple[Kernel, ...]
    ms: float
    traits: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """Networks that count as `weight` rows together; `constant` gives them a network constant of their own."""

    nets: Sequence[Net]
    weight: float
    constant: str = ""


@dataclass(frozen=True)
class Split:
    """Networks to fit on, to take the intervals from, and to validate both on."""

    fit: list[Net]
    calibrate: list[Net]
    test: list[Net]


@dataclass(frozen=True)
class Device:
    """What its data sheet says: arithmetic in 10^9 multiply-accumulates and memory in 10^9 bytes a second."""

    gmacs: float
    gbytes: float
    launch_ms: float


def nets_of(rows: Sequence[Row], fusion: Fusion) -> list[Net]:
    """Rows as kernels; networks of which nothing but zeros is left do not count."""
    found = []
    for row in rows:
        kernels = launched(row.network, fusion)
        if any(kernel.macs for kernel in kernels):
            found.append(Net(row.name, kernels, row.ms, row.traits))
    return found


def shuffled(nets: Sequence[Net]) -> list[Net]:
    """In an order that is always the same."""
    return [nets[index] for index in np.random.default_rng(SEED).permutation(len(nets))]


def split_random(nets: Sequence[Net]) -> Split:
    """Half to fit, a quarter each to calibrate and to test."""
    mixed, quarter = shuffled(nets), len(nets) // 4
    return Split(mixed[2 * quarter :], mixed[:quarter], mixed[quarter : 2 * quarter])


def prior_of(device: Device) -> Coefficients:
    """What to believe without data, in ms per unit: usual shares of the peaks."""
    shares = {
        "conv3x3": 1.2,
        "conv1x1": 0.7,
        "conv": 0.6,
        "conv_strided": 0.5,
        "matmul": 0.5,
        "depthwise3x3": 0.12,
        "depthwise": 0.06,
        "gather": 1.5,
        "pool": 0.1,
    }
    found = {term: 1.0 / (device.gmacs * share) for term, share in shares.items()}
    traffic = ("bytes", "conv_bytes", "conv3x3_bytes", "weights", "linear_weights")
    found |= dict.fromkeys(traffic, 2.0 / device.gbytes)
    found |= {"network": 0.2, "launch": device.launch_ms, "window_launch": device.launch_ms}
    rare = {"branch_reads": device.launch_ms / 10, "mixed_reads": device.launch_ms / 10}
    return found | rare | {"unaligned": 1e-3}


def bounds_of(prior: Coefficients) -> Bounds:
    """Anything above a thousandth of the prior."""
    return {term: (prior[term] * 1e-3, prior[term], np.inf) for term in TERM_NAMES}


def fit(
    parts: Sequence[Part], dtype: str, tiling: Tiling, bounds: Bounds, pull: float
) -> tuple[Coefficients, Coefficients]:
    """Coefficients by term, and what each named constant adds to every network of its part."""
    names = [part.constant for part in parts if part.constant]
    blocks, weights = [], []
    for part in parts:
        block = design([net.kernels for net in part.nets], dtype, tiling)
        own = np.zeros((len(block), len(names)))
        if part.constant:
            own[:, names.index(part.constant)] = 1.0
        blocks.append(np.hstack([block, own]))
        weights.append(np.full(len(block), np.sqrt(part.weight / len(block))))
    table = [bounds[term] for term in TERM_NAMES] + [(0.0, 1.0, np.inf)] * len(names)
    low, prior, high = (np.array(column, dtype=float) for column in zip(*table, strict=True))
    pulls = np.array([pull] * len(TERM_NAMES) + [1e-3] * len(names))
    measured = np.concatenate([times(part.nets) for part in parts])
    found = solve(np.vstack(blocks), measured, prior, low, high, np.concatenate(weights), pulls, tolerance=0.03)
    rounded = [float(f"{value:.5g}") for value in found]
    return dict(zip(TERM_NAMES, rounded, strict=False)), dict(zip(names, rounded[len(TERM_NAMES) :], strict=True))


def times(nets: Sequence[Net]) -> Array:
    """Measured milliseconds."""
    return np.array([net.ms for net in nets])


def kernels_of(nets: Sequence[Net]) -> list[tuple[Kernel, ...]]:
    """The kernels of each."""
    return [net.kernels for net in nets]


def predicted(law: Law, nets: Sequence[Net], dtype: str) -> Array:
    """Milliseconds by the law."""
    found: Array = design(kernels_of(nets), dtype, law.tiling) @ np.array([law.coefficients[t] for t in TERM_NAMES])
    return found


def calibrated(law: Law, nets: Sequence[Net], dtype: str) -> Law:
    """The law with its intervals taken from networks that it was not fitted on."""
    ratios = times(nets) / predicted(law, nets, dtype)
    return replace(law, spreads={**law.spreads, **spreads_of(law, kernels_of(nets), dtype, ratios)})


def cell_law(rows: Sequence[Row], fusion: Fusion, dtype: str, bounds: Bounds, name: str, setup: str) -> tuple[Law, Any]:
    """The law of a device of which only NAS-Bench-201 networks were measured, and how it does on those left out.

    Every such network has the same three widths, so one interval holds for all kernels; it comes from fits that left
    each network out in turn.
    """
    nets = shuffled(nets_of(rows, fusion))
    held, kept = nets[: len(nets) // 4], nets[len(nets) // 4 :]

    def fitted(some: Sequence[Net]) -> Law:
        found, _ = fit([Part(some, float(len(some)))], dtype, Tiling(), bounds, pull=0.003)
        return Law(found, Tiling(), ranges_of(kernels_of(some)), {})

    ratios = []
    for fold in range(FOLDS):
        out = kept[fold::FOLDS]
        law = fitted([net for index, net in enumerate(kept) if index % FOLDS != fold])
        ratios.append(times(out) / predicted(law, out, dtype))
    law = replace(fitted(kept), spreads=dict.fromkeys(FAMILIES, spread_of(np.concatenate(ratios))))
    return law, check(name, setup, law, held, dtype)


def interval(law: Law, nets: Sequence[Net], dtype: str) -> tuple[Array, Array]:
    """The 80 % interval of each network, as `Target.estimate_kernels` adds it up for shapes that were fitted."""
    bounds = []
    for net in nets:
        shares = [(law.coefficients["network"], law.spreads["small"])]
        shares += [(law.kernel_ms(kernel, dtype), law.spreads[family_of(kernel)]) for kernel in net.kernels]
        bounds.append([sum(ms * spread.low for ms, spread in shares), sum(ms * spread.high for ms, spread in shares)])
    low, high = np.array(bounds).T
    return low, high


def check(
    source: str, setup: str, law: Law, nets: Sequence[Net], dtype: str, ms: Array | None = None
) -> dict[str, Any]:
    """An entry of `law.validation`; `ms` are predictions by other coefficients, where each network was left out."""
    low, high = interval(law, nets, dtype)
    found, measured = predicted(law, nets, dtype) if ms is None else ms, times(nets)
    if ms is not None:
        factor = ms / predicted(law, nets, dtype)
        low, high = low * factor, high * factor
    error = np.abs(found / measured - 1.0)
    return {
        "source": source,
        "setup": setup,
        "dtype": dtype,
        "rows": len(nets),
        "spearman": round(float(spearmanr(found, measured).statistic), 4),
        "within_10_percent": round(float(np.mean(error < 0.1)), 4),
        "mean_error": round(float(np.mean(error)), 4),
        "interval_coverage": round(float(np.mean((low <= measured) & (measured <= high))), 4),
    }


def laws_to_dict(laws: Mapping[str, Law]) -> dict[str, Any]:
    """Laws of one tiling as a profile holds them."""
    tiling = next(iter(laws.values())).tiling
    sizes = {name: value for name, value in asdict(tiling).items() if name not in ("blocked", "converted")}
    converted = {"converted": list(tiling.converted)} if tiling.converted else {}
    return {
        "tiling": {**sizes, "winograd": list(tiling.winograd), **converted},
        "dtypes": {dtype: law_to_dict(law) for dtype, law in laws.items()},
    }


def rewrite(profile: Path, law: Mapping[str, Any]) -> None:
    """Replaces everything from the line `law:` on; what a person wrote above it stays."""
    profile.write_text(with_law(profile, law), encoding="utf-8")
