"""A compressed model as plain JSON and packed tensors, and back: without the user's code and without pickle.

What is read may come from anywhere. Modules are built from a literal table, operators are looked up among the
functional aten ones by exact overload, every name that reaches generated code is checked, and nothing is run.
"""

from __future__ import annotations

import keyword
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from autocompress.compress.quantize import weight_parametrizations, weight_quantizer
from autocompress.compress.quantizer import ActivationQuantizer, HalfWeight
from autocompress.core.codec import bitmask_bytes, pack_bitmask, pack_bits, packed_bytes, unpack_bitmask, unpack_bits
from autocompress.core.plan import RANGES, WEIGHT_BITS
from autocompress.emit.fold import StoredWeight
from autocompress.errors import InputError, UnsupportedError, nearest
from autocompress.graph.layers import layer_op
from autocompress.graph.lift import attach

Tensors = dict[str, Tensor]

_MAX_NODES, _MAX_DEPTH = 100_000, 8
_PYTHON = {f.__name__: f for f in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.getitem)}
# Arguments of operators that JSON has no word for.
_CONSTANTS: dict[str, Any] = {
    repr(value): value
    for value in (
        *(math.inf, -math.inf, math.nan, torch.strided, torch.device("cpu")),
        *(torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_float(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_ints(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) <= 64 and all(map(_is_int, value))


def _is_argument(value: Any) -> bool:
    plain = value is None or type(value) is bool or _is_int(value) or _is_float(value) or _is_ints(value)
    return plain or value in ("same", "valid", *RANGES)


_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias")
_NORM = ("num_features", "eps", "momentum", "affine")
# Every module that a file may hold, with the arguments that make it.
_KINDS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "Conv1d": (nn.Conv1d, _CONV),
    "Conv2d": (nn.Conv2d, _CONV),
    "ConvTranspose2d": (nn.ConvTranspose2d, (*_CONV, "output_padding")),
    "Linear": (nn.Linear, ("in_features", "out_features", "bias")),
    "Embedding": (nn.Embedding, ("num_embeddings", "embedding_dim", "padding_idx")),
    "BatchNorm1d": (nn.BatchNorm1d, _NORM),
    "BatchNorm2d": (nn.BatchNorm2d, _NORM),
    "BatchNorm3d": (nn.BatchNorm3d, _NORM),
    "Dropout": (nn.Dropout, ("p",)),
    "Dropout2d": (nn.Dropout2d, ("p",)),
    "ActivationQuantizer": (ActivationQuantizer, ("bits", "range_method")),
}
# What is known of the value of a node, by key: what JSON may hold, and what it stands for.
_META: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "shape": (_is_ints, tuple),
    "shapes": (lambda v: type(v) in (list, tuple) and all(map(_is_ints, v)), lambda v: tuple(map(tuple, v))),
    "int": (_is_int, int),
    "dtype": (lambda value: isinstance(_CONSTANTS.get(str(value)), torch.dtype), _CONSTANTS.get),
}
# How many arguments a node has, where its operator does not say.
_ARITY = {"placeholder": 0, "get_attr": 0, "call_module": 1, "call_method": 2, "output": 1}


def graph_to_dict(module: fx.GraphModule) -> tuple[dict[str, Any], Tensors]:
    """Writes a lifted graph as JSON-able data and tensors, with every weight in the form it is stored in.

    Args:
        module: A compressed model; it is not changed.

    Returns:
        The data, with the keys `modules`, `weights`, `state` and `nodes`, and tensors by path. A weight of 2-8 bits is
        its packed codes, `<path>.scale` and `<path>.zero_point`; one of which only the values that are not zero are
        kept has a `<path>.mask`, one bit per value.

    Raises:
        UnsupportedError: the graph holds a module, operator or argument that has no stored form.
    """
    tensors: Tensors = {}
    data: dict[str, Any] = {"modules": {}, "weights": {}, "state": {}, "nodes": []}
    with torch.no_grad():
        for path in dict.fromkeys(str(node.target) for node in module.graph.nodes if node.op == "call_module"):
            data["modules"][path] = _write_module(module.get_submodule(path), path, data["weights"], tensors)
    for node in module.graph.nodes:
        if node.op == "get_attr" and str(node.target).rpartition(".")[0] not in data["modules"]:
            value = operator.attrgetter(str(node.target))(module)
            data["state"][node.target] = "parameter" if isinstance(value, nn.Parameter) else "buffer"
            tensors[str(node.target)] = _plain(value)
        data["nodes"].append(_write_node(node))
    return data, tensors


def graph_from_dict(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """Reads what `graph_to_dict` wrote.

    Returns:
        A graph module in evaluation mode whose layers carry the weights that the compressed model computed with,
        dequantized and without masks, and the same activation quantizers.

    Raises:
        InputError: the data is damaged, or asks for what a lifted graph cannot hold.
    """
    modules, weights, state = (_mapping(data.get(key), key) for key in ("modules", "weights", "state"))
    left = dict(tensors)
    root = nn.Module()
    built: dict[str, nn.Module] = {}
    # Parents come before their children, which `attach` then keeps.
    for path in sorted(modules):
        built[path] = _read_module(path, modules[path], weights, left)
        _attach(root, path, built[path])
    for path, role in state.items():
        tensor = _take(left, path)
        if role not in ("parameter", "buffer") or (role == "parameter" and not tensor.is_floating_point()):
            raise InputError(f"state {path!r} is {role!r} of {tensor.dtype}; allowed: a buffer or a float parameter")
        _attach(root, path, nn.Parameter(tensor) if role == "parameter" else tensor)
    unknown = sorted(set(left) | {path for path in weights if path.removesuffix(".weight") not in built})
    if unknown:
        raise InputError(f"tensor {unknown[0]!r} belongs to nothing in the graph")
    known = set(state) | {f"{path}.{name}" for path, layer in built.items() for name in layer.state_dict()}
    graph = _GraphReader(set(built), known).read(data.get("nodes"))
    return fx.GraphModule(root, graph, class_name="LiftedModel").eval()


def _write_module(layer: nn.Module, path: str, weights: dict[str, Any], tensors: Tensors) -> list[Any]:
    cls = type(layer).__bases__[0] if parametrize.is_parametrized(layer) else type(layer)
    kind = next((name for name, (make, _) in _KINDS.items() if make is cls), None)
    if kind is None:
        raise UnsupportedError(f"module {path!r} is a {cls.__name__}; a stored graph holds {', '.join(_KINDS)}")
    arguments: dict[str, Any] = {}
    for name in _KINDS[kind][1]:
        value = getattr(layer, name)
        arguments[name] = value is not None if name == "bias" else list(value) if isinstance(value, tuple) else value
    if layer_op(layer) is not None:
        weights.update(_pack(layer, f"{path}.weight", tensors))
    for name, value in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
        if name != "num_batches_tracked" and not (name == "weight" and layer_op(layer) is not None):
            tensors[f"{path}.{name}"] = _plain(value)
    return [kind, arguments]


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()


def _pack(layer: Any, path: str, tensors: Tensors) -> dict[str, list[int]]:
    """Stores one weight in as few bytes as give back the very values that the model computes with."""
    weight, quantizer, empty = _plain(layer.weight), weight_quantizer(layer), torch.empty(0)
    stored = StoredWeight(weight, 32, empty, empty, 0)
    if quantizer is not None:
        # The weight lies on the grid already: its codes are the codes that made it.
        codes, scale, zero_point = quantizer.codes(weight)
        stored = StoredWeight(codes, quantizer.bits, scale, zero_point.to(torch.uint8), quantizer.axis)
    elif any(isinstance(each, HalfWeight) for each in weight_parametrizations(layer)):
        stored = StoredWeight(weight.half(), 16, empty, empty, 0)
    if weight.dtype is not torch.float32 or not torch.equal(stored.dequantized(), weight):
        tensors[path] = weight
        return {}
    values, kept = stored.values.flatten(), weight.flatten() != 0
    if bitmask_bytes(kept.numel(), int(kept.sum()), stored.bits) < packed_bytes(kept.numel(), stored.bits):
        tensors[f"{path}.mask"] = torch.from_numpy(pack_bitmask(kept.numpy()))
        values = values[kept]
    if stored.quantized:
        values = torch.from_numpy(pack_bits(values.numpy(), stored.bits))
        tensors[f"{path}.scale"], tensors[f"{path}.zero_point"] = _plain(stored.scale), _plain(stored.zero_point)
    tensors[path] = values
    return {path: [stored.bits, stored.axis]}


def _unpack(entry: Any, path: str, shape: torch.Size, left: Tensors) -> Tensor:
    """The weight of `shape` that `_pack` stored."""
    known = _is_ints(entry) and len(entry) == 2 and entry[0] in (*WEIGHT_BITS, 32) and 0 <= entry[1] < len(shape)
    if not known:
        raise InputError(f"weight {path!r} has the form {entry!r}; allowed: bits (2-8, 16, 32) and an axis of its own")
    (bits, axis), mask, scale, zero_point = entry, None, torch.empty(0), torch.empty(0)
    try:
        if f"{path}.mask" in left:
            mask = torch.from_numpy(unpack_bitmask(_take(left, f"{path}.mask", torch.uint8).numpy(), shape.numel()))
        count = shape.numel() if mask is None else int(mask.sum())
        values = _take(left, path, {16: torch.float16, 32: torch.float32}.get(bits, torch.uint8)).flatten()
        values = torch.from_numpy(unpack_bits(values.numpy(), bits, count)) if bits <= 8 else values
    except ValueError as error:
        raise InputError(f"weight {path!r}: {error}") from None
    if values.numel() != count:
        raise InputError(f"weight {path!r} holds {values.numel()} values; it takes {count}")
    if bits <= 8:
        scale, zero_point = _take(left, f"{path}.scale", torch.float32), _take(left, f"{path}.zero_point", torch.uint8)
        if scale.shape != zero_point.shape or tuple(scale.shape) not in ((1,), (shape[axis],)):
            raise InputError(f"weight {path!r} has scales {list(scale.shape)}; allowed: [1] or [{shape[axis]}]")
    if mask is not None:
        values = torch.zeros(shape.numel(), dtype=values.dtype).masked_scatter(mask, values)
    weight = StoredWeight(values.view(shape), bits, scale, zero_point, axis).dequantized()
    return weight if mask is None else torch.where(mask.view(shape), weight, 0.0)


def _read_module(path: str, entry: Any, weights: Mapping[str, Any], left: Tensors) -> nn.Module:
    kind, arguments = entry if isinstance(entry, list) and len(entry) == 2 else ("", {})
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"module {path!r} is {_short(entry)}; allowed: a kind ({', '.join(_KINDS)}) and its arguments")
    make, names = _KINDS[kind]
    if set(_mapping(arguments, path)) != set(names) or not all(map(_is_argument, arguments.values())):
        raise InputError(f"module {path!r} has {_short(arguments)}; {kind} takes numbers for {', '.join(names)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    try:
        # On the device "meta" a size that is claimed takes no memory until a tensor of that size is there.
        with torch.device("meta"):
            layer = make(**values)
    except (ValueError, TypeError, RuntimeError, AssertionError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"module {path!r}: {kind} cannot be made: {error}") from None
    for name, empty in (*layer.named_parameters(), *layer.named_buffers()):
        tensor = torch.zeros((), dtype=torch.int64)
        if name != "num_batches_tracked":
            tensor = _floats(f"{path}.{name}", empty.shape, weights, left)
        setattr(layer, name, nn.Parameter(tensor) if isinstance(empty, nn.Parameter) else tensor)
    return layer


def _floats(path: str, shape: torch.Size, weights: Mapping[str, Any], left: Tensors) -> Tensor:
    if path in weights:
        return _unpack(weights[path], path, shape, left)
    tensor = _take(left, path)
    if tensor.shape != shape or not tensor.is_floating_point():
        raise InputError(
            f"tensor {path!r} is {tensor.dtype} {list(tensor.shape)}; its module takes floats {list(shape)}"
        )
    return tensor


def _take(left: Tensors, path: str, dtype: torch.dtype | None = None) -> Tensor:
    if path not in left:
        raise InputError(f"tensor {path!r} is missing")
    tensor = left.pop(path)
    if dtype is not None and tensor.dtype is not dtype:
        raise InputError(f"tensor {path!r} is {tensor.dtype}; it must be {dtype}")
    return tensor


def _attach(root: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    if not all(part.isascii() and part.replace("_", "0").isalnum() for part in path.split(".")):
        raise InputError(f"{path!r} is no path of a module; allowed: letters, digits and _ between dots")
    try:
        attach(root, path, value)
    except KeyError as error:
        raise InputError(f"{path!r} cannot be placed in the model: {error}") from None


def _write_node(node: fx.Node) -> list[Any]:
    target: Any = node.target
    if node.op == "call_function":
        target = str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", "")
        try:
            _operator(target)
        except InputError as error:
            raise UnsupportedError(f"node {node.name!r}: {error}") from None
    meta = {key: repr(value) if key == "dtype" else value for key, value in node.meta.items() if key in _META}
    args, kwargs = [_encode(arg, node) for arg in node.args], {k: _encode(arg, node) for k, arg in node.kwargs.items()}
    return [node.op, node.name, target, args, kwargs, meta]


def _operator(name: Any) -> Any:
    """The function of that name, if it only computes tensors from its arguments."""
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) == 1 and name in _PYTHON:
        return _PYTHON[name]
    packet = getattr(torch.ops.aten, parts[1], None) if len(parts) == 3 and parts[0] == "aten" else None
    found = getattr(packet, parts[2], None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    if not isinstance(found, torch._ops.OpOverload):
        raise InputError(f"operator {_short(name)} is not known; allowed: aten.<name>.<overload>, {', '.join(_PYTHON)}")
    # Private operators may trust their arguments; from_file reads files; some old ones write them or return no tensor.
    private = parts[1].startswith("_") and not parts[1].startswith("__") and torch.Tag.core not in found.tags
    results = {str(each.type) for each in found._schema.returns}
    tensors = bool(results) and results <= {"Tensor", "List[Tensor]"} and not found._schema.is_mutable
    if private or not tensors or parts[1] == "from_file":
        raise InputError(f"operator {name} is not allowed; a stored graph holds public ones that return new tensors")
    return found


def _encode(value: Any, node: fx.Node) -> Any:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, tuple | list):
        items = [_encode(item, node) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, slice):
        return {"slice": [_encode(item, node) for item in (value.start, value.stop, value.step)]}
    if value is None or isinstance(value, bool) or _is_int(value) or _is_float(value):
        return value
    if repr(value) in _CONSTANTS:
        return {"constant": repr(value)}
    raise UnsupportedError(f"node {node.name!r} has the argument {value!r}, which has no stored form")


class _GraphReader:
    """Rebuilds a graph node by node; a node may only refer to the ones before it."""

    def __init__(self, modules: set[str], state: set[str]) -> None:
        self.targets = {"get_attr": state, "call_module": modules, "call_method": {"size"}, "output": {"output"}}
        self.graph = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        self.inputs: set[str] = set()

    def read(self, entries: Any) -> fx.Graph:
        """The graph of these entries, which end with its one output."""
        if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_NODES:
            raise InputError(f"nodes is {_short(entries)}; it must be a list of 1 to {_MAX_NODES} nodes")
        for index, entry in enumerate(entries):
            whole = isinstance(entry, list) and len(entry) == 6 and isinstance(entry[3], list)
            if not whole or (entry[0] == "output") != (index == len(entries) - 1):
                raise InputError(f"node {index} is {_short(entry)}; allowed: [op, name, target, args, kwargs, meta]")
            self._add(*entry)
        return self.graph

    def _add(self, op: Any, name: Any, target: Any, args: list[Any], kwargs: Any, meta: Any) -> None:
        if not _is_name(name) or name in self.nodes:
            raise InputError(f"node name {_short(name)} stands twice or is no identifier")
        where = f"node {name!r}"
        values = tuple(self._decode(value, 0) for value in args)
        named = {key: self._decode(value, 0) for key, value in _mapping(kwargs, where).items()}
        found = self._target(op, target)
        arity = 2 if found in _PYTHON.values() else _ARITY.get(op, len(args))
        called = op in ("call_module", "call_method")
        fits = len(args) == arity and (not called or isinstance(values[0], fx.Node))
        if not fits or (named and op != "call_function") or not all(map(_is_name, named)):
            raise InputError(f"{where}: {op} {target!r} does not take {_short(args)} and {_short(kwargs)}")
        node = self.nodes[name] = self.graph.create_node(op, found, values, named, name=name)
        for key, value in _mapping(meta, where).items():
            if key not in _META or not _META[key][0](value):
                raise InputError(f"{where} has the {key} {_short(value)}")
            node.meta[key] = _META[key][1](value)

    def _target(self, op: Any, target: Any) -> Any:
        if op == "call_function":
            return _operator(target)
        if op == "placeholder":
            if not _is_name(target) or target in self.inputs:
                raise InputError(f"input {_short(target)} stands twice or is no identifier")
            self.inputs.add(target)
            return target
        allowed = self.targets.get(op, set()) if isinstance(op, str) else set()
        if not isinstance(target, str) or target not in allowed:
            raise InputError(f"{_short(op)} of {_short(target)} is not allowed; {nearest(str(target), allowed)}")
        return target

    def _decode(self, value: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise InputError(f"an argument is nested deeper than {_MAX_DEPTH} levels")
        if isinstance(value, str) and value in self.nodes:
            return self.nodes[value]
        if value is None or isinstance(value, bool) or _is_int(value) or _is_float(value):
            return value
        if isinstance(value, list):
            return [self._decode(item, depth + 1) for item in value]
        key, held = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
        if isinstance(held, str) and (key == "text" or (key == "constant" and held in _CONSTANTS)):
            return held if key == "text" else _CONSTANTS[held]
        if isinstance(held, list) and (key == "tuple" or (key == "slice" and len(held) == 3)):
            items = tuple(self._decode(item, depth + 1) for item in held)
            return slice(*items) if key == "slice" else items
        raise InputError(f"argument {_short(value)} is not a number, text, list, earlier node or known constant")


def _is_name(value: Any) -> bool:
    """True for text that generated code may use as the name of a variable."""
    plain = isinstance(value, str) and value.isascii() and value.isidentifier()
    return plain and not keyword.iskeyword(value) and value != "self"


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} is {_short(value)}; it must be a mapping")
    return value


def _short(value: Any) -> str:
    return repr(value)[:80]
