"""The laws of the Jetson Nano: fp32 and fp16 share launches, and each dtype bounds the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fitting import (
    ARITHMETIC,
    HOST_TERMS,
    Bounds,
    Coefficients,
    Net,
    Part,
    Split,
    calibrated,
    cell_law,
    check,
    fit,
    kernels_of,
    laws_to_dict,
    nets_of,
    predicted,
    shuffled,
    split_random,
    times,
)

from autocompress.core.fusion_rules import FUSIONS
from autocompress.targets.fit import TERM_NAMES, ranges_of, spread_of
from autocompress.targets.law import FAMILIES, Law, Tiling
from autocompress.targets.published.rows import Row
from autocompress.targets.published.whole import WHOLE

# TensorRT has no fp16 kernel for depthwise convolutions on Maxwell: its profiles show reformatters around them, and
# MobileNets gain nothing or little (NVIDIA developer forum 68624, github PaddlePaddle/Paddle#42966).
DEPTHWISE = ("depthwise3x3", "depthwise")
TILING = Tiling(channels=64, narrow_channels=32, pixels=32, winograd=(8, 16), converted=DEPTHWISE)
TENSORRT = FUSIONS["tensorrt"]
# Milliseconds per unit in fp32: what to believe without data, and the peak that nothing passes (118 GMAC/s, 25.6 GB/s;
# 2.25 times the arithmetic for Winograd).
PRIOR = {
    "network": 0.5,
    "launch": 0.02,
    "window_launch": 0.02,
    "branch_reads": 1e-4,
    "mixed_reads": 1e-3,
    "conv3x3": 1 / 180,
    "conv1x1": 1 / 95,
    "conv": 1 / 95,
    "conv_strided": 1 / 80,
    "matmul": 1 / 80,
    "depthwise3x3": 1 / 20,
    "depthwise": 1 / 8,
    "gather": 1 / 200,
    "unaligned": 1.0,
    "pool": 1 / 10,
    "bytes": 1 / 12,
    "conv_bytes": 1 / 10,
    "conv3x3_bytes": 1 / 10,
    "weights": 1 / 10,
    "linear_weights": 1 / 12,
}
PEAK = {
    **dict.fromkeys(("conv1x1", "conv", "conv_strided", "matmul"), 1 / 118),
    **dict.fromkeys(("depthwise3x3", "depthwise", "pool"), 1 / 60),
    **dict.fromkeys(("bytes", "conv_bytes", "conv3x3_bytes", "weights", "linear_weights"), 1 / 25.6),
    "conv3x3": 1 / 265,
    "gather": 1 / 1000,
    "unaligned": 1 / 1000,
    "branch_reads": 1e-6,
    "mixed_reads": 1e-6,
    "network": 0.05,
    "launch": 0.004,
    "window_launch": 0.001,
}
# The peak of fp16 arithmetic, for kinds of which no fp32 row says anything.
FP16_PEAK = {"conv_strided": 1 / 236}
HELD_WIDTHS, HELD_SIDES = ("224", "512", "672"), ("35", "60", "85")
SYNTHETIC_NETS = 2500
PULL_FP32, PULL_FP16 = 0.01, 0.05
CELL_WEIGHT = 10.0
# How much slower fp32 is known to be: 1.44 to 1.88 times on ResNets, 1.1 on MobileNetV2. They count little.
KNOWN_RATIOS = {"resnet18": 1.645, "resnet50": 1.645, "mobilenet_v2": 1.1}
KNOWN_WEIGHT = 0.05


def fit_nano(rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The law section of the profile."""
    nets = {name: nets_of(some, TENSORRT) for name, some in rows.items()}
    synthetic, cells = split_synthetic(nets["synthetic CNNs"]), split_random(nets["NAS-Bench-201, fp16"])
    whole = [*nets["whole networks"], *nets["MobileNetV2 by NVIDIA"]]
    fp32, fp16, constants = _both(synthetic, cells, whole)
    left_out = [_both(synthetic, cells, whole, net)[1] for net in whole]
    whole_ms = np.array([_ms(found, net) for found, net in zip(left_out, whole, strict=True)])

    wide = spread_of(times(whole) / whole_ms)
    law16 = Law(fp16, TILING, ranges_of(kernels_of([*cells.fit, *whole])), dict.fromkeys(FAMILIES, wide))
    hosted16 = calibrated(_with_constant(law16, constants["cells"]), cells.calibrate, "fp16")
    small = hosted16.spreads["small"].widened(1.5)
    law16 = replace(law16, spreads={**law16.spreads, "small": small})
    law32 = Law(fp32, TILING, ranges_of(kernels_of(synthetic.fit)), dict.fromkeys(FAMILIES, small))
    hosted32 = calibrated(_with_constant(law32, constants["synthetic"]), synthetic.calibrate, "fp32")
    law32 = replace(hosted32, coefficients=law32.coefficients)

    setup, name = "nas_bench_201", "NAS-Bench-201 cells, random ones held out"
    cell32, check32 = cell_law(rows["NAS-Bench-201, fp32"], TENSORRT, "fp32", _cell_bounds(fp32), name, setup)
    cell16, check16 = cell_law(rows["NAS-Bench-201, fp16"], TENSORRT, "fp16", _cell_bounds(fp16), name, setup)
    return {
        "unit": "ms",
        **laws_to_dict({"fp32": law32, "fp16": law16}),
        "setups": {
            "synthetic_cnns": {
                "title": "host copies included",
                "runtime": "tensorrt",
                **laws_to_dict({"fp32": hosted32}),
            },
            "nas_bench_201": {
                "title": "another host and, in fp32, another runtime",
                "runtime": "tensorrt",
                **laws_to_dict({"fp32": cell32, "fp16": cell16}),
            },
        },
        "validation": [
            check("synthetic CNNs, widths and sides held out", "synthetic_cnns", hosted32, synthetic.test, "fp32"),
            check("torch2trt and NVIDIA models, each left out of the coefficients but not of the interval", "", law16,
                  whole, "fp16", whole_ms),
            check32,
            check16,
        ],
    }  # fmt: skip


