"""How much each class of coupled channels matters.

Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets" (L1); Fang et al. 2023, "DepGraph", section 3.3 (sum
over all coupled parameters, each normalised by its mean); Molchanov et al. 2019, "Importance Estimation for Neural
Network Pruning", eq. 8 (first-order Taylor). Deviation: outputs, norm scales and the columns that read them count
alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from autocompress.errors import PlanError
from autocompress.graph.couple import Channels, Coupling
from autocompress.graph.labels import Ids

Gradients = Mapping[str, Tensor]


def class_scores(
    module: fx.GraphModule,
    coupling: Coupling,
    group: Channels,
    criterion: str,
    gradients: Gradients | None = None,
    seed: int = 0,
) -> Tensor:
    """One score per class of a group, `[classes]`; the least important is cut first.

    Args:
        module: The lifted graph, blocks perhaps dropped, channels not yet cut.
        coupling: Labels of the graph.
        group: One of its groups.
        criterion: `l1`, `l2`, `taylor` or `random`.
        gradients: Loss gradients by parameter path; needed for `taylor`.
        seed: For `random`.
    """
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(len(group.roots), generator=generator)
    place = {root: index for index, root in enumerate(group.roots)}
    total = torch.zeros(len(group.roots))
    for path, labels in coupling.layers.items():
        if not _has(module, path):
            continue
        layer: Any = module.get_submodule(path)
        if path in group.layers:
            total += _member(layer, path, coupling, labels.out, place, criterion, gradients, output=True)
        if labels.read is not None and path in group.readers:
            total += _member(layer, path, coupling, labels.read, place, criterion, gradients, output=False)
    return total


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _member(
    layer: Any,
    path: str,
    coupling: Coupling,
    ids: Ids,
    place: Mapping[int, int],
    criterion: str,
    gradients: Gradients | None,
    output: bool,
) -> Tensor:
    """The share of one layer in the scores, normalised to a mean of one over the classes of the layer."""
    score = torch.zeros(len(place))
    weight = getattr(layer, "weight", None)
    if weight is None:
        return score
    weight = weight.detach().float()
    if criterion == "taylor":
        if gradients is None:
            raise PlanError(
                f"{path}: criterion 'taylor' needs gradients of the loss, and there are none; use 'l1' or 'l2'"
            )
        if f"{path}.weight" not in gradients:
            return score
        weight = weight * gradients[f"{path}.weight"].float()
    values = _per_channel(weight, layer, len(ids), output, criterion)
    roots, members = np.unique(coupling.coupler.find(ids), return_inverse=True)
    # A linear layer behind a flattened map has a column for each place of it: together they count once.
    sums = torch.zeros(len(roots)).index_add_(0, torch.from_numpy(members), values)
    sums = sums / sums.mean().clamp_min(1e-12)
    for root, value in zip(roots.tolist(), sums.tolist(), strict=True):
        if root in place:
            score[place[root]] += value
    return score


def _per_channel(weight: Tensor, layer: Any, count: int, output: bool, criterion: str) -> Tensor:
    """One number per channel of one side of a weight, `[channels]`."""
    if weight.dim() == 1:
        rows = weight[:, None]
    elif isinstance(layer, nn.Embedding):
        rows = weight.t()
    else:
        stored_outputs_first = not isinstance(layer, nn.ConvTranspose2d)
        rows = weight if output == stored_outputs_first else weight.transpose(0, 1)
        rows = rows.reshape(rows.shape[0], -1)
        if rows.shape[0] != count:
            # Grouped layers store one group's side only; it stands for every group alike.
            rows = rows.repeat(count // rows.shape[0], 1)
    if criterion == "taylor":
        return rows.sum(1).abs()
    return rows.abs().sum(1) if criterion == "l1" else rows.square().sum(1).sqrt()
