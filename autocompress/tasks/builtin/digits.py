"""The 1,797 handwritten digits that come with scikit-learn, and a ResNet-20 that is trained once and kept."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from autocompress.core.shipped import cache_folder
from autocompress.errors import InputError
from autocompress.tasks.builtin.images import Shift
from autocompress.tasks.builtin.resnet import ResNet, resnet20
from autocompress.tasks.classification import classification
from autocompress.tasks.data import Split
from autocompress.tasks.task import Task
from autocompress.tasks.weights import load_state_dict

_MEAN, _STD = 0.305, 0.376
_AUGMENT = Shift(3, fill=-_MEAN / _STD)
_EPOCHS, _BATCH, _RATE = 8, 32, 0.1


def build(seed: int = 0, epochs: int = _EPOCHS) -> Task:
    """The task `digits`: 1,085 training, 357 validation and 355 test images of 1 x 32 x 32.

    The model is trained the first time (about half a minute on two cores) and read from the cache afterwards.

    Args:
        seed: Of the weights, the order and the shifts.
        epochs: How long to train.
    """
    train, validation, test = _splits()
    return classification(
        "digits",
        _trained(train, seed, epochs),
        train,
        validation,
        test,
        augment=_AUGMENT,
        batch_size=64,
        notes=(
            "The 1,797 digits of scikit-learn, 8 x 8 pixels enlarged to 32 x 32; of every five images of a class "
            "three are for training, one for validation and one for test.",
        ),
    )


def _splits() -> tuple[Split, Split, Split]:
    from sklearn.datasets import load_digits  # half a second that the other tasks do not need

    data = load_digits()
    labels = torch.from_numpy(data.target).long()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16.0
    images = (F.interpolate(images, size=32, mode="bilinear", align_corners=False) - _MEAN) / _STD
    fifth = torch.zeros_like(labels)
    for label in range(10):
        members = (labels == label).nonzero().squeeze(1)
        fifth[members] = torch.arange(len(members)) % 5

    def chosen(where: Tensor, name: str) -> Split:
        return Split.of((images[where], labels[where]), name)

    return chosen(fifth < 3, "train"), chosen(fifth == 3, "validation"), chosen(fifth == 4, "test")


def _trained(train: Split, seed: int, epochs: int) -> ResNet:
    """The model from the cache, or a newly trained one that is put there."""
    settings = f"{train.digest} {seed} {epochs} {_BATCH} {_RATE} {_AUGMENT}"
    path = cache_folder() / f"digits-resnet20-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = resnet20(in_channels=1)
    if path.is_file():
        try:
            model.load_state_dict(load_state_dict(path))
            return model.eval()
        except (InputError, RuntimeError):
            print(f"autocompress: {path} is damaged and is made again", file=sys.stderr)
    print(f"autocompress: training ResNet-20 on the digits once, {epochs} epochs; kept in {path}", file=sys.stderr)
    _train(model, train, seed, epochs)
    _save(model, path)
    return model


def _train(model: ResNet, train: Split, seed: int, epochs: int) -> None:
    """SGD with one cycle of the learning rate; the same seed gives the same weights on the same machine."""
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * -(-len(train) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for (images,), labels in train.batches(_BATCH, seed=seed * 1000 + epoch):
            moved = _AUGMENT(images, generator).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            F.cross_entropy(model(moved), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _save(model: ResNet, path: Path) -> None:
    """Writes beside `path` and renames, so that a killed process leaves nothing half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    try:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
