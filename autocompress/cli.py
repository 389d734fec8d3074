"""The command line: parse, call, print."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from autocompress.cli_options import Json, RayAddress, SpaceName, TargetName, TaskName, WorkersCount, print_result
from autocompress.cli_targets import targets_app
from autocompress.errors import AutoCompressError, InputError, RunError
from autocompress.run.disk import trouble
from autocompress.run.uninterrupted import end_on_request

# Threads that spin while they wait bring training to a halt as soon as another process wants the processor.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="autocompress",
    help="One search over channels, bits, rank and architecture, for a real device, ending in verified files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
space_app = typer.Typer(help="Look at a search space.", no_args_is_help=True)
app.add_typer(space_app, name="space")
app.add_typer(targets_app, name="targets")

Constraints = Annotated[
    list[str] | None,
    typer.Option("--constraint", help='E.g. "latency<=20ms", "size<=30%", "accuracy>=-1.0"; may be repeated.'),
]
NewConstraints = Annotated[
    list[str] | None,
    typer.Option("--constraint", help='In place of those before; may be repeated. "" alone removes them.'),
]
NewBudget = Annotated[str | None, typer.Option(help="A new total (80) or more on top (+30).")]
RunPath = Annotated[Path, typer.Argument(help="Run folder.")]


def main() -> None:
    """Runs the command line; mistakes of the user end in one line and exit code 2."""
    end_on_request()
    try:
        app(standalone_mode=True)
    except AutoCompressError as error:
        text = " ".join(str(error).split())
        print(f"autocompress: {text}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        # A disk that is full, a folder that may not be written: the user's to repair, not a mistake in here.
        print(f"autocompress: {trouble(error)}", file=sys.stderr)
        sys.exit(1)


@app.command()
def search(
    budget: Annotated[str, typer.Option(help="Trials (50) or time (30m, 2h).")] = "50",
    target: TargetName = "jetson-nano",
    task: TaskName = "digits",
    space: SpaceName = "joint",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder; must be new.")] = None,
    objectives: Annotated[
        str, typer.Option(help="Metrics to improve, with commas.")
    ] = "accuracy,size_bytes,latency_ms",
    constraint: Constraints = None,
    controller: Annotated[
        str, typer.Option(help="planned, tpe, tpe-seeded, nsga2, nsga3, gp, evolution, ilp, amc, jitter or random.")
    ] = "planned",
    seed: Annotated[int, typer.Option(help="The same seed gives the same plans.")] = 0,
    precision: Annotated[str | None, typer.Option(help="What unquantized layers run in.")] = None,
    short_steps: Annotated[int | None, typer.Option(help="Optimiser steps of a trial; by the data by default.")] = None,
    final_epochs: Annotated[float, typer.Option(help="Epochs of training for each point of the front, at most.")] = 2.0,
    final_minutes: Annotated[
        float,
        typer.Option(help="What these trainings may take together; 0 for any time, and the same numbers anywhere."),
    ] = 15.0,
    final_points: Annotated[int, typer.Option(help="Points of the front to train and export.")] = 7,
    calibration_samples: Annotated[int, typer.Option(help="Samples for statistics and ranges.")] = 512,
    validation_samples: Annotated[
        int | None, typer.Option(help="Samples a trial is judged on; all by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    storage: Annotated[str | None, typer.Option(help="A database, e.g. postgresql://me@host/db.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Where weights go that all workers reach, e.g. s3://bucket/runs; the run folder.")
    ] = None,
    workers: WorkersCount = None,
    ray_address: RayAddress = None,
    cpus_per_trial: Annotated[int | None, typer.Option(help="Threads and processors of each worker.")] = None,
    gpus_per_trial: Annotated[float | None, typer.Option(help="GPUs of each worker, also a part of one.")] = None,
    json_: Json = False,
) -> None:
    """Search a space for a task on a target; leaves a folder of verified files and a report."""
    from autocompress import config as wiring
    from autocompress.run.progress import Terminal
    from autocompress.run.settings import SearchConfig

    config = SearchConfig(
        task=task,
        target=target,
        space=space,
        budget=budget,
        objectives=_listed(objectives),
        constraints=tuple(constraint or ()),
        controller=controller,
        seed=seed,
        precision=precision,
        short_steps=short_steps,
        final_epochs=final_epochs,
        final_minutes=final_minutes,
        final_points=final_points,
        calibration_samples=calibration_samples,
        validation_samples=validation_samples,
        device=device,
        storage=storage,
        checkpoints=checkpoints,
        workers=workers,
        ray_address=ray_address,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
    )
    with Terminal() as listener:
        run = wiring.search(
            task, target=target, space=space, budget=budget, output=output,
            objectives=config.objectives, constraints=config.constraints, config=config, listener=listener,
        )  # fmt: skip
    _finish(run, json_)


@app.command()
def resume(
    run: RunPath,
    budget: NewBudget = None,
    constraint: NewConstraints = None,
    workers: WorkersCount = None,
    ray_address: RayAddress = None,
    json_: Json = False,
) -> None:
    """Go on with a run that was interrupted, extend one, or judge its trials by other constraints."""
    from autocompress import config as wiring
    from autocompress.run.progress import Terminal

    with Terminal() as listener:
        result = wiring.resume(
            run, budget, listener, constraints=_named(constraint), workers=workers, ray_address=ray_address
        )
    _finish(result, json_)


@app.command()
def fork(
    run: RunPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new run.")],
    target: Annotated[str | None, typer.Option(help="Another target; its tables give the costs.")] = None,
    objectives: Annotated[str | None, typer.Option(help="Other metrics to improve, with commas.")] = None,
    constraint: NewConstraints = None,
    budget: NewBudget = None,
    workers: WorkersCount = None,
    json_: Json = False,
) -> None:
    """Begin a run with the trials of another, for another target or other goals; none is trained again."""
    from autocompress import config as wiring
    from autocompress.run.progress import Terminal

    names = None if objectives is None else _listed(objectives)
    with Terminal() as listener:
        result = wiring.fork(
            run, output, target=target, objectives=names, constraints=_named(constraint), budget=budget,
            listener=listener, workers=workers,
        )  # fmt: skip
    _finish(result, json_)


def _listed(names: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in names.split(","))


def _named(constraints: list[str] | None) -> list[str] | None:
    """Those that say something; None where none was given."""
    return None if constraints is None else [text for text in constraints if text]


def _finish(run: Any, as_json: bool) -> None:
    from autocompress.run.show import front_table

    front = run.front
    print_result({"run": str(run.path), **front}, as_json, front_table(front))
    if not as_json:
        Console().print(f"artifacts: {run.path / 'artifacts'}\nreport:    {run.path / 'report.html'}", highlight=False)
    if not front["points"]:
        raise RunError(f"run {run.path} has no verified point; its report says why")


@app.command()
def status(run: RunPath, json_: Json = False) -> None:
    """How far a run is; works while it runs."""
    from autocompress.run.folder import Run
    from autocompress.run.show import status_of, status_table

    data = status_of(Run.open(run))
    print_result(data, json_, status_table(data))


@app.command()
def dashboard(
    run: RunPath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
) -> None:
    """Show the trials of a run in Optuna's dashboard, also while it runs; Ctrl-C ends it."""
    from autocompress.run.dashboard import dashboard_server
    from autocompress.run.folder import Run

    with dashboard_server(Run.open(run), host, port) as server, contextlib.suppress(KeyboardInterrupt):
        Console().print(f"http://{host}:{server.server_port}/dashboard, for looking only", highlight=False)
        server.serve_forever()


