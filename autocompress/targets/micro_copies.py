"""The ONNX operators of a kernel that only moves values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from autocompress.core.kernel import Kernel
from autocompress.targets.draft import MIDDLE, Draft, unsupported

Builder = Callable[[Draft, Kernel, Sequence[str]], str]


def add_copy(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    """Appends what moves values: which operator follows from `kernel.aten`, its arguments from the shapes."""
    if kernel.aten not in _COPIES:
        raise unsupported(kernel, f"no ONNX form is known for {kernel.aten!r}")
    return _COPIES[kernel.aten](draft, kernel, inputs)


def _join(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    first, out = kernel.in_shapes[0], kernel.out_shape
    differ = [at for at, (side, size) in enumerate(zip(first, out, strict=True)) if side != size]
    values = list(inputs)
    if len(differ) == 1 and len(inputs) == 1 and out[differ[0]] % first[differ[0]] == 0:
        # One tensor that is joined with itself.
        values *= out[differ[0]] // first[differ[0]]
    elif len(differ) != 1 or sum(shape[differ[0]] for shape in kernel.in_shapes) != out[differ[0]]:
        raise unsupported(kernel, "the shapes do not say what is joined along which dimension")
    return draft.node("Concat", *values, axis=differ[0] + 1)


def _slice(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    pairs = list(enumerate(zip(kernel.in_shapes[0], kernel.out_shape, strict=True), start=1))
    cut = [(axis, side, out) for axis, (side, out) in pairs if side != out]
    # Every second pixel of a map, the first channels of several.
    steps = [-(-side // out) if axis > 1 and len(kernel.out_shape) == 3 else 1 for axis, side, out in cut]
    ends = [min(side, out * step) for (_, side, out), step in zip(cut, steps, strict=True)]
    columns = ([0] * len(cut), ends, [axis for axis, _, _ in cut], steps)
    return draft.node("Slice", inputs[0], *(draft.constant(np.array(column, np.int64)) for column in columns))


def _pad(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    missing = [0, *(out - side for side, out in zip(kernel.in_shapes[0], kernel.out_shape, strict=True))]
    if min(missing) < 0:
        raise unsupported(kernel, "it removes values")
    pads = [one // 2 for one in missing] + [one - one // 2 for one in missing]
    # What is quantized and padded here was fed in or added, with the code of 0.0 in the middle.
    filled = [draft.constant(np.array(MIDDLE, np.uint8))] if draft.quantized else []
    return draft.node("Pad", inputs[0], draft.constant(np.array(pads, np.int64)), *filled)


def _turn(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    source, out = kernel.in_shapes[0], kernel.out_shape
    orders = itertools.permutations(range(len(out))) if len(out) <= 6 else iter(())
    order = next((o for o in orders if list(o) != sorted(o) and sizes_at(source, o) == out), None)
    value = inputs[0]
    if order is None or len(source) != len(out):
        # The batch sits inside the real shapes: as many values, turned in their first two dimensions.
        order = (1, 0, *range(2, len(out)))
        if len(out) < 2:
            raise unsupported(kernel, "there are no two dimensions to turn")
        value = draft.node("Reshape", value, draft.constant(np.array([1, *sizes_at(out, order)], np.int64)))
    return draft.node("Transpose", value, perm=[0, *(at + 1 for at in order)])


def _repeat(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    times = [1, *(out // side for side, out in zip(kernel.in_shapes[0], kernel.out_shape, strict=True))]
    return draft.node("Tile", inputs[0], draft.constant(np.array(times, np.int64)))


def _flip(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    numbers = ([-1], [-(2**31)], [len(kernel.out_shape)], [-1])
    return draft.node("Slice", inputs[0], *(draft.constant(np.array(each, np.int64)) for each in numbers))


def _shuffle(draft: Draft, kernel: Kernel, inputs: Sequence[str]) -> str:
    return draft.node("DepthToSpace", inputs[0], blocksize=kernel.out_shape[1] // kernel.in_shapes[0][1], mode="CRD")


def sizes_at(shape: tuple[int, ...], places: Sequence[int]) -> tuple[int, ...]:
    """The sizes at some places of a shape; nothing where it has no such place."""
    return tuple(shape[place] for place in places) if len(shape) > max(places, default=-1) else ()


_COPIES: dict[str, Builder] = {
    "cat": _join,
    "concat": _join,
    "slice": _slice,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "repeat": _repeat,
    "flip": _flip,
    "pixel_shuffle": _shuffle,
    "permute": _turn,
    "transpose": _turn,
    "t": _turn,
    "movedim": _turn,
}
