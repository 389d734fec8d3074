"""What each kernel of a network takes inside of it, by ONNX Runtime's profiler.

A kernel alone is not what it is in a network: a runtime changes layouts, rounds and copies between kernels. The profile
tells the time of every node that was run, in order. Each kernel of the network finds its node, by what it computes and
by the shapes of its weights and output; kernels that a runtime fused away find none, and take nothing. The nodes that
no kernel asked for stand between kernels, and count with the one that reads what they write.

Source: the events of ONNX Runtime's profiler, which names nodes as in the model that `optimized_model_filepath` holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime

from autocompress.core.kernel import Kernel
from autocompress.targets.kernel_key import common_name
from autocompress.targets.measure import DISTURBED, feeds_of

_SUFFIX = "_kernel_time"
_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvTranspose")
_PRODUCTS = ("Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulIntegerToFloat")
_WEIGHT_INPUT = {"QLinearConv": 3, "QGemm": 3, "QLinearMatMul": 3}
# Operators by the op of the kernels that they are, each with the name that those have where it is another.
_NODES: Mapping[str, Mapping[str, str]] = {
    "conv": dict.fromkeys(_CONVOLUTIONS, ""),
    "product": dict.fromkeys(_PRODUCTS, ""),
    "pool": {
        "MaxPool": "max_pool2d",
        "NhwcMaxPool": "max_pool2d",
        "AveragePool": "avg_pool2d",
        "QLinearAveragePool": "avg_pool2d",
    },
    "global_pool": {
        "GlobalAveragePool": "mean",
        "QLinearGlobalAveragePool": "mean",
        "ReduceMean": "mean",
        "GlobalMaxPool": "amax",
        "ReduceMax": "amax",
    },
    "norm": {"LayerNormalization": "layer_norm", "BatchNormalization": "batch_norm"},
    "softmax": {"Softmax": "softmax", "LogSoftmax": "log_softmax"},
    "elementwise": {
        "Add": "add",
        "QLinearAdd": "add",
        "Sub": "sub",
        "Mul": "mul",
        "QLinearMul": "mul",
        "Div": "div",
        "Relu": "relu",
        "Clip": "clamp",
        "Sigmoid": "sigmoid",
        "QLinearSigmoid": "sigmoid",
        "Tanh": "tanh",
        "HardSigmoid": "hardsigmoid",
        "HardSwish": "hardswish",
        "LeakyRelu": "leaky_relu",
        "Elu": "elu",
        "Erf": "gelu",
        "Gelu": "gelu",
        "BiasGelu": "gelu",
        "QuickGelu": "silu",
        "Exp": "exp",
        "Sqrt": "sqrt",
    },
    "resize": {"Resize": "", "Upsample": ""},
    "copy": {
        "Concat": "cat",
        "QLinearConcat": "cat",
        "Transpose": "permute",
        "Slice": "slice",
        "Split": "split",
        "Pad": "pad",
        "Gather": "select",
    },
}
_GROUP_OF_OP = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv_transpose2d": "conv",
    "linear": "product",
    "matmul": "product",
}
_GROUPS = {operator: group for group, operators in _NODES.items() for operator in operators}
# ONNX Runtime's blocked layout rounds channels up to 16, or to 8 on processors with shorter vectors.
_BLOCKS = (8, 16)


class RunNode(NamedTuple):
    """One node of the model that a runtime made of a network.

    Attributes:
        name: In that model.
        operator: For example `QLinearConv`.
        inputs: The tensors it reads.
        outputs: Those it writes.
        weight_shape: Of its weights, None without any.
        out_elements: Of its first output, for one sample.
        ms: The time of one run; an undisturbed one.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_shape: tuple[int, ...] | None
    out_elements: int
    ms: float


