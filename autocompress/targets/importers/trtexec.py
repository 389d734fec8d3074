"""Profiles that TensorRT's `trtexec --exportProfile` wrote, with the shapes that `--exportLayerInfo` adds.

Source: https://github.com/NVIDIA/TensorRT, samples/common/sampleReporting.cpp, `Profiler::exportJSONProfile`; for the
layers, the section on the engine inspector in the developer guide. Before 8.4 or so a profile holds means, no medians.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autocompress.errors import InputError
from autocompress.targets.importers.content import Entry, parse_json, read_text
from autocompress.targets.importers.result import Imported, LayerTime, Unmapped, source_of
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.table_row import LEAST_MS

Shape = tuple[int, ...]

_DTYPES = {"Float": "fp32", "FP32": "fp32", "Half": "fp16", "FP16": "fp16", "Int8": "int8"}
_ACTIVATIONS = {
    "NONE": (),
    "RELU": ("relu",),
    "CLIP": ("clamp",),
    "SIGMOID": ("sigmoid",),
    "TANH": ("tanh",),
    "LEAKY_RELU": ("leaky_relu",),
    "ELU": ("elu",),
}
_POOLS = {"MAX": "max_pool", "AVERAGE": "avg_pool"}


def read_trtexec(path: Path, text: str, layer_info: Path | None) -> Imported:
    """Reads a profile; without `layer_info` no layer has a key.

    Raises:
        InputError: one of the files is not what trtexec writes; the message names the entry.
    """
    entries = parse_json(path, text)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: is no list of layers; write it with trtexec --exportProfile")
    count = Entry.of(f"{path}: entry 0", entries[0]).get("count", int)
    if count < 1:
        raise InputError(f"{path}: entry 0: count is {count}; allowed: 1 or more")
    if len(entries) == 1:
        raise InputError(f"{path}: holds no layer; was the engine run with --dumpProfile or --separateProfileRun?")
    known = _layer_info(layer_info) if layer_info is not None else {}
    missing = "no layer of the layer info has this name" if known else "give the layer info (trtexec --exportLayerInfo)"
    layers, medians = [], True
    for index, value in enumerate(entries[1:], start=1):
        entry = Entry.of(f"{path}: entry {index}", value)
        medians = medians and "medianMs" in entry.data
        p50_ms = entry.time_ms("medianMs" if "medianMs" in entry.data else "averageMs")
        layer = LayerTime(entry.get("name", str), "", p50_ms, None, count, unmapped=missing)
        layers.append(_with_key(layer, known[layer.name]) if layer.name in known else layer)
    remark = "" if medians else ", means"
    return Imported("trtexec", source_of("trtexec", path.name, remark), tuple(layers))


def _layer_info(path: Path) -> Mapping[str, Entry]:
    root = Entry.of(str(path), parse_json(path, read_text(path)))
    layers = root.get("Layers", list)
    if any(isinstance(layer, str) for layer in layers):
        raise InputError(f"{path}: holds names alone; build the engine with --profilingVerbosity=detailed")
    found: dict[str, Entry] = {}
    for index, value in enumerate(layers):
        entry = Entry.of(f"{path}: layer {index}", value)
        name = entry.get("Name", str)
        if name in found:
            raise InputError(f"{entry.place}: {name[:80]!r} stands twice; names must be unique")
        found[name] = entry
    return found


def _with_key(layer: LayerTime, info: Entry) -> LayerTime:
    inputs, outputs = info.entries("Inputs"), info.entries("Outputs")
    in_shapes = tuple(one.shape("Dimensions") for one in inputs)
    out_shape = outputs[0].shape("Dimensions") if len(outputs) == 1 else None
    layer = replace(layer, op=info.get("LayerType", str), in_shapes=in_shapes, out_shape=out_shape, unmapped="")
    try:
        if layer.p50_ms < LEAST_MS:
            raise Unmapped("it takes no time")
        return replace(layer, key=_key(layer, info, inputs))
    except Unmapped as error:
        return replace(layer, unmapped=str(error))


def _key(layer: LayerTime, info: Entry, inputs: Sequence[Entry]) -> KernelKey:
    if layer.out_shape is None:
        raise Unmapped("it writes several tensors")
    shapes = (*layer.in_shapes, layer.out_shape)
    if any(size < 1 for shape in shapes for size in shape):
        raise Unmapped("a dimension is dynamic; fix the shapes when the engine is built")
    if not layer.in_shapes or any(shape[:1] != layer.out_shape[:1] or not shape for shape in shapes):
        raise Unmapped("its tensors do not begin with one batch")
    kind = info.data.get("ParameterType")
    if kind in ("Convolution", "Deconvolution"):
        made = _convolution(info, layer, transposed=kind == "Deconvolution")
    elif kind == "Pooling":
        made = _pooling(info, layer, inputs)
    else:
        raise Unmapped(f"the layer info does not say which operator a layer of type {layer.op[:60]!r} is")
    return replace(
        made,
        in_shapes=tuple(shape[1:] for shape in layer.in_shapes),
        out_shape=layer.out_shape[1:],
        batch=layer.out_shape[0],
    )


def _convolution(info: Entry, layer: LayerTime, transposed: bool) -> KernelKey:
    window, stride, dilation = (info.shape(name) for name in ("Kernel", "Stride", "Dilation"))
    maps, groups, weights = info.get("OutMaps", int), info.get("Groups", int), info.entry("Weights")
    source, out = layer.in_shapes[0], layer.out_shape or ()
    if {len(window), len(stride), len(dilation)} != {2} or {len(source), len(out)} != {4}:
        raise Unmapped("it is no two-dimensional convolution")
    channels = source[1]
    if min(*window, *stride, *dilation, groups) < 1 or channels % groups or maps % groups or maps != out[1]:
        raise Unmapped("its sizes are not those of a convolution")
    shape = (channels, maps // groups, *window) if transposed else (maps, channels // groups, *window)
    if weights.get("Count", int) != math.prod(shape):
        raise Unmapped(f"its weights are not {'x'.join(map(str, shape))}")
    if not transposed and out[2:] != _sides(info, source[2:], window, stride, dilation):
        raise Unmapped("its output is not that of its convolution: something else runs in it as well")
    plain = "RELU" if info.data.get("HasReLU") == 1 else "NONE"
    activation = info.get("Activation", str) if "Activation" in info.data else plain
    # A pointwise kernel that was fused is in the name alone.
    hidden = activation == "NONE" and "PWN(" in layer.name
    if activation not in _ACTIVATIONS or len(layer.in_shapes) > 2 or hidden:
        raise Unmapped(
            f"what is fused into it is not known: activation {activation[:60]!r}, {len(layer.in_shapes)} inputs"
        )
    added = ("add",) if len(layer.in_shapes) == 2 else ()
    return KernelKey(
        op="conv_transpose2d" if transposed else "conv2d",
        aten="",
        dtype=_dtype(weights.get("Type", str)),
        in_shapes=(),
        out_shape=(),
        weight_shape=shape,
        stride=stride,
        dilation=dilation,
        groups=groups,
        fused=(*added, *_ACTIVATIONS[activation]),
    )


def _sides(info: Entry, sides: Shape, window: Shape, stride: Shape, dilation: Shape) -> Shape:
    """The output of a convolution, without channels."""
    padded = zip(sides, info.shape("PrePadding"), info.shape("PostPadding"), strict=False)
    reach = ((size - 1) * step + 1 for size, step in zip(window, dilation, strict=True))
    return tuple((sum(one) - span) // step + 1 for one, span, step in zip(padded, reach, stride, strict=False))


def _pooling(info: Entry, layer: LayerTime, inputs: Sequence[Entry]) -> KernelKey:
    window, kind = info.shape("WindowSize"), info.get("PoolingType", str)
    if kind not in _POOLS or len(window) != 2 or len(layer.in_shapes[0]) != 4:
        raise Unmapped(f"its pooling is not known: {kind!r} over {len(window)} dimensions")
    if window == layer.in_shapes[0][2:]:
        op, aten = "global_pool", {"MAX": "amax", "AVERAGE": "mean"}[kind]
    else:
        op, aten = "pool", f"{_POOLS[kind]}2d"
    dtype = _dtype(inputs[0].get("Format/Datatype", str))
    if op == "global_pool":
        return KernelKey(op, aten, dtype, (), ())
    if "Stride" not in info.data:
        raise Unmapped("its stride is not known")
    return KernelKey(op, aten, dtype, (), (), stride=info.shape("Stride"), window=window)


def _dtype(text: str) -> str:
    words = {_DTYPES[word] for word in re.findall(r"\w+", text) if word in _DTYPES}
    if len(words) != 1:
        raise Unmapped(f"its data type is not known: {text[:60]!r}")
    return words.pop()
