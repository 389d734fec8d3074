"""What commands share: options, and how a result is printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
TaskName = Annotated[str, typer.Option("--task", help="Built-in name, file.py:function or package.module:function.")]
TargetName = Annotated[str, typer.Option("--target", help="Shipped name or path of a profile.")]
SpaceName = Annotated[str, typer.Option("--space", help="Shipped name or path of a YAML or Python file.")]
WorkersCount = Annotated[
    int | None, typer.Option("--workers", help="Processes side by side; one for each core by default.")
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="A Ray cluster to work on: auto, host:port or ray://host:port.")
]


def print_result(data: Any, as_json: bool, table: RenderableType) -> None:
    """Prints JSON for machines, or a page or table for people."""
    if as_json:
        print(json.dumps(data, indent=2, sort_keys=True, default=str))
    elif isinstance(table, str):
        # A page keeps its lines, whatever the width of the terminal.
        print(table.rstrip("\n"))
    else:
        Console().print(table, highlight=False)
