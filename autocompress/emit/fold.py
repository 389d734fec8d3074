"""BatchNorm folded into the layer before it, and every weight as it is stored: codes and scales, fp16 or fp32."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils import parametrize

from autocompress.compress.quantizer import ActivationQuantizer, HalfWeight, WeightQuantizer

WEIGHT_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_INTEGER_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_aten = torch.ops.aten
_LARGEST_BIAS = float(2**29)
# An integer runtime moves these through quantized values unchanged.
_MOVES = {
    _aten.view.default,
    _aten.reshape.default,
    _aten.flatten.using_ints,
    _aten.permute.default,
    _aten.transpose.int,
    _aten.squeeze.dim,
    _aten.unsqueeze.default,
    _aten.slice.Tensor,
    _aten.constant_pad_nd.default,
    _aten.pad.default,
    _aten.max_pool2d.default,
    _aten.max_pool1d.default,
}
# An integer runtime folds these into the kernel before them.
_CLAMPS = {
    *(_aten.relu.default, _aten.relu_.default, _aten.relu6.default, _aten.relu6_.default),
    *(_aten.hardtanh.default, _aten.hardtanh_.default, _aten.clamp.default, _aten.clamp_.default),
    *(_aten.clamp_min.default, _aten.clamp_min_.default),
}


@dataclass(frozen=True)
class StoredWeight:
    """One weight as it is written to a file; `dequantized` is what the runtime computes with.

    Attributes:
        values: `bits` 2-8: codes, uint8; 16: float16; 32: float32. The shape is the weight's.
        bits: Bits per value.
        scale: Signed step, `[channels]` or `[1]`, fp32; empty for floats. It is negative where a folded factor was.
        zero_point: Code of 0.0, `[channels]` or `[1]`, uint8; empty for floats.
        axis: The dimension that `scale` and `zero_point` run along.
        input_scale: Step of the 8-bit tensor that the layer reads, if an integer kernel can run it; else None.
    """

    values: Tensor
    bits: int
    scale: Tensor
    zero_point: Tensor
    axis: int
    input_scale: float | None = None

    @property
    def quantized(self) -> bool:
        """True for integer codes."""
        return self.bits <= 8

    def along_axis(self, vector: Tensor) -> Tensor:
        """`[channels]` or `[1]` as a tensor that broadcasts against the weight; a single value stays `[1]`."""
        if vector.numel() == 1:
            return vector
        shape = [1] * self.values.dim()
        shape[self.axis] = -1
        return vector.view(shape)

    def differences(self) -> Tensor:
        """Codes minus zero point, int32."""
        return self.values.int() - self.along_axis(self.zero_point).int()

    def dequantized(self) -> Tensor:
        """The weight in fp32, rounded as a runtime rounds it."""
        if not self.quantized:
            return self.values.float()
        return self.differences().float() * self.along_axis(self.scale)

    def transposed(self) -> StoredWeight:
        """The weight of a linear layer as `[in, out]`."""
        return replace(self, values=self.values.T.contiguous(), axis=1 - self.axis)

    def scaled(self, factor: Tensor) -> StoredWeight:
        """The weight times `factor`, `[channels]`, exactly for codes and rounded to storage for floats."""
        if self.quantized:
            return replace(self, scale=(self.scale * factor).float())
        product = self.values.float() * self.along_axis(factor)
        return replace(self, values=product.clamp(-65504.0, 65504.0).half() if self.bits == 16 else product)


@dataclass(frozen=True)
class FoldedModel:
    """A plain float model that computes what the file computes, and its weights as stored, by module path.

    Attributes:
        norms: By layer, the BatchNorm that was folded into it.
    """

    module: GraphModule
    weights: dict[str, StoredWeight]
    norms: dict[str, str]


@torch.no_grad()
def fold_batchnorm(model: GraphModule, *, half: bool = False) -> FoldedModel:
    """Folds every BatchNorm that can be folded exactly, on a copy in evaluation mode.

    A BatchNorm is folded if its input is a convolution or a linear layer that is called once and read by nothing else.
    Quantized weights stay on their codes: the factor goes into the scale. BatchNorm after a linear layer is folded only
    where the graph says that the tensor is `[batch, features]`.

    Args:
        model: The compressed model.
        half: True stores unquantized weights in fp16.
    """
    model = copy.deepcopy(model).eval()
    calls = Counter(str(node.target) for node in model.graph.nodes if node.op == "call_module")
    weights: dict[str, StoredWeight] = {}
    norms: dict[str, str] = {}
    for name, layer in list(model.named_modules()):
        if isinstance(layer, WEIGHT_LAYERS) and calls[name]:
            weights[name] = _take_weight(layer, half)
    for node in list(model.graph.nodes):
        if _foldable(model, node, calls):
            source = str(node.args[0].target)
            norms[source] = str(node.target)
            weights[source] = weights[source].scaled(_fold(model, node))
    model.delete_all_unused_submodules()
    model.recompile()
    for node in model.graph.nodes:
        name = str(node.target)
        if node.op == "call_module" and name in weights and calls[name] == 1:
            step = _integer_input(model, node, weights[name])
            if step is not None:
                weights[name] = _with_positive_steps(weights[name], step, _module(model, node).bias)
    for name, stored in weights.items():
        layer = model.get_submodule(name)
        layer.weight = nn.Parameter(stored.dequantized(), requires_grad=False)
    return FoldedModel(model, weights, norms)


def _take_weight(layer: Any, half: bool) -> StoredWeight:
    # Removes the parametrizations of the layer and returns what they make of its weight.
    axis = 1 if isinstance(layer, (*_TRANSPOSED, nn.Embedding)) else 0
    empty = torch.empty(0)
    bits = 32
    if not parametrize.is_parametrized(layer, "weight"):
        value = layer.weight.detach().clone()
    else:
        held = layer.parametrizations.weight
        value = held.original.detach().clone()
        # Copies of a parametrized layer share its class, which `remove_parametrizations` would change for all of them.
        layer.__class__ = type(layer).__bases__[0]
        del layer.parametrizations
        for step in held:
            if isinstance(step, WeightQuantizer):
                codes, scale, zero = step.codes(value)
                return StoredWeight(codes, step.bits, scale, zero.to(torch.uint8), step.axis)
            with torch.no_grad():
                value = step(value)
            bits = 16 if isinstance(step, HalfWeight) else bits
    if half or bits == 16:
        return StoredWeight(value.clamp(-65504.0, 65504.0).half(), 16, empty, empty, axis)
    return StoredWeight(value.float(), 32, empty, empty, axis)


def _foldable(model: GraphModule, node: Node, calls: Counter[str]) -> bool:
    # Whether a node is a BatchNorm that can be folded into what it reads.
    if node.op != "call_module" or not isinstance(_module(model, node), _NORMS) or calls[str(node.target)] > 1:
        return False
    norm, source = _module(model, node), node.args[0]
    if not isinstance(source, Node) or source.op != "call_module" or len(source.users) > 1:
        return False
    layer = _module(model, source)
    if calls[str(source.target)] > 1 or norm.running_var is None:
        return False
    if isinstance(layer, nn.Linear):
        return len(source.meta.get("shape", ())) == 2
    if isinstance(layer, _TRANSPOSED):
        return layer.groups == 1
    return isinstance(layer, (nn.Conv1d, nn.Conv2d))


def _fold(model: GraphModule, node: Node) -> Tensor:
    # Moves the BatchNorm into the bias of the layer before it; returns the factor of the weight, `[channels]`.
    norm, source = _module(model, node), node.args[0]
    assert isinstance(source, Node)
    layer = _module(model, source)
    with torch.no_grad():
        factor = torch.rsqrt(norm.running_var.double() + norm.eps)
        if norm.weight is not None:
            factor = factor * norm.weight.double()
        shift = norm.bias.double() if norm.bias is not None else torch.zeros_like(factor)
        bias = layer.bias.double() if layer.bias is not None else torch.zeros_like(factor)
        bias = (bias - norm.running_mean.double()) * factor + shift
        layer.bias = nn.Parameter(bias.float(), requires_grad=False)
    node.replace_all_uses_with(source)
    model.graph.erase_node(node)
    return factor.float()


def _integer_input(model: GraphModule, node: Node, stored: StoredWeight) -> float | None:
    # The step of the input if an integer kernel can run this layer: 8 bits in and out, int8 weights around zero.
    layer = _module(model, node)
    if not isinstance(layer, _INTEGER_LAYERS) or not stored.quantized or int(stored.differences().abs().max()) > 127:
        return None
    quantizer = _source_quantizer(model, node.args[0])
    if quantizer is None:
        return None
    if not isinstance(layer, nn.Linear) and not all(_rounds(model, user) for user in node.users):
        return None
    return float(quantizer.scale.detach().clamp_min(1e-12))


def _with_positive_steps(stored: StoredWeight, input_scale: float, bias: Tensor | None) -> StoredWeight:
    # Integer kernels want positive steps, and biases as int32 in units of input step x weight step. A step is widened
    # only for a channel whose bias is more than 2^29 such units, where its weights no longer matter.
    differences = stored.differences()
    sign = torch.where(stored.scale < 0, -1, 1).int()
    scale = stored.scale.abs()
    if bias is not None:
        scale = torch.maximum(scale, bias.abs() / (_LARGEST_BIAS * input_scale))
    scale = scale.clamp_min(1e-30)
    if torch.equal(scale, stored.scale):
        return replace(stored, input_scale=input_scale)
    ratio = stored.scale.abs() / scale
    kept = (differences.double() * stored.along_axis(ratio)).round().int()
    zero = stored.zero_point.int()
    if stored.bits == 8 and bool((zero == 128).all()):
        flipped = zero
    else:
        flipped = torch.where(sign < 0, (2**stored.bits - 1) - zero, zero)
    codes = kept * stored.along_axis(sign) + stored.along_axis(flipped)
    stored = replace(stored, values=codes.to(torch.uint8), zero_point=flipped.to(torch.uint8))
    return replace(stored, scale=scale, input_scale=input_scale)


def _source_quantizer(model: GraphModule, node: object) -> ActivationQuantizer | None:
    while isinstance(node, Node):
        if node.op == "call_module":
            module = _module(model, node)
            if isinstance(module, ActivationQuantizer):
                return module if module.bits == 8 else None
            if not isinstance(module, (nn.Dropout, nn.Identity)):
                return None
        elif node.op != "call_function" or node.target not in _MOVES or _pads_something(node):
            return None
        node = node.args[0]
    return None


def _pads_something(node: Node) -> bool:
    """Whether a node puts another number than zero around what it moves."""
    if node.target is _aten.constant_pad_nd.default:
        return bool(node.args[2]) if len(node.args) > 2 else False
    if node.target is _aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        return mode == "constant" and len(node.args) > 3 and bool(node.args[3])
    return False


def _rounds(model: GraphModule, node: Node) -> bool:
    # True if the value goes straight into 8 bits, through a ReLU at most.
    if node.op == "call_function" and node.target in _CLAMPS:
        return all(_rounds(model, user) for user in node.users)
    module = _module(model, node) if node.op == "call_module" else None
    return isinstance(module, ActivationQuantizer) and module.bits == 8


def _module(model: GraphModule, node: Node) -> Any:
    return model.get_submodule(str(node.target))
