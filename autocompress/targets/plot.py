"""Draws predicted against measured latency as one SVG file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from autocompress.targets.validate import Agreement, Point

SIDE, MARGIN = 480, 56
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
# Interval bars are drawn for so few networks that they can be told apart.
MOST_BARS = 60


def agreement_svg(found: Sequence[Agreement]) -> str:
    """Measured milliseconds to the right, predicted ones upwards, both in logarithms; dashes are 10 % off."""
    points = [point for one in found for point in one.points]
    bars = len(points) <= MOST_BARS
    values = [ms for point in points for ms in (point.ms, point.measured_ms)]
    values += [ms for point in points if bars for ms in (point.low_ms, point.high_ms)]
    low, high = math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05

    def place(ms: float) -> float:
        return (math.log10(ms) - low) / (high - low) * SIDE

    parts = [*_frame(low, high), *_diagonals(high - low)]
    for index, one in enumerate(found):
        colour = COLOURS[index % len(COLOURS)]
        title = f"{one.source} ({one.target}, {one.precision}, {len(one.points)} networks)"
        parts.append(f'<text x="8" y="{16 + 15 * index}" fill="{colour}">{escape(title)}</text>')
        for point in one.points:
            parts += _mark(point, colour, place, bars)
    size = SIDE + 2 * MARGIN
    font = 'font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" {font}>'
    frame = f'<rect width="{size}" height="{size}" fill="white"/><g transform="translate({MARGIN},{MARGIN})">'
    return "\n".join([head, frame, *parts, "</g></svg>", ""])


def _mark(point: Point, colour: str, place: Callable[[float], float], bar: bool) -> list[str]:
    x, y = place(point.measured_ms), SIDE - place(point.ms)
    title = escape(f"{point.name}: measured {point.measured_ms:.4g} ms, predicted {point.ms:.4g} ms")
    found = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}" opacity="0.6"><title>{title}</title></circle>']
    if bar:
        top, bottom = (SIDE - place(ms) for ms in (point.high_ms, point.low_ms))
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}" opacity="0.4"/>'
        found.insert(0, line)
    return found


def _frame(low: float, high: float) -> list[str]:
    parts = [f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#888"/>']
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            at = (power + math.log10(digit) - low) / (high - low) * SIDE
            if 0 <= at <= SIDE:
                label = f"{digit * 10.0**power:g}"
                parts.append(f'<text x="{at:.1f}" y="{SIDE + 16}" text-anchor="middle">{label}</text>')
                parts.append(f'<text x="-6" y="{SIDE - at + 4:.1f}" text-anchor="end">{label}</text>')
                parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{SIDE}" stroke="#eee"/>')
                parts.append(f'<line x1="0" x2="{SIDE}" y1="{SIDE - at:.1f}" y2="{SIDE - at:.1f}" stroke="#eee"/>')
    parts.append(f'<text x="{SIDE / 2}" y="{SIDE + 36}" text-anchor="middle">measured, ms</text>')
    turned = f'transform="translate(-40,{SIDE / 2}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">predicted, ms</text>')
    return parts


def _diagonals(decades: float) -> list[str]:
    """The line of perfect predictions, and those of predictions that are 10 % too high and too low."""
    parts = []
    for factor, dash in ((1.0, ""), (1.1, ' stroke-dasharray="4 4"'), (1 / 1.1, ' stroke-dasharray="4 4"')):
        up = math.log10(factor) / decades * SIDE
        left, right = max(0.0, -up), min(SIDE, SIDE - up)
        ends = f'x1="{left:.1f}" y1="{SIDE - left - up:.1f}" x2="{right:.1f}" y2="{SIDE - right - up:.1f}"'
        parts.append(f'<line {ends} stroke="#444"{dash}/>')
    return parts
