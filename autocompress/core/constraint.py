"""What the user demands of a model (`latency<=20ms`) and how long a search may take (`50`, `2h`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.core.metric import MAXIMISED, UNITS, Metric, Metrics
from autocompress.errors import InputError, nearest

ALIASES = {"size": "size_bytes", "latency": "latency_ms", "memory": "peak_memory_bytes"}
NAMES = (*ALIASES, *UNITS)
# For every unit of core/metric.py: what may follow the number, and how much of the unit it is.
SUFFIXES: dict[str, dict[str, float]] = {
    "bytes": {"B": 1.0, "KB": 1e3, "MB": 1e6, "KiB": 1024.0, "MiB": 1024.0**2},
    "ms": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "macs": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
    "count": {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9},
}
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf)"
_CONSTRAINT = re.compile(rf"\s*(?P<name>\w+)\s*(?P<sense>[<>=!]+)\s*(?P<number>{_NUMBER})\s*(?P<unit>%|[A-Za-z]*)\s*")
_BUDGET = re.compile(rf"\s*(?P<number>{_NUMBER})\s*(?P<unit>[A-Za-z]*)\s*")


@dataclass(frozen=True)
class Constraint:
    """A limit on one metric.

    Attributes:
        metric: A name of `core/metric.py`.
        sense: `<=`, or `>=` for a metric of which more is better.
        value: The limit in the metric's unit; a share of the dense model's value; or points to add to it.
        relative: `absolute`, `share` or `delta`, which of the three `value` is.
        text: What the user wrote.
    """

    metric: str
    sense: str
    value: float
    relative: str
    text: str

    def limit(self, dense: Metrics) -> float:
        """The limit in the metric's own unit, given the metrics of the dense model.

        Raises:
            InputError: the limit is relative and `dense` does not hold the metric.
        """
        if self.relative == "absolute":
            return self.value
        reference = self._metric(dense, "the dense model").value
        return reference * self.value if self.relative == "share" else reference + self.value

    def violation(self, metrics: Metrics, dense: Metrics) -> float:
        """By how much the limit is missed, as a share of it; 0.0 if it is met.

        The central value counts, not its interval. A miss in accuracy is taken as a share of 100 points, because its
        limit may be zero.

        Raises:
            InputError: the metric is missing.
        """
        limit = self.limit(dense)
        value = self._metric(metrics, "the plan").value
        excess = value - limit if self.sense == "<=" else limit - value
        scale = 100.0 if self.relative == "delta" else abs(limit) or 1.0
        return max(0.0, excess / scale)

    def _metric(self, metrics: Metrics, whose: str) -> Metric:
        if self.metric not in metrics:
            raise InputError(
                f"constraint {self.text!r} needs {self.metric}, which was not computed for {whose}; "
                f"{nearest(self.metric, metrics)}"
            )
        return metrics[self.metric]


def parse_constraint(text: str) -> Constraint:
    """Reads `latency<=20ms`, `size<=30%` (of the dense model), `accuracy>=-1.0` (at most 1 point below dense).

    Raises:
        InputError: an unknown metric, sense or unit, or a number that cannot be a limit.
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise InputError(
            f"constraint {text!r} cannot be read; write a metric, a sense, a number and a unit, "
            "e.g. 'latency<=20ms', 'size<=30%', 'accuracy>=-1.0'"
        )
    name, sense, unit = match["name"], match["sense"], match["unit"]
    metric = ALIASES.get(name, name)
    if metric not in UNITS:
        raise InputError(f"constraint {text!r}: unknown metric {name!r}; {nearest(name, NAMES)}")
    wanted = ">=" if MAXIMISED[metric] else "<="
    if sense != wanted:
        raise InputError(f"constraint {text!r}: the sense is {sense!r}; allowed for {name}: {wanted!r}")
    number = float(match["number"])
    if not math.isfinite(number):
        raise InputError(f"constraint {text!r}: the limit is {match['number']}; it must be a finite number")
    if metric == "accuracy":
        _check_points(text, number, unit)
        return Constraint(metric, sense, number, "delta", text)
    if number <= 0.0:
        raise InputError(f"constraint {text!r}: the limit is {match['number']}; it must be above 0")
    if unit == "%":
        return Constraint(metric, sense, number / 100.0, "share", text)
    suffixes = SUFFIXES[UNITS[metric]]
    if unit not in suffixes:
        got = f"unknown unit {unit!r}" if unit else "the unit is missing"
        raise InputError(f"constraint {text!r}: {got}; {nearest(unit, [*filter(None, suffixes), '%'], 5)}")
    return Constraint(metric, sense, number * suffixes[unit], "absolute", text)


def shares_allowed(constraints: Sequence[Constraint], dense: Metrics, costs: Mapping[str, float]) -> dict[str, float]:
    """By cost, the share of the dense model's that its tightest limit leaves; nothing for costs without any.

    Args:
        constraints: Of a run.
        dense: Metrics of the dense model that they are relative to.
        costs: The costs of the dense model.
    """
    limits = [(one.metric, one.limit(dense)) for one in constraints if one.sense == "<=" and one.metric in costs]
    shares: dict[str, float] = {}
    for name, limit in limits:
        shares[name] = min(shares.get(name, math.inf), limit / max(costs[name], 1e-12))
    return shares


def _check_points(text: str, number: float, unit: str) -> None:
    how = "accuracy is limited in points relative to the dense model, e.g. 'accuracy>=-1.0' for at most 1 point below"
    if unit:
        raise InputError(f"constraint {text!r}: accuracy takes no unit, and got {unit!r}; {how}")
    if not -100.0 <= number <= 0.0:
        raise InputError(f"constraint {text!r}: the limit is {number:g}; allowed: -100 to 0; {how}")


@dataclass(frozen=True)
class Budget:
    """How long a search may take: a number of trials or of seconds; the other one is None."""

    trials: int | None = None
    seconds: float | None = None


def parse_budget(text: str) -> Budget:
    """Reads `50` (trials), `90s`, `30m` or `2h`.

    Raises:
        InputError: an unknown unit, or a number that is not above 0 or, for trials, not whole.
    """
    match = _BUDGET.fullmatch(text)
    how = "write trials ('50') or time ('90s', '30m', '2h')"
    if match is None:
        raise InputError(f"budget {text!r} cannot be read; {how}")
    number, unit = float(match["number"]), match["unit"]
    if not (math.isfinite(number) and number > 0.0):
        raise InputError(f"budget {text!r} is {match['number']}; it must be a finite number above 0; {how}")
    if unit:
        if unit not in SECONDS:
            raise InputError(f"budget {text!r}: unknown unit {unit!r}; {nearest(unit, SECONDS)}; {how}")
        return Budget(seconds=number * SECONDS[unit])
    if not number.is_integer():
        raise InputError(f"budget {text!r}: {match['number']} is not a whole number of trials; {how}")
    return Budget(trials=int(number))