@app.command()
def explain(
    run: RunPath,
    point: Annotated[str, typer.Option(help="Which artifact, e.g. t036.")],
    json_: Json = False,
) -> None:
    """Why a point is as it is: what each choice loses and saves, what a looser limit would buy, what was left alone."""
    from autocompress import answers
    from autocompress.run.explained import explanation_tables
    from autocompress.run.progress import Terminal

    with Terminal() as listener:
        data = answers.explain_point(run, point, listener)
    print_result(data, json_, explanation_tables(data))


@app.command()
def report(
    run: RunPath,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; report.html in the run.")
    ] = None,
    json_: Json = False,
) -> None:
    """Draw the report of a run again."""
    from autocompress.core.files import write_whole
    from autocompress.emit.report import render_report
    from autocompress.emit.report_data import load_report_data
    from autocompress.run.folder import REPORT, REPORT_DATA, Run

    opened = Run.open(run)
    source = opened.path / REPORT_DATA
    if not source.is_file():
        raise InputError(f"{run} has no {REPORT_DATA} yet; finish it with `autocompress resume {run}`")
    path = output or opened.path / REPORT
    write_whole(path, render_report(load_report_data(source)))
    print_result({"report": str(path)}, json_, f"report: {path}")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="Run folder, artifact folder or ONNX file.")],
    output: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    point: Annotated[str | None, typer.Option(help="Which artifact of a run.")] = None,
    plain: Annotated[bool, typer.Option(help="Plain weights, for runtimes that fold nothing (TensorRT 8).")] = False,
    json_: Json = False,
) -> None:
    """Copy an artifact's ONNX file, or write it with plain instead of packed weights."""
    from autocompress.run.show import export_file

    data = export_file(source, output, point, plain)
    print_result(data, json_, f"{data['output']}: {data['size_bytes']:,} bytes")


