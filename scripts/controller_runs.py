"""Searches by several controllers, as they are compared: recorded, read again, as tables and as a picture."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.core.metric import MAXIMISED
from autocompress.core.pareto import hypervolume
from autocompress.core.space import Vector
from autocompress.emit.charts import ticks

FORMAT = "autocompress-controllers"
AT = (5, 10, 15, 25, 50)
RIVALS = ("random", "tpe", "nsga2", "jitter", "tpe-seeded")
# Below the dense model's accuracy by more than this a plan counts for nothing, in its points.
WORST_POINTS = 10.0
Point = tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """One trial that was trained.

    Attributes:
        values: Metrics by name.
        seconds: When it ended, from the start of its run: tables that are measured before count.
    """

    vector: Vector
    values: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Search:
    """One finished search.

    Attributes:
        objectives: What was searched for.
        trials: In the order in which they ended; the dense model is among them.
    """

    controller: str
    seed: int
    objectives: tuple[str, ...]
    trials: tuple[Trial, ...]

    @cached_property
    def points(self) -> list[Point]:
        """Of every trial the accuracy lost in points, then costs as shares of the dense model's."""
        dense = next(trial.values for trial in self.trials if not any(trial.vector))
        maximised = [name for name in self.objectives if MAXIMISED.get(name, False)]
        costs = [name for name in self.objectives if name not in maximised]
        return [
            (*(dense[n] - trial.values[n] for n in maximised), *(trial.values[n] / dense[n] for n in costs))
            for trial in self.trials
        ]

    @cached_property
    def curves(self) -> Mapping[str, list[float]]:
        """The hypervolume after every trial, by how costs count."""
        return {
            kind: [hypervolume(list(map(scaled, self.points[:n])), one(self.points[0])) for n in self.counts]
            for kind, scaled, one in KINDS
        }

    @property
    def counts(self) -> range:
        """1, 2, ... for every trial."""
        return range(1, len(self.trials) + 1)


def linear(point: Point) -> Point:
    """Costs as they are."""
    return (point[0] / WORST_POINTS, *point[1:])


def logarithmic(point: Point) -> Point:
    """Costs so that a halving counts the same everywhere."""
    return (point[0] / WORST_POINTS, *(math.log(max(cost, 1e-4)) for cost in point[1:]))


def corner(value: float) -> Callable[[Point], Point]:
    """What a plan must be better than: the dense model's costs, and the worst accuracy."""
    return lambda point: (1.0, *(value for _ in point[1:]))


KINDS = (("linear", linear, corner(1.0)), ("logarithmic", logarithmic, corner(0.0)))


def grouped(searches: Iterable[Search]) -> dict[str, list[Search]]:
    """The searches of every controller."""
    found: dict[str, list[Search]] = {}
    for each in searches:
        found.setdefault(each.controller, []).append(each)
    return found


def union(searches: Sequence[Search], kind: str) -> float:
    """The hypervolume of the trials of all searches together; something, so that shares of nothing are nothing."""
    _, scaled, one = next(each for each in KINDS if each[0] == kind)
    points = [scaled(point) for each in searches for point in each.points]
    return max(1e-12, hypervolume(points, one(searches[0].points[0])))


def table(searches: Sequence[Search], kind: str) -> str:
    """One line for each controller, medians over its seeds, the best first."""
    whole, by_name = union(searches, kind), grouped(searches)
    ended = {name: float(np.median([each.curves[kind][-1] for each in group])) for name, group in by_name.items()}
    rivals = [name for name in RIVALS if name in ended]
    heads = [f"after {n}" for n in AT] + [f"trials (minutes) to pass {name}" for name in rivals] + ["minutes"]
    lines = [f"| controller | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 1)}"]
    for name, group in sorted(by_name.items(), key=lambda item: -ended[item[0]]):
        shares = [f"{np.median([at(each.curves[kind], n) for each in group]) / whole:.3f}" for n in AT]
        passes = [passing(group, kind, ended[rival]) for rival in rivals]
        lines.append(f"| {name} | {' | '.join(shares + passes)} | {minutes(group):.1f} |")
    return "\n".join(lines)


def minutes(group: Sequence[Search], trials: int | None = None) -> float:
    """When so many trials, or all, of the median search had ended."""
    ends = [at([trial.seconds for trial in each.trials], trials or len(each.trials)) for each in group]
    return float(np.median(ends)) / 60.0


def at(curve: Sequence[float], trials: int) -> float:
    """A curve after so many trials, or after its last one."""
    return curve[min(trials, len(curve)) - 1]


