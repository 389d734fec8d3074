"""Weights that are left fitted anew, so that every layer answers what it answered in the dense model.

After channels, blocks or ranks are gone, the inputs of the layers behind them are other ones. On a few calibration
samples, layer after layer in the order of the graph, the weights that change least among those that bring the layer's
outputs closest to the dense ones are the solution of a linear system.

Source: He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", eq. 2 with the channels given.
Deviations: the ridge pulls to the weights as they are instead of to zero, and every layer whose inputs changed is
fitted, not only those that lost channels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autocompress.graph.couple import Coupling

FITTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
# The system of a layer has this many rows per unknown, within limits that keep it cheap.
_ROWS_PER_COLUMN = 8
_ROWS = (4096, 16384)
# Above this many unknowns per output a layer is left alone: the system costs more than the training it saves.
_MOST_COLUMNS = 2500
_RIDGE = 2e-2
# A layer whose outputs are this close to the dense ones (share of their energy) stays as it is.
_CLOSE = 1e-6
_PROBED = 512


@dataclass(frozen=True)
class Reference:
    """What the layers of the dense model answer at a sample of places.

    Attributes:
        inputs: The batch.
        places: By layer, flat indices into `[n, *positions]` of its output, `[rows]`.
        outputs: By layer, its outputs there, `[rows, channels]`.
        counts: By layer, how many places there are.
    """

    inputs: tuple[Tensor, ...]
    places: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    counts: Mapping[str, int]


def reference_outputs(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Reference:
    """Runs the dense model once; layers that it calls more than once are left out."""
    places: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    handles = []
    for path, layer in module.named_modules():
        if not isinstance(layer, FITTED) or calls.count(path) != 1 or getattr(layer, "groups", 1) != 1:
            continue
        columns = layer.weight[0].numel()
        if columns > _MOST_COLUMNS:
            continue

        def note(layer: nn.Module, args: Any, out: Tensor, path: str = path, columns: int = columns) -> None:
            values = _last(out, layer)
            counts[path] = len(values)
            generator = torch.Generator().manual_seed(zlib.crc32(path.encode()))
            wanted = min(max(_ROWS_PER_COLUMN * columns, _ROWS[0]), _ROWS[1])
            places[path] = torch.randperm(len(values), generator=generator)[:wanted]
            outputs[path] = values[places[path]].clone()

        handles.append(layer.register_forward_hook(note))
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Reference(inputs, places, outputs, counts)


def repair(
    module: fx.GraphModule,
    reference: Reference,
    coupling: Coupling,
    removed: frozenset[int],
    factors: Mapping[str, tuple[str, ...]],
) -> None:
    """Fits the layers of a compressed model, in place, in one forward pass.

    Args:
        module: Cut and factorised, not yet quantized, in evaluation mode.
        reference: Of the dense model.
        coupling: Labels of the dense graph.
        removed: The classes that were cut.
        factors: Paths of the factors of every factorised layer; the last one is fitted.
    """
    gone = np.array(sorted(removed), dtype=np.int64)
    handles = []
    for path, places in reference.places.items():
        own = factors[path][-1] if path in factors else path
        layer = dict(module.named_modules()).get(own)
        if not isinstance(layer, FITTED):
            continue
        keep = torch.from_numpy(~np.isin(coupling.coupler.find(coupling.layers[path].out), gone))
        wanted, count = reference.outputs[path][:, keep], reference.counts[path]

        def fit(
            layer: nn.Module,
            args: tuple[Tensor, ...],
            places: Tensor = places,
            wanted: Tensor = wanted,
            count: int = count,
        ) -> None:
            if isinstance(layer, nn.Linear) and args[0].shape[:-1].numel() != count:
                # Channels that were cut are places of this layer: its rows are other ones now.
                return
            # Layers before the first change are recognised by a part of the rows.
            if not _answers(layer, _rows(layer, args[0], places[:_PROBED]), wanted[:_PROBED]):
                _fit(layer, _rows(layer, args[0], places), wanted)

        handles.append(layer.register_forward_pre_hook(fit))
    try:
        with torch.no_grad():
            module(*reference.inputs)
    finally:
        for handle in handles:
            handle.remove()


def _last(out: Tensor, layer: nn.Module) -> Tensor:
    """Outputs as `[n * positions, channels]`."""
    return (out if isinstance(layer, nn.Linear) else out.movedim(1, -1)).flatten(0, -2)


def _rows(layer: Any, x: Tensor, places: Tensor) -> Tensor:
    """What the layer multiplies its weights with at some places of its output, `[rows, weights per output]`.

    The weights are in the order of `_weights`: the channels of a position lie together and are copied as one, four to
    seven times as fast as one by one.
    """
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)[places]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode).movedim(1, -1).contiguous()
    samples, *sides = x.shape[:-1]
    reach = [dilation * (size - 1) + 1 for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]
    out = [(side - r) // stride + 1 for side, r, stride in zip(sides, reach, layer.stride, strict=True)]
    sample, *where = np.unravel_index(places.numpy(), (samples, *out))
    corners = [position * stride for position, stride in zip(where, layer.stride, strict=True)]
    first = np.ravel_multi_index((sample, *corners), (samples, *sides))
    kernel = [np.arange(0, r, dilation) for r, dilation in zip(reach, layer.dilation, strict=True)]
    beside = np.ravel_multi_index(np.meshgrid(*kernel, indexing="ij"), sides)
    index = torch.from_numpy(first[:, None] + beside.flatten())
    return x.flatten(0, -2).index_select(0, index.flatten()).reshape(len(places), -1)


def _weights(layer: Any) -> Tensor:
    """The weights as `[outputs, weights per output]`, the inputs last."""
    weight: Tensor = layer.weight
    return weight.movedim(1, -1).flatten(1)


def _missing(layer: Any, rows: Tensor, wanted: Tensor) -> Tensor:
    answer = rows @ _weights(layer).t()
    return wanted - answer if layer.bias is None else wanted - answer - layer.bias


def _answers(layer: Any, rows: Tensor, wanted: Tensor) -> bool:
    return bool(_missing(layer, rows, wanted).square().sum() <= _CLOSE * wanted.square().sum())


def _fit(layer: Any, rows: Tensor, wanted: Tensor) -> None:
    missing = _missing(layer, rows, wanted)
    if layer.bias is not None:
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    system = (rows.t() @ rows).double()
    system.diagonal().add_(_RIDGE * system.diagonal().mean() + 1e-12)
    factor = torch.linalg.cholesky(system)
    change = torch.cholesky_solve((rows.t() @ missing).double(), factor).float().t()
    if layer.bias is not None:
        layer.bias.add_(change[:, -1])
        change = change[:, :-1]
    outputs, inputs, *kernel = layer.weight.shape
    layer.weight.add_(change.reshape(outputs, *kernel, inputs).movedim(-1, 1))
