"""Writes the golden run of the present format: `python -m tests.run.regenerate_golden_run`, in the repository's root.

Those of earlier formats stay as they are, and must be resumable for ever. The task is the same to the last bit on every
machine: data and weights are drawn as whole numbers and divided by powers of two, and nothing is trained. Target and
space are those that lie beside the first, so that those that come with the program may change.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from autocompress.config import search
from autocompress.run.folder import CONFIG, FORMAT, FRONT, SENSITIVITY
from autocompress.run.journal import JOURNAL
from autocompress.run.settings import SearchConfig
from autocompress.tasks import Split, Task, top1_percent

FOLDERS = tuple(Path("tests") / "golden" / f"run-{form}" for form in range(1, FORMAT + 1))
GOLDEN = FOLDERS[-1]
TARGET, SPACE = FOLDERS[0] / "target", FOLDERS[0] / "space.yaml"
TASK = "tests.run.regenerate_golden_run:golden_task"
TRIALS = 10
FILES = (CONFIG, JOURNAL, SENSITIVITY, FRONT)


def golden_task() -> Task:
    """Four classes, told by how bright an image is, and a network that nobody trained."""
    generator = torch.Generator().manual_seed(0)

    def drawn(low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    def images(count: int) -> tuple[Tensor, Tensor]:
        labels = drawn(0, 3, (count,))
        return drawn(-4, 4, (count, 1, 8, 8)) / 8 + labels[:, None, None, None] / 2, labels

    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(drawn(-16, 16, tuple(value.shape)) / 32)
    train, validation, test = (images(64) for _ in range(3))
    return Task(
        name="golden",
        model=model.eval(),
        example_inputs=(validation[0][:1],),
        train=Split.of(train),
        validation=Split.of(validation),
        test=Split.of(test),
        loss=F.cross_entropy,
        metric=top1_percent,
        batch_size=32,
    )


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir()
    config = SearchConfig(short_steps=4, final_epochs=0, final_points=1, workers=1, device="cpu")
    with TemporaryDirectory() as folder:
        run = search(
            TASK, target=str(TARGET), space=str(SPACE), budget=TRIALS, output=Path(folder, "run"), config=config
        )
        for name in FILES:
            shutil.copyfile(run.path / name, GOLDEN / name)
    # Nothing of the machine that wrote it.
    data: dict[str, Any] = yaml.safe_load((GOLDEN / CONFIG).read_text())
    data["versions"].update(machine="any", git="any")
    (GOLDEN / CONFIG).write_text(yaml.safe_dump(data, sort_keys=False))
    for path in sorted(GOLDEN.rglob("*.*")):
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
