"""Weights inside an ONNX file: packed initializers and the standard operators that unpack them.

A runtime folds the operators away when it opens the file, so packed weights cost load time only.

Layouts (`L` is the number of weights, `b` the bits):

- codes: `pack_bits` of the codes; each power-of-two part is unpacked as `part[:, None] / [1, 2^p, ...] % 2^p`.
- mask: `pack_bitmask` of the weights that are not zero, and only their values, after one value that is never used. The
  running sum of the mask is the index of each weight's value.
- 8-bit codes are int8 where they lie around zero; 16 is float16, 32 float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autocompress.core.codec import bit_parts, pack_bitmask, pack_bits
from autocompress.emit.fold import StoredWeight

Array = NDArray[np.generic]


@dataclass
class GraphParts:
    """Nodes and initializers under construction; equal constants are stored once."""

    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    _known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _count: int = 0

    def constant(self, value: Array) -> str:
        """The name of an initializer that holds `value`."""
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._known:
            self._known[key] = self._fresh()
            self.tensors.append(numpy_helper.from_array(value, self._known[key]))
        return self._known[key]

    def add(
        self, op: str, inputs: Sequence[str], output: str | None = None, **attributes: int | str | list[int]
    ) -> str:
        """Appends a node with one output and returns the output's name."""
        output = output or self._fresh()
        self.nodes.append(helper.make_node(op, list(inputs), [output], None, None, None, None, **attributes))
        return output

    def _fresh(self) -> str:
        self._count += 1
        return f"\0{self._count}"


def add_weight(parts: GraphParts, stored: StoredWeight, output: str) -> None:
    """Appends what is needed to have the weight under the name `output`, in the smaller of its forms."""
    if stored.input_scale is not None:
        _integer_weight(parts, stored, output)
    elif stored.quantized:
        differences = _differences(parts, stored)
        scale = parts.constant(stored.along_axis(stored.scale).numpy())
        parts.add("Mul", [parts.add("Cast", [differences], to=TensorProto.FLOAT), scale], output)
    elif sparse_is_smaller(stored):
        values, mask = _expanded(parts, stored)
        if stored.bits == 16:
            values = parts.add("Cast", [values], to=TensorProto.FLOAT)
        parts.add("Mul", [values, parts.add("Cast", [mask], to=TensorProto.FLOAT)], output)
    elif stored.bits == 16:
        parts.add("Cast", [parts.constant(stored.values.numpy())], output, to=TensorProto.FLOAT)
    else:
        parts.tensors.append(numpy_helper.from_array(stored.values.numpy(), output))


def _integer_weight(parts: GraphParts, stored: StoredWeight, output: str) -> None:
    # int8 around zero and a DequantizeLinear that the runtime merges with the layer into an integer kernel.
    if stored.bits == 8 and not sparse_is_smaller(stored):
        codes = parts.constant(stored.differences().numpy().astype(np.int8))
    else:
        codes = parts.add("Cast", [_differences(parts, stored)], to=TensorProto.INT8)
    _dequantize(parts, codes, stored.scale.numpy(), np.dtype(np.int8), output, stored.axis)


def add_integer_bias(parts: GraphParts, stored: StoredWeight, bias: Array) -> str:
    """Appends the bias of an integer kernel, `[channels]`, as int32 in units of input step x weight step."""
    assert stored.input_scale is not None
    scale = stored.scale.numpy() * np.float32(stored.input_scale)
    codes = parts.constant(np.round(bias.astype(np.float64) / scale).astype(np.int32))
    return _dequantize(parts, codes, scale, np.dtype(np.int32), None, 0)


def _dequantize(parts: GraphParts, codes: str, scale: Array, kind: np.dtype[Any], output: str | None, axis: int) -> str:
    # ONNX Runtime builds integer matrix products only where the zero point is written out.
    if scale.size == 1:
        inputs = [codes, parts.constant(scale.reshape(())), parts.constant(np.zeros((), kind))]
        return parts.add("DequantizeLinear", inputs, output)
    inputs = [codes, parts.constant(scale), parts.constant(np.zeros(scale.size, kind))]
    return parts.add("DequantizeLinear", inputs, output, axis=axis)


