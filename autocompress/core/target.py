"""What is known of a device and its runtime, as plain data, and what an estimate looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autocompress.core.fusion_rules import Fusion
from autocompress.core.kernel import BYTES_PER_ELEMENT, Kernel


@dataclass(frozen=True)
class Precision:
    """How one dtype runs on a device: natively, or as `runs_as`; `source` says who says so."""

    dtype: str
    native: bool
    runs_as: str
    source: str


@dataclass(frozen=True)
class Profile:
    """A device with its runtime, as `hardware_profiles/<name>/profile.yaml` states it.

    Attributes:
        runtime: One of `core.fusion.RUNTIMES`; decides the export.
        fusion: What that runtime runs as one kernel, and what it does not run.
        opset: The newest ONNX opset the runtime reads.
        default_precision: What unquantized layers run in unless the user says otherwise.
        precisions: One entry per dtype.
        memory_bytes: Memory a model may use, or None where unknown.
        measured: True if latency is measured on this machine rather than read from a law.
        how_to_run: Commands for the report, with `{onnx}` for the file.
        sources: `(what, where from)`.
    """

    name: str
    title: str
    runtime: str
    fusion: Fusion
    runtime_version: str
    opset: int
    default_precision: str
    precisions: tuple[Precision, ...]
    memory_bytes: int | None
    measured: bool
    how_to_run: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    def runs_as(self, dtype: str) -> str:
        """The dtype a kernel asked for in `dtype` really computes in on this device."""
        for precision in self.precisions:
            if precision.dtype == dtype:
                return precision.runs_as
        return self.default_precision

    def runs_in(self, dtype: str, built_for: str) -> str:
        """The same in an engine that was built for a precision: nobody falls back to fp16 in one for fp32."""
        engine, found = self.runs_as(built_for), self.runs_as(dtype)
        if dtype == "fp32":
            return engine
        return found if found == dtype else max(found, engine, key=BYTES_PER_ELEMENT.__getitem__)


@dataclass(frozen=True)
class KernelEstimate:
    """The predicted time of one kernel with its origin and, where something is unsure, a flag."""

    kernel: Kernel
    ms: float
    low_ms: float
    high_ms: float
    origin: str
    flag: str | None = None


@dataclass(frozen=True)
class LatencyEstimate:
    """A predicted latency at batch 1 with its 80 % interval.

    Attributes:
        coverage: Share of the time by origin; sums to 1.
        layers: One estimate per kernel.
    """

    ms: float
    low_ms: float
    high_ms: float
    coverage: Mapping[str, float]
    layers: tuple[KernelEstimate, ...]
    precision: str

    @property
    def origin(self) -> str:
        """The weakest origin that any kernel has."""
        for origin in ("analytic", "interpolated", "table", "measured"):
            if self.coverage.get(origin, 0.0) > 0.0:
                return origin
        return "analytic"
