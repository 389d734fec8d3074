"""The per-layer table of a point: what was done to every layer of the dense model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import fx

from autocompress.compress.quantize import weight_parametrizations, weight_quantizer
from autocompress.compress.quantizer import HalfWeight
from autocompress.core.codec import stored_bytes
from autocompress.core.decision import describe
from autocompress.core.model_info import LayerInfo
from autocompress.core.plan import LowRank, Plan
from autocompress.core.target import KernelEstimate, LatencyEstimate
from autocompress.emit.report_data import LayerRow
from autocompress.graph.info import Traced, layer_infos


def layer_rows(
    dense: Traced, plan: Plan, module: fx.GraphModule, latency: LatencyEstimate | None
) -> tuple[LayerRow, ...]:
    """One row per layer of the dense model, in its order.

    Args:
        dense: The model before compression.
        plan: What was asked for.
        module: The compressed model.
        latency: Its estimate, for the times by layer; None where only the whole was measured.
    """
    after = layer_infos(module)
    times = latency.layers if latency is not None else ()
    return tuple(_row(layer, _parts(layer.name, after), plan, module, times) for layer in dense.info.layers)


def _parts(name: str, layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The layer itself, its factors, or nothing if its block was dropped."""
    exact = [layer for layer in layers if layer.name == name]
    return exact or [
        layer for layer in layers if layer.name.startswith(f"{name}.") and layer.name.count(".") == name.count(".") + 1
    ]


def _row(
    layer: LayerInfo, parts: list[LayerInfo], plan: Plan, module: fx.GraphModule, times: Sequence[KernelEstimate]
) -> LayerRow:
    names = {part.name for part in parts}
    quantize = plan.quantize_of(layer.name)
    ops = [describe(op) for op in plan.layer_ops(layer.name)] if parts else []
    out = _channels(parts[-1]) if parts else 0
    if parts and out < _channels(layer):
        ops.insert(0, f"{out} of {_channels(layer)} channels")
    sizes = [_stored(module, part) for part in parts]
    elements = sum(math.prod(part.weight_shape) for part in parts)
    zeros = sum(zero for _, zero in sizes)
    return LayerRow(
        layer=layer.name,
        op=layer.op,
        channels_before=_channels(layer),
        channels_after=out,
        macs_before=layer.macs,
        macs_after=sum(part.macs for part in parts),
        w_bits=quantize.w_bits if quantize is not None and parts else None,
        a_bits=quantize.a_bits if quantize is not None and parts else None,
        sparsity=zeros / elements if elements and zeros / elements > 0.05 else 0.0,
        rank=_rank(layer, parts, plan),
        bytes=sum(size for size, _ in sizes),
        latency_ms=sum(time.ms for time in times if time.kernel.layer in names) if times and parts else None,
        what=", ".join(ops) if ops else ("dropped with its block" if not parts else "as it was"),
    )


def _channels(layer: LayerInfo) -> int:
    axis = 1 if layer.op in ("embedding", "conv_transpose2d") else 0
    return layer.weight_shape[axis] * (layer.groups if layer.op == "conv_transpose2d" else 1)


def _rank(layer: LayerInfo, parts: list[LayerInfo], plan: Plan) -> str:
    if len(parts) < 2 or not any(isinstance(op, LowRank) for op in plan.layer_ops(layer.name)):
        return ""
    kept = sorted({_channels(part) for part in parts[:-1]})
    return f"{'/'.join(str(k) for k in kept)} of {min(layer.weight_shape[:2])}"


def _stored(module: fx.GraphModule, part: LayerInfo) -> tuple[int, int]:
    """Bytes of the stored weight and how many of its entries are zero."""
    layer: Any = module.get_submodule(part.name)
    weight = layer.weight.detach()
    quantizer = weight_quantizer(layer)
    nonzero = int(weight.count_nonzero())
    if quantizer is None:
        half = any(isinstance(p, HalfWeight) for p in weight_parametrizations(layer))
        return weight.numel() * (2 if half else 4), weight.numel() - nonzero
    zero_points = not quantizer.symmetric
    size = stored_bytes(weight.numel(), nonzero, quantizer.bits, quantizer.scale.numel(), zero_points)
    return size, weight.numel() - nonzero
