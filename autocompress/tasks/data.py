"""Split: tensors, a Dataset or a DataLoader as one thing that gives batches in a known order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from autocompress.errors import InputError
from autocompress.tasks.reader import PART, Reader, in_parts
from autocompress.tasks.tree import leaves, map_tensors

Batch = tuple[tuple[Tensor, ...], Any]
DataLike = Any  # Split, tuple of tensors, torch Dataset or DataLoader
_DIGEST_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class Split:
    """Some samples of a task; build it with `Split.of`.

    Attributes:
        name: How errors call it, e.g. `train`.
        columns: The samples in memory, `(inputs..., targets)`, or None for a Dataset.
        reader: The samples of a Dataset, or None for tensors.
        indices: Which of the samples, `[n]` int64.
        transform: Applied to the inputs of every batch, `transform(*inputs) -> inputs`, e.g. to normalise bytes.
    """

    name: str
    columns: tuple[Any, ...] | None = field(repr=False)
    reader: Reader | None = field(repr=False)
    indices: Tensor = field(repr=False)
    transform: Callable[..., Any] | None = None

    @staticmethod
    def of(source: DataLike, name: str = "data", *, transform: Callable[..., Any] | None = None) -> Split:
        """Wraps a tuple `(inputs..., targets)` of tensors, a Dataset or a DataLoader.

        A DataLoader lends its data set and how it collates; order, batch size and workers are this class's own.

        Args:
            source: The data. A Split comes back as it is, under the new name.
            name: How errors call it.
            transform: Applied to the inputs of every batch.

        Raises:
            InputError: something else, an empty split, tensors of different lengths, or a sampler that weighs samples.
        """
        if isinstance(source, Split):
            split, transform = source, transform or source.transform
        elif isinstance(source, DataLoader):
            split = _of_loader(source, name)
        elif isinstance(source, Dataset):
            split = _of_dataset(source, name, default_collate)
        else:
            split = _of_tensors(source, name)
        if len(split) == 0:
            raise InputError(f"{name}: the split is empty; give it one sample or more")
        return Split(name, split.columns, split.reader, split.indices, transform)

    def __len__(self) -> int:
        """How many samples."""
        return len(self.indices)

    def batches(self, batch_size: int, seed: int | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Yields `(inputs, targets)` on the CPU; the last batch may be smaller.

        Args:
            batch_size: Samples in a batch.
            seed: Shuffles by this seed and reads a Dataset anew, so that its random transforms run; None keeps the
                order, and a Dataset is then read once and kept.
            limit: Stop after this many samples.
        """
        order = torch.arange(len(self))
        if seed is not None:
            order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for number, part in enumerate(in_parts(order[:limit], batch_size)):
            *inputs, targets = self._take(part, seed, number)
            yield self._transformed(tuple(inputs)), targets

    def head(self, count: int) -> Split:
        """The first `count` samples (all, if there are fewer) as a split of its own."""
        return Split(self.name, self.columns, self.reader, self.indices[:count], self.transform)

    def sample_columns(self) -> tuple[Any, ...]:
        """`(inputs..., targets)` before `transform`, for checks: all samples in memory, the first 256 of a Dataset."""
        if self.columns is None:
            return self._take(torch.arange(min(len(self), PART)), 0, 0)
        if torch.equal(self.indices, torch.arange(len(leaves(self.columns)[0]))):
            return self.columns
        return self._take(torch.arange(len(self)), None, 0)

    @property
    def digest(self) -> str:
        """Twelve hex digits of the length, shapes, types and the bytes of 64 samples spread over the split."""
        spread = torch.linspace(0, len(self) - 1, min(len(self), _DIGEST_SAMPLES)).long()
        *inputs, targets = self._take(spread, 0, 0)
        digest = hashlib.sha256(str(len(self)).encode())
        for leaf in leaves((self._transformed(tuple(inputs)), targets)):
            digest.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
            digest.update(leaf.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    def _take(self, positions: Tensor, seed: int | None, number: int) -> tuple[Any, ...]:
        if self.columns is not None:
            rows = self.indices[positions]
            return cast(tuple[Any, ...], map_tensors(self.columns, lambda column: column.index_select(0, rows)))
        assert self.reader is not None
        if seed is None:
            kept = self.reader.keep(self.indices)
            if kept is not None:
                return cast(tuple[Any, ...], map_tensors(kept, lambda column: column.index_select(0, positions)))
        return self.reader.read(self.indices[positions], (seed or 0) * 1_000_003 + number)

    def _transformed(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return as_tuple(self.transform(*inputs)) if self.transform is not None else inputs


def as_tuple(inputs: Any) -> tuple[Tensor, ...]:
    """The inputs of a model as a tuple, whether one tensor or several were given."""
    return tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)


def _of_tensors(source: Any, name: str) -> Split:
    if not isinstance(source, list | tuple) or len(source) < 2 or not leaves(source):
        raise InputError(
            f"{name}: got a {type(source).__name__}; "
            "allowed: a tuple of tensors (inputs..., targets), a torch Dataset, a DataLoader"
        )
    sizes = [len(leaf) if leaf.dim() else 0 for leaf in leaves(source)]
    if len(set(sizes)) > 1:
        raise InputError(
            f"{name}: the tensors hold {', '.join(map(str, sizes))} samples; all must hold the same number"
        )
    columns = cast(tuple[Any, ...], map_tensors(tuple(source), lambda leaf: leaf.detach().cpu()))
    return Split(name, columns, None, torch.arange(sizes[0]))


def _of_dataset(dataset: Any, name: str, collate: Callable[[list[Any]], Any]) -> Split:
    if isinstance(dataset, TensorDataset) and collate is default_collate:
        return _of_tensors(dataset.tensors, name)
    if isinstance(dataset, Subset):
        whole = _of_dataset(dataset.dataset, name, collate)
        chosen = whole.indices[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
        return Split(name, whole.columns, whole.reader, chosen)
    if isinstance(dataset, IterableDataset):
        dataset = list(dataset)
    if not hasattr(dataset, "__len__"):
        raise InputError(f"{name}: the data set {type(dataset).__name__} has no length; define __len__")
    return Split(name, None, Reader(dataset, collate), torch.arange(len(dataset)))


def _of_loader(loader: DataLoader[Any], name: str) -> Split:
    batches: object = loader.batch_sampler
    whole = _of_dataset(loader.dataset, name, loader.collate_fn if batches is not None else default_collate)
    # A sampler of batches of the user's own leaves `sampler` at its default.
    own = batches is not None and type(batches) is not BatchSampler
    sampler: object = batches if own else batches.sampler if isinstance(batches, BatchSampler) else loader.sampler
    plain = isinstance(sampler, RandomSampler) and not sampler.replacement
    if plain or isinstance(sampler, SequentialSampler) or isinstance(loader.dataset, IterableDataset):
        return whole
    if isinstance(sampler, SubsetRandomSampler):
        chosen = torch.as_tensor(sorted(sampler.indices), dtype=torch.int64)
        return Split(name, whole.columns, whole.reader, whole.indices[chosen])
    raise InputError(
        f"{name}: the DataLoader draws with a {type(sampler).__name__}, whose order cannot be repeated; "
        "give the Dataset, or a Subset of it"
    )
