"""The kernels a runtime would launch for a graph: convolution, norm, activation and addition as one.

Quantizers are recognised by what they carry (`bits`), so that this package does not need the one that makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from autocompress.core.kernel import Kernel
from autocompress.graph.couple import NORM_MODULES
from autocompress.graph.layers import aten_name, batch_of, is_layer, is_matmul, layer_macs, layer_op, matmul_macs


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ACTIVATIONS = _words(
    "relu relu6 hardtanh clamp clamp_min gelu silu sigmoid tanh hardswish hardsigmoid leaky_relu elu mish"
)
_FREE = _words(
    "view reshape _unsafe_view flatten unflatten squeeze unsqueeze detach alias contiguous expand getitem size clone "
    "lift_fresh_copy select unbind split split_with_sizes chunk to _to_copy type_as"
)
_ELEMENTWISE = _words(
    "add sub rsub mul div maximum minimum where pow exp log sqrt rsqrt neg abs masked_fill eq "
    "square erf sin cos reciprocal softplus prelu gt ge lt le ne logical_not zeros_like"
)
_POOLS = _words("max_pool1d max_pool2d avg_pool1d avg_pool2d max_pool2d_with_indices")
_GLOBAL_POOLS = _words("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d mean sum amax amin max min")
_NORMS = _words("layer_norm group_norm instance_norm var std")
_SOFTMAXES = _words("softmax _softmax log_softmax")
_COPIES = _words(
    "pad constant_pad_nd slice cat concat stack permute transpose t movedim zeros full ones repeat roll flip "
    "pixel_shuffle"
)
_RESIZES = _words("upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d")
_KINDS = {
    **dict.fromkeys(ACTIVATIONS, "elementwise"),
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


@dataclass(frozen=True)
class Step:
    """One kernel with the graph nodes it covers; `out` is the tensor it stores, `reads` the tensors it needs."""

    kernel: Kernel
    nodes: tuple[fx.Node, ...]
    out: fx.Node
    reads: tuple[fx.Node, ...]


def kernels(module: fx.GraphModule) -> tuple[Kernel, ...]:
    """The fused kernels of a lifted (and perhaps compressed) graph with recorded shapes, in order, at batch 1."""
    return tuple(step.kernel for step in steps(module))


def steps(module: fx.GraphModule) -> tuple[Step, ...]:
    """The fused kernels with the nodes they cover."""
    done: set[fx.Node] = set()
    result: list[Step] = []
    batch = batch_of(module)
    place = {node: index for index, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        if node in done or node.op in ("placeholder", "get_attr", "output") or _is_free(module, node):
            continue
        chain = _chain(module, node, done)
        done.update(chain)
        result.append(_step(module, chain, batch))
    # A kernel that takes an addition along runs when the other operand is there.
    return tuple(sorted(result, key=lambda step: place[step.out]))


def base_name(node: fx.Node) -> str:
    """The operator's name without namespace and overload."""
    return aten_name(node).replace("<built-in function ", "").rstrip(">")


