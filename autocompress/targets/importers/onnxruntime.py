"""Profiles that ONNX Runtime wrote with `SessionOptions.enable_profiling`, with the model that adds the attributes.

Source: the profiler's events as ONNX Runtime 1.31 writes them; shapes are in them since 1.12 (pull request 10773).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.errors import InputError
from autocompress.targets.importers.content import Entry, parse_json
from autocompress.targets.importers.onnx_kernels import key_of
from autocompress.targets.importers.onnx_nodes import OnnxModel, OnnxNode, Shape, read_model
from autocompress.targets.importers.result import Imported, LayerTime, Unmapped, source_of
from autocompress.targets.table_row import LEAST_MS

_SUFFIX = "_kernel_time"
# Only there does a node take as long as its kernel: others may return before their device has ended.
_PROVIDER = "CPUExecutionProvider"
_DTYPES = {"float": "fp32", "float16": "fp16", "uint8": "int8", "int8": "int8"}


@dataclass(frozen=True)
class _Call:
    """What one node ran on; `index` tells nodes of the same name apart."""

    name: str
    index: int
    op: str
    provider: str
    inputs: tuple[tuple[str, Shape], ...]
    outputs: tuple[tuple[str, Shape], ...]


def read_onnxruntime(path: Path, text: str, model: Path | None) -> Imported:
    """Reads a profile; without the `model` only operators without weights and attributes have a key.

    Raises:
        InputError: one of the files is not what ONNX Runtime writes; the message names the event.
    """
    events = parse_json(path, text)
    if not isinstance(events, list):
        raise InputError(f"{path}: is no list of events; write it with SessionOptions.enable_profiling")
    times_ms: dict[_Call, list[float]] = {}
    for index, value in enumerate(events):
        event = Entry.of(f"{path}: event {index}", value)
        name = event.data.get("name")
        if event.data.get("cat") == "Node" and isinstance(name, str) and name.endswith(_SUFFIX):
            times_ms.setdefault(_call(event, name.removesuffix(_SUFFIX)), []).append(event.time_ms("dur", per_ms=1e3))
    if not times_ms:
        raise InputError(f"{path}: holds no event of a kernel; was the session run, and ended with end_profiling()?")
    nodes = _nodes(times_ms, read_model(model)) if model is not None else {}
    layers = tuple(_layer(call, times, nodes.get(call)) for call, times in times_ms.items())
    return Imported("onnxruntime", source_of("onnxruntime", path.name), layers)


def _call(event: Entry, name: str) -> _Call:
    args = event.entry("args")
    index = str(args.data.get("node_index", "0"))
    return _Call(
        name=name,
        index=int(index) if index.isascii() and index.isdigit() and len(index) < 10 else 0,
        op=args.get("op_name", str),
        provider=str(args.data.get("provider", "")),
        inputs=_tensors(args, "input_type_shape"),
        outputs=_tensors(args, "output_type_shape"),
    )


def _tensors(args: Entry, key: str) -> tuple[tuple[str, Shape], ...]:
    """The types and shapes under `key`; none in the profiles of older versions."""
    if key not in args.data:
        return ()
    return tuple((name, one.shape(name)) for one in args.entries(key) for name in one.data)


def _nodes(calls: Mapping[_Call, Any], model: OnnxModel) -> dict[_Call, OnnxNode]:
    """The node of each call: by name, and without one by its place among those of its operator."""
    unnamed: dict[str, set[int]] = {}
    for call in calls:
        if call.name == f"{call.op}_{call.index}":
            unnamed.setdefault(call.op, set()).add(call.index)
    found = {}
    for call in calls:
        nodes, indices = model.unnamed.get(call.op, ()), sorted(unnamed.get(call.op, ()))
        if call.name in model.named:
            found[call] = model.named[call.name]
        elif call.index in indices and len(nodes) == len(indices):
            found[call] = nodes[indices.index(call.index)]
    return found


def _layer(call: _Call, times_ms: Sequence[float], node: OnnxNode | None) -> LayerTime:
    p50_ms, p90_ms = (float(value) for value in np.quantile(times_ms, [0.5, 0.9]))
    shapes = tuple(shape for _, shape in call.inputs)
    out = call.outputs[0][1] if len(call.outputs) == 1 else None
    key, unmapped = None, ""
    try:
        if p50_ms < LEAST_MS:
            raise Unmapped("it takes less than the microsecond that the profile can tell")
        if call.provider != _PROVIDER:
            raise Unmapped(f"it ran in {call.provider[:60]!r}, where a call may end before its kernel")
        if not call.inputs or out is None or call.inputs[0][0] not in _DTYPES:
            raise Unmapped("the profile does not say the types and shapes of its tensors, or it writes several")
        key = key_of(call.op, node, shapes, out, _DTYPES[call.inputs[0][0]])
    except Unmapped as error:
        unmapped = str(error)
    return LayerTime(call.name, call.op, p50_ms, p90_ms, len(times_ms), shapes, out, key, unmapped)
