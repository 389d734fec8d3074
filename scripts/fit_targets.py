"""Fits the law of the Jetson Nano on published measurements and rewrites the law section of its profile.

python scripts/fit_targets.py --data /path/to/latency
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from latency_nets import Row, read_rows
from scipy.stats import spearmanr

from autocompress.core.kernel import Kernel
from autocompress.targets.fit import TERM_NAMES, Array, design, ranges_of, solve, spread_of, spreads_of
from autocompress.targets.law import FAMILIES, Law, Spread, Tiling, family_of
from autocompress.targets.parse import law_to_dict

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / "hardware_profiles" / "jetson-nano" / "profile.yaml"
TILING = Tiling(channels=64, narrow_channels=32, pixels=32, winograd=(8, 16))
# Milliseconds per unit in fp32: what to believe without data, and the peak that nothing passes (118 GMAC/s, 25.6 GB/s;
# 2.25 times the arithmetic for Winograd).
PRIOR = {
    "network": 0.5,
    "launch": 0.02,
    "window_launch": 0.02,
    "conv3x3": 1 / 180,
    "conv1x1": 1 / 95,
    "conv": 1 / 95,
    "conv_strided": 1 / 80,
    "depthwise3x3": 1 / 20,
    "depthwise": 1 / 8,
    "matmul": 1 / 80,
    "gather": 1 / 200,
    "unaligned": 1.0,
    "pool": 1 / 10,
    "bytes": 1 / 12,
    "conv_bytes": 1 / 10,
    "weights": 1 / 10,
    "linear_weights": 1 / 12,
}
PEAK = {
    **dict.fromkeys(("conv1x1", "conv", "conv_strided", "matmul"), 1 / 118),
    **dict.fromkeys(("depthwise3x3", "depthwise", "pool"), 1 / 60),
    **dict.fromkeys(("bytes", "conv_bytes", "weights", "linear_weights"), 1 / 25.6),
    "conv3x3": 1 / 265,
    "gather": 1 / 1000,
    "unaligned": 1 / 1000,
    "network": 0.05,
    "launch": 0.004,
    "window_launch": 0.001,
}
ARITHMETIC = ("conv3x3", "conv1x1", "conv", "conv_strided", "matmul")
HOST_TERMS = ("network", "launch", "window_launch")
# Depthwise convolutions and pooling gain nothing from fp16 on this device; other arithmetic at most a factor of two.
FP16_FASTER = dict.fromkeys(ARITHMETIC, 0.5)
HELD_WIDTHS, HELD_SIDES = (224, 512, 672), (35, 60, 85)
SYNTHETIC_ROWS, SEED = 2500, 0


PULL_FP32, PULL_FP16 = 0.01, 0.05
Coefficients = dict[str, float]
Bounds = dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Source:
    """Rows of one host in one dtype; `weight` is how many rows they count for together."""

    name: str
    rows: Sequence[Row]
    weight: float
    own_constant: bool = False


@dataclass(frozen=True)
class Split:
    """Rows to fit on, to take the intervals from, and to validate both on."""

    fit: list[Row]
    calibrate: list[Row]
    test: list[Row]


def split_synthetic(rows: list[Row]) -> Split:
    """Holds out whole widths and resolutions; half of those rows calibrate the intervals."""
    held = [row for row in rows if row.widths[0] in HELD_WIDTHS or row.side in HELD_SIDES]
    kept = [row for row in rows if not (row.widths[0] in HELD_WIDTHS or row.side in HELD_SIDES)]
    held, kept = _shuffled(held), _shuffled(kept)
    return Split(kept[:SYNTHETIC_ROWS], held[: len(held) // 2], held[len(held) // 2 :])


def split_random(rows: list[Row]) -> Split:
    """A third each to fit, to calibrate and to test."""
    rows, third = _shuffled(rows), len(rows) // 3
    return Split(rows[:third], rows[third : 2 * third], rows[2 * third :])


def fit(sources: Sequence[Source], dtype: str, bounds: Bounds, pull: float) -> tuple[Coefficients, Coefficients]:
    """Coefficients by term, and what each host with its own constant adds to every network."""
    hosts = [source.name for source in sources if source.own_constant]
    blocks, weights = [], []
    for source in sources:
        block = design([row.kernels for row in source.rows], dtype, TILING)
        own = np.zeros((len(block), len(hosts)))
        if source.own_constant:
            own[:, hosts.index(source.name)] = 1.0
        blocks.append(np.hstack([block, own]))
        weights.append(np.full(len(block), np.sqrt(source.weight / len(block))))
    table = [bounds[term] for term in TERM_NAMES] + [(0.0, 1.0, np.inf)] * len(hosts)
    low, prior, high = (np.array(column, dtype=float) for column in zip(*table, strict=True))
    pulls = np.array([pull] * len(TERM_NAMES) + [1e-3] * len(hosts))
    measured = np.concatenate([_ms(source.rows) for source in sources])
    found = solve(np.vstack(blocks), measured, prior, low, high, np.concatenate(weights), pulls, tolerance=0.03)
    rounded = [float(f"{value:.5g}") for value in found]
    return dict(zip(TERM_NAMES, rounded, strict=False)), dict(zip(hosts, rounded[len(TERM_NAMES) :], strict=True))


def bounds_fp32(fixed: Coefficients) -> Bounds:
    """Between the peak and anything; the terms in `fixed` may not move."""
    bounds = {term: (PEAK[term], PRIOR[term], np.inf) for term in TERM_NAMES}
    return bounds | {term: (value * (1 - 1e-9), value, value * (1 + 1e-9)) for term, value in fixed.items()}


def bounds_fp16(fp32: Coefficients) -> Bounds:
    """No kernel slower than in fp32, arithmetic at most twice as fast; a byte may cost twice, since there are half."""
    bounds = {}
    for term in TERM_NAMES:
        if term in HOST_TERMS:
            bounds[term] = (PEAK[term], fp32[term], np.inf)
        elif term in FP16_FASTER:
            bounds[term] = (fp32[term] * FP16_FASTER[term], fp32[term] * FP16_FASTER[term], fp32[term])
        elif term.startswith("depthwise") or term == "pool":
            bounds[term] = (fp32[term] * (1 - 1e-9), fp32[term], fp32[term])
        else:
            bounds[term] = (PEAK[term], fp32[term], 2 * fp32[term])
    return bounds


def _shuffled(rows: list[Row]) -> list[Row]:
    return [rows[index] for index in np.random.default_rng(SEED).permutation(len(rows))]


def _ms(rows: Sequence[Row]) -> Array:
    return np.array([row.ms for row in rows])


def _nets(rows: Sequence[Row]) -> list[tuple[Kernel, ...]]:
    return [row.kernels for row in rows]


def _predicted(coefficients: Coefficients, rows: Sequence[Row], dtype: str) -> Array:
    predicted: Array = design(_nets(rows), dtype, TILING) @ np.array([coefficients[term] for term in TERM_NAMES])
    return predicted


def fp16_sources(rows: dict[str, list[Row]], nas: Split, left_out: Row | None = None) -> list[Source]:
    """The TensorRT fp16 rows, with one whole network left out if wanted."""
    whole = {name: [row for row in rows[name] if row is not left_out] for name in ("torch2trt", "nvidia")}
    sources = [Source(name, some, float(len(some))) for name, some in whole.items() if some]
    return [*sources, Source("nas_bench_201", nas.fit, 10.0, own_constant=True)]


def fit_nano(rows: dict[str, list[Row]]) -> dict[str, Any]:
    """The law section of the profile."""
    synthetic, nas = split_synthetic(rows["synthetic"]), split_random(rows["nas201_fp16"])
    trained = [Source("synthetic_cnns", synthetic.fit, 1.0, own_constant=True)]
    draft, _ = fit(trained, "fp32", bounds_fp32({}), PULL_FP32)
    launches, _ = fit(fp16_sources(rows, nas), "fp16", bounds_fp16(draft), PULL_FP16)
    fixed = {term: launches[term] for term in HOST_TERMS}
    fp32, host = fit(trained, "fp32", bounds_fp32(fixed), PULL_FP32)
    bounds = bounds_fp16(fp32) | {term: bounds_fp32(fixed)[term] for term in HOST_TERMS}
    fp16, host16 = fit(fp16_sources(rows, nas), "fp16", bounds, PULL_FP16)
    host |= host16

    whole = [*rows["torch2trt"], *rows["nvidia"]]
    left_out = [fit(fp16_sources(rows, nas, row), "fp16", bounds, PULL_FP16)[0] for row in whole]
    whole_ms = np.concatenate([_predicted(found, [row], "fp16") for found, row in zip(left_out, whole, strict=True)])

    draft16 = _law(fp16, [*_nets(nas.fit), *_nets(whole)], dict.fromkeys(FAMILIES, spread_of(_ms(whole) / whole_ms)))
    law16 = _calibrated(draft16, nas.calibrate, "fp16", host["nas_bench_201"])
    small = law16.spreads["small"].widened(1.5)
    law32 = _calibrated(
        _law(fp32, _nets(synthetic.fit), dict.fromkeys(FAMILIES, small)), synthetic.calibrate, "fp32",
        host["synthetic_cnns"],
    )  # fmt: skip
    validation = [
        _check("synthetic CNNs, widths and sides held out", law32, synthetic.test, "fp32", host["synthetic_cnns"]),
        _check("NAS-Bench-201, random rows held out", law16, nas.test, "fp16", host["nas_bench_201"]),
        _scores(
            "torch2trt and NVIDIA models, each left out of the coefficients but not of the interval",
            "fp16",
            whole_ms,
            _interval(law16, whole, "fp16"),
            whole,
        ),
        check_form(split_random(rows["nas201_fp32"])),
    ]
    laws = {"fp32": law32, "fp16": law16}
    return {
        "unit": "ms",
        "tiling": {**asdict(TILING), "winograd": list(TILING.winograd)},
        "host": host,
        "dtypes": {dtype: law_to_dict(law) for dtype, law in laws.items()},
        "validation": validation,
    }


def check_form(nas: Split) -> dict[str, Any]:
    """How the form of the law does on a runtime that does not fuse, with coefficients of its own that are not kept."""
    bounds = {term: (1e-6, 3 * PRIOR[term], np.inf) for term in TERM_NAMES}
    found, _ = fit([Source("nas_bench_201", nas.fit, 10.0)], "fp32", bounds, 0.02)
    law = _law(found, _nets(nas.fit), dict.fromkeys(FAMILIES, Spread(1.0, 1.0)))
    law = _calibrated(law, nas.calibrate, "fp32", 0.0)
    return _check("NAS-Bench-201 without fusion, form only (own coefficients)", law, nas.test, "fp32", 0.0)


def _law(coefficients: Coefficients, nets: list[tuple[Kernel, ...]], spreads: dict[str, Spread]) -> Law:
    return Law(coefficients, TILING, ranges_of(nets), spreads)


def _calibrated(law: Law, rows: list[Row], dtype: str, host_ms: float) -> Law:
    ratios = (_ms(rows) - host_ms) / _predicted(dict(law.coefficients), rows, dtype)
    return replace(law, spreads={**law.spreads, **spreads_of(law, _nets(rows), dtype, ratios)})


def _interval(law: Law, rows: Sequence[Row], dtype: str) -> tuple[Array, Array]:
    bounds = []
    for row in rows:
        shares = [(law.coefficients["network"], law.spreads["small"])]
        shares += [(law.kernel_ms(kernel, dtype), law.spreads[family_of(kernel)]) for kernel in row.kernels]
        bounds.append([sum(ms * spread.low for ms, spread in shares), sum(ms * spread.high for ms, spread in shares)])
    low, high = np.array(bounds).T
    return low, high


def _check(source: str, law: Law, rows: list[Row], dtype: str, host_ms: float) -> dict[str, Any]:
    low, high = _interval(law, rows, dtype)
    predicted = _predicted(dict(law.coefficients), rows, dtype) + host_ms
    return _scores(source, dtype, predicted, (low + host_ms, high + host_ms), rows)


def _scores(
    source: str, dtype: str, predicted: Array, interval: tuple[Array, Array], rows: Sequence[Row]
) -> dict[str, Any]:
    measured = _ms(rows)
    return {
        "source": source,
        "dtype": dtype,
        "rows": len(rows),
        "spearman": round(float(spearmanr(predicted, measured).statistic), 4),
        "within_10_percent": round(float(np.mean(np.abs(predicted / measured - 1.0) < 0.1)), 4),
        "interval_coverage": round(float(np.mean((interval[0] <= measured) & (measured <= interval[1]))), 4),
    }


def rewrite(profile: Path, law: dict[str, Any]) -> None:
    """Replaces everything from the line `law:` on; what a person wrote above it stays."""
    written = profile.read_text(encoding="utf-8").split("\nlaw:\n")[0].rstrip("\n")
    text = yaml.safe_dump({"law": law}, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    profile.write_text(f"{written}\n{text}", encoding="utf-8")


def main() -> None:
    """Fits, rewrites the profile and prints the validation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the published measurements")
    parser.add_argument("--profile", type=Path, default=PROFILE, help="profile.yaml to rewrite")
    arguments = parser.parse_args()
    law = fit_nano(read_rows(arguments.data))
    rewrite(arguments.profile, law)
    for entry in law["validation"]:
        print(entry)


if __name__ == "__main__":
    main()
