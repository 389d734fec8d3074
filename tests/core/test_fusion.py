"""What each runtime runs as one kernel, on networks small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.fusion import Step, fuse
from autocompress.core.fusion_rules import FUSIONS, RUNTIMES, Fusion
from autocompress.core.network import Network
from autocompress.targets.published.cells import CELL_OPS, nas_bench_201
from autocompress.targets.published.writer import Writer

EVERYTHING = replace(FUSIONS["tensorrt"], zeros="dropped")


def shown(network: Network, fusion: Fusion) -> list[str]:
    """Every kernel as `head+what it takes along`."""
    return ["+".join([step.operators[0].aten, *step.kernel.fused]) for step in fuse(network, fusion) if step.kernel]


def residual() -> Network:
    net = Writer()
    x = net.conv_norm_relu(net.image(8), 4)
    y = net.conv_norm(net.conv_norm_relu(x, 4), 4)
    return net.network(net.relu(net.add(y, x)))


def test_a_residual_block_in_every_runtime() -> None:
    first = "conv2d+batch_norm+relu"
    found = {runtime: shown(residual(), FUSIONS[runtime]) for runtime in RUNTIMES}
    assert found["tensorrt"] == [first, first, "conv2d+batch_norm+add+relu"]
    assert found["onnxruntime"] == found["tensorrt-vertical"] == found["tensorrt"]
    assert found["litert"] == [first, first, "conv2d+batch_norm", "add+relu"]
    assert found["eager"] == ["conv2d", "batch_norm", "relu"] * 2 + ["conv2d", "batch_norm", "add", "relu"]


def test_onnx_runtime_adds_integers_apart() -> None:
    network = residual()
    rounded = tuple(
        replace(
            one,
            rounded_reads=(True,) * len(one.reads),
            weight_dtype="int8" if one.is_layer else "fp32",
            is_rounded=True,
        )
        for one in network
    )
    integers = replace(network, operators=rounded)
    assert shown(integers, FUSIONS["onnxruntime"])[-2:] == ["conv2d+batch_norm", "add+relu"]
    kernels = [step.kernel for step in fuse(integers, FUSIONS["onnxruntime"]) if step.kernel]
    assert {kernel.dtype for kernel in kernels} == {"int8"}
    assert shown(integers, FUSIONS["tensorrt"])[-1] == "conv2d+batch_norm+add+relu"


def test_a_norm_behind_a_sum_or_an_activation_is_not_folded() -> None:
    net = Writer()
    x = net.norm(net.relu(net.conv(net.image(8), 4)))
    assert shown(net.network(x), FUSIONS["tensorrt"]) == ["conv2d+relu", "batch_norm"]
    net = Writer()
    image = net.conv(net.image(8), 4)
    x = net.norm(net.add(net.conv(image, 4), image))
    assert shown(net.network(x), FUSIONS["onnxruntime"]) == ["conv2d", "conv2d+add", "batch_norm"]


def test_siblings_are_one_wider_convolution() -> None:
    net = Writer()
    x = net.image(8, 16)
    network = net.network(net.cat(net.relu(net.conv(x, 4, 1)), net.relu(net.conv(x, 12, 1)), net.relu(net.conv(x, 8))))
    kernels = [step.kernel for step in fuse(network, FUSIONS["tensorrt"]) if step.kernel]
    assert [(kernel.weight_shape, kernel.out_shape) for kernel in kernels] == [
        ((16, 16, 1, 1), (16, 8, 8)),
        ((8, 16, 3, 3), (8, 8, 8)),
    ]
    assert sum(kernel.macs for kernel in kernels) == sum(operator.macs for operator in network)
    assert shown(network, FUSIONS["onnxruntime"]) == ["conv2d+relu"] * 3 + ["cat"]


def test_zeros_run_are_skipped_or_dropped() -> None:
    net = Writer()
    x = net.conv(net.image(8), 4)
    zero = net.zeros(x)
    network = net.network(net.conv(net.add(net.add(x, net.conv(zero, 4, 1)), net.zeros(x)), 4))
    fusion = FUSIONS["eager"]
    assert shown(network, fusion) == ["conv2d", "mul", "conv2d", "add", "mul", "add", "conv2d"]
    assert shown(network, replace(fusion, zeros="skipped")) == ["conv2d", "mul", "conv2d", "add", "conv2d"]
    assert shown(network, replace(fusion, zeros="dropped")) == ["conv2d", "conv2d"]


def test_what_is_written_twice_runs_once() -> None:
    net = Writer()
    x = net.conv(net.image(8), 4)
    network = net.network(net.add(net.conv(net.relu(x), 4, 1), net.conv(net.relu(x), 4, 3)))
    assert shown(network, FUSIONS["litert"]) == ["conv2d", "relu", "conv2d", "relu", "conv2d", "add"]
    once = shown(network, replace(FUSIONS["litert"], repeated=True))
    assert once == ["conv2d+relu", "conv2d", "conv2d", "add"], "read once more, it can be fused"


def test_reads_inside_a_branch_are_counted() -> None:
    net = Writer()
    x = net.conv(net.image(8), 4)
    y = net.conv(net.pool(net.conv(x, 4), 3, 1, 1), 4)
    network = net.network(net.conv(net.add(x, y), 4))
    reads = [step.kernel.branch_reads for step in fuse(network, FUSIONS["tensorrt"]) if step.kernel]
    # The pool and the convolution behind it read what the shortcut passes by; the others read what all else waits for.
    assert reads == [0, 0, 1, 1, 0]


def test_what_unlike_convolutions_read_is_counted_for_the_later_ones() -> None:
    net = Writer()
    x = net.relu(net.conv(net.image(8), 4))
    branches = [net.conv(x, 4, 1), net.conv(x, 8, 3), net.conv(x, 4, 3, 2), net.conv(x, 4, 5)]
    network = net.network(net.cat(branches[0], branches[1], branches[3]), branches[2])
    steps = [step for step in fuse(network, FUSIONS["onnxruntime"]) if step.kernel]
    mixed = {step.kernel.weight_shape: step.kernel.mixed_reads for step in steps if step.kernel and step.kernel.macs}
    assert mixed == {(4, 3, 3, 3): 0, (4, 4, 1, 1): 0, (8, 4, 3, 3): 1, (4, 4, 3, 3): 1, (4, 4, 5, 5): 1}


cells = st.tuples(*[st.sampled_from(list(CELL_OPS))] * 6).map(
    lambda ops: f"|{ops[0]}~0|+|{ops[1]}~0|{ops[2]}~1|+|{ops[3]}~0|{ops[4]}~1|{ops[5]}~2|"
)
rules = st.builds(
    Fusion,
    norms=st.booleans(),
    activations=st.sampled_from([(), ("relu",)]),
    additions=st.sampled_from([(), ("fp32",)]),
    sum_activations=st.booleans(),
    pointwise=st.booleans(),
    siblings=st.booleans(),
    concat_in_place=st.booleans(),
    repeated=st.booleans(),
    zeros=st.sampled_from(["run", "skipped", "dropped"]),
)


def checked(network: Network, steps: tuple[Step, ...]) -> None:
    written = set(network.inputs)
    for step in steps:
        assert set(step.reads) <= written, "a kernel runs when all it reads is there"
        written.update(step.writes)
    assert set(network.outputs) <= written


@pytest.mark.filterwarnings("error")
@given(text=cells, fusion=rules)
def test_any_rules_leave_a_network_that_can_run(text: str, fusion: Fusion) -> None:
    network = nas_bench_201(text)
    steps = fuse(network, fusion)
    checked(network, steps)
    covered = [operator.name for step in steps for operator in step.operators]
    assert len(covered) == len(set(covered))
    macs = sum(step.kernel.macs for step in steps if step.kernel)
    total = sum(operator.macs for operator in network)
    assert macs <= total
    if fusion.zeros == "run":
        assert macs == total
