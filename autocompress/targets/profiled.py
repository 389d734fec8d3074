"""What each kernel of a network takes inside of it, by ONNX Runtime's profiler.

A kernel alone is not what it is in a network: a runtime changes layouts, rounds and copies between kernels. The profile
tells the time of every node that was run, in order. Each kernel of the network finds its node, by what it computes and
by the shapes of its weights and output; kernels that a runtime fused away find none, and take nothing. Of the nodes
that no kernel asked for, those that do what a kernel takes along count with it: biases, activations, sums. The others
stand between kernels, and count with the first one that reads what they write.

Source: the events of ONNX Runtime's profiler. Nodes that the runtime made have no names, so the model that it made is
written (`optimized_model_filepath`), its nodes are named, and it is opened once more as it is.
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
from autocompress.targets.measure import DISTURBED
from autocompress.targets.session import feeds_of

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
# One may stand for another of its group: a difference for a sum, a product for a quotient, slices for a part of them.
_KIN = ("Add", "Sub", "Mul", "Div", "QLinearAdd", "QLinearMul", "Slice", "Split", "Concat", "Pad")
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


_Shape = tuple[int, ...]


class RunNode(NamedTuple):
    """One node of the model that a runtime made of a network.

    Attributes:
        name: In that model.
        operator: For example `QLinearConv`.
        inputs: The tensors it reads that other nodes wrote, or that the network was given.
        stored: How many it reads that the file holds.
        outputs: Those it writes.
        weight_shape: Of its weights, None without any.
        out_elements: Of its first output, for one sample.
        ms: The time of one run; an undisturbed one.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    stored: int
    outputs: tuple[str, ...]
    weight_shape: tuple[int, ...] | None
    out_elements: int
    ms: float