def _module(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_quantizer(module: fx.GraphModule, node: fx.Node) -> bool:
    """True for a node that rounds a tensor."""
    owner = _module(module, node)
    return owner is not None and hasattr(owner, "bits") and hasattr(owner, "zero_point")


def _is_free(module: fx.GraphModule, node: fx.Node) -> bool:
    """True for what costs no kernel of its own: views, dropout, rounding that is part of its neighbours."""
    owner = _module(module, node)
    if owner is not None:
        return isinstance(owner, nn.Dropout | nn.Dropout2d) or is_quantizer(module, node)
    if node.op == "call_method" or base_name(node) in _FREE:
        return True
    return "shape" not in node.meta and "shapes" not in node.meta


def _chain(module: fx.GraphModule, first: fx.Node, done: set[fx.Node]) -> list[fx.Node]:
    """A kernel's nodes: a layer takes the norm, activation and addition that follow it alone."""
    chain = [first]
    while (
        base_name(first) == "slice" and len(chain[-1].users) == 1 and base_name(next(iter(chain[-1].users))) == "slice"
    ):
        # The export writes slices along several dimensions as one operator.
        chain.append(next(iter(chain[-1].users)))
    if not is_layer(module, first) or layer_op(module.get_submodule(str(first.target))) == "embedding":
        return chain
    added = False
    while len(chain[-1].users) == 1:
        user = next(iter(chain[-1].users))
        if user in done:
            break
        owner = _module(module, user)
        if owner is not None:
            fits = isinstance(owner, (*NORM_MODULES, nn.Dropout, nn.Dropout2d)) or is_quantizer(module, user)
        else:
            is_add = base_name(user) == "add" and not added and _ready(user, chain)
            fits = base_name(user) in ACTIVATIONS or is_add
            added = added or is_add
        if not fits:
            break
        chain.append(user)
    return chain


def _ready(addition: fx.Node, chain: list[fx.Node]) -> bool:
    """True if the other input of an addition has the same shape and does not wait for the layer itself."""
    others = [n for n in addition.all_input_nodes if n not in chain]
    if len(others) != 1 or others[0].meta.get("shape") != chain[-1].meta.get("shape"):
        return False
    return not ancestors(others[0]) & set(chain)


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


def _step(module: fx.GraphModule, chain: list[fx.Node], batch: int) -> Step:
    first, inside = chain[0], set(chain)
    sources = [n for c in chain for n in c.all_input_nodes if n not in inside]
    reads = tuple(dict.fromkeys(n for n in sources if n.op != "get_attr" and "shape" in n.meta))
    fused = tuple(_fused_name(module, node) for node in chain[1:] if not is_quantizer(module, node))
    shape = first.meta["shape"] if "shape" in first.meta else first.meta["shapes"][0]
    out_shape = chain[-1].meta.get("shape", shape)
    common: dict[str, Any] = {
        "in_shapes": tuple(_one(n.meta["shape"], batch) for n in reads),
        "out_shape": _one(out_shape, batch),
        "fused": tuple(name for name in fused if name),
        "dtype": _dtype(module, chain, reads),
    }
    if is_layer(module, first):
        layer: Any = module.get_submodule(str(first.target))
        kernel = Kernel(
            op=str(layer_op(layer)),
            layer=str(first.target),
            weight_shape=tuple(layer.weight.shape),
            stride=tuple(getattr(layer, "stride", ())),
            dilation=tuple(getattr(layer, "dilation", ())),
            groups=int(getattr(layer, "groups", 1)),
            macs=layer_macs(module, first),
            aten=str(layer_op(layer)),
            **common,
        )
    else:
        owner = _module(module, first)
        kind = "matmul" if is_matmul(first) else _KINDS.get(base_name(first), "other")
        if isinstance(owner, NORM_MODULES):
            kind = "norm"
        macs = matmul_macs(first, batch) if kind == "matmul" else 0
        kernel = Kernel(op=kind, layer=first.name, macs=macs, aten=base_name(first), **common)
    return Step(kernel, tuple(chain), chain[-1], reads)


def _one(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """A shape at batch 1, without the batch."""
    if shape and shape[0] == batch:
        return tuple(shape[1:])
    # Sequence first: the batch sits inside; keep the product right.
    places = [i for i, size in enumerate(shape) if size % batch == 0]
    if not places:
        return tuple(shape)
    at = next((i for i in places if shape[i] == batch), places[0])
    return tuple(size // batch if i == at else size for i, size in enumerate(shape))


def _fused_name(module: fx.GraphModule, node: fx.Node) -> str:
    owner = _module(module, node)
    if owner is None:
        return base_name(node)
    return "batch_norm" if isinstance(owner, NORM_MODULES) else ""


def _dtype(module: fx.GraphModule, chain: list[fx.Node], reads: tuple[fx.Node, ...]) -> str:
    """`int8` where every activation is rounded to 8 bits and the weight is stored in 8 bits or less."""
    rounded = all(rounded_bits(module, n) == 8 for n in reads) and bool(reads)
    if not is_layer(module, chain[0]):
        return "int8" if rounded else "fp32"
    layer = module.get_submodule(str(chain[0].target))
    found: Any = getattr(layer, "parametrizations", None)
    bits = [int(p.bits) for p in found["weight"] if hasattr(p, "bits")] if found is not None else []
    if bits and bits[0] <= 8 and rounded:
        return "int8"
    half = found is not None and not bits and any(type(p).__name__ == "HalfWeight" for p in found["weight"])
    return "fp16" if half else "fp32"


def rounded_bits(module: fx.GraphModule, node: fx.Node) -> int | None:
    """The bits of a tensor that was rounded, looking back over views and what only moves values."""
    while True:
        if is_quantizer(module, node):
            bits: Any = module.get_submodule(str(node.target)).bits
            return int(bits)
        moves = _is_free(module, node) or base_name(node) in _MOVES
        if node.op in ("placeholder", "get_attr") or not moves or not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
