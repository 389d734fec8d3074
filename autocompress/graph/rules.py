"""What each operator does to index labels; an operator without a rule blocks what it reads, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from autocompress.graph.labels import Block, Coupler, Labels, block_on, take, without
from autocompress.graph.layers import aten_name

Shape = tuple[int, ...]


class Context:
    """What a rule may see: the coupler and the labels and shapes of the nodes before."""

    def __init__(self, coupler: Coupler) -> None:
        self.coupler = coupler
        self.labels: dict[fx.Node, Any] = {}

    def of(self, node: Any) -> Labels:
        """Labels of a tensor argument; numbers carry none."""
        return self.labels.get(node, ()) if isinstance(node, fx.Node) else ()

    @staticmethod
    def shape(node: fx.Node) -> Shape:
        """Shape with the example batch."""
        return tuple(node.meta["shape"])


Rule = Callable[[Context, fx.Node], Any]


def where(node: fx.Node) -> str:
    """How an operator is named in messages: its kind and its place in the graph."""
    return f"{str(node.target).removeprefix('aten.').split('.')[0]} ({node.name})"


def _dim(value: int, rank: int) -> int:
    return value + rank if value < 0 else value


def _same(ctx: Context, node: fx.Node) -> Labels:
    return ctx.of(node.args[0])


def _elementwise(ctx: Context, node: fx.Node) -> Labels:
    tensors = [arg for arg in node.all_input_nodes if "shape" in arg.meta]
    inputs = [(ctx.shape(arg), ctx.of(arg)) for arg in tensors]
    return ctx.coupler.elementwise(inputs, ctx.shape(node), where(node))


def _spatial(ctx: Context, node: fx.Node) -> Any:
    """Pooling and resizing: batch and channels stay, the rest has no labels."""
    source: Any = node.args[0]
    labels = ctx.of(source)
    first = len(ctx.shape(source)) - (1 if "1d" in str(node.target) else 2)
    kept: Labels = ()
    for block in labels:
        outside = [d for d in block.dims if d < first]
        if outside:
            kept = (*kept, *ctx.coupler.along(block, outside))
        else:
            ctx.coupler.block(block.ids, where(node))
    return kept if "shape" in node.meta else tuple(kept for _ in node.meta["shapes"])


def _reshape(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    return ctx.coupler.reshape(ctx.shape(source), ctx.of(source), ctx.shape(node))


def _permute(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    name = str(node.target)
    order = list(range(rank))
    if "transpose" in name:
        a, b = (_dim(d, rank) for d in node.args[1:3])  # type: ignore[arg-type]
        order[a], order[b] = order[b], order[a]
    elif name.startswith("aten.t."):
        order.reverse()
    elif "movedim" in name:
        sources, targets = (
            [_dim(d, rank) for d in (dims if isinstance(dims, (list, tuple)) else [dims])]  # type: ignore[arg-type]
            for dims in node.args[1:3]
        )
        rest = iter(d for d in range(rank) if d not in sources)
        order = [sources[targets.index(d)] if d in targets else next(rest) for d in range(rank)]
    else:
        given: Any = node.args[1]
        order = [_dim(d, rank) for d in given]
    return ctx.coupler.permute(ctx.of(source), order)


def _expand(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    return ctx.coupler.elementwise([(ctx.shape(source), ctx.of(source))], ctx.shape(node), where(node))


def _select(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    dim, index = _dim(node.args[1], rank), node.args[2]  # type: ignore[arg-type]
    return _drop_dim(ctx, node, take(ctx.of(source), dim, _at(index)), dim)


def _at(index: Any) -> slice:
    return slice(index, index + 1 if index != -1 else None)


def _drop_dim(ctx: Context, node: fx.Node, labels: Labels, dim: int) -> Labels:
    """Labels after a dimension of size one is removed; cutting it is forbidden."""
    result: list[Block] = []
    for block in labels:
        if block.dims == (dim,):
            ctx.coupler.block(block.ids, where(node))
            continue
        if dim in block.dims:
            axis = block.dims.index(dim)
            block = Block(tuple(d for d in block.dims if d != dim), np.take(block.ids, 0, axis=axis))
        result.append(Block(tuple(d - (d > dim) for d in block.dims), block.ids))
    return tuple(result)


def _unbind(ctx: Context, node: fx.Node) -> Any:
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    dim = _dim(node.args[1] if len(node.args) > 1 else 0, rank)  # type: ignore[arg-type]
    return tuple(
        _drop_dim(ctx, node, take(ctx.of(source), dim, slice(i, i + 1)), dim) for i in range(ctx.shape(source)[dim])
    )


def _slice(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    args = [*node.args[1:], *[0, None, None, 1][len(node.args) - 1 :]]
    dim = _dim(args[0], len(ctx.shape(source)))  # type: ignore[arg-type]
    labels = ctx.of(source)
    block = block_on(labels, dim)
    if block is None:
        return labels
    if args[3] != 1 or len(block.dims) > 1:
        ctx.coupler.block(block.ids, where(node))
    return take(labels, dim, slice(args[1], args[2], args[3]))


def _split(ctx: Context, node: fx.Node) -> Any:
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    dim = _dim(node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0), rank)  # type: ignore[arg-type]
    block = block_on(ctx.of(source), dim)
    if block is not None and len(block.dims) > 1:
        ctx.coupler.block(block.ids, where(node))
    start, result = 0, []
    for shape in node.meta["shapes"]:
        result.append(take(ctx.of(source), dim, slice(start, start + shape[dim])))
        start += shape[dim]
    return tuple(result)


def _cat(ctx: Context, node: fx.Node) -> Labels:
    parts: Any = node.args[0]
    rank = len(ctx.shape(node))
    dim = _dim(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0), rank)  # type: ignore[arg-type]
    pieces, others = [], []
    for part in parts:
        block = block_on(ctx.of(part), dim)
        size = ctx.shape(part)[dim]
        if block is None or len(block.dims) > 1:
            ids = ctx.coupler.fresh(size)
            if size:
                ctx.coupler.block(ids, f"{where(node)} joins a part of fixed size")
            if block is not None:
                ctx.coupler.block(block.ids, where(node))
        else:
            ids = block.ids
        pieces.append(ids)
        others.append(
            (tuple(1 if d == dim else s for d, s in enumerate(ctx.shape(part))), without(ctx.of(part), [dim]))
        )
    joined = Block((dim,), np.concatenate(pieces))
    out_shape = tuple(1 if d == dim else s for d, s in enumerate(ctx.shape(node)))
    return (joined, *ctx.coupler.elementwise(others, out_shape, where(node)))


def _stack(ctx: Context, node: fx.Node) -> Labels:
    parts: Any = node.args[0]
    rank = len(ctx.shape(node))
    dim = _dim(node.args[1] if len(node.args) > 1 else 0, rank)  # type: ignore[arg-type]
    labels = ctx.coupler.elementwise([(ctx.shape(p), ctx.of(p)) for p in parts], ctx.shape(parts[0]), where(node))
    return tuple(Block(tuple(d + (d >= dim) for d in block.dims), block.ids) for block in labels)


def _pad(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    amounts: Any = node.args[1]
    mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
    labels = ctx.of(source)
    for pair in range(len(amounts) // 2):
        dim = rank - 1 - pair
        before, after = amounts[2 * pair], amounts[2 * pair + 1]
        if before == 0 and after == 0:
            continue
        block = block_on(labels, dim)
        if block is None:
            # Zeros beside channels of fixed size: the padded ones could go, but nothing would be computed less.
            continue
        if len(block.dims) > 1 or before < 0 or after < 0 or (isinstance(mode, str) and mode != "constant"):
            ctx.coupler.block(block.ids, where(node))
            labels = without(labels, [dim])
            continue
        ids = np.concatenate([ctx.coupler.fresh(before), block.ids, ctx.coupler.fresh(after)])
        labels = (*without(labels, [dim]), Block((dim,), ids))
    return labels


def _matmul(ctx: Context, node: fx.Node) -> Labels:
    left, right = node.args[0], node.args[1]
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    shape_l, shape_r = ctx.shape(left), ctx.shape(right)
    if len(shape_l) < 2 or len(shape_r) < 2:
        _unknown(ctx, node)
        return ()
    sides = [_batch_only(ctx, ctx.of(n), len(s)) for n, s in ((left, shape_l), (right, shape_r))]
    rows, inner_l = len(shape_l) - 2, len(shape_l) - 1
    inner_r, columns = len(shape_r) - 2, len(shape_r) - 1
    a, b = block_on(sides[0], inner_l), block_on(sides[1], inner_r)
    if a is not None and b is not None:
        ctx.coupler.unify(a.ids, b.ids)
    else:
        for block in (a, b):
            if block is not None:
                ctx.coupler.block(block.ids, f"{where(node)} multiplies it with a tensor of fixed size")
    out_rank = len(ctx.shape(node))
    batch = ctx.coupler.elementwise(
        [
            ((*shape_l[:-2], 1, 1), without(sides[0], [rows, inner_l])),
            ((*shape_r[:-2], 1, 1), without(sides[1], [inner_r, columns])),
        ],
        (*ctx.shape(node)[:-2], 1, 1),
        where(node),
    )
    m, n = block_on(sides[0], rows), block_on(sides[1], columns)
    ends = [Block((d,), blk.ids) for d, blk in ((out_rank - 2, m), (out_rank - 1, n)) if blk is not None]
    return (*batch, *ends)


def _batch_only(ctx: Context, labels: Labels, rank: int) -> Labels:
    """Ties what spans batch and matrix dimensions to the batch side: a head is cut as a whole or not at all."""
    result: list[Block] = []
    for block in labels:
        batch = tuple(d for d in block.dims if d < rank - 2)
        if len(block.dims) == 1 or not batch:
            if len(block.dims) > 1:
                ctx.coupler.block(block.ids, "a product reads it over both matrix dimensions")
            else:
                result.append(block)
            continue
        if len(batch) < len(block.dims):
            result.extend(ctx.coupler.along(block, batch))
        else:
            result.append(block)
    return tuple(result)


def _along(ctx: Context, node: fx.Node) -> Labels:
    """Softmax and the like: the dimension it runs along may not be cut."""
    source: Any = node.args[0]
    dim = _dim(node.args[1], len(ctx.shape(source)))  # type: ignore[arg-type]
    block = block_on(ctx.of(source), dim)
    if block is not None:
        ctx.coupler.block(block.ids, where(node))
    return ctx.of(source)


def _reverse(ctx: Context, node: fx.Node) -> Labels:
    """Flips and rolls: the dimensions they move along may not be cut."""
    source: Any = node.args[0]
    dims: Any = node.args[-1]
    for dim in dims:
        block = block_on(ctx.of(source), _dim(dim, len(ctx.shape(source))))
        if block is not None:
            ctx.coupler.block(block.ids, where(node))
    return ctx.of(source)


def _extreme(ctx: Context, node: fx.Node) -> Any:
    """`max` and `min`: of two tensors, or over one dimension (values and places), or over everything."""
    if "shapes" not in node.meta:
        return _elementwise(ctx, node) if len(node.all_input_nodes) > 1 else _reduce(ctx, node)
    labels = _reduce(ctx, node)
    return tuple(labels for _ in node.meta["shapes"])


def _reduce(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    dims: Any = node.args[1] if len(node.args) > 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    gone = {_dim(d, rank) for d in dims} if dims else set(range(rank))
    for block in ctx.of(source):
        if gone & set(block.dims):
            ctx.coupler.block(block.ids, where(node))
    labels = without(ctx.of(source), gone)
    shape = node.meta["shapes"][0] if "shapes" in node.meta else ctx.shape(node)
    if len(shape) == rank:
        return labels
    return tuple(Block(tuple(d - sum(g < d for g in gone) for d in block.dims), block.ids) for block in labels)


def _layer_norm(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    normalised: Any = node.args[1]
    rank = len(ctx.shape(source))
    for arg in node.all_input_nodes:
        offset = rank - len(ctx.shape(arg)) if arg is not source else 0
        for block in ctx.of(arg):
            if any(d + offset >= rank - len(normalised) for d in block.dims):
                ctx.coupler.block(block.ids, f"{where(node)} normalises over it")
    return ctx.of(source)


def _group_norm(ctx: Context, node: fx.Node) -> Labels:
    source: Any = node.args[0]
    groups: Any = node.args[1]
    channels = ctx.shape(source)[1]
    block = block_on(ctx.of(source), 1)
    if block is None or len(block.dims) > 1:
        _unknown(ctx, node)
        return ()
    for arg in node.args[2:4]:
        for weight in ctx.of(arg):
            ctx.coupler.unify(block.ids, weight.ids)
    if groups != channels:
        for row in block.ids.reshape(groups, -1):
            ctx.coupler.tie(row)
    return ctx.of(source)


def _per_channel(ctx: Context, node: fx.Node) -> Labels:
    """Instance norm, PReLU: weights of `[channels]` beside an input of `[batch, channels, ...]`."""
    source: Any = node.args[0]
    block = block_on(ctx.of(source), 1)
    for arg in node.all_input_nodes:
        for weight in ctx.of(arg) if arg is not source else ():
            if block is None or len(block.dims) > 1:
                ctx.coupler.block(weight.ids, where(node))
            else:
                ctx.coupler.unify(block.ids, weight.ids)
    return ctx.of(source)


FACTORY_SHAPE_ARGUMENT = {"zeros": 0, "ones": 0, "empty": 0, "full": 0, "new_zeros": 1, "new_ones": 1, "new_full": 1}


def _factory(ctx: Context, node: fx.Node) -> Labels:
    """Tensors made of one constant: each fixed dimension may shrink with whatever it meets."""
    base = aten_name(node)
    sizes: Any = node.args[FACTORY_SHAPE_ARGUMENT[base]]
    return tuple(
        Block((d,), ctx.coupler.fresh(size)) for d, size in enumerate(sizes) if isinstance(size, int) and size > 1
    )


def _unknown(ctx: Context, node: fx.Node) -> Any:
    for arg in node.all_input_nodes:
        value = ctx.labels.get(arg, ())
        for labels in value if value and not isinstance(value[0], Block) else (value,):
            ctx.coupler.block_all(labels, where(node))
    return () if "shapes" not in node.meta else tuple(() for _ in node.meta["shapes"])


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_UNARY = _words("""
relu relu6 gelu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu celu mish softplus exp log
log1p sqrt rsqrt neg abs clamp clamp_min clamp_max clone contiguous type_as to _to_copy detach alias lift_fresh_copy
erf sin cos reciprocal round floor ceil sign logical_not bitwise_not zeros_like ones_like full_like square logit
""")
_NARY = _words("""
add sub rsub mul div maximum minimum where pow eq ne gt ge lt le logical_and logical_or masked_fill lerp addcmul
addcdiv
""")
_SPATIAL = _words("""
max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d
max_pool2d_with_indices upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
upsample_linear1d _upsample_nearest_exact2d
""")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(_NARY, _elementwise),
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T", "movedim"), _permute),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "cumsum"), _along),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "prod", "norm", "linalg_vector_norm"), _reduce),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("instance_norm", "prelu"), _per_channel),
    **dict.fromkeys(FACTORY_SHAPE_ARGUMENT, _factory),
    **dict.fromkeys(("flip", "roll"), _reverse),
    **dict.fromkeys(("max", "min"), _extreme),
    "expand": _expand,
    "select": _select,
    "unbind": _unbind,
    "slice": _slice,
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
}


def propagate(ctx: Context, node: fx.Node) -> Any:
    """Labels of the result of a function node."""
    base = aten_name(node)
    rule = RULES.get(base, _unknown)
    return rule(ctx, node)
