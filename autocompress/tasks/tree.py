"""Tensors inside tuples and dicts: what a model may return and what a batch may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autocompress.errors import InputError


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Applies `change` to every tensor; lists come back as tuples and mappings as dicts.

    Raises:
        InputError: there is something else inside.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return tuple(map_tensors(part, change) for part in value)
    if isinstance(value, Mapping):
        return {key: map_tensors(part, change) for key, part in value.items()}
    raise InputError(
        f"found a {type(value).__name__} where a tensor belongs; allowed: tensors, tuples, lists and dicts of them"
    )


def leaves(value: Any) -> list[Tensor]:
    """Every tensor in order.

    Raises:
        InputError: there is something else inside.
    """
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, collect)
    return found


def mean_alone(value: Any) -> Any:
    """What who knows nothing but the mean over a batch would give for every sample; integers stay as they are."""
    return map_tensors(value, lambda x: x.mean(0, keepdim=True).expand_as(x) if x.is_floating_point() else x)


def concatenate(parts: Sequence[Any]) -> Any:
    """Joins values of one structure along dimension 0 of each tensor."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {key: concatenate([part[key] for part in parts]) for key in first}
    return tuple(concatenate([part[index] for part in parts]) for index in range(len(first)))
