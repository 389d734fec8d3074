"""Index labels through operators that only move elements: where an index goes, its label goes."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from autocompress.graph.labels import Block, Labels, block_on, take, without
from autocompress.graph.rule_context import Context, dimension, where


def reshape(ctx: Context, node: fx.Node) -> Labels:
    """Dimensions are split and joined."""
    source: Any = node.args[0]
    return ctx.coupler.reshape(ctx.shape(source), ctx.of(source), ctx.shape(node))


def permute(ctx: Context, node: fx.Node) -> Labels:
    """Dimensions change places."""
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    name = str(node.target)
    order = list(range(rank))
    if "transpose" in name:
        a, b = (dimension(d, rank) for d in node.args[1:3])  # type: ignore[arg-type]
        order[a], order[b] = order[b], order[a]
    elif name.startswith("aten.t."):
        order.reverse()
    elif "movedim" in name:
        sources, targets = (
            [dimension(d, rank) for d in (dims if isinstance(dims, (list, tuple)) else [dims])]  # type: ignore[arg-type]
            for dims in node.args[1:3]
        )
        rest = iter(d for d in range(rank) if d not in sources)
        order = [sources[targets.index(d)] if d in targets else next(rest) for d in range(rank)]
    else:
        given: Any = node.args[1]
        order = [dimension(d, rank) for d in given]
    return ctx.coupler.permute(ctx.of(source), order)


def expand(ctx: Context, node: fx.Node) -> Labels:
    """A dimension of one is repeated."""
    source: Any = node.args[0]
    return ctx.coupler.elementwise([(ctx.shape(source), ctx.of(source))], ctx.shape(node), where(node))


def select(ctx: Context, node: fx.Node) -> Labels:
    """One index of a dimension."""
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    dim, index = dimension(node.args[1], rank), node.args[2]  # type: ignore[arg-type]
    # With any channel before it gone, the index would be of another one.
    block = block_on(ctx.of(source), dim)
    if block is not None and block.dims == (dim,):
        ctx.coupler.block(block.ids, where(node))
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


def unbind(ctx: Context, node: fx.Node) -> Any:
    """Every index of a dimension as a tensor of its own."""
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    dim = dimension(node.args[1] if len(node.args) > 1 else 0, rank)  # type: ignore[arg-type]
    return tuple(
        _drop_dim(ctx, node, take(ctx.of(source), dim, slice(i, i + 1)), dim) for i in range(ctx.shape(source)[dim])
    )


def take_slice(ctx: Context, node: fx.Node) -> Labels:
    """Some indices of a dimension."""
    source: Any = node.args[0]
    args = [*node.args[1:], *[0, None, None, 1][len(node.args) - 1 :]]
    dim = dimension(args[0], len(ctx.shape(source)))  # type: ignore[arg-type]
    labels = ctx.of(source)
    block = block_on(labels, dim)
    if block is None:
        return labels
    if args[3] != 1 or len(block.dims) > 1:
        ctx.coupler.block(block.ids, where(node))
    return take(labels, dim, slice(args[1], args[2], args[3]))


def split(ctx: Context, node: fx.Node) -> Any:
    """Consecutive parts of a dimension."""
    source: Any = node.args[0]
    rank = len(ctx.shape(source))
    dim = dimension(node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0), rank)  # type: ignore[arg-type]
    block = block_on(ctx.of(source), dim)
    if block is not None and len(block.dims) > 1:
        ctx.coupler.block(block.ids, where(node))
    start, result = 0, []
    for shape in node.meta["shapes"]:
        result.append(take(ctx.of(source), dim, slice(start, start + shape[dim])))
        start += shape[dim]
    return tuple(result)


def cat(ctx: Context, node: fx.Node) -> Labels:
    """Tensors one after another along a dimension."""
    parts: Any = node.args[0]
    rank = len(ctx.shape(node))
    dim = dimension(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0), rank)  # type: ignore[arg-type]
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


def stack(ctx: Context, node: fx.Node) -> Labels:
    """Tensors along a new dimension."""
    parts: Any = node.args[0]
    rank = len(ctx.shape(node))
    dim = dimension(node.args[1] if len(node.args) > 1 else 0, rank)  # type: ignore[arg-type]
    labels = ctx.coupler.elementwise([(ctx.shape(p), ctx.of(p)) for p in parts], ctx.shape(parts[0]), where(node))
    return tuple(Block(tuple(d + (d >= dim) for d in block.dims), block.ids) for block in labels)


def pad(ctx: Context, node: fx.Node) -> Labels:
    """Constants around a tensor."""
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


def reverse(ctx: Context, node: fx.Node) -> Labels:
    """Flips and rolls: the dimensions they move along may not be cut."""
    source: Any = node.args[0]
    dims: Any = node.args[-1]
    for dim in dims:
        block = block_on(ctx.of(source), dimension(dim, len(ctx.shape(source))))
        if block is not None:
            ctx.coupler.block(block.ids, where(node))
    return ctx.of(source)
