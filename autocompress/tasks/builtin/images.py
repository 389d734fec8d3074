"""What the built-in image tasks share: their files, normalisation and augmentation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.errors import InputError

DATA_VARIABLE = "AUTOCOMPRESS_DATA"


def data_files(task: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of a task in the folder that `AUTOCOMPRESS_DATA` names.

    Raises:
        InputError: the variable is not set, or a file is missing; names the files to put there.
    """
    wanted = ", ".join(names)
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise InputError(f"task {task!r} reads data: set {DATA_VARIABLE} to a folder that holds {wanted}")
    paths = tuple(Path(folder) / name for name in names)
    missing = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]
    if missing:
        raise InputError(f"task {task!r}: {DATA_VARIABLE}={folder} lacks {', '.join(missing)}; put there {wanted}")
    return paths


@dataclass(frozen=True)
class Normalise:
    """Bytes `[n, c, h, w]` to floats: divided by 255, minus `mean`, over `std`, one value for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """The images as float32, same shape."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return images.float().div_(255.0).sub_(mean).div_(std)


@dataclass(frozen=True)
class Shift:
    """Moves every image by up to `pixels` in each direction, by itself, and mirrors half of them if `flip`.

    The border is filled with `fill`, in the units of the normalised image.
    """

    pixels: int
    flip: bool = False
    fill: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images `[n, c, h, w]`, moved; the randomness is the generator's alone."""
        count, channels, height, width = images.shape
        padded = F.pad(images, (self.pixels,) * 4, value=self.fill)
        offsets = torch.randint(0, 2 * self.pixels + 1, (2, count, 1), generator=generator)
        rows = offsets[0] + torch.arange(height)
        columns = offsets[1] + torch.arange(width)
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        samples = torch.arange(count).view(-1, 1, 1, 1)
        planes = torch.arange(channels).view(1, -1, 1, 1)
        return padded[samples, planes, rows.view(count, 1, height, 1), columns.view(count, 1, 1, width)]
