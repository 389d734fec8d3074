"""Layer calls of an exported graph, one small function each, turned into modules that own their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

State = dict[str, tuple[str, Tensor, bool]]
# What a lifter returns: the module's path, the module, and what tells two calls of one layer apart.
Built = tuple[str, nn.Module, tuple[Any, ...]]
_MOMENTUM = 0.1


def attach(root: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    """Puts a module, parameter or buffer under a dotted path, making the containers in between."""
    *parents, last = path.split(".")
    owner = root
    for name in parents:
        if name not in owner._modules:
            owner.add_module(name, nn.Module())
        child = owner._modules[name]
        assert child is not None
        owner = child
    if isinstance(value, nn.Module):
        existing = owner._modules.get(last)
        if existing is not None:
            # A container made for a child of this path: keep its children under the new module.
            for name, module in existing.named_children():
                value.add_module(name, module)
        owner.add_module(last, value)
    elif isinstance(value, nn.Parameter):
        owner.register_parameter(last, value)
    else:
        owner.register_buffer(last, value)


def layer_path(weight: str) -> str:
    """The path of the layer that owns a weight: `a.b.weight` -> `a.b`, `a.in_proj_weight` -> `a.in_proj`."""
    for ending in (".weight", "_weight"):
        if weight.endswith(ending):
            return weight[: -len(ending)]
    return weight


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def _state(node: Any, state: State) -> tuple[str, Tensor] | None:
    """Path and value of a weight argument; None if it is not a plain weight of the model."""
    if isinstance(node, fx.Node) and node.name in state:
        path, tensor, _ = state[node.name]
        return path, tensor
    return None


def _fill(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    owner: Any = module
    with torch.no_grad():
        owner.weight.copy_(weight)
        if bias is not None:
            owner.bias.copy_(bias)


def _weights(node: fx.Node, state: State) -> tuple[str, Tensor, Tensor | None] | None:
    weight = _state(_argument(node, 1, "weight", None), state)
    bias_node = _argument(node, 2, "bias", None)
    bias = _state(bias_node, state)
    if weight is None or not weight[1].is_floating_point() or (bias_node is not None and bias is None):
        return None
    return weight[0], weight[1], bias[1] if bias is not None else None


def _hyper(values: Any, rank: int) -> tuple[int, ...]:
    sizes: tuple[int, ...] = tuple(values) if isinstance(values, (tuple, list)) else (values,)
    return sizes * rank if len(sizes) == 1 else sizes


def _conv(node: fx.Node, state: State) -> Built | None:
    found = _weights(node, state)
    if found is None:
        return None
    path, weight, bias = found
    rank = weight.dim() - 2
    padding = _argument(node, 4, "padding", 0)
    stride, dilation = (_hyper(_argument(node, i, n, 1), rank) for i, n in ((3, "stride"), (5, "dilation")))
    groups = _argument(node, 6, "groups", 1)
    make: Any = {1: nn.Conv1d, 2: nn.Conv2d}[rank]
    module = make(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=stride,
        padding=padding if isinstance(padding, str) else _hyper(padding, rank),
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
    )
    _fill(module, weight, bias)
    return layer_path(path), module, ("conv", stride, str(padding), dilation, groups)


def _conv_transpose(node: fx.Node, state: State) -> Built | None:
    found = _weights(node, state)
    if found is None:
        return None
    path, weight, bias = found
    stride, padding, extra = (
        _hyper(_argument(node, i, n, d), 2)
        for i, n, d in ((3, "stride", 1), (4, "padding", 0), (5, "output_padding", 0))
    )
    groups = _argument(node, 6, "groups", 1)
    dilation = _hyper(_argument(node, 7, "dilation", 1), 2)
    module = nn.ConvTranspose2d(
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        stride=stride,  # type: ignore[arg-type]
        padding=padding,  # type: ignore[arg-type]
        output_padding=extra,  # type: ignore[arg-type]
        groups=groups,
        bias=bias is not None,
        dilation=dilation,  # type: ignore[arg-type]
    )
    _fill(module, weight, bias)
    return layer_path(path), module, ("conv_transpose", stride, padding, extra, groups, dilation)


def _linear(node: fx.Node, state: State) -> Built | None:
    found = _weights(node, state)
    if found is None or found[1].dim() != 2:
        return None
    path, weight, bias = found
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    _fill(module, weight, bias)
    return layer_path(path), module, ("linear",)


def _embedding(node: fx.Node, state: State) -> Built | None:
    weight = _state(node.args[0], state)
    scale_by_frequency, sparse = _argument(node, 3, "scale_grad_by_freq", False), _argument(node, 4, "sparse", False)
    if weight is None or scale_by_frequency or sparse:
        return None
    padding = _argument(node, 2, "padding_idx", -1)
    words, width = weight[1].shape
    module = nn.Embedding(words, width, padding_idx=None if padding < 0 else padding)
    _fill(module, weight[1], None)
    return layer_path(weight[0]), module, ("embedding", padding)


def _batch_norm(node: fx.Node, state: State) -> Built | None:
    scale, shift, mean, var = (_state(_argument(node, i, "", None), state) for i in (1, 2, 3, 4))
    if mean is None or var is None or (scale is None) != (shift is None):
        return None
    channels = mean[1].numel()
    rank = len(node.meta["val"].shape)
    make: Any = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank]
    # An average over all batches (momentum None) is exported as a momentum of zero, which would follow no training.
    momentum = node.args[6] or _MOMENTUM
    module = make(channels, eps=_argument(node, 7, "eps", 1e-5), momentum=momentum, affine=scale is not None)
    module.running_mean.copy_(mean[1])
    module.running_var.copy_(var[1])
    if scale is not None and shift is not None:
        _fill(module, scale[1], shift[1])
    return mean[0].removesuffix(".running_mean"), module, ("batch_norm",)


def _dropout(node: fx.Node, state: State) -> Built | None:
    make = nn.Dropout2d if "feature" in str(node.target) else nn.Dropout
    return "", make(float(node.args[1])), ("dropout", node.name)  # type: ignore[arg-type]


LAYER_LIFTERS: dict[str, Callable[[fx.Node, State], Built | None]] = {
    "aten.conv1d.default": _conv,
    "aten.conv1d.padding": _conv,
    "aten.conv2d.default": _conv,
    "aten.conv2d.padding": _conv,
    "aten.conv_transpose2d.input": _conv_transpose,
    "aten.linear.default": _linear,
    "aten.embedding.default": _embedding,
    "aten.batch_norm.default": _batch_norm,
    "aten.dropout.default": _dropout,
    "aten.dropout_.default": _dropout,
    "aten.feature_dropout.default": _dropout,
    "aten.feature_dropout_.default": _dropout,
}