def split_synthetic(nets: Sequence[Net]) -> Split:
    """Holds out whole widths and resolutions; half of those nets calibrate the intervals."""
    held = [net for net in nets if net.traits["F"] in HELD_WIDTHS or net.traits["W"] in HELD_SIDES]
    names = {net.name for net in held}
    held, kept = shuffled(held), shuffled([net for net in nets if net.name not in names])
    return Split(kept[:SYNTHETIC_NETS], held[: len(held) // 2], held[len(held) // 2 :])


def bounds_fp32(fixed: Coefficients) -> Bounds:
    """Between the peak and anything; the terms in `fixed` may not move."""
    bounds = {term: (PEAK[term], PRIOR[term], np.inf) for term in TERM_NAMES}
    return bounds | {term: _fixed(value) for term, value in fixed.items()}


def bounds_fp16(fp32: Coefficients) -> Bounds:
    """No arithmetic slower than in fp32 or more than twice as fast; a byte may cost twice, since there are half."""
    bounds: Bounds = {}
    for term in TERM_NAMES:
        if term in HOST_TERMS:
            bounds[term] = (PEAK[term], fp32[term], np.inf)
        elif term in ARITHMETIC:
            bounds[term] = (FP16_PEAK.get(term, fp32[term] / 2), fp32[term] / 2, fp32[term])
        elif term.startswith("depthwise") or term in ("pool", "gather", "unaligned"):
            bounds[term] = _fixed(fp32[term])
        else:
            bounds[term] = (PEAK[term], fp32[term], 2 * fp32[term])
    return bounds


def _fixed(value: float) -> tuple[float, float, float]:
    return value * (1 - 1e-9), value, value * (1 + 1e-9)


def _cell_bounds(law: Coefficients) -> Bounds:
    return {term: (value * 1e-3, value, np.inf) for term, value in law.items()}


def _both(
    synthetic: Split, cells: Split, whole: Sequence[Net], left_out: Net | None = None
) -> tuple[Coefficients, Coefficients, Coefficients]:
    """The coefficients of fp32 and fp16 and the constants of the hosts, with one whole network left out if wanted."""
    kept = [net for net in whole if net is not left_out]
    known = [_slower(net) for net in kept if net.name.split()[0] in KNOWN_RATIOS]
    slow = [Part(synthetic.fit, 1.0, "synthetic"), Part(known, KNOWN_WEIGHT)]
    half = [Part(kept, float(len(kept))), Part(cells.fit, CELL_WEIGHT, "cells")]
    draft, _ = fit(slow, "fp32", TILING, bounds_fp32({}), PULL_FP32)
    launches, _ = fit(half, "fp16", TILING, bounds_fp16(draft), PULL_FP16)
    fixed = {term: launches[term] for term in HOST_TERMS}
    fp32, constants = fit(slow, "fp32", TILING, bounds_fp32(fixed), PULL_FP32)
    same = {term: _fixed(value) for term, value in fixed.items()}
    fp16, more = fit(half, "fp16", TILING, bounds_fp16(fp32) | same, PULL_FP16)
    return fp32, fp16, constants | more


def _slower(net: Net) -> Net:
    """What a network measured in fp16 would take in fp32 by what is known of its family."""
    name = net.name.split()[0]
    assert name in WHOLE
    return replace(net, ms=net.ms * KNOWN_RATIOS[name])


def _with_constant(law: Law, ms: float) -> Law:
    return replace(law, coefficients={**law.coefficients, "network": round(law.coefficients["network"] + ms, 5)})


def _ms(found: Coefficients, net: Net) -> float:
    return float(predicted(Law(found, TILING, {}, {}), [net], "fp16")[0])