def _differences(parts: GraphParts, stored: StoredWeight) -> str:
    # Codes minus zero point.
    sparse = sparse_is_smaller(stored)
    plain = stored.differences()
    if stored.bits == 8 and not sparse and int(plain.abs().max()) <= 127:
        return parts.constant(plain.numpy().astype(np.int8))
    if sparse:
        codes, mask = _expanded(parts, stored)
    else:
        flat = _unpacked(parts, stored.values.numpy().ravel(), stored.bits)
        codes, mask = parts.add("Reshape", [flat, _shape(parts, stored)]), ""
    zero = stored.zero_point
    if bool((zero == zero[0]).all()):
        name = parts.constant(np.array(int(zero[0]), np.int32))
    else:
        name = parts.add("Cast", [parts.constant(stored.along_axis(zero).numpy())], to=TensorProto.INT32)
    codes = parts.add("Sub", [codes, name])
    return parts.add("Mul", [codes, mask]) if mask else codes


def _expanded(parts: GraphParts, stored: StoredWeight) -> tuple[str, str]:
    # Values and mask (int32, 1 where the weight is not zero), both in the shape of the weight.
    keep = _nonzero(stored)
    shape = _shape(parts, stored)
    packed = pack_bitmask(keep)
    mask = _digits(parts, packed, 1, keep.size)
    flat = stored.values.numpy().ravel()
    values = np.concatenate([np.zeros(1, flat.dtype), flat[keep]])
    table = _unpacked(parts, values, stored.bits) if stored.quantized else parts.constant(values)
    index = parts.add("CumSum", [mask, parts.constant(np.array(0, np.int64))])
    expanded = parts.add("Reshape", [parts.add("Gather", [table, index]), shape])
    return expanded, parts.add("Reshape", [mask, shape])


def _unpacked(parts: GraphParts, codes: Array, bits: int) -> str:
    # `[L]` int32 from packed codes; part by part, the first holds the low bits.
    packed = pack_bits(codes.astype(np.uint8), bits)
    total, start, shift = "", 0, 0
    for width in bit_parts(bits):
        end = start + -(-codes.size * width // 8)
        part = _digits(parts, packed[start:end], width, codes.size)
        if shift:
            part = parts.add("Mul", [part, parts.constant(np.array(2**shift, np.int32))])
        total = parts.add("Add", [total, part]) if total else part
        start, shift = end, shift + width
    return total


def _digits(parts: GraphParts, packed: Array, width: int, count: int) -> str:
    # `[count]` int32: the `width`-bit digits of every byte, low ones first.
    per_byte = 8 // width
    digits = parts.add("Cast", [parts.constant(packed[:, None])], to=TensorProto.INT32)
    if per_byte > 1:
        powers = np.array([2 ** (width * i) for i in range(per_byte)], np.int32)
        digits = parts.add("Div", [digits, parts.constant(powers)])
        digits = parts.add("Mod", [digits, parts.constant(np.array(2**width, np.int32))])
    digits = parts.add("Reshape", [digits, parts.constant(np.array([-1], np.int64))])
    if packed.size * per_byte == count:
        return digits
    first, last = parts.constant(np.array([0], np.int64)), parts.constant(np.array([count], np.int64))
    return parts.add("Slice", [digits, first, last])


def _shape(parts: GraphParts, stored: StoredWeight) -> str:
    return parts.constant(np.array(stored.values.shape, np.int64))


def _nonzero(stored: StoredWeight) -> NDArray[np.bool_]:
    values = stored.differences() if stored.quantized else stored.values
    return np.asarray((values != 0).numpy().ravel(), bool)


def without_zeros(stored: StoredWeight) -> StoredWeight:
    """The same weight with something else where it is zero, so that it is stored in its plain form."""
    zero, values = stored.zero_point, stored.values
    other = stored.along_axis(torch.where(zero > 0, zero - 1, 1)) if stored.quantized else torch.ones(1)
    zeros = torch.from_numpy(~_nonzero(stored)).view(values.shape)
    return replace(stored, values=torch.where(zeros, other.to(values.dtype), values))


def sparse_is_smaller(stored: StoredWeight) -> bool:
    """Whether a weight is stored as a mask and the values that are not zero."""
    return _sparse_bytes(stored) < _plain_bytes(stored)


def _plain_bytes(stored: StoredWeight) -> int:
    return stored.values.numel() * stored.bits // 8


def _sparse_bytes(stored: StoredWeight) -> int:
    # One bit per weight, the values that are not zero, and about 300 bytes of operators.
    kept, total = int(_nonzero(stored).sum()), stored.values.numel()
    return total // 8 + kept * stored.bits // 8 + 300
