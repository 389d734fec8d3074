"""A law fitted again on kernels whose times are known: a device that is a law itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autocompress.core.kernel import Kernel
from autocompress.targets.correction import Correction
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.law import FAMILIES, Law, Range, Spread
from autocompress.targets.learning import PRIOR, TILINGS
from autocompress.targets.refit import LEAST_ROWS, refit, refit_all
from autocompress.targets.table import Table
from autocompress.targets.table_row import Measurement
from tests.targets.test_law import conv

BEFORE = Law(
    PRIOR, TILINGS["fp32"], {"conv1x1": Range((1, 4), (1, 4), (1, 4))}, dict.fromkeys(FAMILIES, Spread(0.5, 2))
)
# The device is three times slower in arithmetic, and launches take 20 microseconds.
TRUTH = {**PRIOR, "conv3x3": 3 * PRIOR["conv3x3"], "conv1x1": 3 * PRIOR["conv1x1"], "launch": 0.02}
KERNELS = [conv(c, c, side, k) for c in (16, 32, 64, 128) for side in (8, 16, 32) for k in (1, 3)]


def device_ms(kernel: Kernel) -> float:
    return replace(BEFORE, coefficients=TRUTH).kernel_ms(kernel, "fp32")


def test_the_truth_is_found_again() -> None:
    rows = [(kernel, device_ms(kernel)) for kernel in KERNELS]
    found = refit(BEFORE, rows, "fp32", call_ms=0.007)
    assert found.error_before > 0.5
    assert found.error_after < 0.03
    assert found.law.coefficients["network"] == 0.007
    new = conv(48, 96, 24, 3)
    assert found.law.kernel_ms(new, "fp32") == pytest.approx(device_ms(new), rel=0.05)
    assert found.law.ranges["conv1x1"] == Range((1, 128), (1, 128), (1, 1024)), "old ranges and new ones"


def test_intervals_come_from_kernels_left_out() -> None:
    noise = np.exp(np.random.default_rng(0).normal(0.0, 0.1, len(KERNELS)))
    rows = [(kernel, device_ms(kernel) * factor) for kernel, factor in zip(KERNELS, noise, strict=True)]
    spread = refit(BEFORE, rows, "fp32", None).law.spreads["conv3x3"]
    assert 0.75 < spread.low < 0.95
    assert 1.05 < spread.high < 1.35


def test_what_was_learnt_inside_of_networks_stays() -> None:
    learnt = replace(BEFORE, correction=Correction((), ()))
    found = refit(learnt, [(kernel, device_ms(kernel)) for kernel in KERNELS], "fp32", call_ms=0.007)
    assert found.law == learnt
    assert found.error_after == found.error_before > 0.5


def test_a_dtype_of_few_kernels_keeps_its_law() -> None:
    rows = {KernelKey.of(kernel, "fp32"): Measurement(device_ms(kernel), None, 1, "made up") for kernel in KERNELS}
    few = dict(list(rows.items())[: LEAST_ROWS - 1])
    assert refit_all({"fp32": BEFORE}, Table(few), None) == {}
    found = refit_all({"fp32": BEFORE, "int8": BEFORE}, Table(rows), None)
    assert set(found) == {"fp32"}
    assert found["fp32"].rows == len(KERNELS)
