"""Checks a run's front.json against its files and prints it: `python scripts/bench_front.py RUN`.

Every file is run on the test split by ONNX Runtime alone and its
bytes are counted; nothing that made or verified the file takes part. Exits 1 where a number differs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from autocompress.run.folder import Run
from autocompress.tasks import Task, load_task

BATCH = 250


def quality_of(file: Path, task: Task) -> float:
    """The task's metric of a file on the test split."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    outputs: list[list[torch.Tensor]] = []
    targets: list[Any] = []
    for inputs, target in task.test.batches(BATCH):
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        outputs.append([torch.from_numpy(array) for array in session.run(None, feed)])
        targets.append(target)
    joined = tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
    return float(task.metric(joined[0] if len(joined) == 1 else joined, torch.cat(targets)))


def row_of(point: dict[str, Any], dense: dict[str, Any], label: str) -> str:
    """One line of the table."""
    metrics, base = point["metrics"], dense["metrics"]
    value = {name: metric["value"] for name, metric in metrics.items()}
    ratio = {name: base[name]["value"] / max(value[name], 1e-12) for name in ("size_bytes", "macs", "latency_ms")}
    change = value["accuracy"] - base["accuracy"]["value"]
    latency = metrics["latency_ms"]
    return (
        f"| {point['id']} | {value['accuracy']:.2f} ({change:+.2f}) | {value['size_bytes']:,} "
        f"({ratio['size_bytes']:.1f}x) | {ratio['macs']:.2f}x | {latency['value']:.3g} "
        f"[{latency['low']:.3g}, {latency['high']:.3g}] ({ratio['latency_ms']:.2f}x) | {label} |"
    )


def main() -> None:
    """Checks and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    run = Run.open(parser.parse_args().run)
    front = json.loads((run.path / "front.json").read_text())
    report = json.loads((run.path / "report.json").read_text())
    task = load_task(run.config["search"]["task"])
    labels = {row["id"]: row["label"] for row in report["points"]}
    dense = front["baseline"]
    print(f"`{report['command']}`, seed {report['seed']}, {report['wall_seconds'] / 60:.1f} minutes\n")
    print("| point | accuracy | bytes | fewer MACs | latency, ms | plan |\n|---|---|---|---|---|---|")
    wrong = []
    for point in (dense, *front["points"]):
        print(row_of(point, dense, labels.get(point["id"], "")))
        file = run.artifact(point["id"]) / "model.onnx"
        found = {"accuracy": quality_of(file, task), "size_bytes": file.stat().st_size}
        for name, value in found.items():
            told = point["metrics"][name]["value"]
            if abs(value - told) > 1e-9 * abs(told):
                wrong.append(f"{point['id']}: {name} is {value}, front.json says {told}")
    facts = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    print(f"\n{facts}.\n{len(front['points']) + 1} files checked with ONNX Runtime: {'; '.join(wrong) or 'all equal'}.")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
