"""Reads the samples of a Dataset in a way that can be repeated."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.tree import concatenate, leaves

# A Dataset is kept in memory after the first reading in order if it is not larger than this.
KEPT_BYTES = 2 << 30
# Samples that are read, or looked at by a check, at once.
PART = 256


@dataclass(eq=False)
class Reader:
    """Samples of a Dataset, collated; kept in memory once they were read in order."""

    dataset: Any
    collate: Callable[[list[Any]], Any]
    kept: dict[bytes, tuple[Any, ...]] = field(default_factory=dict)

    def read(self, indices: Tensor, seed: int) -> tuple[Any, ...]:
        """The samples at `indices` as one batch; random transforms depend on `seed` alone."""
        with _seeded(seed):
            batch = self.collate([self.dataset[index] for index in indices.tolist()])
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise InputError(
                f"the data set gives a {type(batch).__name__} for each sample; "
                "it must give a tuple (inputs..., target): wrap it in one that does"
            )
        return tuple(batch)

    def keep(self, indices: Tensor) -> tuple[Any, ...] | None:
        """All samples at `indices`, read once; None where they would not fit in `KEPT_BYTES`."""
        key = hashlib.sha256(indices.numpy().tobytes()).digest()
        if key not in self.kept:
            sample = self.read(indices[:1], 0)
            if sum(leaf.nbytes for leaf in leaves(sample)) * len(indices) > KEPT_BYTES:
                return None
            parts = [self.read(part, int(part[0])) for part in in_parts(indices, PART)]
            try:
                self.kept[key] = cast(tuple[Any, ...], concatenate(parts))
            except RuntimeError:  # batches padded to their own lengths cannot be joined
                return None
        return self.kept[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "collate": self.collate, "kept": {}}


def in_parts(indices: Tensor, size: int) -> list[Tensor]:
    """Cuts `[n]` into pieces of `size`; the last may be shorter."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the generators that random transforms use, and puts them back."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
