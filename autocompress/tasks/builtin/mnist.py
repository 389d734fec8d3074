"""MNIST with the Caffe variant of LeNet-5."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.errors import InputError
from autocompress.tasks.builtin.images import Normalise, data_files
from autocompress.tasks.classification import classification
from autocompress.tasks.data import Split
from autocompress.tasks.task import Task
from autocompress.tasks.weights import load_state_dict

_FILES = (
    "mnist/train-images-idx3-ubyte.gz",
    "mnist/train-labels-idx1-ubyte.gz",
    "mnist/t10k-images-idx3-ubyte.gz",
    "mnist/t10k-labels-idx1-ubyte.gz",
    "weights/lenet5_caffe_mnist.pt",
)
_NORMALISE = Normalise(mean=(0.1307,), std=(0.3081,))
_TRAIN = 55_000


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it: conv 20 - conv 50 - fc 500 - fc 10, 431,080 parameters.

    Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition"; widths and the single ReLU
    are those of Caffe's example.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, 1, 28, 28]` to logits `[n, 10]`."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits


def build() -> Task:
    """The task `mnist-lenet5`: 55,000 training, 5,000 validation and 10,000 test images.

    Raises:
        InputError: a file is missing or damaged.
    """
    *data, weights = data_files("mnist-lenet5", _FILES)
    images, labels, test_images, test_labels = (read_idx(path) for path in data)
    model = LeNet5()
    model.load_state_dict(load_state_dict(weights))
    images, test_images = images.unsqueeze(1), test_images.unsqueeze(1)
    labels, test_labels = labels.long(), test_labels.long()
    return classification(
        "mnist-lenet5",
        model.eval(),
        Split.of((images[:_TRAIN], labels[:_TRAIN]), transform=_NORMALISE),
        Split.of((images[_TRAIN:], labels[_TRAIN:]), transform=_NORMALISE),
        Split.of((test_images, test_labels), transform=_NORMALISE),
        notes=(
            "Train is the first 55,000 MNIST training images, validation the last 5,000, test all 10,000 test images.",
            "The dense model scores 100 % on validation: it was trained on those images too. Test is unseen.",
        ),
    )


def read_idx(path: Path) -> Tensor:
    """The unsigned bytes of a gzipped idx file, in the shape its header states.

    Raises:
        InputError: the file is not gzip, not idx of unsigned bytes, or shorter or longer than its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a gzip file ({error}); fetch it again") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise InputError(
            f"{path}: starts with {content[:4]!r}; an idx file of bytes starts with 00 00 08; fetch it again"
        )
    rank = content[3]
    if len(content) < 4 + 4 * rank:
        raise InputError(f"{path}: ends inside its header; fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(content[: 4 + 4 * rank], dtype=">u4", offset=4))
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(shape)):
        raise InputError(f"{path}: holds {values.size} bytes but its header says {shape}; fetch it again")
    return torch.from_numpy(values.reshape(shape).copy())
