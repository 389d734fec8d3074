"""Draws a run's `front.json` as a static SVG: python scripts/draw_front.py runs/x/front.json docs/front.svg."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.core.metric import MAXIMISED, Metric
from autocompress.emit.charts import Axis, Mark, front_svg, metric_title


def baselines(entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The metrics of each baseline; one that stands alone, as `{metric: {...}}`, is the dense model."""
    if entry and all("value" in item for item in entry.values()):
        return {"dense": entry}
    return {name: item.get("metrics", item) for name, item in entry.items()}


def draw(front: Mapping[str, Any], x: str, y: str, log: bool, title: str, lower_is_better: bool) -> str:
    rows = [
        (name, metrics, "dense" if name == "dense" else "uniform")
        for name, metrics in baselines(front.get("baseline") or {}).items()
    ]
    rows += [(point["id"], point["metrics"], "point") for point in front["points"]]
    marks = [
        Mark(Metric.from_dict(metrics[x]), Metric.from_dict(metrics[y]), name, kind)
        for name, metrics, kind in rows
        if x in metrics and y in metrics
    ]
    if not marks:
        raise SystemExit(f"no point or baseline has both {x!r} and {y!r}")
    axis_x = Axis(metric_title(x), marks[0].x.unit, MAXIMISED.get(x, False), log)
    axis_y = Axis(metric_title(y), marks[0].y.unit, MAXIMISED.get(y, not lower_is_better))
    return front_svg(marks, axis_x, axis_y, title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("front", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--x", default="size_bytes")
    parser.add_argument("--y", default="accuracy")
    parser.add_argument("--log", action="store_true", help="logarithmic x axis")
    parser.add_argument("--title", default="")
    parser.add_argument("--lower-is-better", action="store_true", help="for a task's own metric, e.g. a loss")
    args = parser.parse_args()
    front = json.loads(args.front.read_text(encoding="utf-8"))
    args.svg.write_text(draw(front, args.x, args.y, args.log, args.title, args.lower_is_better), encoding="utf-8")


if __name__ == "__main__":
    main()
