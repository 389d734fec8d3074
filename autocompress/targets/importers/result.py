"""What a file of another tool says: times of layers, with a key where everything of them is known, or of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.table import Table
from autocompress.targets.table_row import MAX_SOURCE, Measurement


class Unmapped(Exception):
    """A layer cannot have a key, and why."""


@dataclass(frozen=True)
class LayerTime:
    """One layer as a tool timed it.

    Attributes:
        name: What the tool calls it.
        op: What the tool says it computes, e.g. `Conv`; empty where it does not say.
        p50_ms: The median of `n` calls; 0 where the layer takes no time that the tool could see.
        p90_ms: Nine of ten calls took no longer; None where the tool does not say.
        in_shapes: With the batch, as far as known.
        out_shape: With the batch, as far as known.
        key: The kernel it is, or None.
        unmapped: Why there is no key; empty where there is one.
    """

    name: str
    op: str
    p50_ms: float
    p90_ms: float | None
    n: int
    in_shapes: tuple[tuple[int, ...], ...] = ()
    out_shape: tuple[int, ...] | None = None
    key: KernelKey | None = None
    unmapped: str = ""


@dataclass(frozen=True)
class ModelTime:
    """A whole model as a tool timed it; `n` is None where the tool does not say how often."""

    name: str
    min_ms: float
    mean_ms: float
    max_ms: float
    n: int | None


@dataclass(frozen=True)
class Imported:
    """Everything that one file says.

    Attributes:
        kind: One of `importers.read.KINDS`.
        source: What the rows of `table` say of their origin.
    """

    kind: str
    source: str
    layers: tuple[LayerTime, ...] = ()
    models: tuple[ModelTime, ...] = ()

    @property
    def mapped_share(self) -> float:
        """The share of the time of all layers that is in `table`."""
        total = sum(layer.p50_ms for layer in self.layers)
        return sum(layer.p50_ms for layer in self.layers if layer.key is not None) / total if total else 0.0

    def unmapped(self) -> tuple[LayerTime, ...]:
        """The layers that are in no table; `LayerTime.unmapped` says why."""
        return tuple(layer for layer in self.layers if layer.key is None)

    def table(self) -> Table:
        """The layers with a key; those of one key count as one measurement."""
        found: dict[KernelKey, list[LayerTime]] = {}
        for layer in self.layers:
            if layer.key is not None:
                found.setdefault(layer.key, []).append(layer)
        return Table({key: _measurement(layers, self.source) for key, layers in found.items()})


def source_of(kind: str, file_name: str, remark: str = "") -> str:
    """A source that fits a table: the tool, the file, and a remark."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in f"{kind} {file_name}{remark}")
    return printable[:MAX_SOURCE]


def _measurement(layers: Sequence[LayerTime], source: str) -> Measurement:
    """The mean of the medians, weighted by calls, and the largest 90 % quantile."""
    calls = sum(layer.n for layer in layers)
    p50_ms = math.fsum(layer.p50_ms * layer.n for layer in layers) / calls
    p90s = [layer.p90_ms for layer in layers if layer.p90_ms is not None]
    return Measurement(p50_ms, max(p50_ms, *p90s) if len(p90s) == len(layers) else None, calls, source)
