"""A network without the operators that a runtime does not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autocompress.core.network import Network, Operator

_REPEATABLE = ("elementwise", "copy", "pool", "global_pool")


def without_identities(network: Network) -> Network:
    """Leaves out operators that change nothing."""
    if not any(operator.aten == "identity" for operator in network):
        return network
    renamed: dict[str, str] = {}
    kept = []
    for one in network.operators:
        operator = _reading(one, renamed)
        if operator.aten == "identity" and operator.name not in network.outputs:
            renamed[operator.name] = operator.reads[0]
        else:
            kept.append(operator)
    return replace(network, operators=tuple(kept))


def without_zeros(network: Network, through: bool) -> Network:
    """Leaves zeros out of sums and, if `through`, all that only zeros flow through.

    What a norm adds on such a branch is a constant, and goes into a bias.
    """
    if not any(operator.is_zero for operator in network):
        return network.used()
    gone: set[str] = set()
    renamed: dict[str, str] = {}
    kept = []
    for one in network.operators:
        operator = _reading(one, renamed)
        left = [name for name in operator.reads if name not in gone]
        returned = operator.name in network.outputs
        if operator.aten == "add" and len(left) < len(operator.reads) and not returned:
            renamed[operator.name] = left[0] if left else operator.reads[0]
            continue
        if not returned and (operator.is_zero or (through and operator.reads and not left)):
            gone.add(operator.name)
        if through and operator.name in gone:
            continue
        kept.append(operator)
    return replace(network, operators=tuple(kept)).used()


def without_repetitions(network: Network) -> Network:
    """Leaves one of several operators without weights that do the same to the same tensors."""
    renamed: dict[str, str] = {}
    known: dict[tuple[str, tuple[str, ...]], list[Operator]] = {}
    kept = []
    for one in network.operators:
        operator = _reading(one, renamed) if renamed else one
        if operator.weight_shape is None and operator.op in _REPEATABLE:
            alike = known.setdefault((operator.aten, operator.reads), [])
            same = next((other for other in alike if _does_the_same(operator, other)), None)
            if same is not None and operator.name not in network.outputs:
                renamed[operator.name] = same.name
                continue
            alike.append(operator)
        kept.append(operator)
    return replace(network, operators=tuple(kept)) if renamed else network


def _does_the_same(operator: Operator, other: Operator) -> bool:
    same = replace(operator, name=other.name, layer=other.layer, is_rounded=other.is_rounded) == other
    return same and operator.settings == other.settings


def _reading(operator: Operator, renamed: Mapping[str, str]) -> Operator:
    if not any(name in renamed for name in operator.reads):
        return operator
    return replace(operator, reads=tuple(renamed.get(name, name) for name in operator.reads))
