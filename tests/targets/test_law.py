from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.core.kernel import Kernel
from autocompress.errors import InputError
from autocompress.targets.law import KINDS, Tiling, is_blocked, kind_of, padding, sizes_of, terms_of
from autocompress.targets.profile import Target, load_target

NANO = load_target("jetson-nano")


def conv(
    inputs: int, outputs: int, side: int, k: int = 3, stride: int = 1, groups: int = 1, dtype: str = "fp32"
) -> Kernel:
    out = -(-side // stride)
    weight = (outputs, inputs // groups, k, k)
    shapes = ((inputs, side, side),)
    macs = math.prod(weight) * out * out
    return Kernel("conv2d", "c", dtype, shapes, (outputs, out, out), weight, (stride, stride), (1, 1), groups, (), macs)


def ms(*kernels: Kernel, precision: str = "fp16", target: Target = NANO) -> float:
    return target.estimate_kernels(kernels, precision).ms


def resnet20(width: float = 1.0, blocks: int = 3) -> list[Kernel]:
    kernels, channels, side = [conv(3, int(16 * width), 32)], int(16 * width), 32
    for stage in (16, 32, 64):
        for index in range(blocks):
            stride = 2 if stage > 16 and index == 0 else 1
            out = int(stage * width)
            kernels += [conv(channels, out, side, stride=stride), conv(out, out, side // stride)]
            channels, side = out, side // stride
    return kernels


KERNELS = {
    "conv3x3": conv(16, 16, 32),
    "conv1x1": conv(16, 16, 32, k=1),
    "conv": conv(16, 16, 32, k=5),
    "conv_strided": conv(16, 16, 32, stride=2),
    "depthwise3x3": conv(16, 16, 32, groups=16),
    "depthwise": conv(16, 16, 32, k=5, groups=16),
    "linear": Kernel("linear", "l", "fp32", ((64,),), (10,), (10, 64), macs=640),
    "matmul": Kernel("matmul", "m", "fp32", ((8, 64), (64, 64)), (8, 64), macs=8 * 64 * 64),
    "pool": Kernel("pool", "p", "fp32", ((16, 32, 32),), (16, 16, 16)),
    "elementwise": Kernel("elementwise", "e", "fp32", ((16, 32, 32),), (16, 32, 32)),
    "memory": Kernel("softmax", "s", "fp32", ((8, 64),), (8, 64)),
    "other": Kernel("other", "o", "fp32", ((8, 64),), (8, 64), aten="aten.fft"),
}


def test_every_kind_has_an_example_and_a_positive_time() -> None:
    assert set(KERNELS) == set(KINDS)
    for kind, kernel in KERNELS.items():
        assert kind_of(kernel) == kind
        estimate = NANO.estimate_kernels([kernel], "fp16")
        assert 0.0 < estimate.layers[0].low_ms <= estimate.layers[0].ms <= estimate.layers[0].high_ms


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(3, 300), outputs=st.integers(1, 300), more=st.integers(0, 40), side=st.integers(1, 64),
    k=st.sampled_from([1, 3, 5]), precision=st.sampled_from(["fp32", "fp16"]),
)  # fmt: skip
def test_more_channels_or_pixels_never_take_less(
    inputs: int, outputs: int, more: int, side: int, k: int, precision: str
) -> None:
    base = ms(conv(inputs, outputs, side, k), precision=precision)
    for larger in (conv(inputs + more, outputs, side, k), conv(inputs, outputs + more, side, k)):
        assert ms(larger, precision=precision) >= base - 1e-12
    assert ms(conv(inputs, outputs, side + more, k), precision=precision) >= base - 1e-12
    assert padding(conv(inputs, outputs, side, k), NANO.laws["fp16"].tiling) >= 1.0


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 512), side=st.integers(1, 64), k=st.sampled_from([1, 3, 5]), depthwise=st.booleans(),
    stride=st.integers(1, 2),
)  # fmt: skip
def test_fp16_is_never_slower_than_fp32_and_int8_is_fp16(
    channels: int, side: int, k: int, depthwise: bool, stride: int
) -> None:
    kernel = conv(channels, channels, side, k, stride, channels if depthwise else 1)
    half = ms(kernel, precision="fp16")
    assert half <= ms(kernel, precision="fp32") + 1e-12
    assert ms(replace(kernel, dtype="int8"), precision="fp16") == half


@pytest.mark.parametrize("kind", KERNELS)
def test_fp16_is_never_slower_by_kind(kind: str) -> None:
    assert ms(KERNELS[kind], precision="fp16") <= ms(KERNELS[kind], precision="fp32") + 1e-12


def test_what_is_converted_costs_what_it_does_in_fp32_and_the_conversions() -> None:
    tiling, kernel = Tiling(converted=("depthwise3x3",)), conv(16, 16, 32, groups=16)
    half, full = (terms_of(kernel, dtype, tiling) for dtype in ("fp16", "fp32"))
    elements = 2 * 16 * 32 * 32
    assert half == pytest.approx({**full, "launch": 3.0, "bytes": full["bytes"] + elements * 6e-6})
    assert terms_of(kernel, "fp16", Tiling())["bytes"] == pytest.approx(elements * 2e-6)
    assert terms_of(conv(16, 16, 32), "fp16", tiling) == terms_of(conv(16, 16, 32), "fp16", Tiling())


def test_depthwise_networks_gain_little_from_fp16_on_a_jetson_nano() -> None:
    wide = [conv(192, 192, 56, groups=192), conv(192, 192, 56, k=1)] * 4
    assert 1.0 < ms(*wide, precision="fp32") / ms(*wide) < 1.3
    dense = [conv(192, 192, 56, k=1)] * 4
    assert ms(*dense, precision="fp32") / ms(*dense) > 1.5
    # In many small ones conversions would cost more than fp16 saves; then the engine runs in fp32.
    small = [conv(16, 16, 8, groups=16), conv(16, 16, 8, k=1)] * 4
    assert ms(*small) <= ms(*small, precision="fp32")


@pytest.mark.parametrize(
    ("kernel", "blocked"),
    [
        (conv(16, 16, 8, groups=16), True),
        (conv(15, 15, 8, groups=15), False),
        (conv(3, 18, 8), True),
        (conv(20, 18, 8), True),
        (conv(18, 20, 8), False),
        (conv(64, 64, 8, groups=4), True),
        (conv(64, 32, 8, groups=4), False),
    ],
)
def test_only_what_lies_in_no_blocks_is_gathered(kernel: Kernel, blocked: bool) -> None:
    tiling = Tiling(channels=16, narrow_channels=16, blocked=4)
    assert is_blocked(kernel, tiling) == blocked
    assert ("gather" in terms_of(kernel, "fp32", tiling)) == (not blocked)
    assert ("gather" in terms_of(kernel, "fp32", Tiling())) == (not kernel.is_depthwise)


def test_a_batch_norm_passes_once_and_a_layer_norm_twice() -> None:
    batch, layer = (
        Kernel("norm", "n", "fp32", ((16, 8, 8),), (16, 8, 8), aten=f"{what}_norm") for what in ("batch", "layer")
    )
    once, twice = (terms_of(kernel, "fp32", Tiling())["bytes"] for kernel in (batch, layer))
    assert twice == pytest.approx(2.0 * once)


def test_an_unknown_operator_costs_something_and_is_flagged() -> None:
    estimate = NANO.estimate_kernels([KERNELS["other"]], "fp16")
    layer = estimate.layers[0]
    assert layer.ms > 0.0
    assert layer.origin == "analytic"
    assert layer.flag is not None
    assert "aten.fft" in layer.flag
    assert layer.high_ms / layer.ms >= 2.0
    assert estimate.origin == "analytic"


def test_a_shape_outside_the_fit_is_flagged_and_its_interval_is_wider() -> None:
    inside, outside = NANO.estimate_kernels([conv(16, 16, 32), conv(8, 8, 32)], "fp16").layers
    assert inside.flag is None
    assert inside.origin == "interpolated"
    assert outside.flag == "extrapolated: 8 output channels, fitted on 16-512"
    assert outside.high_ms / outside.ms > inside.high_ms / inside.ms


def test_estimates_are_consistent() -> None:
    for precision in ("fp32", "fp16", "int8"):
        estimate = NANO.estimate_kernels(list(KERNELS.values()), precision)
        assert estimate.low_ms <= estimate.ms <= estimate.high_ms
        assert sum(estimate.coverage.values()) == pytest.approx(1.0)
        assert len(estimate.layers) == len(KERNELS)


def test_a_model_without_weights_is_estimated() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 224 * 224, 4096))
    estimate = NANO.estimate(model, (torch.zeros(1, 3, 224, 224),), "fp16")
    assert [layer.kernel.op for layer in estimate.layers] == ["conv2d", "linear"]
    # 13 billion weights of 2 bytes at 25.6 GB/s at best.
    assert estimate.layers[1].ms > 64 * 224 * 224 * 4096 * 2 / 25.6e6


def test_smaller_networks_are_faster() -> None:
    dense = ms(*resnet20())
    assert 0.5 < dense < 5.0
    assert ms(*resnet20(blocks=1)) < 0.8 * dense
    assert ms(*resnet20(width=0.5)) < dense


def test_unknown_precision_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"int4.*int8"):
        NANO.estimate_kernels([conv(16, 16, 32)], "int4")


def test_a_transposed_convolution_reads_what_its_weight_begins_with() -> None:
    kernel = Kernel(
        "conv_transpose2d", "", "fp32", ((32, 128, 128),), (2, 256, 256), (32, 2, 2, 2), (2, 2), (1, 1), 1, (), 1
    )
    assert sizes_of(kernel) == (32, 2, 256 * 256)
    assert padding(kernel, Tiling(channels=32, narrow_channels=32)) == 16.0
