"""Index labels through operators that mix what lies along a dimension: which indices stay apart, and which are tied."""

from __future__ import annotations

from typing import Any

from torch import fx

from autocompress.graph.labels import Block, Labels, block_on, without
from autocompress.graph.rule_context import Context, dimension, elementwise, unknown, where


def matmul(ctx: Context, node: fx.Node) -> Labels:
    """Products of activations."""
    left, right = node.args[0], node.args[1]
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    shape_l, shape_r = ctx.shape(left), ctx.shape(right)
    if len(shape_l) < 2 or len(shape_r) < 2:
        unknown(ctx, node)
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


def along(ctx: Context, node: fx.Node) -> Labels:
    """Softmax and the like: the dimension it runs along may not be cut."""
    source: Any = node.args[0]
    dim = dimension(node.args[1], len(ctx.shape(source)))  # type: ignore[arg-type]
    block = block_on(ctx.of(source), dim)
    if block is not None:
        ctx.coupler.block(block.ids, where(node))
    return ctx.of(source)


def extreme(ctx: Context, node: fx.Node) -> Any:
    """`max` and `min`: of two tensors, or over one dimension (values and places), or over everything."""
    if "shapes" not in node.meta:
        return elementwise(ctx, node) if len(node.all_input_nodes) > 1 else reduce(ctx, node)
    labels = reduce(ctx, node)
    return tuple(labels for _ in node.meta["shapes"])


def vector_norm(ctx: Context, node: fx.Node) -> Labels:
    """Dimensions are summed up; they stand behind the order of the norm."""
    return reduce(ctx, node, 2)


def reduce(ctx: Context, node: fx.Node, position: int = 1) -> Labels:
    """Dimensions are summed up; they are the argument at `position`."""
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    dims: Any = node.args[position] if len(node.args) > position else None
    dims = [dims] if isinstance(dims, int) else dims
    gone = {dimension(d, rank) for d in dims} if dims else set(range(rank))
    for block in ctx.of(source):
        if gone & set(block.dims):
            ctx.coupler.block(block.ids, where(node))
    labels = without(ctx.of(source), gone)
    shape = node.meta["shapes"][0] if "shapes" in node.meta else ctx.shape(node)
    if len(shape) == rank:
        return labels
    return tuple(Block(tuple(d - sum(g < d for g in gone) for d in block.dims), block.ids) for block in labels)


def layer_norm(ctx: Context, node: fx.Node) -> Labels:
    """All features of a position are mixed."""
    source: Any = node.args[0]
    normalised: Any = node.args[1]
    rank = len(ctx.shape(source))
    for arg in node.all_input_nodes:
        offset = rank - len(ctx.shape(arg)) if arg is not source else 0
        for block in ctx.of(arg):
            if any(d + offset >= rank - len(normalised) for d in block.dims):
                ctx.coupler.block(block.ids, f"{where(node)} normalises over it")
    return ctx.of(source)


def group_norm(ctx: Context, node: fx.Node) -> Labels:
    """The channels of a group are mixed."""
    source: Any = node.args[0]
    groups: Any = node.args[1]
    channels = ctx.shape(source)[1]
    block = block_on(ctx.of(source), 1)
    if block is None or len(block.dims) > 1:
        unknown(ctx, node)
        return ()
    for arg in node.args[2:4]:
        for weight in ctx.of(arg):
            ctx.coupler.unify(block.ids, weight.ids)
    if groups != channels:
        for row in block.ids.reshape(groups, -1):
            ctx.coupler.tie(row)
    return ctx.of(source)


def per_channel(ctx: Context, node: fx.Node) -> Labels:
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
