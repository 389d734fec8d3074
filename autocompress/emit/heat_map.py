"""Draws what every option of a space loses alone, a row for each decision, as one SVG file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

NAMES, CELL, ROW, TOP = 260, 96, 20, 64
# The title has to fit above few columns.
LEAST_WIDTH, SWATCH = 760, 110
# Shares of what a model that knows nothing loses: what is below the first changes nothing, the last is all of it.
LEAST, MOST = 1e-4, 1.0
# From nothing to all, light to dark.
_COLOURS = ((255, 255, 229), (254, 217, 118), (240, 120, 50), (128, 0, 38))
_DARK = 0.6


def sensitivity_svg(data: Mapping[str, Any]) -> str:
    """Decisions downwards, their options from weak to strong to the right, dark where much is lost.

    Args:
        data: What `config.sensitivity` gives.
    """
    rows: Sequence[Mapping[str, Any]] = data["decisions"]
    columns = max((len(row["options"]) for row in rows), default=0)
    width, height = max(LEAST_WIDTH, NAMES + columns * CELL + 24), TOP + len(rows) * ROW + 24
    title = f"{data['task']}, {data['target']}: loss that an option adds alone, as a share of knowing nothing"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="14" font-weight="600">{escape(title)}</text>',
        *_legend(),
    ]
    for number, row in enumerate(rows):
        y = TOP + number * ROW
        name = escape(row["decision"])
        parts.append(f'<text x="{NAMES - 8}" y="{y + 14}" text-anchor="end"><title>{name}</title>{name}</text>')
        for column, option in enumerate(row["options"]):
            parts.append(_cell(row["decision"], option, NAMES + column * CELL, y))
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> list[str]:
    parts = []
    for place, share in enumerate((LEAST, 1e-3, 1e-2, 1e-1, MOST)):
        x = 12 + place * SWATCH
        parts.append(f'<rect x="{x}" y="34" width="14" height="14" fill="{_colour(share)}" stroke="#999"/>')
        text = f"{'at most ' if share == LEAST else ''}{share:.4g}"
        parts.append(f'<text x="{x + 18}" y="45">{text}</text>')
    return parts


def _cell(decision: str, option: Mapping[str, Any], x: int, y: int) -> str:
    share, saved = option["loss_share"], option["saved"]
    box = f'x="{x}" y="{y}" width="{CELL - 2}" height="{ROW - 2}"'
    label, name = _cut(str(option["option"])), f"{decision}, {option['option']}"
    text = f'x="{x + CELL / 2 - 1:.0f}" y="{y + 13}" text-anchor="middle"'
    if share is None or saved is None:
        tip = f"<title>{escape(name)}: not possible</title>"
        return f'<g>{tip}<rect {box} fill="#eee"/><text {text} fill="#999">{escape(label)}</text></g>'
    savings = ", ".join(f"{cost} {part:+.1%}" for cost, part in saved.items())
    tip = f"<title>{escape(name)}: loses {share:.2%}; saves {escape(savings)}</title>"
    ink = "white" if _strength(share) > _DARK else "#222"
    return f'<g>{tip}<rect {box} fill="{_colour(share)}"/><text {text} fill="{ink}">{escape(label)}</text></g>'


def _cut(text: str, most: int = 15) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _strength(share: float) -> float:
    """Where a share stands between the least and all of it, by its logarithm."""
    return math.log(min(MOST, max(LEAST, share)) / LEAST) / math.log(MOST / LEAST)


def _colour(share: float) -> str:
    at = _strength(share) * (len(_COLOURS) - 1)
    low = min(int(at), len(_COLOURS) - 2)
    mixed = (round(a + (at - low) * (b - a)) for a, b in zip(_COLOURS[low], _COLOURS[low + 1], strict=True))
    return f"rgb({','.join(map(str, mixed))})"
