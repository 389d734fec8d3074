"""Which operators of a network a runtime runs as one kernel: a head and what it takes along."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from autocompress.core.fusion_rules import Fusion
from autocompress.core.network import Network, Operator


class Chains:
    """Finds the operators that run as one kernel: a head and what it takes along, one after another."""

    def __init__(self, network: Network, fusion: Fusion) -> None:
        self.operators, self.users, self.fusion = network.operators, network.users, fusion
        self.place = {operator.name: place for place, operator in enumerate(network.operators)}
        self.done: set[int] = set()
        alike: dict[object, list[str]] = {}
        for operator in network.operators if fusion.siblings else ():
            if operator.op == "conv2d" and not (operator.reads and len(self.users[operator.reads[0]]) == 1):
                alike.setdefault(sibling_key(operator), []).append(operator.name)
        self.siblings = {name for key, names in alike.items() if key and len(names) > 1 for name in names}

    @cached_property
    def needs(self) -> Sequence[int]:
        """Bit n of an entry: the operator depends on operator n."""
        needs: list[int] = []
        for place, operator in enumerate(self.operators):
            bits = 1 << place
            for name in operator.reads:
                if name in self.place:
                    bits |= needs[self.place[name]]
            needs.append(bits)
        return needs

    def found(self) -> list[list[Operator]]:
        """The operators of every kernel."""
        chains = []
        for place in range(len(self.operators)):
            if place not in self.done:
                chain = self._chain(place)
                self.done.update(chain)
                chains.append([self.operators[each] for each in chain])
        return chains

    def _chain(self, head: int) -> list[int]:
        chain, added = [head], False
        while True:
            users = self.users.get(self.operators[chain[-1]].name, ())
            if len(users) != 1 or users[0] >= len(self.operators) or users[0] in self.done:
                return chain
            user = self.operators[users[0]]
            is_add = user.aten == "add"
            if not self._takes(self.operators[head], chain, user, added):
                return chain
            added = added or is_add
            chain.append(users[0])

    def _takes(self, head: Operator, chain: list[int], user: Operator, added: bool) -> bool:
        last = self.operators[chain[-1]]
        if head.is_layer:
            if last.aten in self.fusion.activations:
                return False
            if user.aten == "batch_norm":
                return self.fusion.norms and len(chain) == 1
            if user.aten in self.fusion.activations:
                return True
            fits = user.aten == "add" and not added and head.name not in self.siblings
            return fits and _dtype(head) in self.fusion.additions and self._is_ready(user, chain)
        if self.fusion.pointwise and _is_pointwise(head) and _is_pointwise(user):
            return user.out_shape == last.out_shape and self._is_ready(user, chain)
        return self.fusion.sum_activations and last.aten == "add" and user.aten in self.fusion.activations

    def _is_ready(self, user: Operator, chain: list[int]) -> bool:
        """True if what else it reads has the same shape and does not wait for the kernel itself."""
        last = self.operators[chain[-1]]
        for name, shape in zip(user.reads, user.in_shapes, strict=True):
            if shape != last.out_shape or (name != last.name and self._waits_for(name, chain)):
                return False
        return True

    def _waits_for(self, name: str, chain: list[int]) -> bool:
        """True if a tensor depends on an operator of a kernel; what is written before it does not."""
        place = self.place.get(name, -1)
        return place > chain[0] and bool(self.needs[place] & sum(1 << each for each in chain))


def _is_pointwise(operator: Operator) -> bool:
    return operator.op == "elementwise" or operator.aten == "batch_norm"


def _dtype(operator: Operator) -> str:
    return dtype_of(operator, operator.rounded_reads, True)


def dtype_of(head: Operator, rounded_reads: Sequence[bool], writes_rounded: bool) -> str:
    """`int8` where every activation is rounded to 8 bits and the weight is stored in 8 bits or less.

    As files are written: of convolutions only those that write 8 bits, and none that is transposed.
    """
    rounded = bool(rounded_reads) and all(rounded_reads)
    if head.weight_shape is None:
        return "int8" if rounded else "fp32"
    is_float = head.op == "conv_transpose2d" or (head.op.startswith("conv") and not writes_rounded)
    if head.weight_dtype == "int8":
        return "int8" if rounded and not is_float else "fp32"
    return head.weight_dtype


def sibling_key(operator: Operator) -> tuple[object, ...] | None:
    """What convolutions that can be one wider convolution have in common; None for what can not."""
    if operator.op != "conv2d" or operator.groups != 1:
        return None
    sizes = ((operator.weight_shape or ())[2:], operator.stride, operator.dilation, operator.out_shape[1:])
    return (operator.reads, *sizes, operator.weight_dtype, operator.rounded_reads)
