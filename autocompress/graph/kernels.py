"""A lifted graph as a network of operators, and the kernels that a runtime makes of them.

Quantizers are recognised by what they carry (`bits`), so that this package does not need the one that makes them.
"""

from __future__ import annotations

import math
from typing import Any

from torch import fx, nn

from autocompress.core.fusion import launched
from autocompress.core.fusion_rules import Fusion
from autocompress.core.kernel import Kernel
from autocompress.core.network import Network, Operator, weight_dtype
from autocompress.graph.couple import NORM_MODULES
from autocompress.graph.layers import aten_name, batch_of, call_macs, is_layer, is_matmul, layer_macs, layer_op


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ACTIVATIONS = _words(
    "relu relu6 hardtanh clamp clamp_min gelu silu sigmoid tanh hardswish hardsigmoid leaky_relu elu mish"
)
_FREE = _words(
    "view reshape _unsafe_view flatten unflatten squeeze unsqueeze detach alias contiguous expand expand_as getitem "
    "size clone lift_fresh_copy select unbind split split_with_sizes chunk to _to_copy type_as"
)
_ELEMENTWISE = _words(
    "add sub rsub mul div maximum minimum where pow exp log sqrt rsqrt neg abs masked_fill eq "
    "square erf sin cos reciprocal softplus prelu gt ge lt le ne logical_not zeros_like"
)
_POOLS = _words("max_pool1d max_pool2d avg_pool1d avg_pool2d max_pool2d_with_indices")
_GLOBAL_POOLS = _words(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d mean sum amax amin max min norm linalg_vector_norm"
)
_NORMS = _words("batch_norm layer_norm group_norm instance_norm var std")
_SOFTMAXES = _words("softmax _softmax log_softmax")
_COPIES = _words(
    "pad constant_pad_nd slice cat concat stack permute transpose t movedim zeros full ones repeat roll flip "
    "pixel_shuffle"
)
_RESIZES = _words("upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d")
_KINDS = {
    **dict.fromkeys(_ACTIVATIONS, "elementwise"),
    **dict.fromkeys(_ELEMENTWISE, "elementwise"),
    **dict.fromkeys(_POOLS, "pool"),
    **dict.fromkeys(_GLOBAL_POOLS, "global_pool"),
    **dict.fromkeys(_NORMS, "norm"),
    **dict.fromkeys(_SOFTMAXES, "softmax"),
    **dict.fromkeys(_COPIES, "copy"),
    **dict.fromkeys(_RESIZES, "resize"),
}


# Rounded values stay rounded through these.
_MOVES = ("slice", "pad", "constant_pad_nd", "permute", "transpose", "max_pool2d", "max_pool1d")
_ZEROS = ("zeros", "zeros_like", "new_zeros")
_Shape = tuple[int, ...]


def kernels(module: fx.GraphModule, fusion: Fusion) -> tuple[Kernel, ...]:
    """What a runtime launches for a lifted (and perhaps compressed) graph with recorded shapes, in order."""
    return launched(network_of(module), fusion)


def network_of(module: fx.GraphModule) -> Network:
    """The operators of a lifted graph with recorded shapes, for one sample; views, dropout and rounding are none."""
    lifter = Operators(module)
    operators = tuple(lifter.operator(node) for node in module.graph.nodes if lifter.runs(node))
    places = module.graph.find_nodes(op="placeholder")
    inputs = {node.name: per_sample(node.meta["shape"], lifter.batch) for node in places}
    returned = next(iter(module.graph.find_nodes(op="output"))).all_input_nodes
    outputs = dict.fromkeys(lifter.source(node) for node in returned)
    rounded = tuple(node.name for node in places if lifter.is_rounded(node))
    return Network(operators, inputs, tuple(name for name in outputs if name is not None), rounded)


def base_name(node: fx.Node) -> str:
    """The operator's name without namespace and overload."""
    return aten_name(node).replace("<built-in function ", "").rstrip(">")


