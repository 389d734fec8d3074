"""A compressed model as one ONNX file: traced by PyTorch, then rewritten with packed weights and short names."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.onnx.errors import OnnxExporterError

from autocompress.compress.quantizer import ActivationQuantizer, is_held
from autocompress.emit.fold import FoldedModel, StoredWeight, fold_batchnorm
from autocompress.emit.onnx_pack import GraphParts, add_integer_bias, add_weights, sparse_weights, without_zeros
from autocompress.emit.onnx_tidy import drop_unused, fold_constants, merge_slices, separate_tensors, shorten
from autocompress.errors import UnsupportedError

OPSETS = range(13, 21)
_DOMAIN = "autocompress"
# Operators that move 8-bit codes without looking at them.
_MOVES = ("Slice", "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool")
Names = tuple[str, ...]
_Codes = tuple[str, tuple[str, str]]
_DEFAULTS: dict[str, dict[str, int | float]] = {
    "Conv": {"dilations": 1, "group": 1, "strides": 1, "pads": 0},
    "ConvTranspose": {"dilations": 1, "group": 1, "strides": 1, "pads": 0},
    "AveragePool": {"ceil_mode": 0, "count_include_pad": 0, "pads": 0, "strides": 1},
    "MaxPool": {"ceil_mode": 0, "dilations": 1, "pads": 0, "strides": 1},
    # `beta` stays: ONNX Runtime looks for it.
    "Gemm": {"alpha": 1.0, "transA": 0},
}
_INITIALIZER_OVERHEAD = 18


@dataclass(frozen=True)
class ExportedModel:
    """A written ONNX file."""

    path: Path
    size_bytes: int
    input_names: Names
    output_names: Names


class _MarkFunction(torch.autograd.Function):
    """Stands for one activation quantizer in the traced graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero: int, bits: int, map_shape: list[int]) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, scale: float, zero: int, bits: int, map_shape: list[int]) -> Any:
        marked = g.op(f"{_DOMAIN}::Quantize", x, scale_f=scale, zero_i=zero, bits_i=bits, map_shape_i=map_shape)
        return marked.setType(x.type())


