"""The ONNX operators of one kernel, as the project's exports write them: one small function for each op."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from autocompress.core.kernel import Kernel
from autocompress.targets.draft import LOWEST, MIDDLE, Draft, unsupported
from autocompress.targets.micro_copies import Builder, add_copy, sizes_at

Shape = tuple[int, ...]
# What an integer kernel stores behind the activation; other activations get rounded values and round theirs.
_ROUNDED_AFTER = ("relu", "relu6", "hardtanh", "clamp", "clamp_min")
_NEVER_NEGATIVE = (*_ROUNDED_AFTER, "sigmoid", "softmax", "_softmax")
# What the exports do to the codes, so that a runtime need not find out that nothing is computed.
_MOVES = ("slice", "pad", "constant_pad_nd", "permute", "transpose", "t", "movedim", "max_pool1d", "max_pool2d")
# Folded into the weights, or a second half of the same operator.
_NO_OPERATOR = ("batch_norm", "slice", "")

_UNARY = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "neg": "Neg",
    "abs": "Abs",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
    "reciprocal": "Reciprocal",
    "softplus": "Softplus",
    "elu": "Elu",
    "leaky_relu": "LeakyRelu",
    "hardsigmoid": "HardSigmoid",
}
_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "rsub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "pow": "Pow",
    "prelu": "PRelu",
}
_CLIPS = {"relu6": (0.0, 6.0), "hardtanh": (0.0, 6.0), "clamp": (0.0, 6.0), "clamp_min": (0.0, None)}
_REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "max": "ReduceMax"} | dict.fromkeys(
    ("amin", "min"), "ReduceMin"
)


def add_kernel(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    """Appends the operators of one kernel with everything that is fused into it; its output is rounded like its inputs.

    Args:
        draft: The graph to append to.
        kernel: Shapes are without the batch; the operators work on a batch of 1.
        inputs: One value for each of `kernel.in_shapes`.

    Raises:
        UnsupportedError: there is no ONNX form for such a kernel by itself.
    """
    if kernel.op not in _OPS:
        raise unsupported(kernel, "nothing is known of the operator")
    if draft.quantized and _only_moves(kernel):
        moved = _OPS[kernel.op](draft, kernel, [draft.codes(value) for value in inputs])
        return draft.from_codes(moved, inputs[0])
    value = _OPS[kernel.op](draft, kernel, inputs)
    for name in kernel.fused:
        if name in _NO_OPERATOR:
            continue
        if name not in _ROUNDED_AFTER:
            value = draft.rounded(value)
        value = _added(draft, kernel, value, inputs) if name == "add" else _activation(draft, kernel, name, value)
    last = next((name for name in reversed(kernel.fused) if name not in _NO_OPERATOR), kernel.aten)
    return draft.rounded(value, LOWEST if last in _NEVER_NEGATIVE else MIDDLE)


def _only_moves(kernel: Kernel) -> bool:
    return kernel.aten in _MOVES and not set(kernel.fused) - set(_NO_OPERATOR)


def _added(draft: Draft, kernel: Kernel, value: str, inputs: Sequence[str]) -> str:
    if kernel.in_shapes[-1] == kernel.out_shape:
        return draft.node("Add", value, inputs[-1])
    return draft.node("Add", value, draft.constant(np.full((1, *kernel.out_shape), 0.5, np.float32)))


def _activation(draft: Draft, kernel: Kernel, name: str, value: str) -> str:
    if name in _UNARY:
        return draft.node(_UNARY[name], value)
    if name in _CLIPS:
        limits = [draft.constant(np.array(at, np.float32)) for at in _CLIPS[name] if at is not None]
        return draft.node("Clip", value, *limits)
    if name == "silu":
        return draft.node("Mul", value, draft.node("Sigmoid", value))
    if name == "mish":
        return draft.node("Mul", value, draft.node("Tanh", draft.node("Softplus", value)))
    if name == "gelu":
        return _gelu(draft, value)
    if name == "hardswish":
        return draft.node("HardSwish", value) if draft.opset >= 14 else _hardswish(draft, value)
    if name == "square":
        return draft.node("Mul", value, value)
    if name == "rsqrt":
        return draft.node("Reciprocal", draft.node("Sqrt", value))
    raise unsupported(kernel, f"no ONNX form is known for {name!r}")


def _gelu(draft: Draft, value: str) -> str:
    if draft.opset >= 20:
        return draft.node("Gelu", value)
    root, one, half = (draft.constant(np.array(number, np.float32)) for number in (math.sqrt(2), 1.0, 0.5))
    grown = draft.node("Add", draft.node("Erf", draft.node("Div", value, root)), one)
    return draft.node("Mul", draft.node("Mul", value, grown), half)


def _hardswish(draft: Draft, value: str) -> str:
    low, three, six = (draft.constant(np.array(number, np.float32)) for number in (0.0, 3.0, 6.0))
    gate = draft.node("Clip", draft.node("Add", value, three), low, six)
    return draft.node("Div", draft.node("Mul", value, gate), six)


def _elementwise(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    if kernel.aten in ("where", "masked_fill"):
        mask = draft.constant(np.arange(math.prod(kernel.out_shape)).reshape(1, *kernel.out_shape) % 2 == 0)
        other = inputs[1] if len(inputs) > 1 else draft.constant(np.array(0.5, np.float32))
        return draft.node("Where", mask, inputs[0], other)
    if kernel.aten in _BINARY:
        # A number, or a parameter that the kernel does not count among its inputs.
        shape = () if kernel.in_shapes[0] == kernel.out_shape else (1, *kernel.out_shape)
        other = inputs[1] if len(inputs) > 1 else draft.constant(np.full(shape, 1.01, np.float32))
        return draft.node(_BINARY[kernel.aten], inputs[0], other)
    return _activation(draft, kernel, kernel.aten, inputs[0])


def _convolution(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    weight, sides = _weight(kernel), kernel.in_shapes[0][1:]
    window, dilation = weight[2:], kernel.dilation or (1,) * len(sides)
    pads = [
        _padding(side, out, size * rate - rate + 1, step)
        for side, out, size, rate, step in zip(
            sides, kernel.out_shape[1:], window, dilation, kernel.stride or dilation, strict=True
        )
    ]
    return draft.node(
        "Conv",
        inputs[0],
        draft.weight(weight),
        draft.bias(weight[0]),
        kernel_shape=list(window),
        pads=[begin for begin, _ in pads] + [end for _, end in pads],
        strides=list(kernel.stride) or [1] * len(sides),
        dilations=list(dilation),
        group=kernel.groups,
    )


def _padding(side: int, out: int, reach: int, step: int) -> tuple[int, int]:
    """What stands before and behind one dimension: the same on both sides where that gives the output's size."""
    needed = max(0, (out - 1) * step + reach - side)
    half = -(-needed // 2)
    return (half, half) if (side + 2 * half - reach) // step + 1 == out else (needed // 2, needed - needed // 2)


def _transposed_convolution(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    weight, rank = _weight(kernel), len(kernel.out_shape) - 1
    stride, dilation = kernel.stride or (1,) * rank, kernel.dilation or (1,) * rank
    too_much = [
        (side - 1) * step + rate * (size - 1) + 1 - out
        for side, step, rate, size, out in zip(
            kernel.in_shapes[0][1:], stride, dilation, weight[2:], kernel.out_shape[1:], strict=True
        )
    ]
    return draft.node(
        "ConvTranspose",
        inputs[0],
        draft.weight(weight, axis=1),
        draft.bias(kernel.out_shape[0]),
        kernel_shape=list(weight[2:]),
        pads=[max(0, cut) // 2 for cut in too_much] + [max(0, cut) - max(0, cut) // 2 for cut in too_much],
        output_padding=[max(0, -cut) for cut in too_much],
        strides=list(stride),
        dilations=list(dilation),
        group=kernel.groups,
    )


def _linear(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    outputs, width = _weight(kernel)
    if len(kernel.in_shapes[0]) == 1:
        weight, bias = draft.weight((outputs, width)), draft.bias(outputs, as_integers=True)
        return draft.node("Gemm", inputs[0], weight, bias, transB=1, beta=1.0)
    product = draft.node("MatMul", inputs[0], draft.weight((width, outputs), axis=1))
    return draft.node("Add", draft.bias(outputs), product)


def _matmul(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    return draft.node("MatMul", inputs[0], inputs[-1])


def _pool(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    sides, outs = kernel.in_shapes[0][1:], kernel.out_shape[1:]
    window = kernel.window or tuple(max(1, side // out) for side, out in zip(sides, outs, strict=True))
    stride = kernel.stride or window
    pads = [_padding(*each) for each in zip(sides, outs, window, stride, strict=True)]
    op = "MaxPool" if kernel.aten.startswith("max") else "AveragePool"
    both_sides = [begin for begin, _ in pads] + [end for _, end in pads]
    return draft.node(op, inputs[0], kernel_shape=list(window), strides=list(stride), pads=both_sides)


def _global_pool(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    source, out = kernel.in_shapes[0], kernel.out_shape
    if kernel.aten.startswith("adaptive"):
        kind = "MaxPool" if "max" in kernel.aten else "AveragePool"
        if math.prod(out[1:]) == 1:
            return draft.node(f"Global{kind}", inputs[0])
        if any(side % size for side, size in zip(source[1:], out[1:], strict=True)):
            raise unsupported(kernel, "the output does not divide the input")
        window = [side // size for side, size in zip(source[1:], out[1:], strict=True)]
        return draft.node(kind, inputs[0], kernel_shape=window, strides=window)
    keeps = len(source) == len(out)
    if keeps:
        axes = [at + 1 for at, (side, size) in enumerate(zip(source, out, strict=True)) if size != side]
    else:
        kept = next(
            (k for k in itertools.combinations(range(len(source)), len(out)) if sizes_at(source, k) == out), None
        )
        if kept is None:
            raise unsupported(kernel, "the dimensions that remain cannot be told from the shapes")
        axes = [at + 1 for at in range(len(source)) if at not in kept]
    op = _REDUCTIONS[kernel.aten]
    if draft.opset >= 18 or op == "ReduceSum":
        return draft.node(op, inputs[0], draft.constant(np.array(axes, np.int64)), keepdims=int(keeps))
    return draft.node(op, inputs[0], axes=axes, keepdims=int(keeps))


def _norm(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    width = kernel.out_shape[0]
    if kernel.aten == "layer_norm":
        return _layer_norm(draft, kernel, inputs[0])
    if kernel.aten == "batch_norm":
        values = [draft.constant(np.full(width, number, np.float32)) for number in (1.1, 0.1, 0.2, 0.9)]
        return draft.node("BatchNormalization", inputs[0], *values)
    if kernel.aten not in ("group_norm", "instance_norm"):
        raise unsupported(kernel, f"no ONNX form is known for {kernel.aten!r}")
    # How many groups there are is not known; what is read and written does not depend on it.
    groups = width if kernel.aten == "instance_norm" or width % 4 else 4
    one, none = (draft.constant(np.full(groups, number, np.float32)) for number in (1.0, 0.0))
    split = draft.node("Reshape", inputs[0], draft.constant(np.array([0, groups, -1], np.int64)))
    normal = draft.node("InstanceNormalization", split, one, none)
    whole = draft.node("Reshape", normal, draft.constant(np.array([1, *kernel.out_shape], np.int64)))
    shape = (1, width, *(1 for _ in kernel.out_shape[1:]))
    scale, shift = (draft.constant(np.full(shape, number, np.float32)) for number in (1.1, 0.1))
    return draft.node("Add", draft.node("Mul", whole, scale), shift)


def _layer_norm(draft: Draft, kernel: Kernel, value: str) -> str:
    scale, shift = (draft.constant(np.full(kernel.out_shape[-1], number, np.float32)) for number in (1.1, 0.1))
    if draft.opset >= 17:
        return draft.node("LayerNormalization", value, scale, shift, axis=-1)
    two, small = (draft.constant(np.array(number, np.float32)) for number in (2.0, 1e-5))
    centred = draft.node("Sub", value, draft.node("ReduceMean", value, axes=[-1]))
    spread = draft.node("ReduceMean", draft.node("Pow", centred, two), axes=[-1])
    normal = draft.node("Div", centred, draft.node("Sqrt", draft.node("Add", spread, small)))
    return draft.node("Add", draft.node("Mul", normal, scale), shift)


def _softmax(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    return draft.node("LogSoftmax" if kernel.aten == "log_softmax" else "Softmax", inputs[0], axis=-1)


def _resize(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    pairs = zip(kernel.in_shapes[0][1:], kernel.out_shape[1:], strict=True)
    scales = draft.constant(np.array([1, 1, *(out / side for side, out in pairs)], np.float32))
    if "nearest" in kernel.aten:
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        how = {"mode": "cubic" if "cubic" in kernel.aten else "linear", "coordinate_transformation_mode": "half_pixel"}
    return draft.node("Resize", inputs[0], "", scales, **how)


def _embedding(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    return draft.node("Gather", draft.weight(_weight(kernel), axis=1), inputs[0], axis=0)


def _weight(kernel: Kernel) -> Shape:
    if kernel.weight_shape is None:
        raise unsupported(kernel, "its weight has no shape")
    return kernel.weight_shape


_OPS: dict[str, Builder] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv_transpose2d": _transposed_convolution,
    "linear": _linear,
    "matmul": _matmul,
    "pool": _pool,
    "global_pool": _global_pool,
    "norm": _norm,
    "softmax": _softmax,
    "elementwise": _elementwise,
    "resize": _resize,
    "copy": add_copy,
    "embedding": _embedding,
}
