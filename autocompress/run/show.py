"""Answers about runs for the command line: plain data, and the same as a table."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from optuna.trial import FrozenTrial
from rich.table import Table
from rich.text import Text

from autocompress.core.metric import Metric
from autocompress.emit.artifact import check_manifest, load, read_manifest
from autocompress.emit.onnx_export import unpack_onnx
from autocompress.emit.verify import verify
from autocompress.errors import AutoCompressError, InputError
from autocompress.run.folder import ARTIFACTS, FRONT, Run, whole_folders
from autocompress.run.journal import JOURNAL
from autocompress.run.lease import holder_of
from autocompress.run.storage import asked_once, close_storage, open_storage
from autocompress.run.study import is_replaced, result_of, state_of
from autocompress.search.record import seconds_by_phase

_NAMES = ("accuracy", "size_bytes", "latency_ms", "macs", "peak_memory_bytes")


def _cells(metrics: Mapping[str, Any], dense: Mapping[str, Any]) -> list[str]:
    cells = []
    for name in _NAMES:
        if name not in metrics:
            cells.append("")
            continue
        metric, base = Metric.from_dict(metrics[name]), Metric.from_dict(dense[name])
        if name == "accuracy":
            text = f"{metric.value:.2f} ({metric.value - base.value:+.2f})"
        elif name == "latency_ms":
            text = f"{metric.value:.3g} [{metric.low:.3g}, {metric.high:.3g}] {metric.origin}"
        else:
            text = f"{metric.value:,.0f} ({base.value / max(metric.value, 1e-12):.2f}x)"
        cells.append(text)
    return cells


def front_table(front: Mapping[str, Any]) -> Table:
    """The final front beside the dense model."""
    table = Table("point", *_NAMES, title="verified front", title_justify="left")
    dense = front["baseline"]["metrics"]
    table.add_row("dense", *_cells(dense, dense))
    for point in front["points"]:
        table.add_row(point["id"], *_cells(point["metrics"], dense))
    return table


def status_of(run: Run) -> dict[str, Any]:
    """Trials by state, who drives the run, what the time went into and what is written so far."""
    begun = run.storage is not None or (run.path / JOURNAL).is_file()
    trials = [trial for trial in _trials_of(run) if not is_replaced(trial)] if begun else []
    seconds = seconds_by_phase(result_of(trial).get("seconds", {}) for trial in trials)
    finished = (run.path / FRONT).is_file()
    driver = holder_of(run.path)
    return {
        "run": str(run.path),
        "driver": driver.named if driver is not None and not driver.is_gone else None,
        "budget": run.config["search"].get("budget"),
        "trials": dict(Counter(map(state_of, trials))),
        "trial_seconds": {phase: round(taken, 1) for phase, taken in seconds.items()},
        "finished": finished,
        "points": len(run.points) if finished else 0,
        "artifacts": [folder.name for folder in run.artifacts],
    }


def _trials_of(run: Run) -> list[FrozenTrial]:
    """Every trial in the storage of a run; none if its study was not begun."""
    storage = open_storage(run.path, run.storage)

    def read() -> list[FrozenTrial]:
        study = next((one for one in storage.get_all_studies() if one.study_name == run.study), None)
        return storage.get_all_trials(study._study_id, deepcopy=False) if study is not None else []

    try:
        return asked_once(read)
    finally:
        close_storage(storage)


def status_table(data: Mapping[str, Any]) -> Table:
    """`status_of` as a table."""
    table = Table("what", "value")
    for name, value in data.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        text = ", ".join(shown) if isinstance(shown, list) else str(shown)
        table.add_row(name.replace("_", " "), "none" if shown is None else text)
    return table


_LOSS_COLOURS = ((0.002, "green"), (0.02, "yellow"), (0.1, "dark_orange"), (math.inf, "red"))


def sensitivity_table(data: Mapping[str, Any]) -> Table:
    """A line for each decision: from the weakest option to the strongest, what is lost and what is saved."""
    title = "loss that an option adds alone, as a share of knowing nothing; bytes / latency that it saves"
    table = Table("decision", "options, from weak to strong", title=title, title_justify="left")
    for row in data["decisions"]:
        table.add_row(row["decision"], Text("   ").join(_option_text(option) for option in row["options"]))
    return table


def _option_text(option: Mapping[str, Any]) -> Text:
    if option["saved"] is None:
        return Text(f"{option['option']}: not possible", style="dim")
    share, saved = option["loss_share"], option["saved"]
    colour = next(colour for limit, colour in _LOSS_COLOURS if share <= limit)
    costs = f"({saved['size_bytes']:.1%} / {saved['latency_ms']:.1%})"
    return Text(f"{option['option']}: {share:.2%} ", style=colour).append(costs, style="dim")


def artifact_folders(source: Path) -> list[Path]:
    """Artifacts that a path stands for: those of a run, one folder, or the folder of one file.

    Raises:
        InputError: there is no artifact.
    """
    if (source / ARTIFACTS).is_dir():
        folders = whole_folders(source / ARTIFACTS)
        if not folders:
            raise InputError(f"{source} has no artifact yet; finish it with `autocompress resume {source}`")
        return folders
    folder = source.parent if source.suffix == ".onnx" else source
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{source} is neither a run nor an artifact: there is no manifest.json; name a run folder")
    return [folder]


def verify_artifacts(source: Path) -> list[dict[str, Any]]:
    """Checks every file against its manifest, and the ONNX file against the reloaded model on random inputs."""
    rows = []
    for folder in artifact_folders(source):
        row: dict[str, Any] = {"artifact": folder.name, "passed": False, "reason": ""}
        try:
            check_manifest(folder)
            manifest = read_manifest(folder)
            model = load(folder)
            found = verify(folder / "model.onnx", model, [_random_inputs(model)])
            row.update(max_abs_error=found.agreement.max_abs_error, cosine=found.agreement.cosine)
            # Random inputs lie outside the calibrated ranges; only agreement of the numbers counts for them.
            told = manifest.get("extra", {})
            row["passed"] = told.get("verified") is True and found.agreement.cosine >= 0.95
            unsaid = "" if "verified" in told else "the manifest does not say whether it was verified"
            row["reason"] = "" if row["passed"] else told.get("reason") or found.reason or unsaid
        except AutoCompressError as error:
            row["reason"] = str(error)
        rows.append(row)
    return rows


def _random_inputs(model: Any) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for node in model.graph.nodes:
        if node.op == "placeholder":
            shape = (4, *node.meta["shape"][1:])
            dtype = node.meta["dtype"]
            if dtype.is_floating_point:
                inputs.append(torch.randn(shape, generator=generator))
            else:
                inputs.append(torch.zeros(shape, dtype=dtype))
    return tuple(inputs)


def verify_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """`verify_artifacts` as a table."""
    table = Table("artifact", "verified", "max error", "cosine", "reason")
    for row in rows:
        error, cosine = (f"{row[name]:.3g}" if name in row else "" for name in ("max_abs_error", "cosine"))
        table.add_row(row["artifact"], "yes" if row["passed"] else "FAILED", error, cosine, str(row["reason"]))
    return table


def export_file(source: Path, output: Path, point: str | None, plain: bool) -> dict[str, Any]:
    """Writes an artifact's ONNX file somewhere else, packed as it is or with plain weights.

    Raises:
        InputError: no such artifact, or a run of several without `point`.
    """
    if source.suffix == ".onnx":
        file = source
    elif (source / ARTIFACTS).is_dir():
        names = [folder.name for folder in artifact_folders(source)]
        if point is None:
            raise InputError(f"{source} holds several artifacts; choose one with --point: {', '.join(names)}")
        file = Run.open(source).artifact(point) / "model.onnx"
    else:
        file = source / "model.onnx"
    if not file.is_file():
        raise InputError(f"{file} does not exist; name a run, an artifact or an ONNX file")
    output.parent.mkdir(parents=True, exist_ok=True)
    if plain:
        unpack_onnx(file, output)
    else:
        shutil.copyfile(file, output)
    return {"source": str(file), "output": str(output), "size_bytes": output.stat().st_size, "plain": plain}


def estimate_table(data: Mapping[str, Any]) -> Table:
    """An estimate kernel by kernel, the totals last."""
    table = Table("kernel", "op", "ms", "origin", "flag", caption="\n".join(data["notes"]), caption_justify="left")
    for row in data["kernels"]:
        table.add_row(row["kernel"], row["op"], f"{row['ms']:.4f}", row["origin"], row["flag"] or "")
    table.add_section()
    for name, metric in data["metrics"].items():
        interval = f"[{metric['low']:,.4g}, {metric['high']:,.4g}] {metric['unit']}"
        table.add_row(name, "", f"{metric['value']:,.4g}", metric["origin"], interval)
    return table


def space_table(data: Mapping[str, Any]) -> Table:
    """What a space reaches."""
    table = Table("", "minimum", "centre", "maximum", title=_space_title(data), title_justify="left")
    for name, row in data["costs"].items():
        values = [f"{row[key]:,.4g}" for key in ("minimum", "centre", "maximum")]
        table.add_row(f"{name} ({row['unit']})", *values)
    for check in data["constraints"]:
        verdict = "can be met" if check["can_be_met"] else "CANNOT be met"
        table.add_row(check["constraint"], verdict, f"best {check['best']:,.4g}", "")
    return table


def _space_title(data: Mapping[str, Any]) -> str:
    kinds: dict[str, int] = {}
    for decision in data["decisions"]:
        kind = decision["name"].split(":")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"space {data['space']}: {len(data['decisions'])} decisions ({counted}), {data['plans']:.3g} plans"