def passing(group: Sequence[Search], kind: str, wanted: float) -> str:
    """After how many trials, and minutes, the median of searches is above what another reached at its end."""
    curves = [each.curves[kind] for each in group]
    for trials in range(1, max(map(len, curves)) + 1):
        if float(np.median([at(curve, trials) for curve in curves])) > wanted:
            return f"{trials} ({minutes(group, trials):.1f})"
    return "never"


def save(path: Path, about: Mapping[str, Any], searches: Sequence[Search]) -> None:
    """Writes searches so that they can be compared again, and replayed."""
    rows = [
        {
            "controller": each.controller,
            "seed": each.seed,
            "objectives": list(each.objectives),
            "trials": [
                {
                    "plan": "".join(f"{index:x}" for index in t.vector),
                    "values": t.values,
                    "seconds": round(t.seconds, 1),
                }
                for t in each.trials
            ],
        }
        for each in searches
    ]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    head = json.dumps({"format": FORMAT, "version": 1, **about})
    path.write_text(f'{head[:-1]}, "searches": [\n{lines}\n]}}\n', encoding="utf-8")


def load(path: Path) -> tuple[dict[str, Any], list[Search]]:
    """What `save` wrote: what it is of, and the searches."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("format") != FORMAT or data.get("version") != 1:
        raise SystemExit(
            f"{path} is {data.get('format')!r} version {data.get('version')!r}; allowed: {FORMAT!r} version 1"
        )
    searches = [
        Search(
            row["controller"],
            row["seed"],
            tuple(row["objectives"]),
            tuple(
                Trial(tuple(int(digit, 16) for digit in trial["plan"]), trial["values"], trial["seconds"])
                for trial in row["trials"]
            ),
        )
        for row in data.pop("searches")
    ]
    return data, searches


# The picture: two panels of one width, by trials and by minutes.
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 400, 300, 52, 44, 60
_COLOURS = (
    "#0f6fde",
    "#b4590b",
    "#2a8f4d",
    "#8a4fbf",
    "#c2335c",
    "#5b626c",
    "#0b8a8a",
    "#9a7b00",
    "#444f9c",
    "#a0522d",
)


def curves_svg(searches: Sequence[Search], kind: str, title: str) -> str:
    """Median hypervolume against trials and against minutes, as shares of the union."""
    whole, by_name = union(searches, kind), grouped(searches)
    most = max(len(each.trials) for each in searches)
    longest = max(each.trials[-1].seconds for each in searches) / 60.0 or 1.0
    parts = []
    for panel, (end, text) in enumerate(((float(most), "trials"), (longest, "minutes, tables included"))):
        left = _LEFT + panel * (_WIDTH + _GAP)
        parts += _frame(left, end, text)
        for place, group in enumerate(by_name.values()):
            colour = _COLOURS[place % len(_COLOURS)]
            steps = _path(group, kind, whole, left, end, panel == 1)
            parts.append(f'<path d="{steps}" fill="none" stroke="{colour}" stroke-width="2"/>')
    x, y = float(_LEFT), _TOP + _HEIGHT + 66
    for place, name in enumerate(by_name):
        wide = 34.0 + 7.5 * len(name)
        if x + wide > _LEFT + 2 * _WIDTH + _GAP:
            x, y = float(_LEFT), y + 18
        parts.append(f'<rect x="{x}" y="{y - 9}" width="12" height="10" fill="{_COLOURS[place % len(_COLOURS)]}"/>')
        parts.append(_text(x + 18, y, name, "start"))
        x += wide
    width, height = _LEFT + 2 * _WIDTH + _GAP + 20, y + 18
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    style = 'font-family="system-ui,sans-serif" font-size="13" fill="#30353c"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, ground, _text(_LEFT, 22, title, "start"), *parts, "</svg>\n"])


def _path(group: Sequence[Search], kind: str, whole: float, left: float, end: float, by_time: bool) -> str:
    """The steps of the median of some searches."""
    steps = []
    for n in range(1, max(len(each.trials) for each in group) + 1):
        volume = float(np.median([at(each.curves[kind], n) for each in group]))
        x = left + (minutes(group, n) if by_time else n) / end * _WIDTH
        steps.append((x, _TOP + (1.0 - volume / whole) * _HEIGHT))
    (x, y), *rest = steps
    return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


def _frame(left: float, end: float, text: str) -> list[str]:
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _TOP + (1.0 - share) * _HEIGHT
        lines.append(f'<path d="M{left} {y}h{_WIDTH}" stroke="#e6e8eb"/>')
        lines.append(_text(left - 6, y + 4, f"{share:g}", "end"))
    for tick in ticks(0.0, end):
        lines.append(_text(left + tick / end * _WIDTH, _TOP + _HEIGHT + 18, f"{tick:g}", "middle"))
    return [*lines, _text(left + _WIDTH / 2, _TOP + _HEIGHT + 38, text, "middle")]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
