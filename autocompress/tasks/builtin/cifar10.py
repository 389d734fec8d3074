"""CIFAR-10 with the published ResNet-20 and ResNet-56."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import InputError
from autocompress.tasks.builtin.images import Normalise, Shift, data_files
from autocompress.tasks.builtin.resnet import ResNet, resnet20, resnet56
from autocompress.tasks.classification import classification
from autocompress.tasks.data import Split
from autocompress.tasks.task import Task
from autocompress.tasks.weights import load_state_dict

_FILES = (*(f"cifar10/train_{number}.npz" for number in range(1, 6)), "cifar10/test.npz")
_NORMALISE = Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_VALIDATION = 5_000
_NOTES = (
    "Validation is the first 5,000 CIFAR-10 test images and test the last 5,000: the published model was trained on "
    "all 50,000 training images, so none of those can be held out.",
    "The published checkpoint appears to have been picked on test accuracy, which flatters the dense model a little.",
)


def build_resnet20() -> Task:
    """The task `cifar10-resnet20`: 50,000 training, 5,000 validation and 5,000 test images.

    Raises:
        InputError: a file is missing or damaged.
    """
    return _build("cifar10-resnet20", resnet20(), "weights/resnet20-12fca82f.th")


def build_resnet56() -> Task:
    """The task `cifar10-resnet56`: 50,000 training, 5,000 validation and 5,000 test images.

    Raises:
        InputError: a file is missing or damaged.
    """
    return _build("cifar10-resnet56", resnet56(), "weights/resnet56-4bfd9763.th")


def _build(name: str, model: ResNet, weights_name: str) -> Task:
    *paths, weights = data_files(name, (*_FILES, weights_name))
    model.load_state_dict(load_state_dict(weights))
    with ThreadPoolExecutor(2) as pool:
        *train, (images, labels) = pool.map(read_images, paths)
    return classification(
        name,
        model.eval(),
        Split.of((torch.cat([x for x, _ in train]), torch.cat([y for _, y in train])), transform=_NORMALISE),
        Split.of((images[:_VALIDATION], labels[:_VALIDATION]), transform=_NORMALISE),
        Split.of((images[_VALIDATION:], labels[_VALIDATION:]), transform=_NORMALISE),
        augment=Shift(4, flip=True),
        notes=_NOTES,
    )


def read_images(path: Path) -> tuple[Tensor, Tensor]:
    """Images, uint8 `[n, 3, 32, 32]` in RGB, and labels, int64 `[n]`.

    The file keeps prediction residuals: sums along both sides, modulo 256, give G, R - G and B - G.

    Raises:
        InputError: the file is not such an archive.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            planes, labels = archive["planes"], archive["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an archive of planes and labels ({error}); fetch it again") from None
    if planes.dtype != np.uint8 or planes.shape != (3, len(labels), 32, 32):
        raise InputError(f"{path}: planes are {planes.dtype} {planes.shape}; they must be uint8 (3, n, 32, 32)")
    np.cumsum(planes, axis=3, dtype=np.uint8, out=planes)
    np.cumsum(planes, axis=2, dtype=np.uint8, out=planes)
    green = planes[0]
    images = np.stack([planes[1] + green, green, planes[2] + green], axis=1)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
