"""What a compressed model computes on its way, held near to what the dense one computes there.

Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3. Deviations: the channels that are left are
compared with the same channels of the dense model, without a learned regressor between them; at several layers; in one
training together with the outputs instead of one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autocompress.compress.apply import Compressed
from autocompress.compress.repair import FITTED
from autocompress.graph.couple import CONV_MODULES, Coupling
from autocompress.graph.labels import Ids
from autocompress.graph.layers import is_layer

# Maps are compared as means over so many places a side: fewer say nothing of where things are, more fill memory.
SIDE = 4
_POOLS: Mapping[int, Callable[..., Tensor]] = {
    3: F.adaptive_avg_pool1d,
    4: F.adaptive_avg_pool2d,
    5: F.adaptive_avg_pool3d,
}


@dataclass(frozen=True)
class Hint:
    """A place where a compressed model is compared with the dense one.

    Attributes:
        dense: Layer of the dense model whose input counts.
        own: The same layer, or its first factor, in the compressed model.
        channels: Which input channels of the dense layer are left; None for all of them.
        channel_dim: Where they are in what the layer reads.
    """

    dense: str
    own: str
    channels: Tensor | None
    channel_dim: int


def hint_layers(module: fx.GraphModule) -> tuple[str, ...]:
    """Layers that read all that is known of a sample there, the last one for each shape of what they read.

    Nothing but their input leads on from what was computed before, as between the stages of a residual network; inside
    a block two paths run side by side.
    """
    computed = _from_inputs(module)
    nodes = [node for node in module.graph.nodes if node in computed]
    place = {node: number for number, node in enumerate(nodes)}
    found: dict[tuple[int, ...], str] = {}
    furthest, gates, layers = 0, set[fx.Node](), 0
    for number, node in enumerate(nodes):
        if furthest <= number and layers:
            gates.add(node)
        furthest = max([furthest, *(place[user] for user in node.users if user in place)])
        if is_layer(module, node):
            layers += 1
            source = node.args[0]
            if source in gates and isinstance(module.get_submodule(str(node.target)), FITTED):
                found[tuple(source.meta["shape"][1:])] = str(node.target)
    return tuple(path for path in found.values() if _calls(module).count(path) == 1)


def hints_of(layers: Sequence[str], coupling: Coupling, compressed: Compressed) -> tuple[Hint, ...]:
    """Where a compressed model still has these layers.

    Args:
        layers: Of the dense model.
        coupling: Its labels.
        compressed: The model that is trained.
    """
    gone = np.array(sorted(compressed.removed), dtype=np.int64)
    calls = _calls(compressed.module)
    found = []
    for path in layers:
        own = compressed.factors.get(path, (path,))[0]
        if own in calls:
            dim = 1 if isinstance(compressed.module.get_submodule(own), CONV_MODULES) else -1
            found.append(Hint(path, own, _left(coupling.layers[path].read, gone, coupling), dim))
    return tuple(found)


@contextmanager
def watched(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What these layers read in the latest pass; maps as means over `SIDE` places a side."""
    seen: dict[str, Tensor] = {}

    def watch(path: str) -> Any:
        layer = module.get_submodule(path)
        spatial = isinstance(layer, CONV_MODULES)

        def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[path] = _reduced(args[0]) if spatial else args[0]

        return layer.register_forward_pre_hook(note)

    handles = [watch(path) for path in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def hint_error(hints: Sequence[Hint], own: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> Tensor | None:
    """Mean over hints of the squared error, 1 for who knows nothing but the mean; None where nothing is compared."""
    errors = []
    for hint in hints:
        ours, wanted = own[hint.own].float(), dense[hint.dense].float()
        if hint.channels is not None:
            wanted = wanted.index_select(hint.channel_dim, hint.channels.to(wanted.device))
        variance = wanted.var(unbiased=False)
        # Where an input of another size leaves other places, there is nothing to compare.
        if ours.shape == wanted.shape and float(variance) > 0.0:
            errors.append((ours - wanted).square().mean() / variance)
    return torch.stack(errors).mean() if errors else None


def _left(read: Ids | None, gone: Ids, coupling: Coupling) -> Tensor | None:
    """Which channels that a layer reads are left, None for all of them."""
    if read is None:
        return None
    keep = ~np.isin(coupling.coupler.find(read), gone)
    return None if keep.all() else torch.from_numpy(np.flatnonzero(keep))


def _reduced(x: Tensor) -> Tensor:
    sides = x.shape[2:]
    return _POOLS[x.dim()](x, tuple(min(side, SIDE) for side in sides)) if max(sides) > SIDE else x


def _calls(module: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in module.graph.nodes if node.op == "call_module"]


def _from_inputs(module: fx.GraphModule) -> set[fx.Node]:
    """What depends on the inputs of the model."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found
