"""The built-in tasks: their data, their models, their cache."""

from __future__ import annotations

import gzip
import os

import pytest
import torch

from autocompress.errors import InputError
from autocompress.tasks import check_task, evaluate_metric, load_task
from autocompress.tasks.builtin import BUILTIN, digits
from autocompress.tasks.builtin.images import Shift
from autocompress.tasks.builtin.mnist import read_idx

needs_data = pytest.mark.skipif(
    not os.environ.get("AUTOCOMPRESS_DATA"), reason="AUTOCOMPRESS_DATA names no folder with MNIST and CIFAR-10"
)


def test_digits_trains_once_is_deterministic_and_mends_its_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "new"))
    train = digits._splits()[0].head(64)
    first = digits._trained(train, seed=0, epochs=1).state_dict()
    assert capsys.readouterr().err.count("training ResNet-20") == 1
    (kept,) = (tmp_path / "new").iterdir()
    assert all(torch.equal(first[key], value) for key, value in digits._trained(train, 0, 1).state_dict().items())
    assert capsys.readouterr().err == ""
    kept.write_bytes(kept.read_bytes()[:1000])
    assert all(torch.equal(first[key], value) for key, value in digits._trained(train, 0, 1).state_dict().items())
    assert "is damaged and is made again" in capsys.readouterr().err


def test_digits_is_98_percent_right():
    """Reads the user's own cache, so that the full training runs at most once on a machine."""
    task = load_task("digits")
    check_task(task)
    assert evaluate_metric(task.model, task, task.test) >= 98.0


def test_digits_splits_are_balanced_and_disjoint():
    train, validation, test = digits._splits()
    assert (len(train), len(validation), len(test)) == (1085, 357, 355)
    seen = [tuple(row) for split in (train, validation, test) for row in split.columns[0].flatten(1)[:, ::9].tolist()]
    assert len(set(seen)) > 1780
    for split in (train, validation, test):
        counts = torch.bincount(split.columns[1], minlength=10)
        assert counts.min() > 0.09 * len(split)


@needs_data
def test_mnist_lenet5_has_its_published_accuracy():
    task = load_task("mnist-lenet5")
    check_task(task)
    assert (len(task.train), len(task.validation), len(task.test)) == (55_000, 5_000, 10_000)
    assert sum(parameter.numel() for parameter in task.model.parameters()) == 431_080
    assert evaluate_metric(task.model, task, task.test) == pytest.approx(99.31, abs=0.011)


@needs_data
@pytest.mark.parametrize(("name", "params"), [("cifar10-resnet20", 269_722), ("cifar10-resnet56", 853_018)])
def test_cifar10_resnets_load_strictly_and_classify(name, params):
    task = load_task(name)
    check_task(task)
    assert (len(task.train), len(task.validation), len(task.test)) == (50_000, 5_000, 5_000)
    assert sum(parameter.numel() for parameter in task.model.parameters()) == params
    assert evaluate_metric(task.model, task, task.validation.head(200)) > 85.0


@pytest.mark.parametrize("name", [name for name in BUILTIN if name != "digits"])
def test_missing_data_is_one_line_that_names_the_files(name, tmp_path, monkeypatch):
    monkeypatch.delenv("AUTOCOMPRESS_DATA", raising=False)
    with pytest.raises(InputError, match=r"set AUTOCOMPRESS_DATA to a folder that holds .*weights/"):
        load_task(name)
    monkeypatch.setenv("AUTOCOMPRESS_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"lacks (mnist|cifar10)/"):
        load_task(name)


def test_idx_files_are_checked(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x02" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes(range(6))))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    for content, message in (
        (b"plain", "not a gzip file"),
        (gzip.compress(b"\0\0\x0d\x01"), "starts with"),
        (gzip.compress(b"\0\0\x08\x02\0\0"), "header"),
        (gzip.compress(b"\0\0\x08\x01" + (9).to_bytes(4, "big") + b"abc"), r"holds 3 bytes but its header says \(9,\)"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_idx(path)


def test_shift_moves_each_image_alone_and_mirrors_half():
    images = torch.zeros(400, 1, 9, 9)
    images[:, 0, 4, 3] = 1.0
    moved = Shift(2, flip=True, fill=0.0)(images, torch.Generator().manual_seed(0))
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(400))
    rows, columns = moved.nonzero()[:, 2], moved.nonzero()[:, 3]
    assert set(rows.tolist()) == {2, 3, 4, 5, 6}
    assert set(columns.tolist()) == {1, 2, 3, 4, 5, 6, 7}
    assert torch.equal(Shift(0)(images, torch.Generator()), images)