class Profile:
    """A network that is run under the profiler, some runs at a time, until its nodes are asked for."""

    def __init__(self, model: bytes, folder: Path) -> None:
        """Opens it.

        Args:
            model: ONNX.
            folder: For what the profiler writes, of this network alone.
        """
        found = onnx.load_from_string(model)
        for number, node in enumerate(found.graph.node):
            node.name = f"node{number}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        self._made = folder / "made.onnx"
        options.optimized_model_filepath = str(self._made)
        self._session = onnxruntime.InferenceSession(
            found.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._feeds = feeds_of(self._session)

    def run(self, times: int) -> None:
        """Runs it so many times."""
        for _ in range(times):
            self._session.run(None, self._feeds)

    def nodes(self) -> list[RunNode]:
        """The nodes in the order in which they were run, after which it runs no more."""
        file = Path(self._session.end_profiling())
        taken: dict[str, tuple[int, list[float]]] = {}
        for event in json.loads(file.read_text(encoding="utf-8")):
            if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
                name = event["name"].removesuffix(_SUFFIX)
                _, times = taken.setdefault(name, (_elements(event["args"]), []))
                times.append(event["dur"] * 1e-3)
        graph = onnx.load(self._made).graph
        stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        made = {node.name: node for node in graph.node}
        return [_node(made[name], stored, elements, times) for name, (elements, times) in taken.items() if name in made]


def profiled(models: Sequence[bytes], passes: int, runs: int) -> list[list[RunNode]]:
    """The nodes of networks, each run so often in each of several passes over all of them."""
    with TemporaryDirectory() as folder:
        opened = []
        for number, model in enumerate(models):
            own = Path(folder) / str(number)
            own.mkdir()
            opened.append(Profile(model, own))
        for _ in range(passes):
            for profile in opened:
                profile.run(runs)
        return [profile.nodes() for profile in opened]


def attributed(kernels: Sequence[Kernel], nodes: Sequence[RunNode]) -> list[list[RunNode]]:
    """For each kernel of a network the nodes that count with it, none where it was fused away."""
    owners: dict[str, int] = {}
    for exactly in (True, False):
        free = [number for number in range(len(kernels)) if number not in owners.values()]
        for node in nodes:
            if node.name not in owners:
                fitting = next((number for number in free if _is(kernels[number], node, exactly)), None)
                if fitting is not None:
                    owners[node.name] = fitting
                    free.remove(fitting)
    found: list[list[RunNode]] = [[] for _ in kernels]
    for node, owner in zip(nodes, _passed_on(nodes, owners), strict=True):
        found[owner].append(node)
    return found


def _passed_on(nodes: Sequence[RunNode], owners: Mapping[str, int]) -> list[int]:
    """Whom each node counts with: what belongs to none goes with what reads it, and at the end with what comes before.

    So what turns integers into floats, or one layout into another, counts with the kernel that needs it.
    """
    reading: dict[str, int] = {}
    found: list[int | None] = []
    for node in reversed(nodes):
        owner = owners.get(node.name)
        if owner is None:
            owner = next((reading[name] for name in node.outputs if name in reading), None)
        if owner is not None:
            for name in node.inputs:
                reading.setdefault(name, owner)
        found.append(owner)
    before = max(owners.values(), default=0)
    return [before if owner is None else owner for owner in reversed(found)]


def _is(kernel: Kernel, node: RunNode, exactly: bool) -> bool:
    """Whether a node computes what a kernel does; not exactly, any operator of its group does."""
    group = _GROUPS.get(node.operator)
    if group is None or group != _GROUP_OF_OP.get(kernel.op, kernel.op):
        return False
    if node.out_elements not in _rounded(kernel.out_elements, kernel.out_shape[0] if kernel.out_shape else 1):
        return False
    if group not in ("conv", "product"):
        own = _NODES[group][node.operator]
        return own == common_name(kernel.aten) or not (exactly or node.operator == "Transpose")
    if kernel.weight_shape is None or node.weight_shape is None:
        return kernel.weight_shape is node.weight_shape
    if group == "product":
        return sorted(kernel.weight_shape) == sorted(node.weight_shape)
    if (node.operator == "ConvTranspose") != (kernel.op == "conv_transpose2d"):
        return False
    pairs = zip(kernel.weight_shape[:2], node.weight_shape[:2], strict=True)
    return kernel.weight_shape[2:] == node.weight_shape[2:] and all(size in _rounded(own, own) for own, size in pairs)


def _rounded(elements: int, channels: int) -> set[int]:
    """How many elements a tensor may have when its channels are rounded up to blocks."""
    rest = elements // max(1, channels)
    return {elements, *(rest * -(-channels // block) * block for block in _BLOCKS)}


def _node(
    made: onnx.NodeProto, stored: Mapping[str, tuple[int, ...]], elements: int, times: Sequence[float]
) -> RunNode:
    place = _WEIGHT_INPUT.get(made.op_type, 1)
    weighted = made.op_type in (*_CONVOLUTIONS, *_PRODUCTS) and len(made.input) > place
    shape = stored.get(made.input[place]) if weighted else None
    # The profiler counts whole microseconds.
    near = [ms for ms in times if ms <= DISTURBED * min(times) + 1e-3]
    return RunNode(
        made.name, made.op_type, tuple(made.input), tuple(made.output), shape, elements, float(np.mean(near))
    )


def _elements(arguments: Mapping[str, list[Mapping[str, list[int]]]]) -> int:
    """Elements of the first output for one sample; networks that were exported for one have a batch of 1."""
    written = [shape for one in arguments.get("output_type_shape", []) for shape in one.values()]
    return math.prod(written[0]) if written else 0
