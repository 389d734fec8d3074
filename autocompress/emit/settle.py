"""Biases put on the grid that integer kernels add them on, so that the model computes what its file does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from autocompress.compress.quantizer import ActivationQuantizer
from autocompress.emit.fold import fold_batchnorm


@torch.no_grad()
def settle_biases(model: GraphModule) -> None:
    """Rounds, in place, what integer kernels add to their sums to multiples of input step x weight step.

    Runtimes store it as an integer in these units. Where weights have few bits the units are coarse: of ResNet-20 in
    2 to 8 bits a twentieth of the 8-bit outputs of a layer are one step off without this, and one image in a hundred
    gets another answer than from the model. Where a BatchNorm follows, its bias is what is moved.
    """
    if not any(isinstance(module, ActivationQuantizer) for module in model.modules()):
        return
    folded = fold_batchnorm(model)
    for name, stored in folded.weights.items():
        bias = folded.module.get_submodule(name).bias
        if stored.input_scale is None or not isinstance(bias, Tensor):
            continue
        # What the integer kernel adds is the bias of the BatchNorm that is folded into the layer, else the layer's own.
        owner: Any = model.get_submodule(folded.norms.get(name, name))
        if owner.bias is not None:
            unit = stored.scale.double() * stored.input_scale
            rounded = (bias.double() / unit).round() * unit
            owner.bias += (rounded - bias.double()).to(owner.bias.dtype)
