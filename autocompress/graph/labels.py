"""Index labels: which indices of which dimension of which tensor stand or fall together.

Every index of a channel-like dimension carries a label; operators unify labels. A dimension without labels keeps its
size. Labels that were split over several dimensions (heads x head size) are kept as one array over those dimensions,
so that views, permutations and shuffles are followed index by index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Labels of some dimensions of one tensor: `ids` has one axis per entry of `dims`, in that order."""

    dims: tuple[int, ...]
    ids: Ids


Labels = tuple[Block, ...]


class Coupler:
    """Union-find over labels, with the reasons why some may not be cut."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._boxes: list[Ids] = []

    def fresh(self, count: int) -> Ids:
        """New labels, each on its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def _root(self, label: int) -> int:
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def find(self, ids: Ids) -> Ids:
        """The representative of every label, same shape."""
        labels, places = np.unique(ids, return_inverse=True)
        roots = np.array([self._root(int(label)) for label in labels], dtype=np.int64)
        return roots[places.reshape(ids.shape)] if len(labels) else ids

    def unify(self, left: Ids, right: Ids) -> None:
        """Makes `left[i]` and `right[i]` stand or fall together."""
        for a, b in zip(left.ravel().tolist(), right.ravel().tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            if low != high:
                self._parent[high] = low
                if high in self._reasons:
                    self._reasons.setdefault(low, self._reasons.pop(high))

    def tie(self, ids: Ids) -> None:
        """Makes all of `ids` stand or fall together."""
        flat = ids.ravel()
        self.unify(flat[1:], flat[:-1])

    def block(self, ids: Ids, reason: str) -> None:
        """Forbids cutting these labels."""
        for root in np.unique(self.find(ids)):
            self._reasons.setdefault(int(root), reason)

    def block_all(self, labels: Labels, reason: str) -> None:
        """Forbids cutting anything that a tensor carries."""
        for block in labels:
            self.block(block.ids, reason)

    def reason(self, root: int) -> str | None:
        """Why a representative may not be cut, or None."""
        return self._reasons.get(int(root))

    def make(self, dims: tuple[int, ...], ids: Ids) -> Labels:
        """A block without the dimensions along which nothing changes; what stays must be cut as a box."""
        roots = self.find(ids)
        kept = [axis for axis in range(ids.ndim) if ids.shape[axis] > 1 and not _constant(roots, axis)]
        if not kept:
            if ids.size > 1:
                self.block(ids, "the whole dimension stands or falls together")
            return ()
        index = tuple(slice(None) if axis in kept else 0 for axis in range(ids.ndim))
        block = Block(tuple(dims[axis] for axis in kept), ids[index])
        if len(block.dims) > 1:
            self._boxes.append(block.ids)
        return (block,)

    def along(self, block: Block, dims: Iterable[int]) -> Labels:
        """What a block is to an operator that tells only `dims` apart: over the others it stands or falls together."""
        axes = [block.dims.index(d) for d in dims]
        if len(axes) == len(block.dims):
            return (block,)
        rest = [axis for axis in range(block.ids.ndim) if axis not in axes]
        moved = block.ids.transpose([*axes, *rest])
        flat = moved.reshape(*moved.shape[: len(axes)], -1)
        for row in flat.reshape(-1, flat.shape[-1]):
            self.tie(row)
        return self.make(tuple(block.dims[axis] for axis in axes), flat[..., 0])

    def settle_boxes(self) -> None:
        """Ties labels until every block that spans several dimensions can be cut along exactly one of them."""
        changed = True
        while changed:
            changed = False
            for ids in self._boxes:
                roots = self.find(ids)
                if any(_varies_only(roots, axis) for axis in range(ids.ndim)):
                    continue
                axis = max(range(ids.ndim), key=lambda a: (self._classes_if_tied(roots, a), ids.shape[a]))
                moved = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
                for row in moved:
                    self.tie(row)
                changed = True

    @staticmethod
    def _classes_if_tied(roots: Ids, axis: int) -> int:
        """How many classes would be left if everything but `axis` were tied."""
        rows = np.moveaxis(roots, axis, 0).reshape(roots.shape[axis], -1)
        group = list(range(len(rows)))
        seen: dict[int, int] = {}
        for i, row in enumerate(rows):
            for root in np.unique(row):
                j = seen.setdefault(int(root), i)
                group = [group[j] if g == group[i] else g for g in group] if group[j] != group[i] else group
        return len(set(group))

    # --- how labels pass through operators -------------------------------------------------------------------------

    def elementwise(
        self, inputs: Sequence[tuple[tuple[int, ...], Labels]], out_shape: tuple[int, ...], where: str
    ) -> Labels:
        """Broadcasts and unifies the labels of several tensors of an elementwise operator."""
        rank = len(out_shape)
        aligned: list[tuple[tuple[int, ...], list[Block]]] = []
        for shape, labels in inputs:
            offset = rank - len(shape)
            moved = [Block(tuple(d + offset for d in block.dims), block.ids) for block in labels]
            for block in moved:
                if block.ids.size == 1:
                    self.block(block.ids, f"{where} repeats its only channel")
            aligned.append(((1,) * offset + shape, [block for block in moved if block.ids.size > 1]))
        result: list[Block] = []
        for dims in _components([block.dims for _, blocks in aligned for block in blocks]):
            size = tuple(out_shape[d] for d in dims)
            joint: Ids | None = None
            for shape, blocks in aligned:
                inside = [block for block in blocks if set(block.dims) <= set(dims)]
                full = all(shape[d] == 1 for d in dims)
                if not inside and full:
                    continue
                spread = [_spread(block, dims, size) for block in inside]
                labelled = {d for block in inside for d in block.dims}
                if any(shape[d] != 1 and d not in labelled for d in dims) and not inside:
                    for _, others in aligned:
                        for block in others:
                            if set(block.dims) <= set(dims):
                                self.block(block.ids, f"{where} meets a tensor of fixed size")
                for ids in spread:
                    if joint is None:
                        joint = ids.copy()
                    else:
                        self.unify(joint, ids)
            if joint is not None:
                result.extend(self.make(dims, joint))
        return tuple(result)

    def reshape(self, shape: tuple[int, ...], labels: Labels, out_shape: tuple[int, ...]) -> Labels:
        """Follows every label through a view, index by index."""
        chunks = _chunks(shape, out_shape)
        result: list[Block] = []
        groups = _components([tuple(_chunk_of(chunks, d) for d in block.dims) for block in labels])
        for group in groups:
            in_dims = tuple(d for c in group for d in chunks[c][0])
            out_dims = tuple(d for c in group for d in chunks[c][1])
            size = tuple(shape[d] for d in in_dims)
            inside = [block for block in labels if set(block.dims) <= set(in_dims)]
            joint = _spread(inside[0], in_dims, size)
            if len(inside) > 1:
                # Two independent labels merge into one index: the pair can no longer be cut apart.
                for block in inside[1:]:
                    self.block(block.ids, "a view merges it with another cut dimension")
            result.extend(self.make(out_dims, joint.reshape(tuple(out_shape[d] for d in out_dims))))
        return tuple(result)

    def permute(self, labels: Labels, order: Sequence[int]) -> Labels:
        """Moves dimensions: output dimension `i` is input dimension `order[i]`."""
        place = {old: new for new, old in enumerate(order)}
        return tuple(Block(tuple(place[d] for d in block.dims), block.ids) for block in labels)


def take(labels: Labels, dim: int, index: slice) -> Labels:
    """Labels after `x[..., index, ...]` on one dimension."""
    result = []
    for block in labels:
        if dim in block.dims:
            axis = block.dims.index(dim)
            cut = tuple(index if a == axis else slice(None) for a in range(block.ids.ndim))
            result.append(Block(block.dims, block.ids[cut]))
        else:
            result.append(block)
    return tuple(result)


def block_on(labels: Labels, dim: int) -> Block | None:
    """The block that covers a dimension, or None where its size is fixed."""
    return next((block for block in labels if dim in block.dims), None)


def without(labels: Labels, dims: Iterable[int]) -> Labels:
    """The blocks that cover none of `dims`."""
    gone = set(dims)
    return tuple(block for block in labels if not gone & set(block.dims))


def _constant(roots: Ids, axis: int) -> bool:
    return bool((roots == roots.take([0], axis=axis)).all())


def _varies_only(roots: Ids, axis: int) -> bool:
    return all(_constant(roots, other) for other in range(roots.ndim) if other != axis)


def _spread(block: Block, dims: tuple[int, ...], size: tuple[int, ...]) -> Ids:
    """The ids of a block over more dimensions, repeated along those it does not cover; `dims` ascending."""
    order = sorted(range(len(block.dims)), key=lambda a: block.dims[a])
    ids = np.transpose(block.ids, order)
    covered = [block.dims[a] for a in order]
    shape = [size[i] if d in covered else 1 for i, d in enumerate(dims)]
    return np.broadcast_to(ids.reshape(shape), size).copy()


def _components(sets: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Merges overlapping sets of dimensions; each result is sorted."""
    merged: list[set[int]] = []
    for dims in sets:
        touching = [m for m in merged if m & set(dims)]
        merged = [m for m in merged if not m & set(dims)]
        merged.append(set(dims).union(*touching))
    return [tuple(sorted(m)) for m in merged]


def _chunks(shape: tuple[int, ...], out: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs the smallest runs of input and output dimensions that hold the same number of elements."""
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(shape) or j < len(out):
        left, right = [i] if i < len(shape) else [], [j] if j < len(out) else []
        size_in = shape[i] if left else 1
        size_out = out[j] if right else 1
        i, j = i + len(left), j + len(right)
        while size_in != size_out:
            if size_in < size_out:
                size_in, left, i = size_in * shape[i], [*left, i], i + 1
            else:
                size_out, right, j = size_out * out[j], [*right, j], j + 1
        # A trailing dimension of size one belongs to the run before it.
        while j < len(out) and out[j] == 1 and (i >= len(shape) or shape[i] != 1):
            right, j = [*right, j], j + 1
        while i < len(shape) and shape[i] == 1 and (j >= len(out) or out[j] != 1):
            left, i = [*left, i], i + 1
        pairs.append((tuple(left), tuple(right)))
    return pairs


def _chunk_of(chunks: list[tuple[tuple[int, ...], tuple[int, ...]]], dim: int) -> int:
    return next(index for index, (inputs, _) in enumerate(chunks) if dim in inputs)
