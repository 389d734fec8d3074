"""The explanation of a point as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

_MOST_ROWS = 30


def explanation_tables(data: Mapping[str, Any]) -> RenderableType:
    """What `explain` found, in the order in which one asks."""
    return Group(*(table(data) for table in (_choices, _relaxed, _left)))


def _choices(data: Mapping[str, Any]) -> Table:
    title = f"{data['point']}: its choices, those first that lose most alone, untrained (of knowing nothing)"
    table = Table("decision", "choice", "loses", "saves bytes", "time", "MACs", title=title, title_justify="left")
    for one in data["choices"]:
        saves = one["saves"]
        shares = [f"{saves[cost]:+.1%}" if cost in saves else "?" for cost in ("size_bytes", "latency_ms", "macs")]
        table.add_row(one["decision"], one["option"], f"{one['loss_share']:.2%}", *shares)
    return table


def _relaxed(data: Mapping[str, Any]) -> Table:
    title = "what a tenth more of each cost would buy: choices to take back, with what they lose alone"
    table = Table("cost", "of the dense", "taken back", "relief", title=title, title_justify="left")
    for one in data["relaxed"]:
        table.add_row(one["cost"], f"{one['share']:.1%}", ", ".join(one["taken_back"]) or "-", f"{one['relief']:.2%}")
    return table


def _left(data: Mapping[str, Any]) -> Table:
    table = Table("left alone", "why", title="what the plan leaves as it is", title_justify="left")
    rows = [(one["decision"], one["why"]) for one in data["left"]]
    rows += [(one["layer"], one["why"]) for one in data["untouched"]]
    for row in rows[:_MOST_ROWS]:
        table.add_row(*row)
    if len(rows) > _MOST_ROWS:
        table.add_row("...", f"{len(rows) - _MOST_ROWS} more; --json prints all")
    return table
