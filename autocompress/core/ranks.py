"""Ranks and sizes of low-rank factors, from shapes alone."""

from __future__ import annotations

import math


def method_for(op: str, weight_shape: tuple[int, ...], method: str | None) -> str:
    """The factorisation a layer gets: SVD where the kernel has one element, else Tucker-2 if nothing else is asked for.

    `spatial` and `cp` are for 2-d kernels alone.

    Args:
        op: `linear`, `conv1d` or `conv2d`.
        weight_shape: `[out, in]` or `[out, in, kh, kw]`.
        method: What the plan asks for, or None.
    """
    if math.prod(weight_shape[2:]) == 1:
        return "svd"
    if method in ("spatial", "cp") and op == "conv2d":
        return method
    return "tucker"


def factor_ranks(weight_shape: tuple[int, ...], rank_ratio: float, method: str) -> tuple[int, ...]:
    """`(rank,)`, for Tucker-2 `(rank_in, rank_out)`; each is a share of the full rank, at least 1."""
    outputs, inputs = weight_shape[:2]
    if method == "spatial":
        height, width = weight_shape[2:]
        return (max(1, round(rank_ratio * min(inputs * height, width * outputs))),)
    if method == "tucker":
        return max(1, round(rank_ratio * inputs)), max(1, round(rank_ratio * outputs))
    if method == "cp":
        return (max(1, round(rank_ratio * max(inputs, outputs))),)
    return (max(1, round(rank_ratio * min(inputs, outputs))),)


def factor_weights(weight_shape: tuple[int, ...], ranks: tuple[int, ...], method: str) -> int:
    """Number of weights that the factors hold, biases not counted."""
    outputs, inputs = weight_shape[:2]
    if method == "svd":
        return ranks[0] * (outputs + inputs)
    if method == "tucker":
        rank_in, rank_out = ranks
        return inputs * rank_in + rank_in * rank_out * math.prod(weight_shape[2:]) + rank_out * outputs
    if method == "spatial":
        height, width = weight_shape[2:]
        return ranks[0] * (inputs * height + width * outputs)
    return ranks[0] * (outputs + inputs + sum(weight_shape[2:]))
