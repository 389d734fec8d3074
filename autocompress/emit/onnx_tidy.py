"""Small clean-ups of an ONNX graph, in place."""

from __future__ import annotations

import string
from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def separate_tensors(graph: GraphProto) -> None:
    """Gives every layer its own tensors again: the exporter shares equal ones, but they may be stored differently."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in tensors]:
        copied = TensorProto()
        copied.CopyFrom(tensors[node.input[0]])
        copied.name = node.output[0]
        graph.initializer.append(copied)
        graph.node.remove(node)


def merge_slices(graph: GraphProto) -> None:
    """Turns a Slice of a Slice along another axis into one, as `x[:, :, ::2, ::2]` is meant."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    made = {node.output[0]: node for node in graph.node}
    outputs = {value.name for value in graph.output}
    for node in list(graph.node):
        before = made.get(node.input[0]) if node.op_type == "Slice" else None
        if before is None or before.op_type != "Slice" or readers[before.output[0]] > 1 or before.output[0] in outputs:
            continue
        first, second = (_slice_arguments(each, constants) for each in (before, node))
        if first is None or second is None or set(first[2]) & set(second[2]):
            continue
        joined = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
        names = [f"{node.output[0]}/{part}" for part in ("starts", "ends", "axes", "steps")]
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in zip(names, joined, strict=True)
        )
        constants.update(zip(names, joined, strict=True))
        del node.input[:]
        node.input.extend([before.input[0], *names])
        graph.node.remove(before)


def _slice_arguments(node: NodeProto, constants: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """Starts, ends, axes and steps, or None where they are not all written out."""
    if len(node.input) < 4 or not all(name in constants for name in node.input[1:]):
        return None
    values = [constants[name] for name in node.input[1:]]
    if len(values) == 3:
        values.append(np.ones_like(values[0]))
    return None if (values[2] < 0).any() else values


def fold_constants(graph: GraphProto, opset: int, *, weights: bool = False) -> None:
    """Evaluates the nodes that depend on constants alone (shapes, pads), and with `weights` on initializers too."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if weights}
    kept = []
    for node in graph.node:
        # A DequantizeLinear stays beside the integers that it belongs to.
        if node.domain or node.op_type == "DequantizeLinear" or not all(name in known for name in node.input if name):
            kept.append(node)
            continue
        kinds = {name: helper.np_dtype_to_tensor_dtype(known[name].dtype) for name in node.input if name}
        inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        single = helper.make_graph([node], "constant", inputs, outputs)
        results = ReferenceEvaluator(single, opsets={"": opset}).run(None, {name: known[name] for name in kinds})
        known.update(zip(node.output, map(np.asarray, results), strict=True))
    present = {tensor.name for tensor in graph.initializer}
    used = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in known.items() if name in used and name not in present
    )
    del graph.node[:]
    graph.node.extend(kept)


def drop_unused(graph: GraphProto) -> None:
    """Removes nodes and tensors that no output needs."""
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)


def shorten(graph: GraphProto) -> None:
    """Renames every value that is not an input or output of the graph."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    taken = set(names)
    fresh = (name for name in _short_names() if name not in taken)
    for tensor in graph.initializer:
        names[tensor.name] = names.get(tensor.name) or next(fresh)
        tensor.name = names[tensor.name]
    for node in graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                if name and name not in names:
                    names[name] = next(fresh)
                values[i] = names.get(name, name)


def _short_names() -> Iterator[str]:
    letters = string.ascii_letters
    yield from letters
    for prefix in _short_names():
        for letter in letters:
            yield prefix + letter
