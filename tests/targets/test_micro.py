"""Kernels as networks: valid for every kind, in every opset, and full and base differ by the kernels alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.core.fusion_rules import FUSIONS
from autocompress.core.kernel import Kernel
from autocompress.errors import InputError, UnsupportedError
from autocompress.graph.kernels import kernels
from autocompress.targets.micro import Network, chain, empty_network, micro_network, yardstick
from autocompress.targets.session import open_session
from tests.graph.traced import traced


def conv(inputs: int, outputs: int, side: int, k: int = 3, stride: int = 1, groups: int = 1) -> Kernel:
    out = -(-side // stride)
    weight = (outputs, inputs // groups, k, k)
    shapes = (inputs, side, side), (outputs, out, out)
    return Kernel("conv2d", "c", "fp32", (shapes[0],), shapes[1], weight, (stride, stride), (1, 1), groups)


MAP = (16, 8, 8)
SAME = conv(16, 16, 8)
ELEMENTWISE = (
    "relu",
    "relu6",
    "gelu",
    "silu",
    "hardswish",
    "sigmoid",
    "tanh",
    "mish",
    "elu",
    "square",
    "rsqrt",
    "clamp",
)
KERNELS: dict[str, Kernel] = {
    "conv": SAME,
    "strided": conv(16, 32, 8, stride=2),
    "even": conv(3, 8, 9, k=2, stride=2),
    "grouped": conv(16, 32, 8, groups=4),
    "depthwise": conv(16, 16, 8, k=5, groups=16),
    "dilated": replace(SAME, dilation=(2, 2)),
    "unpadded": replace(SAME, out_shape=(16, 6, 6)),
    "conv + activation": replace(SAME, fused=("batch_norm", "silu")),
    "conv + add": replace(SAME, in_shapes=(MAP, MAP), fused=("batch_norm", "add", "relu")),
    "conv + add of itself": replace(SAME, fused=("add",)),
    "strided + add": replace(conv(16, 32, 8, stride=2), in_shapes=(MAP, (32, 4, 4)), fused=("add", "relu")),
    "conv1d": Kernel("conv1d", "c", "fp32", ((8, 20),), (12, 10), (12, 8, 3), (2,), (1,)),
    "conv_transpose2d": Kernel("conv_transpose2d", "c", "fp32", (MAP,), (8, 16, 16), (16, 8, 2, 2), (2, 2), (1, 1)),
    "conv_transpose2d odd": Kernel("conv_transpose2d", "c", "fp32", (MAP,), (8, 16, 16), (16, 8, 3, 3), (2, 2), (1, 1)),
    "linear": Kernel("linear", "l", "fp32", ((64,),), (10,), (10, 64), fused=("relu",)),
    "linear on tokens": Kernel("linear", "l", "fp32", ((16, 32),), (16, 64), (64, 32), fused=("gelu",)),
    "linear + add": Kernel("linear", "l", "fp32", ((16, 64), (16, 32)), (16, 32), (32, 64), fused=("add",)),
    "linear + parameter": Kernel("linear", "l", "fp32", ((16, 64),), (16, 32), (32, 64), fused=("add",)),
    "matmul": Kernel("matmul", "m", "fp32", ((4, 16, 8), (4, 8, 16)), (4, 16, 16), aten="matmul"),
    "matmul in a row": Kernel("matmul", "m", "fp32", ((4, 16, 16), (4, 16, 8)), (4, 16, 8), aten="matmul"),
    "max pool": Kernel("pool", "p", "fp32", (MAP,), (16, 4, 4), None, (2, 2), aten="max_pool2d", window=(3, 3)),
    "average pool": Kernel("pool", "p", "fp32", (MAP,), (16, 4, 4), aten="avg_pool2d"),
    "pool in a row": Kernel("pool", "p", "fp32", (MAP,), MAP, None, (1, 1), aten="max_pool2d", window=(3, 3)),
    "global pool": Kernel("global_pool", "g", "fp32", (MAP,), (16, 1, 1), aten="adaptive_avg_pool2d"),
    "adaptive pool": Kernel("global_pool", "g", "fp32", (MAP,), (16, 4, 4), aten="adaptive_max_pool2d"),
    "mean": Kernel("global_pool", "g", "fp32", ((16, 32),), (32,), aten="mean"),
    "mean, kept": Kernel("global_pool", "g", "fp32", (MAP,), (16, 1, 1), aten="mean"),
    "sum": Kernel("global_pool", "g", "fp32", ((16, 32),), (16,), aten="sum"),
    "layer norm": Kernel("norm", "n", "fp32", ((16, 32),), (16, 32), aten="layer_norm"),
    "group norm": Kernel("norm", "n", "fp32", (MAP,), MAP, aten="group_norm"),
    "instance norm": Kernel("norm", "n", "fp32", (MAP,), MAP, aten="instance_norm"),
    "batch norm": Kernel("norm", "n", "fp32", (MAP,), MAP, aten="batch_norm"),
    "softmax": Kernel("softmax", "s", "fp32", ((4, 16, 16),), (4, 16, 16), aten="softmax"),
    "add": Kernel("elementwise", "e", "fp32", (MAP, MAP), MAP, aten="add"),
    "gate": Kernel("elementwise", "e", "fp32", (MAP, (16, 1, 1)), MAP, aten="mul"),
    "outer": Kernel("elementwise", "e", "fp32", ((16, 1), (8,)), (16, 8), aten="mul"),
    "scale": Kernel("elementwise", "e", "fp32", (MAP,), MAP, aten="mul"),
    "position": Kernel("elementwise", "e", "fp32", ((1, 8),), (16, 8), aten="add"),
    "where": Kernel("elementwise", "e", "fp32", (MAP, MAP), MAP, aten="where"),
    "nearest": Kernel("resize", "r", "fp32", (MAP,), (16, 16, 16), aten="upsample_nearest2d"),
    "bilinear": Kernel("resize", "r", "fp32", (MAP,), (16, 16, 16), aten="upsample_bilinear2d"),
    "concat": Kernel("copy", "c", "fp32", (MAP, (8, 8, 8)), (24, 8, 8), aten="cat"),
    "slice": Kernel("copy", "c", "fp32", (MAP,), (16, 4, 4), fused=("slice",), aten="slice"),
    "odd slice": Kernel("copy", "c", "fp32", ((16, 9, 9),), (8, 5, 5), aten="slice"),
    "pad": Kernel("copy", "c", "fp32", (MAP,), (32, 8, 8), aten="constant_pad_nd"),
    "transpose": Kernel("copy", "c", "fp32", ((16, 4, 8),), (4, 16, 8), aten="transpose"),
    "transpose, batch inside": Kernel("copy", "c", "fp32", ((8, 8, 8),), (4, 16, 8), aten="transpose"),
    "shuffle": Kernel("copy", "c", "fp32", ((16, 8, 8),), (4, 16, 16), aten="pixel_shuffle"),
    "repeat": Kernel("copy", "c", "fp32", ((4, 8),), (4, 24), aten="repeat"),
    "flip": Kernel("copy", "c", "fp32", ((4, 8),), (4, 8), aten="flip"),
    "embedding": Kernel("embedding", "e", "fp32", ((16,),), (16, 32), (64, 32)),
} | {f"elementwise {name}": Kernel("elementwise", "e", "fp32", (MAP,), MAP, aten=name) for name in ELEMENTWISE}


def run(network: Network) -> np.ndarray:
    feeds = {feed.name: feed.values() for feed in network.feeds}
    (result,) = open_session(network.model).run(None, feeds)
    return np.asarray(result)


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_built_and_runs(name: str, dtype: str, opset: int) -> None:
    kernel = KERNELS[name]
    built = micro_network(kernel, dtype, opset)
    assert built.copies == 8
    for network in (built.full, built.base):
        result = run(network)
        assert result.shape == (1, *kernel.out_shape)
        assert not np.isnan(result.astype(np.float32)).any()
    assert built.full.feeds == built.base.feeds


def optimized(network: Network, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(network.model, options)
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize(
    ("name", "dtype", "kernel"),
    [
        ("conv", "fp32", {"Conv": 1}),
        ("conv", "int8", {"QLinearConv": 1}),
        ("strided", "fp32", {"Conv": 1}),
        ("strided", "int8", {"QLinearConv": 1}),
        ("conv + add", "fp32", {"Conv": 1}),
        ("conv + add", "int8", {"QLinearConv": 1, "QLinearAdd": 1}),
        ("strided + add", "fp32", {"Conv": 1}),
        ("strided + add", "int8", {"QLinearConv": 1, "QLinearAdd": 1}),
        ("linear", "fp32", {"FusedGemm": 1}),
        ("linear", "int8", {"QGemm": 1}),
        ("max pool", "fp32", {"MaxPool": 1}),
        ("max pool", "int8", {"NhwcMaxPool": 1}),
        ("global pool", "int8", {"QLinearGlobalAveragePool": 1}),
        ("matmul", "fp32", {"MatMul": 1}),
        ("concat", "fp32", {"Concat": 1}),
        ("embedding", "fp32", {"Gather": 1}),
        ("softmax", "fp32", {"Softmax": 1}),
        ("layer norm", "fp32", {"LayerNormalization": 1}),
    ],
)
def test_the_networks_differ_by_the_kernels_alone(
    name: str, dtype: str, kernel: dict[str, int], tmp_path: Path
) -> None:
    built = micro_network(KERNELS[name], dtype, 17)
    full, base = optimized(built.full, tmp_path), optimized(built.base, tmp_path)
    assert full - base == Counter({op: count * built.copies for op, count in kernel.items()})
    assert base - full == Counter()


@pytest.mark.parametrize("net", ["mobilenet", "densenet", "unet", "text_encoder", "attention", "shufflenet", "senet"])
def test_every_kernel_of_real_networks_is_built(net: str) -> None:
    found = kernels(traced(net).module, FUSIONS["onnxruntime"])
    for kernel in found:
        built = micro_network(kernel, "fp32", 17)
        assert open_session(built.full.model).get_outputs()[0].shape == [1, *kernel.out_shape]
    assert len(found) > 5


@settings(max_examples=60)
@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 20),
    st.sampled_from((1, 2, 3, 5)),
    st.sampled_from((1, 2, 3)),
)
def test_padding_gives_the_shape_of_the_output(inputs: int, outputs: int, side: int, k: int, stride: int) -> None:
    kernel = conv(inputs, outputs, side, k, stride)
    assert run(micro_network(kernel, "fp32", 17).base).shape == (1, *kernel.out_shape)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (
            Kernel("other", "o", "fp32", ((8, 8),), (8, 8), aten="fft"),
            r"other \(fft\) from 8x8 to 8x8 .* nothing is known",
        ),
        (Kernel("copy", "z", "fp32", (), (8, 8), aten="zeros"), "from nothing to 8x8 .* it reads nothing"),
        (Kernel("elementwise", "e", "fp32", (MAP,), MAP, aten="eq"), "no ONNX form is known for 'eq'"),
        (Kernel("norm", "n", "fp32", (MAP,), MAP, aten="var"), "no ONNX form is known for 'var'"),
        (Kernel("linear", "l", "fp32", ((64,),), (10,)), "its weight has no shape"),
        (Kernel("copy", "c", "fp32", ((3, 4), (5, 6)), (8, 10), aten="cat"), "do not say what is joined"),
        (Kernel("linear", "l", "fp32", ((99_999,),), (9_999,), (9_999, 99_999)), "it moves more than 256 MB"),
    ],
)
def test_what_cannot_be_built_says_why(kernel: Kernel, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        micro_network(kernel, "fp32", 17)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="dtype is 'int4'"):
        micro_network(SAME, "int4", 17)


def test_large_weights_come_in_fewer_copies() -> None:
    kernel = Kernel("linear", "l", "fp32", ((256,),), (512,), (512, 256))
    full, quantized = (micro_network(kernel, dtype, 17) for dtype in ("fp32", "int8"))
    assert full.copies == 2_000_000 // (512 * 256 * 4) - 1 == 2
    assert quantized.copies == 8
    assert len(full.full.model) < 2_000_000
    enormous = Kernel("linear", "l", "fp32", ((4096,),), (4096,), (4096, 4096))
    assert micro_network(enormous, "int8", 17).copies == 1


def test_networks_that_are_timed_beside_the_others() -> None:
    assert run(empty_network(13)).shape == (1, 1)
    assert run(yardstick("int8", 13)).dtype == np.uint8
    shapes = [run(chain([conv(4, 8, 8), conv(8, 8, 8)], 17)).shape, run(yardstick("fp32", 17)).shape]
    assert shapes == [(1, 8, 8, 8), (1, 32, 16, 16)]