def _module(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_quantizer(module: fx.GraphModule, node: fx.Node) -> bool:
    """True for a node that rounds a tensor."""
    owner = _module(module, node)
    return owner is not None and hasattr(owner, "bits") and hasattr(owner, "zero_point")


def ancestors(node: fx.Node) -> set[fx.Node]:
    """A node and everything it is computed from."""
    seen = {node}
    stack = [node]
    while stack:
        for source in stack.pop().all_input_nodes:
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return seen


class Operators:
    """Turns the nodes of one graph into operators."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.batch = module, batch_of(module)
        self.zeros: set[fx.Node] = set()
        self.quantizers = {node for node in module.graph.nodes if is_quantizer(module, node)}

    def is_free(self, node: fx.Node) -> bool:
        """True for what costs no kernel of its own: views, dropout, rounding that is part of its neighbours."""
        owner = _module(self.module, node)
        if owner is not None:
            return isinstance(owner, nn.Dropout | nn.Dropout2d) or node in self.quantizers
        if node.op == "call_method" or base_name(node) in _FREE:
            return True
        return "shape" not in node.meta and "shapes" not in node.meta

    def runs(self, node: fx.Node) -> bool:
        """True for a node that is an operator; of slices along several dimensions the last one stands for all."""
        if node.op in ("placeholder", "get_attr", "output") or self.is_free(node):
            return False
        return not self._is_slice_of_slice(node)

    def _is_slice_of_slice(self, node: fx.Node) -> bool:
        alone = base_name(node) == "slice" and len(node.users) == 1
        return alone and base_name(next(iter(node.users))) == "slice"

    def source(self, node: fx.Node) -> str | None:
        """The name of the tensor that a node's value is stored in; None for weights and constants."""
        while node.op not in ("placeholder", "get_attr") and not self.runs(node):
            if not node.all_input_nodes:
                return None
            node = node.all_input_nodes[0]
        return None if node.op == "get_attr" else node.name

    def _first(self, node: fx.Node) -> fx.Node:
        while base_name(node) == "slice" and self._is_slice_of_slice(node.all_input_nodes[0]):
            node = node.all_input_nodes[0]
        return node

    def operator(self, node: fx.Node) -> Operator:
        """One node with what it reads."""
        read = [n for n in dict.fromkeys(self._first(node).all_input_nodes) if "shape" in n.meta]
        sources = [(self.source(n), n) for n in read]
        named = [(name, n) for name, n in sources if name is not None]
        shapes = [node.meta["shape"]] if "shape" in node.meta else list(node.meta["shapes"])
        common: dict[str, Any] = {
            "name": node.name,
            "reads": tuple(name for name, _ in named),
            "in_shapes": tuple(per_sample(n.meta["shape"], self.batch) for _, n in named),
            "out_shape": per_sample(shapes[0], self.batch),
            "rounded_reads": tuple(self.rounded_bits(n) == 8 for _, n in named),
            "is_rounded": self.is_rounded(node),
            "more_elements": sum(math.prod(shape) for shape in shapes[1:]) // self.batch,
            "is_zero": self._is_zero(node),
            "settings": _settings(node),
        }
        if is_layer(self.module, node):
            return self._layer(node, common)
        is_norm = isinstance(_module(self.module, node), NORM_MODULES)
        name = "batch_norm" if is_norm else base_name(node)
        op = "norm" if is_norm else "matmul" if is_matmul(node) else _KINDS.get(name, "other")
        macs = call_macs(node, self.batch)
        window, stride = _window(node, len(common["out_shape"]) - 1) if op == "pool" else ((), ())
        return Operator(op=op, aten=name, layer=node.name, macs=macs, window=window, stride=stride, **common)

    def _layer(self, node: fx.Node, common: dict[str, Any]) -> Operator:
        layer: Any = self.module.get_submodule(str(node.target))
        op = str(layer_op(layer))
        return Operator(
            op=op,
            aten=op,
            layer=str(node.target),
            weight_shape=tuple(layer.weight.shape),
            stride=tuple(getattr(layer, "stride", ())),
            dilation=tuple(getattr(layer, "dilation", ())),
            groups=int(getattr(layer, "groups", 1)),
            macs=layer_macs(self.module, node),
            weight_dtype=weight_dtype(_weight_bits(layer)),
            **common,
        )

    def _is_zero(self, node: fx.Node) -> bool:
        name = base_name(node)
        scaled = name == "mul" and any(type(arg) in (int, float) and arg == 0 for arg in node.args)
        if scaled or name in _ZEROS:
            self.zeros.add(node)
        return node in self.zeros

    def is_rounded(self, node: fx.Node) -> bool:
        """True where a tensor is rounded to 8 bits before anything reads it, or was before it was moved."""
        users = list(node.users)
        rounded = bool(users) and all(user in self.quantizers for user in users)
        return self.rounded_bits(users[0] if rounded else node) == 8

    def rounded_bits(self, node: fx.Node) -> int | None:
        """The bits of a tensor that was rounded, looking back over views and what only moves values."""
        while True:
            if node in self.quantizers:
                bits: Any = self.module.get_submodule(str(node.target)).bits
                return int(bits)
            if node.op in ("placeholder", "get_attr") or not node.all_input_nodes:
                return None
            if not self.keeps_rounding(node):
                return None
            node = node.all_input_nodes[0]

    def keeps_rounding(self, node: fx.Node) -> bool:
        """True for views and for what only moves values: rounded before it is rounded after it."""
        return self.is_free(node) or base_name(node) in _MOVES


def _settings(node: fx.Node) -> str:
    """The arguments of a call as text, without the tensors that it reads; weights and constants by their names."""
    return str(fx.map_arg((node.args, node.kwargs), lambda one: str(one.target) if one.op == "get_attr" else None))


def _window(pool: fx.Node, rank: int) -> tuple[_Shape, _Shape]:
    """What one output of a pool looks at, and its steps; without steps they are as long as the window."""
    sizes: list[Any] = [pool.args[at] if len(pool.args) > at else () for at in (1, 2)]
    window, stride = (tuple(size) if isinstance(size, list | tuple) else (size,) for size in sizes)
    full = [each * rank if len(each) == 1 else each for each in (window, stride or window)]
    return full[0], full[1]


def _weight_bits(layer: nn.Module) -> int:
    """The bits a weight is stored in, as its parametrizations say."""
    found: Any = getattr(layer, "parametrizations", None)
    steps = list(found["weight"]) if found is not None else []
    bits = [int(step.bits) for step in steps if hasattr(step, "bits")]
    if bits:
        return bits[0]
    return 16 if any(type(step).__name__ == "HalfWeight" for step in steps) else 32


def per_sample(shape: _Shape, batch: int) -> _Shape:
    """A shape at batch 1, without the batch; `batch` is the one it was recorded with."""
    if shape and shape[0] == batch:
        return tuple(shape[1:])
    # Sequence first: the batch sits inside; keep the product right.
    places = [i for i, size in enumerate(shape) if size % batch == 0]
    if not places:
        return tuple(shape)
    at = next((i for i in places if shape[i] == batch), places[0])
    return tuple(size // batch if i == at else size for i, size in enumerate(shape))
