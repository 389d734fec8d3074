"""A number that says where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.errors import InputError, nearest

ORIGINS = ("measured", "table", "interpolated", "analytic", "surrogate")
FIDELITIES = ("cost", "untrained", "short", "full")
UNITS: dict[str, str] = {
    "accuracy": "percent",
    "size_bytes": "bytes",
    "latency_ms": "ms",
    "macs": "macs",
    "peak_memory_bytes": "bytes",
    "params": "count",
}
# True where more is better; everything else is minimised.
MAXIMISED: dict[str, bool] = {
    "accuracy": True,
    "size_bytes": False,
    "latency_ms": False,
    "macs": False,
    "peak_memory_bytes": False,
    "params": False,
}
OBJECTIVES = tuple(MAXIMISED)


@dataclass(frozen=True)
class Metric:
    """A value with its 80 % interval and its origin.

    A measured count (bytes, MACs) has `low == value == high`.
    """

    value: float
    low: float
    high: float
    origin: str
    unit: str

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise InputError(f"metric origin is {self.origin!r}; {nearest(self.origin, ORIGINS)}")
        if not (math.isfinite(self.value) and self.low <= self.value <= self.high):
            raise InputError(
                f"metric is {self.value} in [{self.low}, {self.high}]; it must be finite and inside its interval"
            )

    @staticmethod
    def exact(value: float, unit: str, origin: str = "measured") -> Metric:
        """A number without spread."""
        return Metric(value, value, value, origin, unit)

    def to_dict(self) -> dict[str, Any]:
        """The five keys of `front.json`."""
        return {"value": self.value, "low": self.low, "high": self.high, "origin": self.origin, "unit": self.unit}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Metric:
        """Reads what `to_dict` wrote."""
        return Metric(data["value"], data["low"], data["high"], data["origin"], data["unit"])


Metrics = Mapping[str, Metric]
