"""Statistics put right after a model was compressed: BatchNorm relative to the dense model, ranges of activations.

Plain re-estimation replaces statistics of the whole training set by those of a few hundred images. Here only the
difference that compression makes on those images is applied to what the dense model learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from autocompress.compress.quantize import activation_quantizers
from autocompress.graph.couple import NORM_MODULES, Coupling

_TINY = 1e-12
Statistics = Mapping[str, tuple[Tensor, Tensor]]


def batch_statistics(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Statistics:
    """Mean and variance of the input of every BatchNorm on one batch, `[channels]` each, by module path.

    Of a BatchNorm that is called several times, the first call counts.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(path: str, layer: nn.Module, x: Tensor) -> None:
        if path not in found:
            found[path] = _moments(x)

    with torch.no_grad(), _before_norms(module, note):
        module(*inputs)
    return found


def calibrate(
    module: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    dense: Statistics,
    coupling: Coupling,
    removed: frozenset[int],
) -> None:
    """Corrects BatchNorm statistics and sets the ranges of activation quantizers, in place, in one forward pass.

    Args:
        module: A compressed model in evaluation mode, its BatchNorms still with the statistics of the dense model.
        inputs: One batch of calibration inputs.
        dense: `batch_statistics` of the dense model on the same batch.
        coupling: Labels of the dense graph.
        removed: The classes that were cut.
    """
    gone = np.array(sorted(removed), dtype=np.int64)
    corrected: set[str] = set()

    def correct(path: str, layer: nn.Module, x: Tensor) -> None:
        if path not in dense or path in corrected:
            return
        corrected.add(path)
        keep = torch.from_numpy(~np.isin(coupling.coupler.find(coupling.layers[path].out), gone))
        mean, var = _moments(x)
        old_mean, old_var = (value[keep] for value in dense[path])
        norm: Any = layer
        norm.running_mean.add_(mean - old_mean)
        norm.running_var.mul_(((var + norm.eps) / (old_var + norm.eps)).clamp(0.01, 100.0))

    quantizers = activation_quantizers(module)
    for quantizer in quantizers:
        quantizer.observe()
    with torch.no_grad(), _before_norms(module, correct):
        module(*inputs)
    for quantizer in quantizers:
        quantizer.freeze()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    # What BatchNorm itself computes, several times faster than `torch.var_mean`.
    _, mean, inverse = torch.native_batch_norm(x.float(), None, None, None, None, True, 0.0, _TINY)
    return mean, (inverse.square().reciprocal() - _TINY).clamp(min=0.0)


@contextmanager
def _before_norms(module: fx.GraphModule, note: Any) -> Iterator[None]:
    """Calls `note(path, layer, input)` before every BatchNorm runs, in the order of the graph."""
    handles = []
    for path, layer in module.named_modules():
        if isinstance(layer, NORM_MODULES):

            def hook(layer: nn.Module, args: tuple[Tensor, ...], path: str = path) -> None:
                note(path, layer, args[0])

            handles.append(layer.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
