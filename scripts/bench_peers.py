"""ResNet-20 on CIFAR-10 side by side with published peers: the same work, the same fine-tuning.

Two comparisons: about half the MACs after one epoch of fine-tuning, and four weight bits with 8-bit activations without
any. Prints the machine, versions and seeds; `--write FILE` keeps the table.

    AUTOCOMPRESS_DATA=... python scripts/bench_peers.py --write benchmarks/peers.md
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, fx

from autocompress.core.plan import Plan, Prune, Quantize, Student
from autocompress.emit.onnx_export import export_onnx
from autocompress.graph.info import total_macs
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.evaluate import realise, starting_rate
from autocompress.proxy.finetune import Training, finetune
from autocompress.run.environment import versions
from autocompress.targets.profile import load_target
from autocompress.targets.session import open_session
from autocompress.tasks import Task, evaluate_metric, load_task

SEED = 0


@dataclass(frozen=True)
class Row:
    """One measured line of the table."""

    what: str
    accuracy_10k: float
    accuracy_test_half: float
    macs: int
    file_bytes: int
    seconds: float
    peer: str


def both_halves(run: Any, task: Task) -> tuple[float, float]:
    """Accuracy on the 10,000 test images of the data set, and on the half that no search looks at."""
    first, second = (evaluate_metric(run, task, split) for split in (task.validation, task.test))
    sizes = len(task.validation), len(task.test)
    return (first * sizes[0] + second * sizes[1]) / sum(sizes), second


def measured(what: str, module: fx.GraphModule, context: Context, seconds: float, peer: str) -> Row:
    """Exports a model and measures the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exported = export_onnx(module, context.dense.inputs, path, opset=context.target.profile.opset)
        session = open_session(path, torch.get_num_threads())
        name = exported.input_names[0]

        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

        full, half = both_halves(run, context.task)
    return Row(what, full, half, total_macs(module), exported.size_bytes, seconds, peer)


def half_the_macs(context: Context, teacher: float) -> Row:
    """Input side at three quarters and an eighth of the inner channels gone, then one epoch.

    Args:
        context: Of the task.
        teacher: Share of the dense model's outputs in the loss; 0 is plain fine-tuning on the labels.
    """
    inner = [g.name for g in context.dense.info.groups if g.blocked_by is None and g.name.endswith(".conv1")]
    plan = Plan(student=Student(resolution=0.75), groups=tuple((name, Prune(0.125)) for name in inner))
    start = time.perf_counter()
    module = realise(plan, context).module
    rate = starting_rate(plan, module, context)
    epoch = math.ceil(len(context.task.train) / context.task.batch_size)
    finetune(module, context.teacher, context.task, Training(epoch, 4.0, teacher, SEED, learning_rate=rate))
    seconds = time.perf_counter() - start
    how = "with the dense model as teacher" if teacher else "on the labels alone"
    return measured(f"2x fewer MACs, one epoch {how}", module, context, seconds, "ModelOpt FastNAS 87.25 %")


def four_bits(context: Context) -> Row:
    """Every layer at four weight bits and 8-bit activations, calibrated on 512 training images, not trained."""
    plan = Plan(layers=tuple((layer.name, (Quantize(4, 8),)) for layer in context.dense.info.layers))
    start = time.perf_counter()
    module = realise(plan, context).module
    seconds = time.perf_counter() - start
    return measured("w4a8, not trained", module, context, seconds, "Sony MCT 91.07 %, 1,119,224 bytes")


def table(rows: list[Row], dense_macs: int) -> str:
    """Markdown."""
    lines = [
        "| work | accuracy, 10,000 | accuracy, test half | MACs | file bytes | seconds | best peer |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.what} | {r.accuracy_10k:.2f} % | {r.accuracy_test_half:.2f} % | {r.macs:,} "
        f"({dense_macs / r.macs:.2f}x) | {r.file_bytes:,} | {r.seconds:.0f} | {r.peer} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    task = load_task("cifar10-resnet20")
    context = Context(task, load_target("local"), "fp32", Effort(), SEED)
    dense = measured("dense", context.dense.module, context, 0.0, "")
    rows = [dense, four_bits(context), half_the_macs(context, 0.0), half_the_macs(context, 0.7)]
    facts = ", ".join(f"{name} {value}" for name, value in versions().items())
    text = f"# ResNet-20 on CIFAR-10 beside its peers\n\n{table(rows, dense.macs)}\n\nSeed {SEED}; {facts}.\n"
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
