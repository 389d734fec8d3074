"""ONNX nodes with the shapes they ran on, as kernels."""

from __future__ import annotations

from autocompress.targets.importers.onnx_nodes import OnnxNode, Shape
from autocompress.targets.importers.result import Unmapped
from autocompress.targets.kernel_key import KernelKey

# The input that holds the weights.
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "QLinearConv": 3, "ConvTranspose": 1}
_PRODUCTS = {"Gemm": 1, "FusedGemm": 1, "QGemm": 3, "MatMul": 1, "QLinearMatMul": 3}
# Everything of them that decides the time is in the shapes; `{n}` stands for the number of spatial dimensions.
_OTHERS = {
    "Relu": ("elementwise", "relu"),
    "Clip": ("elementwise", "clamp"),
    "Sigmoid": ("elementwise", "sigmoid"),
    "QLinearSigmoid": ("elementwise", "sigmoid"),
    "Tanh": ("elementwise", "tanh"),
    "HardSigmoid": ("elementwise", "hardsigmoid"),
    "HardSwish": ("elementwise", "hardswish"),
    "LeakyRelu": ("elementwise", "leaky_relu"),
    "Elu": ("elementwise", "elu"),
    "Gelu": ("elementwise", "gelu"),
    "Erf": ("elementwise", "erf"),
    "Exp": ("elementwise", "exp"),
    "Sqrt": ("elementwise", "sqrt"),
    "Add": ("elementwise", "add"),
    "QLinearAdd": ("elementwise", "add"),
    "Sub": ("elementwise", "sub"),
    "Mul": ("elementwise", "mul"),
    "QLinearMul": ("elementwise", "mul"),
    "Div": ("elementwise", "div"),
    "MaxPool": ("pool", "max_pool{n}d"),
    "AveragePool": ("pool", "avg_pool{n}d"),
    "GlobalAveragePool": ("global_pool", "mean"),
    "QLinearGlobalAveragePool": ("global_pool", "mean"),
    "GlobalMaxPool": ("global_pool", "amax"),
    "Softmax": ("softmax", "softmax"),
    "LogSoftmax": ("softmax", "log_softmax"),
    "LayerNormalization": ("norm", "layer_norm"),
    "Concat": ("copy", "cat"),
    "Transpose": ("copy", "permute"),
}
_ACTIVATIONS = {
    "": (),
    "Relu": ("relu",),
    "Clip": ("clamp",),
    "Sigmoid": ("sigmoid",),
    "Tanh": ("tanh",),
    "LeakyRelu": ("leaky_relu",),
    "HardSigmoid": ("hardsigmoid",),
}


def key_of(op: str, node: OnnxNode | None, listed: tuple[Shape, ...], out: Shape, dtype: str) -> KernelKey:
    """The kernel that a node is.

    Args:
        op: The node's operator.
        node: The node in the model, where that is known.
        listed: The shapes of its inputs in the profile, with the batch.
        out: The shape of its output, with the batch.
        dtype: What it computes in.

    Raises:
        Unmapped: something that decides the time is not known.
    """
    if op not in (*_CONVOLUTIONS, *_PRODUCTS, *_OTHERS):
        raise Unmapped(f"operator {op[:60]!r} has no kernel of its own in a table")
    if node is None:
        if op not in _OTHERS or _OTHERS[op][0] == "pool" or len(listed) != 1:
            raise Unmapped("strides and weights are not in a profile; give the optimised model that was profiled")
        node = OnnxNode(op, ("x",), {}, {})
    if node.op != op:
        raise Unmapped(f"the model has a {node.op[:60]!r} of this name")
    shapes = [*node.activations(listed), out]
    if len(shapes) < 2 or any(not shape or shape[0] != out[0] or min(shape) < 1 for shape in shapes):
        raise Unmapped("its tensors do not begin with one batch")
    if node.whole("channels_last", 0):
        shapes = [(shape[0], shape[-1], *shape[1:-1]) for shape in shapes]
    *inputs, output = (shape[1:] for shape in shapes)
    if op in _CONVOLUTIONS:
        return _convolution(node, tuple(inputs), output, dtype, out[0])
    if op in _PRODUCTS:
        return _product(node, tuple(inputs), output, dtype, out[0])
    kind, aten = _OTHERS[op]
    rank = len(output) - 1
    sizes = {name: node.sizes(name, rank) if kind == "pool" else () for name in ("kernel_shape", "strides")}
    window, stride = sizes.values()
    name = aten.format(n=rank)
    return KernelKey(kind, name, dtype, tuple(inputs), output, stride=stride, batch=out[0], window=window)


def _convolution(node: OnnxNode, inputs: tuple[Shape, ...], output: Shape, dtype: str, batch: int) -> KernelKey:
    weight, transposed = node.weight(_CONVOLUTIONS[node.op]), node.op == "ConvTranspose"
    groups, spatial = node.whole("group", 1), len(weight) - 2
    first, second = (weight[1] * groups, weight[0]) if not transposed else (weight[0], weight[1] * groups)
    ranks = {len(inputs[0]), len(output), len(weight) - 1}
    if len(ranks) > 1 or (inputs[0][0], output[0]) != (first, second) or len(inputs) > 2:
        raise Unmapped("its shapes are not those of its weights")
    op = "conv_transpose2d" if transposed else f"conv{spatial}d"
    if op not in ("conv1d", "conv2d", "conv_transpose2d") or (transposed and spatial != 2):
        raise Unmapped(f"convolutions over {spatial} dimensions are in no table")
    return KernelKey(
        op=op,
        aten="",
        dtype=dtype,
        in_shapes=inputs,
        out_shape=output,
        weight_shape=weight,
        stride=node.sizes("strides", spatial),
        dilation=node.sizes("dilations", spatial),
        groups=groups,
        fused=(*(("add",) if len(inputs) == 2 else ()), *_activation(node)),
        batch=batch,
    )


def _product(node: OnnxNode, inputs: tuple[Shape, ...], output: Shape, dtype: str, batch: int) -> KernelKey:
    if node.op == "MatMul" and len(inputs) == 2:
        return KernelKey("matmul", "matmul", dtype, inputs, output, batch=batch)
    weight = node.weight(_PRODUCTS[node.op])
    if len(inputs) != 1 or not inputs[0] or not output or node.whole("transA", 0):
        raise Unmapped("it is no layer: its inputs are not one tensor and weights")
    shape = (output[-1], inputs[0][-1])
    if sorted(weight) != sorted(shape):
        raise Unmapped("its shapes are not those of its weights")
    return KernelKey("linear", "", dtype, inputs, output, shape, fused=_activation(node), batch=batch)


def _activation(node: OnnxNode) -> tuple[str, ...]:
    value = node.attributes.get("activation", b"")
    name = value.decode(errors="replace") if isinstance(value, bytes) else "?"
    if name not in _ACTIVATIONS:
        raise Unmapped(f"activation {name[:60]!r} is fused into it")
    return _ACTIVATIONS[name]
