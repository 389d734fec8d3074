"""What each operator does to index labels; an operator without a rule blocks what it reads, by name."""

from __future__ import annotations

from typing import Any

from torch import fx

from autocompress.graph import mixing_rules, moving_rules
from autocompress.graph.labels import Block, Labels
from autocompress.graph.layers import aten_name
from autocompress.graph.rule_context import Context, Rule, elementwise, unknown, where


def _same(ctx: Context, node: fx.Node) -> Labels:
    return ctx.of(node.args[0])


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


FACTORY_SHAPE_ARGUMENT = {"zeros": 0, "ones": 0, "empty": 0, "full": 0, "new_zeros": 1, "new_ones": 1, "new_full": 1}


def _factory(ctx: Context, node: fx.Node) -> Labels:
    """Tensors made of one constant: each fixed dimension may shrink with whatever it meets."""
    base = aten_name(node)
    sizes: Any = node.args[FACTORY_SHAPE_ARGUMENT[base]]
    return tuple(
        Block((d,), ctx.coupler.fresh(size)) for d, size in enumerate(sizes) if isinstance(size, int) and size > 1
    )


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
    **dict.fromkeys(_NARY, elementwise),
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(("reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), moving_rules.reshape),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T", "movedim"), moving_rules.permute),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "cumsum"), mixing_rules.along),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "prod"), mixing_rules.reduce),
    **dict.fromkeys(("norm", "linalg_vector_norm"), mixing_rules.vector_norm),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), moving_rules.split),
    **dict.fromkeys(("matmul", "bmm", "mm"), mixing_rules.matmul),
    **dict.fromkeys(("pad", "constant_pad_nd"), moving_rules.pad),
    **dict.fromkeys(("instance_norm", "prelu"), mixing_rules.per_channel),
    **dict.fromkeys(FACTORY_SHAPE_ARGUMENT, _factory),
    **dict.fromkeys(("flip", "roll"), moving_rules.reverse),
    **dict.fromkeys(("max", "min"), mixing_rules.extreme),
    "expand": moving_rules.expand,
    "select": moving_rules.select,
    "unbind": moving_rules.unbind,
    "slice": moving_rules.take_slice,
    "cat": moving_rules.cat,
    "concat": moving_rules.cat,
    "stack": moving_rules.stack,
    "layer_norm": mixing_rules.layer_norm,
    "group_norm": mixing_rules.group_norm,
}


def propagate(ctx: Context, node: fx.Node) -> Any:
    """Labels of the result of a function node."""
    base = aten_name(node)
    rule = RULES.get(base, unknown)
    return rule(ctx, node)