@app.command()
def verify(
    source: Annotated[Path, typer.Argument(help="Run folder, artifact folder or the ONNX file in one.")],
    json_: Json = False,
) -> None:
    """Check files against their manifests and against the PyTorch model, in ONNX Runtime."""
    from autocompress.run.show import verify_artifacts, verify_table

    rows = verify_artifacts(source)
    print_result(rows, json_, verify_table(rows))
    if not all(row["passed"] for row in rows):
        raise typer.Exit(1)


@app.command()
def estimate(
    target: TargetName = "jetson-nano",
    task: TaskName = "digits",
    plan: Annotated[Path | None, typer.Option(help="A plan.yaml; the dense model without.")] = None,
    precision: Annotated[str | None, typer.Option(help="What unquantized layers run in.")] = None,
    json_: Json = False,
) -> None:
    """Predict size, latency, MACs and memory of a model or a plan, without running it."""
    from autocompress import answers
    from autocompress.run.show import estimate_table

    data = answers.estimate(task, target, plan, precision)
    print_result(data, json_, estimate_table(data))


@app.command()
def sensitivity(
    target: TargetName = "jetson-nano",
    task: TaskName = "digits",
    space: SpaceName = "joint",
    table: Annotated[Path | None, typer.Option(help="The file that keeps what is measured; in the cache.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw decisions by options into this SVG file.")] = None,
    seed: Annotated[int, typer.Option(help="Of anything random in an option.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes side by side; one for each core by default.")] = None,
    json_: Json = False,
) -> None:
    """What every option of a space does alone, before any training: where the model can give, and where not."""
    from autocompress import answers
    from autocompress.emit.heat_map import sensitivity_svg
    from autocompress.run.progress import Terminal
    from autocompress.run.settings import SearchConfig
    from autocompress.run.show import sensitivity_table

    config = SearchConfig(task=task, target=target, space=space, seed=seed, workers=workers)
    with Terminal() as listener:
        data = answers.sensitivity(config, table, listener)
    if plot is not None:
        plot.write_text(sensitivity_svg(data), encoding="utf-8")
    print_result(data, json_, sensitivity_table(data))


@space_app.command("show")
def space_show(
    space: Annotated[str, typer.Argument(help="Shipped name or path of a YAML or Python file.")] = "joint",
    task: TaskName = "digits",
    target: TargetName = "jetson-nano",
    constraint: Constraints = None,
    json_: Json = False,
) -> None:
    """Decisions, number of plans, and what the space reaches for a task and target."""
    from autocompress import answers
    from autocompress.run.settings import SearchConfig
    from autocompress.run.show import space_table

    config = SearchConfig(task=task, target=target, space=space, constraints=tuple(constraint or ()))
    data = answers.describe_space(config)
    print_result(data, json_, space_table(data))
    if not all(check["can_be_met"] for check in data["constraints"]):
        raise typer.Exit(1)


@app.command()
def doctor(json_: Json = False) -> None:
    """What this installation has: versions, threads, devices, data folder."""
    from autocompress.run.environment import doctor as look

    data = look()
    table = Table("what", "value")
    for name, value in data.items():
        table.add_row(name, str(value))
    print_result(data, json_, table)
