"""Draws the front of a run as a static picture: `python scripts/draw_front.py RUN OUT.svg`."""

from __future__ import annotations

import argparse
from pathlib import Path

from autocompress.core.metric import MAXIMISED
from autocompress.emit.charts import Axis, Mark, front_svg, metric_title
from autocompress.emit.report_data import PointRow, ReportData, load_report_data


def draw(data: ReportData, x: str, y: str, log: bool, title: str, least: float | None) -> str:
    """An SVG of the final points beside the dense model and the uniform plans.

    Args:
        data: Of the run.
        x: Metric on the horizontal axis; y: on the vertical one.
        log: Logarithmic horizontal axis.
        title: Above the picture.
        least: Uniform plans whose `y` is below this are left out.
    """

    def marks(rows: tuple[PointRow, ...], uniform: bool) -> list[Mark]:
        shown = [row for row in rows if x in row.metrics and y in row.metrics]
        kinds = {row.id: ("dense" if row.id == "dense" else "uniform") if uniform else "point" for row in shown}
        return [
            Mark(row.metrics[x], row.metrics[y], row.label if uniform else row.id, kinds[row.id])
            for row in shown
            if not uniform or least is None or row.metrics[y].value >= least
        ]

    every = [*marks(data.baselines, uniform=True), *marks(data.points, uniform=False)]
    if not every:
        raise SystemExit(f"no point or baseline has both {x!r} and {y!r}")
    axis_x = Axis(metric_title(x), every[0].x.unit, MAXIMISED.get(x, False), log)
    axis_y = Axis(metric_title(y), every[0].y.unit, data.higher_is_better(y))
    return front_svg(every, axis_x, axis_y, title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("svg", type=Path, help="file to write")
    parser.add_argument("--x", default="size_bytes")
    parser.add_argument("--y", default="accuracy")
    parser.add_argument("--log", action="store_true", help="logarithmic x axis")
    parser.add_argument("--title", default="")
    parser.add_argument("--least", type=float, help="leave out uniform plans with a smaller y")
    args = parser.parse_args()
    data = load_report_data(args.run / "report.json")
    svg = draw(data, args.x, args.y, args.log, args.title, args.least)
    args.svg.parent.mkdir(parents=True, exist_ok=True)
    args.svg.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
