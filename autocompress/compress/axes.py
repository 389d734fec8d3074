"""The sizes that channels leave: every dimension of a traced model as a sum over the groups that may be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.graph.couple import Coupling
from autocompress.graph.labels import Block, Ids, Labels, block_on

_Table = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class _Axis:
    """One size: what never changes, and per group how many of its labels are left when k of its classes are."""

    fixed: int
    tables: tuple[_Table, ...]


class Axes:
    """Dimensions and shapes of one traced model, each kept once and named by a number.

    Plans that are priced keep the first classes of every group, as `choose_channels(exact=False)` does.

    Attributes:
        groups: The groups that may be pruned: name and number of classes.
        unfollowed: Places of the groups that some tensor carries along several dimensions at once.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        free = [group for group in coupling.groups if group.blocked_by is None]
        self.groups = tuple((group.name, len(group.roots)) for group in free)
        self.unfollowed: set[int] = set()
        # Where each class stands: its group and its rank in it.
        self.standing = {
            root: (place, rank) for place, group in enumerate(free) for rank, root in enumerate(group.roots)
        }
        self._axes: dict[_Axis, int] = {}
        self._shapes: dict[tuple[int, ...], int] = {}

    def groups_in(self, labels: Labels) -> frozenset[int]:
        """The groups that the labels of a tensor belong to."""
        roots = {int(root) for block in labels for root in self._coupling.coupler.find(block.ids).ravel()}
        return frozenset(self.standing[root][0] for root in roots if root in self.standing)

    def classes_in(self, labels: Labels, group: int) -> int:
        """How many classes of a group the labels of a tensor hold."""
        roots = {int(root) for block in labels for root in self._coupling.coupler.find(block.ids).ravel()}
        return sum(root in self.standing and self.standing[root][0] == group for root in roots)

    def axis(self, size: int, ids: Ids | None = None) -> int:
        """A dimension of `size`, of which `ids` are the labels, if it has any."""
        axis = _Axis(size, ()) if ids is None else self._labelled(ids)
        return self._axes.setdefault(axis, len(self._axes))

    def shape(self, sizes: Sequence[int], labels: Labels = ()) -> int:
        """The shape of a tensor."""
        axes = [self.axis(size, self._along(block_on(labels, dim), dim)) for dim, size in enumerate(sizes)]
        return self._shapes.setdefault(tuple(axes), len(self._shapes))

    def axes_of(self, shape: int) -> tuple[int, ...]:
        """The dimensions of a shape."""
        return tuple(self._shapes)[shape]

    def sizes(self, kept: Sequence[int]) -> list[int]:
        """The size of every dimension when of every group so many classes are kept."""
        return [axis.fixed + sum([table[kept[group]] for group, table in axis.tables]) for axis in self._axes]

    def shapes(self, sizes: Sequence[int]) -> list[tuple[int, ...]]:
        """Every shape at the sizes of its dimensions."""
        return [tuple([sizes[axis] for axis in axes]) for axes in self._shapes]

    def _labelled(self, ids: Ids) -> _Axis:
        found: dict[int, list[int]] = {}
        fixed = 0
        for root in self._coupling.coupler.find(ids).tolist():
            if root not in self.standing:
                fixed += 1
                continue
            group, rank = self.standing[root]
            found.setdefault(group, [0] * (self.groups[group][1] + 1))[rank + 1] += 1
        return _Axis(fixed, tuple((group, tuple(np.cumsum(found[group]).tolist())) for group in sorted(found)))

    def _along(self, block: Block | None, dim: int) -> Ids | None:
        """The labels of one dimension; those of several at once are cut along the only one in which they differ."""
        if block is None or len(block.dims) == 1:
            return None if block is None else block.ids
        roots = self._coupling.coupler.find(block.ids)
        apart = [axis for axis in range(roots.ndim) if (roots != roots.take([0], axis=axis)).any()]
        if len(apart) > 1:
            self.unfollowed |= self.groups_in((block,))
        if block.dims[apart[0] if apart else 0] != dim:
            return None
        axis = block.dims.index(dim)
        return np.moveaxis(block.ids, axis, 0).reshape(block.ids.shape[axis], -1)[:, 0]
