"""The nodes of an ONNX model, to find what a profile leaves out: attributes, and which inputs are weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from autocompress.errors import InputError
from autocompress.targets.importers.content import read_bytes
from autocompress.targets.importers.result import Unmapped

MAX_MODEL_BYTES = (1 << 31) - 1
# Attributes of other kinds belong to no operator that has a key.
_KINDS = (onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.STRING)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OnnxNode:
    """One node; `weights` holds the shape of every input that is stored in the model."""

    op: str
    inputs: tuple[str, ...]
    weights: Mapping[str, Shape]
    attributes: Mapping[str, Any]

    def sizes(self, name: str, count: int) -> Shape:
        """The list of sizes under `name`, which is all ones where the node does not say."""
        value = self.attributes.get(name) or [1] * count
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(type(one) is int and one >= 1 for one in value)
        ):
            raise Unmapped(f"its {name} are not {count} sizes")
        return tuple(value)

    def whole(self, name: str, default: int) -> int:
        """The whole number under `name`."""
        value = self.attributes.get(name, default)
        if type(value) is not int:
            raise Unmapped(f"its {name} is no whole number")
        return value

    def activations(self, listed: tuple[Shape, ...]) -> tuple[Shape, ...]:
        """The shapes of the tensors that are no weights, each once, out of the list in a profile.

        ONNX Runtime lists inputs in order, without those that are absent and without weights that it has packed.
        """
        found: dict[str, Shape] = {}
        rest = list(listed)
        for name in filter(None, self.inputs):
            if name in self.weights:
                if rest and rest[0] == self.weights[name]:
                    rest.pop(0)
            elif rest:
                found[name] = rest.pop(0)
            else:
                raise Unmapped("the profile lists fewer inputs than the model")
        if rest:
            raise Unmapped("the profile lists other inputs than the model")
        return tuple(found.values())

    def weight(self, position: int) -> Shape:
        """The shape of the weight at an input."""
        name = self.inputs[position] if position < len(self.inputs) else ""
        shape = self.weights.get(name, ())
        if len(shape) < 2 or min(shape) < 1:
            raise Unmapped("its weights are not stored in the model")
        return shape


@dataclass(frozen=True)
class OnnxModel:
    """The nodes of a model by name; those without one in order, by operator."""

    named: Mapping[str, OnnxNode]
    unnamed: Mapping[str, tuple[OnnxNode, ...]]


def read_model(path: Path) -> OnnxModel:
    """Reads the nodes of the main graph; nothing in the file is run, and no other file is read.

    Raises:
        InputError: the file cannot be read, or is no ONNX model.
    """
    content = read_bytes(path, MAX_MODEL_BYTES)
    try:
        graph = onnx.load_model_from_string(content).graph
        weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        nodes = [(proto.name, _node(proto, weights)) for proto in graph.node]
    except (DecodeError, UnicodeDecodeError):
        nodes = []
    if not nodes:
        raise InputError(f"{path} is no ONNX model with nodes; give the one that was profiled")
    times = Counter(name for name, _ in nodes)
    unnamed: dict[str, list[OnnxNode]] = {}
    for name, node in nodes:
        if not name:
            unnamed.setdefault(node.op, []).append(node)
    named = {name: node for name, node in nodes if name and times[name] == 1}
    return OnnxModel(named, {op: tuple(found) for op, found in unnamed.items()})


def _node(proto: onnx.NodeProto, weights: Mapping[str, Shape]) -> OnnxNode:
    stored = {name: weights[name] for name in proto.input if name in weights}
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in proto.attribute if one.type in _KINDS}
    return OnnxNode(proto.op_type, tuple(proto.input), stored, attributes)
