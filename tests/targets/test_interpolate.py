"""On a made-up device whose times no law holds exactly: what they are is known, so every error can be stated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.kernel import Kernel
from autocompress.targets import learning
from autocompress.targets.interpolate import Neighbours, interpolate, neighbours
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.law import FAMILIES, Law, Spread
from autocompress.targets.table import Table
from autocompress.targets.table_row import Measurement

LAW = Law(learning.PRIOR, learning.TILINGS["fp32"], {}, dict.fromkeys(FAMILIES, Spread(0.5, 2.0)))
LAWS = {"fp32": LAW}


def conv(inputs: int, outputs: int, side: int, window: int = 3, stride: int = 1, groups: int = 1) -> Kernel:
    out, weight = -(-side // stride), (outputs, inputs // groups, window, window)
    return Kernel(
        *("conv2d", "c", "fp32", ((inputs, side, side),), (outputs, out, out), weight, (stride,) * 2, (1, 1), groups),
        *(("relu",), math.prod(weight) * out * out),
    )


def truth_ms(kernel: Kernel) -> float:
    """1.4 times the law at 32 channels and side 16, drifting with both, and with a step where a cache overflows."""
    channels, side = kernel.out_shape[0], kernel.out_shape[1]
    drift: float = 1.4 * (channels / 32) ** 0.25 * (side / 16) ** -0.15
    return LAW.kernel_ms(kernel, "fp32") * drift * (1.1 if kernel.in_elements > 30_000 else 1.0)


def measured(kernels: Iterable[Kernel], dtype: str = "fp32", factor: float = 1.0) -> Neighbours:
    rows = {KernelKey.of(one, dtype): Measurement(truth_ms(one) * factor, None, 1, "made up") for one in kernels}
    return neighbours(Table(rows), LAWS)


GRID = [conv(inputs, outputs, side) for inputs in (16, 32, 64) for outputs in (16, 32, 64) for side in (8, 16, 32)]
BETWEEN = [conv(inputs, outputs, side) for inputs in (24, 48) for outputs in (20, 40, 56) for side in (8, 12, 24)]


def error(known: Neighbours, kernel: Kernel) -> float:
    found = interpolate(known, kernel, "fp32")
    assert found is not None
    return math.log(truth_ms(kernel) / found.ms)


def test_between_measured_kernels_it_beats_the_law_and_keeps_its_interval() -> None:
    known = measured(GRID)
    errors = np.array([error(known, kernel) for kernel in BETWEEN])
    of_law = np.array([math.log(truth_ms(kernel) / LAW.kernel_ms(kernel, "fp32")) for kernel in BETWEEN])
    assert np.abs(errors).max() < 0.12
    assert np.median(np.abs(errors)) < np.median(np.abs(of_law)) / 5
    spreads = [found.spread for kernel in BETWEEN if (found := interpolate(known, kernel, "fp32")) is not None]
    inside = [spread.low <= math.exp(one) <= spread.high for spread, one in zip(spreads, errors, strict=True)]
    assert np.mean(inside) >= 0.8


def test_at_a_measured_kernel_it_is_what_was_measured() -> None:
    known = measured(GRID)
    for kernel in GRID:
        for fused in ((), ("clamp",), ("batch_norm", "relu")):
            found = interpolate(known, replace(kernel, fused=fused, layer="other"), "fp32")
            assert found is not None
            assert found.ms == pytest.approx(truth_ms(kernel), rel=1e-4)
            assert 1.03 < found.spread.high < 1.06


def test_the_spread_grows_with_the_distance() -> None:
    known = measured([conv(32, 32, 16)])
    highs = []
    for channels in (32, 36, 44, 52, 64):
        found = interpolate(known, conv(32, channels, 16), "fp32")
        assert found is not None
        assert found.rows == 1
        assert found.spread.low == pytest.approx(1 / found.spread.high)
        highs.append(found.spread.high)
    assert highs == sorted(highs)
    assert highs[-1] > highs[0] + 0.05


def test_neighbours_that_disagree_widen_the_spread() -> None:
    ends = [conv(32, 24, 16), conv(32, 40, 16)]
    rows = {KernelKey.of(one, "fp32"): Measurement(truth_ms(one) * (1 + i), None, 1, "x") for i, one in enumerate(ends)}
    torn = interpolate(neighbours(Table(rows), LAWS), conv(32, 32, 16), "fp32")
    agreed = interpolate(measured(ends), conv(32, 32, 16), "fp32")
    assert torn is not None
    assert agreed is not None
    assert torn.spread.high > agreed.spread.high + 0.2


@pytest.mark.parametrize(
    ("kernel", "within"),
    [
        (conv(64, 32, 16), True),
        (conv(16, 64, 32), True),
        (conv(65, 32, 16), False),
        (conv(32, 15, 16), False),
        (conv(32, 32, 33), False),
        (conv(32, 32, 7), False),
    ],
)
def test_only_neighbours_within_a_factor_of_two_in_every_dimension_count(kernel: Kernel, within: bool) -> None:
    assert (interpolate(measured([conv(32, 32, 16)]), kernel, "fp32") is not None) == within


@pytest.mark.parametrize(
    "other",
    [
        conv(32, 32, 16, window=5),
        conv(32, 32, 16, stride=2),
        conv(32, 32, 16, groups=4),
        conv(32, 32, 16, groups=32),
        replace(conv(32, 32, 16), dilation=(2, 2)),
        replace(conv(32, 32, 16), fused=("gelu",)),
        replace(conv(32, 32, 16), fused=("add", "relu"), in_shapes=((32, 16, 16), (32, 16, 16))),
        replace(conv(32, 32, 16), op="conv_transpose2d"),
    ],
)
def test_a_kernel_of_another_family_is_no_neighbour(other: Kernel) -> None:
    assert interpolate(measured([other]), conv(32, 32, 16), "fp32") is None
    assert interpolate(measured([other]), other, "fp32") is not None


def test_other_dtypes_batches_and_ops_are_no_neighbours() -> None:
    kernel = conv(32, 32, 16)
    assert interpolate(measured([kernel]), kernel, "int8") is None
    assert interpolate(measured([kernel], dtype="int8"), kernel, "int8") is None, "there is no law for it"
    batched = {KernelKey.of(kernel, "fp32", batch=8): Measurement(1.0, None, 1, "x")}
    assert interpolate(neighbours(Table(batched), LAWS), kernel, "fp32") is None
    product = Kernel("matmul", "m", "fp32", ((8, 64), (64, 64)), (8, 64), macs=8 * 64 * 64, aten="matmul")
    assert interpolate(measured([product]), product, "fp32") is None


def test_operators_are_told_apart() -> None:
    relu = Kernel("elementwise", "a", "fp32", ((32, 16, 16),), (32, 16, 16), aten="relu")
    assert interpolate(measured([relu]), replace(relu, aten="gelu"), "fp32") is None
    assert interpolate(measured([relu]), replace(relu, in_shapes=((24, 16, 16),), out_shape=(24, 16, 16)), "fp32")


def test_widths_of_a_depthwise_convolution_are_neighbours() -> None:
    known = measured([conv(channels, channels, 16, groups=channels) for channels in (32, 64)])
    assert abs(error(known, conv(48, 48, 16, groups=48))) < 0.05


@given(
    factor=st.floats(0.1, 10.0), inputs=st.integers(8, 128), outputs=st.integers(8, 128), side=st.integers(4, 64),
    rows=st.lists(st.sampled_from(GRID), min_size=1, unique=True),
)  # fmt: skip
def test_where_the_law_is_off_by_a_factor_it_finds_the_factor(
    factor: float, inputs: int, outputs: int, side: int, rows: list[Kernel]
) -> None:
    times = {
        KernelKey.of(one, "fp32"): Measurement(LAW.kernel_ms(one, "fp32") * factor, None, 1, "made up") for one in rows
    }
    kernel = conv(inputs, outputs, side)
    found = interpolate(neighbours(Table(times), LAWS), kernel, "fp32")
    if found is not None:
        assert found.ms == pytest.approx(LAW.kernel_ms(kernel, "fp32") * factor)
        assert 0.0 < found.spread.low < 1.0 < found.spread.high
