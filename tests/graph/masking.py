"""The oracle of cutting: the same model with the removed channels set to zero where they are made."""

from __future__ import annotations

import copy
import random

import numpy as np
import torch
from torch import fx, nn

from autocompress.graph.info import Traced


def choose(traced: Traced, share: float, seed: int) -> set[int]:
    """A random share of every group that is not blocked; at least one channel of each group stays."""
    chooser = random.Random(seed)
    removed: set[int] = set()
    for group in traced.coupling.groups:
        if group.blocked_by is None:
            roots = list(group.roots)
            chooser.shuffle(roots)
            removed.update(roots[: min(len(roots) - 1, round(len(roots) * share))])
    return removed


def masked(traced: Traced, removed: set[int]) -> fx.GraphModule:
    """A copy of the model in which every output, norm, embedding and bare tensor of a removed class is zero."""
    module = copy.deepcopy(traced.module)
    coupling = traced.coupling
    gone = np.array(sorted(removed), dtype=np.int64)

    def hit(ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.isin(coupling.coupler.find(ids), gone))

    with torch.no_grad():
        for path, labels in coupling.layers.items():
            layer = module.get_submodule(path)
            mask = hit(labels.out)
            if isinstance(layer, nn.Embedding):
                layer.weight[:, mask] = 0
                continue
            if isinstance(layer, nn.ConvTranspose2d):
                # Stored as [in, out / groups]: zero the columns of the group that makes the channel.
                per_group = layer.out_channels // layer.groups
                inputs = layer.in_channels // layer.groups
                for channel in mask.nonzero().flatten().tolist():
                    group, column = divmod(channel, per_group)
                    layer.weight[group * inputs : (group + 1) * inputs, column] = 0
            elif layer.weight is not None:
                layer.weight[mask] = 0
            if layer.bias is not None:
                layer.bias[mask] = 0
        for path, blocks in coupling.tensors.items():
            owner, _, name = path.rpartition(".")
            tensor = getattr(module.get_submodule(owner), name)
            if not tensor.is_floating_point():
                continue
            for block in blocks:
                mask = hit(block.ids)
                tensor.index_fill_(block.dims[0], mask.nonzero().flatten(), 0.0)
    return module