class _Mark(nn.Module):
    def __init__(self, quantizer: ActivationQuantizer, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.scale = float(quantizer.scale.detach().clamp_min(1e-12))
        self.zero = int(quantizer.zero_point.round())
        self.bits = quantizer.bits
        self.map_shape = list(shape[1:]) if len(shape) == 4 else []

    def forward(self, x: Tensor) -> Tensor:
        arguments = (x, self.scale, self.zero, self.bits, self.map_shape)
        marked: Tensor = _MarkFunction.apply(*arguments)  # type: ignore[no-untyped-call]
        return marked


def export_onnx(
    model: GraphModule, example_inputs: tuple[Tensor, ...], path: Path, *, opset: int, half: bool = False
) -> ExportedModel:
    """Writes `model` to `path` with a dynamic batch, packed weights and QuantizeLinear / DequantizeLinear pairs.

    Args:
        model: The compressed model; it is not changed.
        example_inputs: One batch of each input.
        path: The file to write; it appears complete or not at all.
        opset: 13 to 20.
        half: True for runtimes that compute in fp16: unquantized weights are stored in fp16. The graph stays fp32
            typed, because such a runtime chooses fp16 kernels itself (for TensorRT, `trtexec --fp16`).

    Raises:
        UnsupportedError: the opset is out of range, or an operator has no ONNX form in it.
    """
    if opset not in OPSETS:
        raise UnsupportedError(f"ONNX opset is {opset}; allowed: {OPSETS[0]} to {OPSETS[-1]}")
    folded = fold_batchnorm(model, half=half)
    inputs = tuple(str(node.target) for node in folded.module.graph.find_nodes(op="placeholder"))
    with torch.no_grad():
        result = folded.module(*example_inputs)
    results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    outputs = tuple(f"output_{i}" for i in range(len(results))) if len(results) > 1 else ("output",)
    traced = _trace(folded.module, example_inputs, opset, inputs, outputs)
    shapes = {name: tuple(tensor.shape) for name, tensor in zip(outputs, results, strict=True)}
    proto = _rewrite(traced, folded, shapes)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(proto.SerializeToString())
    part.replace(path)
    return ExportedModel(path, path.stat().st_size, inputs, outputs)


@dataclass(frozen=True)
class Payload:
    """Bytes that weights, scales, biases and quantizers of a model take in a file.

    Attributes:
        now: With the weights as they are.
        filled: At most, after a training: it moves weights away from zero where nothing holds them there.
    """

    now: int
    filled: int


def payload_of(model: GraphModule, *, half: bool = False) -> Payload:
    """What weights, scales, biases and quantizers of `model` take in the file, without exporting it.

    The unpacking operators are counted too, so that the rest of the file (`graph_overhead_bytes`) does not depend on
    the bits and one export predicts the size of all plans of one structure.
    """
    folded = fold_batchnorm(model, half=half)
    filled = {
        name: without_zeros(folded.weights[name])
        for name in sparse_weights(folded.weights)
        if not is_held(model.get_submodule(name))
    }
    weights = {f"{name}.weight" for name in folded.weights}
    skipped = tuple(name for name, module in folded.module.named_modules() if isinstance(module, ActivationQuantizer))
    other: int = sum(
        tensor.numel() * tensor.element_size() + _INITIALIZER_OVERHEAD
        for name, tensor in folded.module.state_dict().items()
        if name not in weights and not name.endswith("num_batches_tracked") and name.rpartition(".")[0] not in skipped
    )
    now = other + _packed_bytes(folded, folded.weights)
    return Payload(now, other + _packed_bytes(folded, {**folded.weights, **filled}) if filled else now)


def _packed_bytes(folded: FoldedModel, weights: Mapping[str, StoredWeight]) -> int:
    # Weights, what unpacks them, biases in integers, and quantizers.
    parts = GraphParts()
    add_weights(parts, weights)
    for name, stored in weights.items():
        layer = folded.module.get_submodule(name)
        if isinstance(layer, nn.Linear) and layer.bias is not None and stored.input_scale is not None:
            add_integer_bias(parts, stored, layer.bias.detach().numpy())
    for name, module in folded.module.named_modules():
        if isinstance(module, ActivationQuantizer):
            mark = _Mark(module)
            _add_quantizer(parts, name, name + "/out", mark.scale, mark.zero, mark.bits)
    graph = GraphProto(node=parts.nodes, initializer=parts.tensors)
    shorten(graph)
    return int(graph.ByteSize())


def graph_overhead_bytes(exported: ExportedModel, payload: int) -> int:
    """What the file holds besides its payload: operators, shapes and names."""
    return exported.size_bytes - payload


def unpack_onnx(source: Path, destination: Path) -> int:
    """Writes the same model with plain weights, for runtimes that fold nothing themselves; returns its bytes.

    Weights become fp32 initializers; those of integer kernels int8 with a DequantizeLinear.
    TensorRT's ONNX reader up to 8.x wants convolution weights as initializers and has no `Mod` and no uint8.
    """
    model = onnx.load(source)
    fold_constants(model.graph, model.opset_import[0].version, weights=True)
    drop_unused(model.graph)
    return int(destination.write_bytes(model.SerializeToString()))


def _trace(
    module: GraphModule,
    example_inputs: tuple[Tensor, ...],
    opset: int,
    inputs: Names,
    outputs: Names,
) -> ModelProto:
    quantizers = [(name, child) for name, child in module.named_modules() if isinstance(child, ActivationQuantizer)]
    shapes = {str(node.target): node.meta.get("shape", ()) for node in module.graph.nodes if node.op == "call_module"}
    for name, child in quantizers:
        module.set_submodule(name, _Mark(child, shapes.get(name, ())))
    buffer = io.BytesIO()
    with warnings.catch_warnings(), _without_log():
        warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Constant folding - Only steps=1", category=UserWarning)
        try:
            torch.onnx.export(
                module,
                example_inputs,
                buffer,  # type: ignore[arg-type]  # a stream is accepted by the TorchScript exporter
                dynamo=False,
                opset_version=opset,
                do_constant_folding=False,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
                custom_opsets={_DOMAIN: 1} if quantizers else {},
                training=torch.onnx.TrainingMode.PRESERVE,
            )
        except OnnxExporterError as error:
            reason = str(error).splitlines()[0]
            raise UnsupportedError(f"the model cannot be written as ONNX opset {opset}: {reason}") from error
    return onnx.load_from_string(buffer.getvalue())


@contextmanager
def _without_log() -> Iterator[None]:
    """Keeps the exporter from printing the whole graph where it fails: its error says enough.

    It switches its log on, whatever was set before, so that nothing but the function itself keeps it quiet.
    """
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def _rewrite(traced: ModelProto, folded: FoldedModel, shapes: dict[str, tuple[int, ...]]) -> ModelProto:
    graph = traced.graph
    opset = next(entry.version for entry in traced.opset_import if not entry.domain)
    separate_tensors(graph)
    fold_constants(graph, opset)
    parts = GraphParts()
    stored = {f"{name}.weight": weight for name, weight in folded.weights.items()}
    names = _place_tensors(parts, graph, stored)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name not in stored}
    outputs = {value.name for value in graph.output}
    codes: dict[str, _Codes] = {}
    floats = _from_float_convolutions(graph, stored)
    added = {name for node in graph.node if node.op_type == "Add" for name in node.input}
    for node in graph.node:
        if node.output[0] in names:
            continue
        inputs = [names.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            names[node.output[0]] = inputs[0]
            continue
        if node.domain == _DOMAIN:
            mark = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            turned = mark.get("map_shape", []) if node.input[0] in floats and node.output[0] in added else []
            found = _add_quantizer(parts, inputs[0], node.output[0], mark["scale"], mark["zero"], mark["bits"], turned)
            again = inputs[0] in codes and found is not None and codes[inputs[0]][1] == found[1]
            if again and node.output[0] not in outputs:
                # Rounding to the same grid once more changes nothing.
                names[node.output[0]] = inputs[0]
            elif found is not None:
                codes[node.output[0]] = found
            continue
        kept = NodeProto(op_type=node.op_type, domain=node.domain, input=inputs, output=node.output)
        kept.attribute.extend(a for a in node.attribute if not _is_default(node.op_type, a))
        weight = stored.get(node.input[1]) if node.op_type == "Gemm" else None
        if weight is not None and weight.input_scale is not None and len(inputs) == 3:
            kept.input[2] = add_integer_bias(parts, weight, values[node.input[2]])
        if node.op_type in _MOVES and inputs[0] in codes and not _pads_something(node, values):
            codes[node.output[0]] = _move_codes(parts, kept, codes[inputs[0]])
        else:
            parts.nodes.append(kept)
    small = GraphProto(name="g", node=parts.nodes, initializer=parts.tensors, input=graph.input)
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        small.output.append(helper.make_tensor_value_info(value.name, kind, ["batch", *shapes[value.name][1:]]))
    # What quantized moves left behind would look like another reader of a Slice.
    drop_unused(small)
    merge_slices(small)
    drop_unused(small)
    shorten(small)
    return helper.make_model(small, opset_imports=[helper.make_opsetid("", opset)], ir_version=traced.ir_version)


def _place_tensors(parts: GraphParts, graph: GraphProto, stored: dict[str, StoredWeight]) -> dict[str, str]:
    # Adds weights in their stored form and every other initializer once; returns the new names.
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    names: dict[str, str] = {}
    weights: dict[str, StoredWeight] = {}
    for tensor in graph.initializer:
        weight = stored.get(tensor.name)
        if weight is None:
            names[tensor.name] = parts.constant(numpy_helper.to_array(tensor))
            continue
        reading = readers.get(tensor.name, [])
        if reading and all(node.op_type == "Transpose" and weight.values.dim() == 2 for node in reading):
            # A linear layer on sequences reads its weight transposed; it is stored that way.
            weight = weight.transposed()
            names.update({node.output[0]: tensor.name for node in reading})
        weights[tensor.name] = weight
    add_weights(parts, weights)
    return names


def _from_float_convolutions(graph: GraphProto, stored: dict[str, StoredWeight]) -> set[str]:
    # Values that a convolution in floats has written, through an activation perhaps.
    found: set[str] = set()
    for node in graph.node:
        weight = stored.get(node.input[1]) if node.op_type == "Conv" else None
        is_float = weight is not None and weight.input_scale is None
        if is_float or (node.op_type in ("Relu", "Clip") and node.input[0] in found):
            found.add(node.output[0])
    return found


def _add_quantizer(
    parts: GraphParts, source: str, output: str, scale: float, zero: int, bits: int, turned: Sequence[int] = ()
) -> _Codes | None:
    # 8 bits become a QuantizeLinear / DequantizeLinear pair, whose codes are returned; 16 bits float operators.
    step = np.array(scale, np.float32)
    if bits == 8:
        grid = (parts.constant(step), parts.constant(np.array(zero, np.uint8)))
        codes = parts.add("QuantizeLinear", [source, *grid])
        codes = _channels_last(parts, codes, turned) if turned else codes
        parts.add("DequantizeLinear", [codes, *grid], output)
        return codes, grid
    rounded = parts.add("Round", [parts.add("Mul", [source, parts.constant(np.float32(1.0) / step)])])
    limits = [parts.constant(np.array(limit, np.float32)) for limit in (-zero, 2**bits - 1 - zero)]
    parts.add("Mul", [parts.add("Clip", [rounded, *limits]), parts.constant(step)], output)
    return None


def _channels_last(parts: GraphParts, codes: str, map_shape: Sequence[int]) -> str:
    """The same codes, laid out with their channels last and seen with the channels first again.

    ONNX Runtime computes integer convolutions with the channels last and takes a Transpose past an addition only where
    both operands have one. What comes from a convolution in floats has none, and the sums of all blocks that follow
    would be turned back and forth: a sixth of the time of ResNet-20. Through a Reshape it cannot tell that the two
    layouts cancel.
    """
    channels, rows, columns = map_shape

    def reshaped(value: str, *shape: int) -> str:
        return parts.add("Reshape", [value, parts.constant(np.array([0, *shape], np.int64))])

    last = parts.add("Transpose", [reshaped(codes, channels, rows * columns)], perm=[0, 2, 1])
    return parts.add("Transpose", [reshaped(last, rows, columns, channels)], perm=[0, 3, 1, 2])


def _pads_something(node: NodeProto, values: dict[str, NDArray[Any]]) -> bool:
    """Whether an operator puts another number than zero around what it moves."""
    if node.op_type != "Pad" or len(node.input) < 3 or not node.input[2]:
        return False
    modes = [helper.get_attribute_value(a) for a in node.attribute if a.name == "mode"]
    padded = values.get(node.input[2])
    return b"constant" in (modes or [b"constant"]) and (padded is None or bool(np.any(padded != 0)))


def _move_codes(parts: GraphParts, node: NodeProto, source: _Codes) -> _Codes:
    # The same move on the codes, dequantized after it: exact, and no runtime has to find that out.
    codes, grid = source
    output = node.output[0]
    inputs = [codes, *node.input[1:]]
    if node.op_type == "Pad":
        # The value of a padded zero is the code of 0.0.
        inputs[2:] = [grid[1]]
    moved = NodeProto(op_type=node.op_type, input=inputs, output=[output + "/codes"], attribute=node.attribute)
    parts.nodes.append(moved)
    parts.add("DequantizeLinear", [moved.output[0], *grid], output)
    return moved.output[0], grid


def _is_default(op: str, attribute: onnx.AttributeProto) -> bool:
    if attribute.name not in _DEFAULTS.get(op, {}):
        return False
    value, default = helper.get_attribute_value(attribute), _DEFAULTS[op][attribute.name]
    return all(item == default for item in value) if isinstance(value, list) else bool(value == default)