class Profile:
    """A network that is run under the profiler, some runs at a time, until its nodes are asked for."""

    def __init__(self, made: onnx.ModelProto, folder: Path) -> None:
        """Opens it.

        Args:
            made: The network as the runtime made it (`optimised`).
            folder: For what the profiler writes, of this network alone.
        """
        self._made = made
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Even so, a DequantizeLinear that two nodes read would be made two.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        self._session = _opened(made.SerializeToString(), options)
        self._feeds = feeds_of(self._session)

    def run(self, times: int) -> None:
        """Runs it so many times."""
        for _ in range(times):
            self._session.run(None, self._feeds)

    def nodes(self) -> list[RunNode]:
        """The nodes in the order in which they were run, after which it runs no more."""
        file = Path(self._session.end_profiling())
        events = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
        taken: dict[str, tuple[int, list[float]]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
                name = event["name"].removesuffix(_SUFFIX)
                _, times = taken.setdefault(name, (_elements(event["args"]), []))
                times.append(event["dur"] * 1e-3)
        stored = {tensor.name: tuple(tensor.dims) for tensor in self._made.graph.initializer}
        shapes = stored | _shapes_of_weights(self._made.graph, stored)
        made = {node.name: node for node in self._made.graph.node}
        return [_node(made[name], stored, shapes, elements, times) for name, (elements, times) in taken.items()]


def optimised(model: bytes) -> onnx.ModelProto:
    """What the runtime makes of a model, with a name for every node."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "made.onnx"
        options = _options()
        options.optimized_model_filepath = str(file)
        _opened(model, options)
        found = onnx.load(file)
    for number, node in enumerate(found.graph.node):
        node.name = f"node{number}"
    return found


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _opened(model: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def profiled(networks: Sequence[onnx.ModelProto], passes: int, runs: int) -> list[list[RunNode]]:
    """The nodes of networks as the runtime made them, each run so often in each of several passes over all of them."""
    with TemporaryDirectory() as folder:
        opened = []
        for number, made in enumerate(networks):
            own = Path(folder) / str(number)
            own.mkdir()
            opened.append(Profile(made, own))
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
    _take_along(kernels, nodes, owners)
    found: list[list[RunNode]] = [[] for _ in kernels]
    for node, owner in zip(nodes, _passed_on(nodes, owners), strict=True):
        found[owner].append(node)
    return found


def _take_along(kernels: Sequence[Kernel], nodes: Sequence[RunNode], owners: dict[str, int]) -> None:
    """Gives nodes that no kernel is to the kernel that takes along what they do."""
    wrote: dict[str, int] = {}
    for node in nodes:
        sources = {wrote[name] for name in node.inputs if name in wrote}
        owner = owners.get(node.name)
        if owner is None and sources:
            last = max(sources)
            if _GROUPS.get(node.operator) == "elementwise" and _takes_along(kernels[last], node, len(sources)):
                owners[node.name] = owner = last
            elif len(sources) == 1:
                # What only changes a layout or rounds stands between what wrote it and what reads it.
                owner = last
        if owner is not None:
            wrote.update(dict.fromkeys(node.outputs, owner))


def _takes_along(kernel: Kernel, node: RunNode, sources: int) -> bool:
    is_bias = node.operator == "Add" and node.stored == 1 and kernel.weight_shape is not None
    return is_bias or (bool(kernel.fused) if sources == 1 else "add" in kernel.fused)


def _passed_on(nodes: Sequence[RunNode], owners: Mapping[str, int]) -> list[int]:
    """Whom each node counts with: what belongs to none goes with the first that reads it, or with what ran before.

    So what turns integers into floats, or one layout into another, counts with the kernel that needs it.
    """
    reading: dict[str, int] = {}
    found: list[int | None] = []
    for node in reversed(nodes):
        owner = owners.get(node.name)
        if owner is None:
            owner = next((reading[name] for name in node.outputs if name in reading), None)
        if owner is not None:
            reading.update(dict.fromkeys(node.inputs, owner))
        found.append(owner)
    passed, before = [], 0
    for owner in reversed(found):
        before = before if owner is None else owner
        passed.append(before)
    return passed


def _is(kernel: Kernel, node: RunNode, exactly: bool) -> bool:
    """Whether a node computes what a kernel does; not exactly, any operator of its group does."""
    group = _GROUPS.get(node.operator)
    if group is None or group != _GROUP_OF_OP.get(kernel.op, kernel.op):
        return False
    if node.out_elements not in _rounded(kernel.out_elements, kernel.out_shape[0] if kernel.out_shape else 1):
        return False
    if group not in ("conv", "product"):
        own = _NODES[group][node.operator]
        if group == "elementwise" and len(set(node.inputs)) != len(kernel.in_shapes):
            return False
        return own == common_name(kernel.aten) or (node.operator in _KIN and not exactly)
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


def _shapes_of_weights(graph: onnx.GraphProto, stored: Mapping[str, _Shape]) -> dict[str, _Shape]:
    """The shapes of weights that are stored as integers and turned into floats whenever a network runs."""
    turned = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    return {node.output[0]: stored[node.input[0]] for node in turned}


def _node(
    made: onnx.NodeProto,
    stored: Mapping[str, _Shape],
    shapes: Mapping[str, _Shape],
    elements: int,
    times: Sequence[float],
) -> RunNode:
    place = _WEIGHT_INPUT.get(made.op_type, 1)
    weighted = made.op_type in (*_CONVOLUTIONS, *_PRODUCTS) and len(made.input) > place
    read = [name for name in made.input if name]
    computed = tuple(name for name in read if name not in stored)
    # The profiler counts whole microseconds.
    near = [ms for ms in times if ms <= DISTURBED * min(times) + 1e-3]
    return RunNode(
        name=made.name,
        operator=made.op_type,
        inputs=computed,
        stored=len(read) - len(computed),
        outputs=tuple(name for name in made.output if name),
        weight_shape=shapes.get(made.input[place]) if weighted else None,
        out_elements=elements,
        ms=float(np.mean(near)),
    )


def _elements(arguments: Mapping[str, list[Mapping[str, list[int]]]]) -> int:
    """Elements of the first output for one sample; networks that were exported for one have a batch of 1."""
    written = [shape for one in arguments.get("output_type_shape", []) for shape in one.values()]
    return math.prod(written[0]) if written else 0
