from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.core.fusion import fuse
from autocompress.core.kernel import Kernel
from autocompress.core.plan import Plan
from autocompress.emit.onnx_export import export_onnx
from autocompress.proxy.evaluate import realise
from autocompress.targets.profiled import RunNode, attributed, optimised, profiled
from tests.run.tiny import tiny_context

CONV = Kernel("conv2d", "a", "fp32", ((3, 8, 8),), (12, 8, 8), (12, 3, 3, 3), (1, 1), (1, 1))
ADD = Kernel("elementwise", "b", "fp32", ((12, 8, 8), (12, 8, 8)), (12, 8, 8), aten="add")
LAST = Kernel("linear", "c", "fp32", ((12,),), (10,), (10, 12))


def node(
    name: str, operator: str, inputs: str, elements: int, weights: tuple[int, ...] | None = None, stored: int = 0
) -> RunNode:
    return RunNode(name, operator, tuple(inputs), stored, (name,), weights, elements, 1.0)


def owned(kernels: list[Kernel], nodes: list[RunNode]) -> list[str]:
    return ["".join(one.name for one in own) for own in attributed(kernels, nodes)]


def test_nodes_find_their_kernels_and_what_stands_between_goes_with_what_reads_it() -> None:
    nodes = [
        node("q", "QuantizeLinear", "x", 192),
        # In blocks of 16 channels.
        node("c", "Conv", "q", 1024, (16, 3, 3, 3)),
        node("r", "ReorderOutput", "c", 768),
        node("a", "Add", "rx", 768),
        node("t", "Transpose", "a", 768),
        node("g", "Gemm", "t", 10, (12, 10)),
        node("d", "DequantizeLinear", "g", 10),
    ]
    assert owned([CONV, ADD, LAST], nodes) == ["qc", "ra", "tgd"]


def test_a_kernel_that_was_fused_away_has_no_node() -> None:
    nodes = [node("c", "FusedConv", "x", 768, (12, 3, 3, 3)), node("g", "Gemm", "c", 10, (10, 12))]
    assert [len(own) for own in attributed([CONV, ADD, LAST], nodes)] == [1, 0, 1]


def test_what_stands_between_goes_with_the_first_that_reads_it_and_at_the_end_with_what_ran_before() -> None:
    pool = Kernel("pool", "p", "fp32", ((12, 8, 8),), (12, 4, 4), stride=(2, 2), aten="max_pool2d", window=(2, 2))
    nodes = [
        node("c", "Conv", "x", 768, (12, 3, 3, 3)),
        node("r", "ReorderOutput", "c", 768),
        node("p", "MaxPool", "r", 192),
        node("q", "QuantizeLinear", "p", 192),
        node("a", "Add", "rx", 768),
        node("d", "DequantizeLinear", "q", 192),
    ]
    assert owned([ADD, pool, CONV], nodes) == ["ad", "rpq", "c"]


@pytest.mark.parametrize(
    ("fused", "operators"),
    [(("gelu",), ["Gelu"]), (("silu",), ["Sigmoid", "Mul"]), (("hardswish",), ["Mul", "Clip", "Mul"])],
)
def test_an_activation_that_runs_by_itself_goes_with_the_kernel_that_takes_it_along(
    fused: tuple[str, ...], operators: list[str]
) -> None:
    taking = replace(CONV, fused=fused)
    nodes = [node("c", "Conv", "x", 768, (12, 3, 3, 3)), node("r", "ReorderOutput", "c", 768)]
    nodes += [node(str(at), one, f"{at - 1}r" if at else "r", 768) for at, one in enumerate(operators)]
    last = str(len(operators) - 1)
    nodes += [node("q", "QuantizeLinear", last, 768), node("a", "Add", "qx", 768)]
    assert owned([taking, ADD], nodes) == ["cr" + "".join(map(str, range(len(operators)))), "qa"]


def test_a_bias_is_not_taken_for_a_sum() -> None:
    nodes = [
        node("m", "MatMul", "x", 10, (12, 10)),
        node("b", "Add", "m", 10, stored=1),
        node("a", "Add", "bx", 10),
    ]
    summed = replace(ADD, in_shapes=((10,), (10,)), out_shape=(10,))
    assert owned([LAST, summed], nodes) == ["mb", "a"]
    assert owned([replace(LAST, fused=("add",))], nodes) == ["mba"]


def test_a_sigmoid_is_not_taken_for_another_activation() -> None:
    other = replace(ADD, in_shapes=((12, 8, 8),), aten="mish")
    assert owned([CONV, other], [node("c", "Conv", "x", 768, (12, 3, 3, 3)), node("s", "Sigmoid", "c", 768)])[1] == ""


@pytest.mark.parametrize(
    "other",
    [
        node("c", "Conv", "x", 768, (12, 3, 5, 5)),
        node("c", "Conv", "x", 700, (12, 3, 3, 3)),
        node("c", "ConvTranspose", "x", 768, (12, 3, 3, 3)),
        node("c", "MaxPool", "x", 768),
        node("c", "Conv", "x", 768),
    ],
)
def test_other_nodes_are_not_taken_for_a_kernel(other: RunNode) -> None:
    mine = node("m", "Conv", "c", 768, (12, 3, 3, 3))
    found = attributed([CONV, LAST], [other, mine, node("g", "Gemm", "m", 10, (10, 12))])
    assert [one.name for one in found[0]] == ["c", "m"]
    assert attributed([CONV], [mine, other])[0][0] is mine


def test_every_kernel_of_a_real_network_is_found(tmp_path: Path) -> None:
    context = tiny_context(target="local")
    kernels = [step.kernel for step in fuse(context.network(Plan()), context.target.fusion) if step.kernel is not None]
    file = tmp_path / "model.onnx"
    export_onnx(realise(Plan(), context).module, context.dense.inputs, file, opset=context.target.profile.opset)
    (nodes,) = profiled([optimised(file.read_bytes())], passes=2, runs=2)
    found = attributed(kernels, nodes)
    assert all(found)
    assert sum(map(len, found)) == len(nodes)
    assert all(one.ms > 0.0 for one in nodes)
