"""The commands about devices: parse, call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from autocompress.cli_options import Json, SpaceName, TaskName, print_result
from autocompress.errors import InputError

targets_app = typer.Typer(
    help="Look at the devices, measure on them, and check what is predicted.", no_args_is_help=True
)

TargetArgument = Annotated[str, typer.Argument(help="Shipped name, name:setup, or path of a profile.")]


@targets_app.command("list")
def targets_list(json_: Json = False) -> None:
    """The devices that are shipped."""
    from autocompress.targets.profile import list_targets

    table = Table("target", "device", "runtime", "precision")
    rows = []
    for profile in list_targets():
        runtime = f"{profile.runtime} {profile.runtime_version}"
        rows.append({"name": profile.name, "title": profile.title, "runtime": runtime, "opset": profile.opset})
        table.add_row(profile.name, profile.title, runtime, profile.default_precision)
    print_result(rows, json_, table)


@targets_app.command("show")
def targets_show(name: TargetArgument, json_: Json = False) -> None:
    """What is known of a device, with its sources and how well its law predicts."""
    from autocompress.targets.describe import describe
    from autocompress.targets.profile import load_target

    target = load_target(name)
    print_result(asdict(target.profile), json_, describe(target))


@targets_app.command("validate")
def targets_validate(
    name: TargetArgument,
    data: Annotated[
        Path, typer.Option(help="CSV with model, input, ms; what benchncnn printed; or the folder of published files.")
    ],
    plot: Annotated[Path | None, typer.Option(help="Draw predicted against measured into this SVG file.")] = None,
    least_spearman: Annotated[float | None, typer.Option(help="Fail below this rank correlation.")] = None,
    least_within_10: Annotated[float | None, typer.Option(help="Fail below this share (%) within 10 %.")] = None,
    most_error: Annotated[float | None, typer.Option(help="Fail above this mean error (%).")] = None,
    least_coverage: Annotated[float | None, typer.Option(help="Fail below this share (%) inside the interval.")] = None,
    json_: Json = False,
) -> None:
    """How predictions agree with measured networks; exit code 1 where they miss what was asked for."""
    from autocompress.targets.plot import agreement_svg
    from autocompress.targets.profile import load_target
    from autocompress.targets.validate import shortfalls, told, validate

    found = validate(load_target(name), data)
    missed = shortfalls(found, least_spearman, least_within_10, most_error, least_coverage)
    if plot is not None:
        plot.write_text(agreement_svg(found), encoding="utf-8")
    print_result([asdict(one) for one in found], json_, "\n".join(told(one) for one in found))
    for line in missed:
        typer.echo(line, err=True)
    if missed:
        raise typer.Exit(1)


@targets_app.command("measure")
def targets_measure(
    name: TargetArgument,
    on: Annotated[str, typer.Option(help="local, or ssh://user@host:port.")] = "local",
    task: TaskName = "digits",
    space: SpaceName = "joint",
    output: Annotated[Path | None, typer.Option(help="Folder of the new target; ./NAME by default.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many kernels, the most important first.")] = 200,
    repeats: Annotated[int, typer.Option(help="Samples of each kernel.")] = 30,
    threads: Annotated[int, typer.Option(help="Threads within one operator.")] = 1,
    json_: Json = False,
) -> None:
    """Measure the kernels that a search may meet on the device, and fit its law again; run it again to go on."""
    from autocompress import answers
    from autocompress.run.progress import Terminal
    from autocompress.run.settings import SearchConfig

    if limit < 1:
        raise InputError(f"--limit is {limit}; allowed: 1 or more")
    config = SearchConfig(task=task, target=name, space=space)
    with Terminal() as listener:
        data = answers.measure_target(config, on, output, limit, repeats, threads, listener)
    print_result(data, json_, _measured_table(data))


def _measured_table(data: dict[str, Any]) -> Table:
    table = Table("dtype", "kernels", "law's error before", "after", title=f"{data['measured']} kernels measured")
    for dtype, one in data["laws"].items():
        table.add_row(dtype, str(one["rows"]), f"{one['error_before']:.1%}", f"{one['error_after']:.1%}")
    before, after = (f"{ms:.4g} ms" for ms in (data["dense_before_ms"], data["dense_after_ms"]))
    table.caption = f"dense model: {before} before, {after} now. Use it with --target {data['target']}"
    if data["not_measured"]:
        table.caption += f"\n{len(data['not_measured'])} not measured, e.g. {data['not_measured'][0]}"
    return table


@targets_app.command("import")
def targets_import(
    name: TargetArgument,
    file: Annotated[Path, typer.Argument(help="Profile by trtexec or ONNX Runtime.")],
    companion: Annotated[
        Path | None, typer.Option("--with", help="trtexec: --exportLayerInfo; ONNX Runtime: the optimised model.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="trtexec or onnxruntime; by its content if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the new target; ./NAME by default.")] = None,
    json_: Json = False,
) -> None:
    """Take the kernels of a profile that another tool measured on the device into its table."""
    from autocompress.targets.own import import_profile

    data = import_profile(name, file, kind, companion, output)
    table = Table("kernels taken", "share of the time", "not taken")
    table.add_row(str(data["taken"]), f"{data['mapped_share']:.1%}", str(len(data["unmapped"])))
    print_result(data, json_, table)
