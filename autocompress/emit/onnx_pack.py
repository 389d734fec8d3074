"""Weights inside an ONNX file: packed initializers and the standard operators that unpack them.

A runtime folds the operators away when it opens the file, so packed weights cost load time only.

Layouts (`L` is the number of weights, `b` the bits):

- codes: `pack_bits` of the codes; each power-of-two part is unpacked as `part[:, None] / [1, 2^p, ...] % 2^p`.
- mask: `pack_bitmask` of the weights that are not zero, and only their values, after one value that is never used. The
  running sum of the mask is the index of each weight's value.
- The codes of small weights that are stored alike follow one another as those of one weight, and their scales too.
- 8-bit codes are int8 where they lie around zero; 16 is float16, 32 float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from autocompress.core.codec import bit_parts, bitmask_bytes, pack_bitmask, pack_bits, packed_bytes
from autocompress.emit.fold import StoredWeight

Array = NDArray[np.generic]
# Weights of more values are unpacked by themselves: operators are little beside them, and whoever opens a file has less
# in memory at once.
_SMALL = 2**16
# Bytes of what expands a mask, and of what each weight of those that are expanded as one takes besides.
_EXPANDING, _EACH = 300, 40
# So many vectors take less as one and a Split.
_MANY = 4


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
        return self._append(op, inputs, [output or self._fresh()], attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], count: int, **attributes: int) -> list[str]:
        """Appends a node with several outputs and returns their names."""
        return self._append(op, inputs, [self._fresh() for _ in range(count)], attributes)

    def _append(self, op: str, inputs: Sequence[str], outputs: list[str], attributes: Mapping[str, Any]) -> list[str]:
        self.nodes.append(helper.make_node(op, list(inputs), outputs, None, None, None, None, **attributes))
        return outputs

    def _fresh(self) -> str:
        self._count += 1
        return f"\0{self._count}"


def add_weights(parts: GraphParts, weights: Mapping[str, StoredWeight]) -> None:
    """Appends what is needed to have every weight under its name, each in the smaller of its forms.

    Small weights that are stored alike are unpacked as one and split: what unpacks one of them can be larger than it.
    """
    sparse = sparse_weights(weights)
    packed: dict[tuple[_Form, bool], dict[str, StoredWeight]] = {}
    for name, stored in weights.items():
        is_sparse = name in sparse
        if not is_sparse and _is_plain(stored):
            _add_plain(parts, stored, name)
        else:
            packed.setdefault((_form(stored, name), is_sparse), {})[name] = stored
    for (form, is_sparse), group in packed.items():
        _add_packed(parts, form, is_sparse, group)


class _Form(NamedTuple):
    """What weights that are unpacked as one have in common.

    Attributes:
        is_integer: An integer kernel reads them.
        alone: The name of a weight that is unpacked by itself.
    """

    bits: int
    is_integer: bool
    alone: str


def _form(stored: StoredWeight, name: str) -> _Form:
    return _Form(stored.bits, stored.input_scale is not None, "" if stored.values.numel() <= _SMALL else name)


def _is_plain(stored: StoredWeight) -> bool:
    # Floats, and 8-bit codes around zero.
    return not stored.quantized or (stored.bits == 8 and int(stored.differences().abs().max()) <= 127)


def _add_plain(parts: GraphParts, stored: StoredWeight, output: str) -> None:
    if stored.quantized:
        codes = parts.constant(stored.differences().numpy().astype(np.int8))
        if stored.input_scale is None:
            codes = parts.add("Cast", [codes], to=TensorProto.FLOAT)
        _add_scaled(parts, {output: stored}, [codes])
    elif stored.bits == 16:
        parts.add("Cast", [parts.constant(stored.values.numpy())], output, to=TensorProto.FLOAT)
    else:
        parts.tensors.append(numpy_helper.from_array(stored.values.numpy(), output))


def _add_packed(parts: GraphParts, form: _Form, is_sparse: bool, group: Mapping[str, StoredWeight]) -> None:
    weights, mask = list(group.values()), ""
    zeros = torch.cat([stored.zero_point for stored in weights])
    zero = int(zeros[0]) if len(zeros) and bool((zeros == zeros[0]).all()) else None
    flat = np.concatenate([stored.values.numpy().ravel() for stored in weights])
    if is_sparse:
        values, mask = _expanded(parts, flat, np.concatenate(list(map(_nonzero, weights))), form.bits)
    else:
        values = _unpacked(parts, flat, form.bits)
    if zero is not None:
        values = parts.add("Sub", [values, parts.constant(np.array(zero, np.int32))])
        values = parts.add("Mul", [values, mask]) if mask else values
    # An integer kernel reads int8 around zero.
    is_ready = form.is_integer and zero is not None
    if form.bits < 32:
        values = parts.add("Cast", [values], to=TensorProto.INT8 if is_ready else TensorProto.FLOAT)
    if mask and zero is None:
        mask = parts.add("Cast", [mask], to=TensorProto.FLOAT)
    if form.bits > 8:
        _split(parts, parts.add("Mul", [values, mask]), weights, list(group))
        return
    codes = _split(parts, values, weights)
    if zero is None:
        own = _vectors(parts, weights, [stored.zero_point for stored in weights])
        codes = [parts.add("Sub", pair) for pair in zip(codes, own, strict=True)]
        if mask:
            codes = [parts.add("Mul", pair) for pair in zip(codes, _split(parts, mask, weights), strict=True)]
        if form.is_integer:
            codes = [parts.add("Cast", [name], to=TensorProto.INT8) for name in codes]
    _add_scaled(parts, group, codes)


def _add_scaled(parts: GraphParts, group: Mapping[str, StoredWeight], codes: Sequence[str]) -> None:
    """Codes times scales; for integer kernels by a DequantizeLinear that the runtime merges with the layer."""
    weights = list(group.values())
    if weights[0].input_scale is not None:
        for (name, stored), code in zip(group.items(), codes, strict=True):
            _dequantize(parts, code, stored.scale.numpy(), np.dtype(np.int8), name, stored.axis)
        return
    scales = _vectors(parts, weights, [stored.scale for stored in weights])
    for name, code, scale in zip(group, codes, scales, strict=True):
        parts.add("Mul", [code, scale], name)


def _split(
    parts: GraphParts, flat: str, weights: Sequence[StoredWeight], outputs: Sequence[str] | None = None
) -> list[str]:
    """The values of every weight in its shape."""
    pieces = _pieces(parts, flat, [stored.values.numel() for stored in weights], 0)
    names: Sequence[str | None] = outputs or [None] * len(pieces)
    shapes = [parts.constant(np.array(stored.values.shape, np.int64)) for stored in weights]
    return [
        parts.add("Reshape", [piece, shape], name) for piece, shape, name in zip(pieces, shapes, names, strict=True)
    ]


def _vectors(parts: GraphParts, weights: Sequence[StoredWeight], vectors: Sequence[Tensor]) -> list[str]:
    """Floats that broadcast against the weights; many that run along the same axis are stored as one."""
    shaped = [stored.along_axis(vector) for stored, vector in zip(weights, vectors, strict=True)]
    alike: dict[tuple[int, int], list[int]] = {}
    for place, (stored, vector) in enumerate(zip(weights, shaped, strict=True)):
        alike.setdefault((vector.dim(), stored.axis if vector.dim() > 1 else 0), []).append(place)
    found = [""] * len(weights)
    for (_, axis), places in alike.items():
        together = [places] if len(places) >= _MANY else [[place] for place in places]
        for some in together:
            name = parts.constant(torch.cat([shaped[place] for place in some], axis).numpy())
            if not shaped[some[0]].is_floating_point():
                name = parts.add("Cast", [name], to=TensorProto.FLOAT)
            pieces = _pieces(parts, name, [shaped[place].numel() for place in some], axis)
            for place, piece in zip(some, pieces, strict=True):
                found[place] = piece
    return found


def _pieces(parts: GraphParts, name: str, sizes: Sequence[int], axis: int) -> list[str]:
    if len(sizes) == 1:
        return [name]
    along = {"axis": axis} if axis else {}
    return parts.add_many("Split", [name, parts.constant(np.array(sizes, np.int64))], len(sizes), **along)


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


def _expanded(parts: GraphParts, flat: Array, keep: NDArray[np.bool_], bits: int) -> tuple[str, str]:
    # Values `[L]`, and a mask, int32, 1 where the weight is not zero.
    mask = _digits(parts, pack_bitmask(keep), 1, keep.size)
    values = np.concatenate([np.zeros(1, flat.dtype), flat[keep]])
    table = _unpacked(parts, values, bits) if bits <= 8 else parts.constant(values)
    index = parts.add("CumSum", [mask, parts.constant(np.array(0, np.int64))])
    return parts.add("Gather", [table, index]), mask


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


def _nonzero(stored: StoredWeight) -> NDArray[np.bool_]:
    values = stored.differences() if stored.quantized else stored.values
    return np.asarray((values != 0).numpy().ravel(), bool)


def without_zeros(stored: StoredWeight) -> StoredWeight:
    """The same weight with something else where it is zero, so that it is stored in its plain form."""
    zero, values = stored.zero_point, stored.values
    other = stored.along_axis(torch.where(zero > 0, zero - 1, 1)) if stored.quantized else torch.ones(1)
    zeros = torch.from_numpy(~_nonzero(stored)).view(values.shape)
    return replace(stored, values=torch.where(zeros, other.to(values.dtype), values))


def sparse_weights(weights: Mapping[str, StoredWeight]) -> set[str]:
    """The weights that are stored as masks and values that are not zero, since that takes less."""
    saving: dict[_Form, dict[str, int]] = {}
    for name, stored in weights.items():
        kept, total = int(_nonzero(stored).sum()), stored.values.numel()
        saved = packed_bytes(total, stored.bits) - bitmask_bytes(total, kept, stored.bits) - _EACH
        if saved > 0:
            saving.setdefault(_form(stored, name), {})[name] = saved
    return {name for saved in saving.values() if sum(saved.values()) > _EXPANDING for name in saved}
