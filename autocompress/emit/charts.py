"""Numbers as text, axes and steps, and the front as a static SVG: pure functions on strings."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autocompress.core.metric import Metric
from autocompress.core.pareto import non_dominated

KINDS = ("point", "dense", "uniform")
TITLES = {
    "size_bytes": "size",
    "latency_ms": "latency",
    "macs": "MACs",
    "peak_memory_bytes": "peak memory",
    "params": "parameters",
}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
# How wide a letter of a name is, on the average, in pixels.
_LETTER = 6.8
_STYLE = """
.ac{font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#5b626c}.ac .bg{fill:#fff}
.ac .ttl{font-size:15px;font-weight:600;fill:#16191d}.ac .grid{stroke:#e6e8eb}.ac .axis{font-weight:600;fill:#30353c}
.ac .step{fill:none;stroke:#0f6fde;stroke-width:2;opacity:.55}.ac .bar{stroke:#0f6fde;opacity:.4}
.ac .name{paint-order:stroke;stroke:#fff;stroke-width:4px}
.ac .point{fill:#0f6fde;stroke:#fff}.ac .dense{fill:#16191d}.ac .uniform{fill:#fff;stroke:#b4590b;stroke-width:2}
@media (prefers-color-scheme:dark){.ac{fill:#9aa2ad}.ac .bg{fill:#14171b}.ac .ttl{fill:#eceef1}.ac .grid{stroke:#2a2f36}
.ac .axis{fill:#c9ced6}.ac .step,.ac .bar{stroke:#5ea7ff}.ac .point{fill:#5ea7ff;stroke:#14171b}.ac .dense{fill:#eceef1}
.ac .name{stroke:#14171b}.ac .uniform{fill:#14171b;stroke:#f0a35e}}
""".replace("\n", "")


@dataclass(frozen=True)
class Axis:
    """One axis of a front: which way is better and how it is drawn."""

    title: str
    unit: str
    higher_is_better: bool
    log: bool = False


@dataclass(frozen=True)
class Mark:
    """One model on a front; `kind` is `point`, `dense` or `uniform`."""

    x: Metric
    y: Metric
    label: str
    kind: str = "point"


def metric_title(name: str) -> str:
    """A metric's name as people read it."""
    return TITLES.get(name, name.replace("_", " "))


def format_number(value: float, digits: int = 3) -> str:
    """A number with that many significant digits and no exponent in the usual range."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:.{places}f}"


def format_value(value: float, unit: str, digits: int = 3) -> str:
    """A number with its unit; bytes and counts are scaled in thousands (kB, M)."""
    if unit == "percent":
        return f"{value:.2f} %"
    scaled, suffix = _scaled(value, unit)
    whole = unit in ("bytes", "macs", "count") and scaled == value and float(value).is_integer()
    return f"{f'{scaled:.0f}' if whole else format_number(scaled, digits)} {suffix}".rstrip()


def format_tick(value: float, unit: str) -> str:
    """A round number with its unit, as short as it can be."""
    scaled, suffix = _scaled(value, unit)
    return f"{scaled:.6g} {suffix}".rstrip()


def _scaled(value: float, unit: str) -> tuple[float, str]:
    if unit not in ("bytes", "macs", "count"):
        return value, "%" if unit == "percent" else unit
    prefix, size = next(((prefix, size) for size, prefix in _PREFIXES if abs(value) >= size), ("", 1.0))
    return value / size, prefix + ("B" if unit == "bytes" else "")


def ticks(low: float, high: float, log: bool = False, count: int = 6) -> tuple[float, ...]:
    """Round values inside `[low, high]`: steps of 1, 2 or 5 on a linear axis, 1, 2 and 5 per decade on a log one."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = tuple(m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high)
        if len(found) > 2:
            return found if len(found) <= 2 * count else tuple(t for t in found if f"{t:e}".startswith("1"))
    if high <= low:
        return (low,)
    base = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next((m * base for m in (1, 2, 5) if (high - low) / (m * base) <= count), 10 * base)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def front_steps(
    pairs: Iterable[tuple[float, float]], x_higher: bool, y_higher: bool
) -> tuple[tuple[float, float], ...]:
    """The corners of the staircase through the non-dominated pairs, from best to worst x."""
    ordered = sorted(pairs, key=lambda pair: (-pair[0] if x_higher else pair[0], -pair[1] if y_higher else pair[1]))
    corners: list[tuple[float, float]] = []
    for x, y in ordered:
        if not corners:
            corners.append((x, y))
        elif (y > corners[-1][1]) if y_higher else (y < corners[-1][1]):
            corners += [(x, corners[-1][1]), (x, y)]
    return tuple(corners)


def front_svg(marks: Sequence[Mark], x: Axis, y: Axis, title: str = "", width: int = 860, height: int = 480) -> str:
    """The front as one static SVG in light and dark, with interval bars, baselines and a step through the points."""
    left, right, top, bottom = 84, 24, 46 if title else 20, 56
    to_x = _Scale([value for mark in marks for value in (mark.x.low, mark.x.high)], x.log, left, width - right)
    to_y = _Scale([value for mark in marks for value in (mark.y.low, mark.y.high)], y.log, height - bottom, top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ac" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(title or "front")}"><style>{_STYLE}</style>',
        f'<rect class="bg" width="{width}" height="{height}" rx="8"/>',
        f'<text class="ttl" x="{left}" y="28">{html.escape(title)}</text>' if title else "",
    ]
    for tick in to_x.ticks():
        at = to_x(tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {top}V{height - bottom}"/>')
        parts.append(_text(at, height - bottom + 20, format_tick(tick, x.unit), "middle"))
    for tick in to_y.ticks():
        at = to_y(tick)
        parts.append(f'<path class="grid" d="M{left} {at:.1f}H{width - right}"/>')
        parts.append(_text(left - 10, at + 4, format_tick(tick, y.unit), "end"))
    parts.append(_text((left + width - right) / 2, height - 12, _axis_title(x), "middle", "axis"))
    parts.append(f'<g transform="translate(18 {(top + height - bottom) / 2}) rotate(-90)">')
    parts.append(_text(0, 0, _axis_title(y), "middle", "axis") + "</g>")
    pairs = [(mark.x.value, mark.y.value) for mark in marks if mark.kind == "point"]
    corners = " ".join(
        f"{to_x(a):.1f},{to_y(b):.1f}" for a, b in front_steps(pairs, x.higher_is_better, y.higher_is_better)
    )
    parts.append(f'<polyline class="step" points="{corners}"/>')
    parts += [_mark(mark, to_x, to_y) for mark in marks]
    parts += _labels(_named(marks, x, y), marks, to_x, to_y, width)
    if not marks:
        parts.append(_text(width / 2, height / 2, "no verified point", "middle"))
    return "\n".join(part for part in parts if part) + "\n</svg>\n"


class _Scale:
    """A linear or log map from values to pixels, with 6 % of air on both sides."""

    def __init__(self, values: Sequence[float], log: bool, start: float, end: float) -> None:
        self.log = log and bool(values) and min(values) > 0
        ends = (min(values), max(values)) if values else (0.0, 1.0)
        low, high = (math.log10(ends[0]), math.log10(ends[1])) if self.log else ends
        air = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high, self.start, self.end = low - air, high + air, start, end

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self.log else value
        return self.start + (at - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> tuple[float, ...]:
        if self.log:
            return ticks(10.0**self.low, 10.0**self.high, log=True)
        return ticks(self.low, self.high)


def _axis_title(axis: Axis) -> str:
    return f"{axis.title} ({'higher' if axis.higher_is_better else 'lower'} is better)"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _named(marks: Sequence[Mark], x: Axis, y: Axis) -> list[Mark]:
    """The dense model and the uniform plans that no other one beats in both axes: all names would cover one another."""
    uniform = [mark for mark in marks if mark.kind == "uniform"]
    signs = (-1.0 if x.higher_is_better else 1.0, -1.0 if y.higher_is_better else 1.0)
    kept = non_dominated([(signs[0] * mark.x.value, signs[1] * mark.y.value) for mark in uniform])
    return [*(mark for mark in marks if mark.kind == "dense"), *(uniform[index] for index in kept)]


def _labels(named: Sequence[Mark], marks: Sequence[Mark], to_x: _Scale, to_y: _Scale, width: int) -> list[str]:
    """The baselines' names, moved down until none lies on another or on a mark."""
    at = [(to_x(mark.x.value), to_y(mark.y.value)) for mark in marks]
    # From left to right and from top to bottom.
    taken = [(x - 8.0, x + 8.0, y - 8.0, y + 8.0) for x, y in at]
    parts = []
    for mark in named:
        x, y = to_x(mark.x.value), to_y(mark.y.value) + 4
        late, wide = x > 0.8 * width, _LETTER * len(mark.label)
        left, right = (x - 12 - wide, x - 12) if late else (x + 12, x + 12 + wide)
        while any(left < b and a < right and y - 11 < d and c < y + 3 for a, b, c, d in taken):
            y += 4
        taken.append((left, right, y - 11, y + 3))
        parts.append(_text(x - 12 if late else x + 12, y, mark.label, "end" if late else "start", "name"))
    return parts


def _mark(mark: Mark, to_x: _Scale, to_y: _Scale) -> str:
    x, y = to_x(mark.x.value), to_y(mark.y.value)
    bars = ""
    if mark.x.high > mark.x.low:
        bars += f'<path class="bar" d="M{to_x(mark.x.low):.1f} {y:.1f}H{to_x(mark.x.high):.1f}"/>'
    if mark.y.high > mark.y.low:
        bars += f'<path class="bar" d="M{x:.1f} {to_y(mark.y.low):.1f}V{to_y(mark.y.high):.1f}"/>'
    shape = {
        "point": f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5.5">',
        "dense": f'<path class="dense" d="M{x:.1f} {y - 8:.1f}l8 8l-8 8l-8 -8z">',
        "uniform": f'<rect class="uniform" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10">',
    }[mark.kind]
    end = "path" if mark.kind == "dense" else "rect" if mark.kind == "uniform" else "circle"
    tip = f"{mark.label}: {format_value(mark.x.value, mark.x.unit)}, {format_value(mark.y.value, mark.y.unit)}"
    return f"{bars}{shape}<title>{html.escape(tip)}</title></{end}>"
