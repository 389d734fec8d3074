"""One kernel as two networks to be timed: a full one with many of it, a base with one, and the rest the same.

What a kernel takes is the difference of the two, divided by how many more the full one holds. That leaves out what a
network pays once and a kernel inside a network never: the call of the session, the copies of inputs and outputs, the
change of layout at the borders (ONNX Runtime computes convolutions in blocks of channels, or with channels last):

- A kernel that writes what it reads stands in a row. One that adds a second input adds what the kernel before it wrote;
  the first of them adds what a kernel without the addition wrote, in the layout that sums have inside a network.
- Any other is a fan: the kernels read one value, or different ones where they have no weights and a runtime would merge
  them, and their outputs are joined into one. The base joins its one output with itself as often.
- A pool stands behind a convolution, where it finds the layout that pools find.

The optimized graphs of the two differ by just the kernels. In ONNX Runtime the kernels of eleven small convolutional
networks in fp32 and a call add up to 0.87 to 1.01 of the time of the whole, those of ResNets in int8 to 0.88 to 0.95,
those of two transformers and of a network that shuffles its channels to 0.63 to 0.81. What is missing is in no list of
kernels: views, and the rounding and turning between kernels of different layouts or dtypes. A convolution takes the
same time in a row, in a fan and between others, within about a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autocompress.core.kernel import BYTES_PER_ELEMENT, DTYPES, Kernel
from autocompress.errors import InputError, nearest
from autocompress.targets.draft import Draft, Feed, unsupported
from autocompress.targets.micro_ops import add_kernel

# Of 32 a small one seems a third faster than it is among others: code and predicted branches stay warm. 3 or 8 agree.
COPIES = 8
# A network of several megabytes would be read from memory where caches hold those of a small network.
LARGEST_WEIGHTS_BYTES = 2_000_000
LARGEST_KERNEL_BYTES = 256_000_000
# A runtime merges these in a row.
_MERGED = ("copy", "embedding")
_BEHIND_CONVOLUTIONS = ("pool", "global_pool")


@dataclass(frozen=True)
class Network:
    """An ONNX model with its inputs."""

    model: bytes
    feeds: tuple[Feed, ...]


@dataclass(frozen=True)
class MicroNetwork:
    """Two networks whose times differ by `copies` kernels.

    Attributes:
        full: It has `copies` + 1 kernels.
        base: One kernel, and everything else that `full` has.
        copies: How many kernels `full` has more than `base`.
    """

    full: Network
    base: Network
    copies: int


def micro_network(kernel: Kernel, dtype: str, opset: int) -> MicroNetwork:
    """Builds the networks that one kernel is timed with: its time is `(t(full) - t(base)) / copies`.

    Args:
        kernel: Shapes are without the batch, which is 1. Padding follows from the shapes; a pool without a window has
            one as long as its steps, a norm over groups four groups, a sliced map every n-th pixel.
        dtype: What it runs in. `int8` has uint8 activations and int8 weights in quantize / dequantize pairs, as the
            exports have them; `fp16` is a graph in fp32, since runtimes that compute in fp16 choose so themselves.
        opset: 13 or newer.

    Raises:
        InputError: an unknown dtype.
        UnsupportedError: the kernel cannot be built by itself; says why.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; {nearest(dtype, DTYPES)}")
    if not kernel.in_shapes:
        raise unsupported(kernel, "it reads nothing, so that a runtime computes it once, when it opens the file")
    if (kernel.in_elements + kernel.out_elements + kernel.weight_elements) * 4 > LARGEST_KERNEL_BYTES:
        raise unsupported(kernel, f"it moves more than {LARGEST_KERNEL_BYTES // 1_000_000} MB")
    bytes_each = kernel.weight_elements * BYTES_PER_ELEMENT["int8" if dtype == "int8" else "fp32"]
    copies = max(1, min(COPIES, LARGEST_WEIGHTS_BYTES // max(1, bytes_each) - 1))
    full, base = (_network(Draft(opset, dtype == "int8"), kernel, count, copies) for count in (copies + 1, 1))
    return MicroNetwork(full, base, copies)


def chain(kernels: Sequence[Kernel], opset: int) -> Network:
    """A network of kernels of one dtype, each reading what the one before it wrote."""
    draft = Draft(opset, kernels[0].dtype == "int8")
    value = draft.feed((1, *kernels[0].in_shapes[0]))
    for kernel in kernels:
        value = add_kernel(draft, kernel, [value] * len(kernel.in_shapes))
    return _finished(draft, value, kernels[-1])


def empty_network(opset: int) -> Network:
    """A network that computes nothing worth mentioning: its time is that of a call."""
    kernel = Kernel("elementwise", "", "fp32", ((1,),), (1,), aten="relu")
    return chain([kernel], opset)


def yardstick(dtype: str, opset: int) -> Network:
    """A network whose time tells how fast the machine is just now: eight convolutions as small networks have them."""
    shape, weight = (32, 16, 16), (32, 32, 3, 3)
    return chain([Kernel("conv2d", "", dtype, (shape,), shape, weight, (1, 1), (1, 1), fused=("relu",))] * 8, opset)


def _network(draft: Draft, kernel: Kernel, count: int, copies: int) -> Network:
    inputs = _inputs(draft, kernel)
    adds, place = _adds(kernel), _place_in_row(kernel)
    if place is None and not adds:
        return _fan(draft, kernel, inputs, count, copies)
    value = ""
    for _ in range(count):
        value = add_kernel(draft, kernel, inputs)
        if place is not None:
            inputs[place] = value
        if adds:
            inputs[-1] = value
    return _finished(draft, value, kernel)


def _fan(draft: Draft, kernel: Kernel, inputs: Sequence[str], count: int, copies: int) -> Network:
    firsts = _first_inputs(draft, kernel, inputs[0], copies + 1)
    # The base reads the last one, since no runtime computes what nothing reads.
    outputs = [add_kernel(draft, kernel, [first, *inputs[1:]]) for first in firsts[-count:]]
    joined = outputs[0]
    for at in range(1, copies + 1):
        joined = _join(draft, kernel, joined, outputs[at % count])
    return _finished(draft, joined, kernel)


def _inputs(draft: Draft, kernel: Kernel) -> list[str]:
    """The kernel's inputs as it finds them inside a network."""
    if kernel.op == "embedding":
        return [draft.feed((1, *kernel.in_shapes[0]), below=(kernel.weight_shape or (1,))[0])]
    shapes = kernel.in_shapes[:-1] if _adds(kernel) else kernel.in_shapes
    inputs = [draft.feed((1, *shape)) for shape in shapes]
    if kernel.op in _BEHIND_CONVOLUTIONS:
        inputs = [_convolved(draft, value, shape) for value, shape in zip(inputs, shapes, strict=True)]
    if _adds(kernel):
        fused = tuple(name for name in kernel.fused if name != "add")
        inputs.append(add_kernel(draft, replace(kernel, in_shapes=shapes, fused=fused), inputs))
    return inputs


def _convolved(draft: Draft, value: str, shape: tuple[int, ...]) -> str:
    if len(shape) != 3:
        return value
    weight = (shape[0], shape[0], 1, 1)
    convolution = Kernel("conv2d", "", "", (shape,), shape, weight, (1, 1), (1, 1), fused=("relu",))
    return add_kernel(draft, convolution, [value])


def _adds(kernel: Kernel) -> bool:
    """True for a kernel that adds its last input."""
    return "add" in kernel.fused and len(kernel.in_shapes) > 1 and kernel.in_shapes[-1] == kernel.out_shape


def _place_in_row(kernel: Kernel) -> int | None:
    """Which input may be what the same kernel before it wrote, or None."""
    inputs = kernel.in_shapes[:-1] if _adds(kernel) else kernel.in_shapes
    fits = kernel.op not in _MERGED and kernel.out_shape in inputs
    return inputs.index(kernel.out_shape) if fits else None


def _first_inputs(draft: Draft, kernel: Kernel, value: str, count: int) -> list[str]:
    """One value for kernels with weights of their own; else different ones, or a runtime would merge the kernels."""
    values = [value]
    for _ in range(count - 1):
        if kernel.op == "embedding":
            last = draft.constant(np.array((kernel.weight_shape or (1,))[0] - 1, np.int64))
            values.append(draft.node("Sub", last, values[-1]))
        else:
            values.append(value if kernel.weight_shape is not None else _join(draft, kernel, values[-1], value))
    return values


def _join(draft: Draft, kernel: Kernel, left: str, right: str) -> str:
    """A sum, or a product behind layers that runtimes fuse sums into; both keep the layout that they find."""
    fused = kernel.op.startswith(("conv", "linear")) and not draft.quantized
    return draft.rounded(draft.node("Mul" if fused else "Add", left, right))


def _finished(draft: Draft, value: str, kernel: Kernel) -> Network:
    return Network(draft.model(value, (1, *kernel.out_shape)), tuple(draft.feeds))
