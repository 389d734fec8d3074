"""Single weights set to zero and kept there.

Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks" (magnitude); Mishra et
al. 2021, "Accelerating Sparse Deep Neural Networks", section 3 (2:4 along the inputs).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils import parametrize

from autocompress.compress.quantizer import SparseMask
from autocompress.core.plan import Sparsify


def sparsify(module: fx.GraphModule, path: str, op: Sparsify) -> None:
    """Masks the smallest weights of one layer, in place."""
    layer: Any = module.get_submodule(path)
    parametrize.register_parametrization(layer, "weight", SparseMask(magnitude_mask(layer.weight.detach(), op)))


def magnitude_mask(weight: Tensor, op: Sparsify) -> Tensor:
    """1 where a weight stays and 0 where it goes, same shape and dtype; exact counts, ties by position."""
    if op.pattern == "2:4":
        return _two_of_four(weight)
    gone = round(weight.numel() * op.sparsity)
    order = weight.abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=weight.dtype)
    mask[order[:gone]] = 0.0
    return mask.view(weight.shape)


def _two_of_four(weight: Tensor) -> Tensor:
    """Two of every four inputs, at each place of the window; a rest that is not four long stays dense."""
    rows = weight.abs().movedim(1, -1)
    whole = rows.shape[-1] // 4 * 4
    fours = rows[..., :whole].reshape(*rows.shape[:-1], -1, 4)
    keep = torch.zeros_like(fours).scatter_(-1, fours.topk(2, dim=-1).indices, 1.0)
    mask = torch.ones_like(rows)
    mask[..., :whole] = keep.flatten(-2)
    return mask.movedim(-1, 1).to(weight.dtype).contiguous()
