"""Trained weights in the run folder, so that nothing is trained twice."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from autocompress.proxy.evaluate import Evaluation


def checkpoint_path(folder: Path, number: int) -> Path:
    """Where the trained weights of a trial are kept."""
    return folder / f"trial-{number:04d}.safetensors"


def point_path(folder: Path, number: int, steps: int) -> Path:
    """Where the weights of a trial are kept that was trained for so many steps more."""
    return folder / f"point-{number:04d}-{steps}.safetensors"


def save_weights(path: Path, result: Evaluation) -> None:
    """Writes the weights of an evaluation, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: tensor.contiguous().clone() for name, tensor in result.module.state_dict().items()}, part)
    part.replace(path)


def load_weights(path: Path) -> dict[str, Tensor] | None:
    """The weights that `save_weights` wrote, or None where there are none."""
    return dict(load_file(path)) if path.is_file() else None
