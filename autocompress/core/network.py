"""A network as it was written down: operators that read and write tensors, before any runtime fuses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

_INTEGER_BITS = 8
LAYERS = ("conv1d", "conv2d", "conv_transpose2d", "linear")


@dataclass(frozen=True)
class Operator:
    """One operator for one sample (batch 1).

    Attributes:
        name: Of the tensor it writes.
        op: As `Kernel.op`.
        aten: What it is exactly, e.g. `relu`, `add`, `batch_norm`.
        reads: The tensors it reads, views followed back to where they are stored; constants are left out.
        in_shapes: Their shapes as they are read, without the batch.
        out_shape: What it writes, without the batch.
        layer: Module path, or the operator's name where no module owns it.
        weight_shape: `[out, in / groups, kh, kw]`, `[out, in]`, or None.
        weight_dtype: What weights could be computed in as they are stored: `int8` in 8 bits or less, `fp16`, or `fp32`,
            which also stands where there are none.
        rounded_reads: For each read, whether its values are rounded to 8 bits.
        is_rounded: True where the written tensor is rounded to 8 bits wherever it is read.
        more_elements: Elements of further tensors it writes.
        window: What one output of a pool looks at.
        is_zero: True where it writes nothing but zeros, whatever the input.
        settings: What else it was called with, as text: two operators that do the same have the same settings.
    """

    name: str
    op: str
    aten: str
    reads: tuple[str, ...]
    in_shapes: tuple[tuple[int, ...], ...]
    out_shape: tuple[int, ...]
    layer: str = ""
    weight_shape: tuple[int, ...] | None = None
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    macs: int = 0
    weight_dtype: str = "fp32"
    rounded_reads: tuple[bool, ...] = ()
    is_rounded: bool = False
    more_elements: int = 0
    window: tuple[int, ...] = ()
    is_zero: bool = False
    settings: str = field(default="", compare=False)

    @property
    def is_layer(self) -> bool:
        """True for a convolution or a matrix with weights: what others are fused into."""
        return self.op in LAYERS


@dataclass(frozen=True)
class Network:
    """Operators in an order in which they can run.

    Attributes:
        inputs: The shapes of the tensors that are given, without the batch.
        outputs: The tensors that are returned.
        rounded_inputs: The inputs that are rounded to 8 bits before anything reads them.
    """

    operators: tuple[Operator, ...]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    rounded_inputs: tuple[str, ...] = ()

    @cached_property
    def users(self) -> Mapping[str, tuple[int, ...]]:
        """For every tensor the places of the operators that read it; returning it counts as one more."""
        found: dict[str, list[int]] = {}
        for place, operator in enumerate(self.operators):
            for name in operator.reads if len(operator.reads) < 2 else dict.fromkeys(operator.reads):
                found.setdefault(name, []).append(place)
        for name in self.outputs:
            found.setdefault(name, []).append(len(self.operators))
        return {name: tuple(places) for name, places in found.items()}

    def used(self) -> Network:
        """The same without operators that nothing returned depends on."""
        wanted, kept = set(self.outputs), []
        for operator in reversed(self.operators):
            if operator.name in wanted:
                wanted.update(operator.reads)
                kept.append(operator)
        if len(kept) == len(self.operators):
            return self
        return replace(self, operators=tuple(reversed(kept)))

    def __iter__(self) -> Iterator[Operator]:
        return iter(self.operators)


def weight_dtype(bits: int) -> str:
    """`Operator.weight_dtype` of weights that are stored in so many bits."""
    return "int8" if bits <= _INTEGER_BITS else "fp16" if bits == 16 else "fp32"
