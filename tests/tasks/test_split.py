"""Split: one face for tensors, data sets and loaders; the same batches for the same seed."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from autocompress.errors import InputError
from autocompress.tasks import Split

INPUTS = torch.arange(20.0).reshape(10, 2)
LABELS = torch.arange(10)


class Noisy(Dataset):
    """Ten samples with a random transform that counts how often it ran."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int):
        self.reads += 1
        return INPUTS[index] + torch.rand(2), int(LABELS[index])


def labels_of(split: Split, **options) -> list[int]:
    return torch.cat([targets for _, targets in split.batches(4, **options)]).tolist()


SOURCES = {
    "tensors": lambda: (INPUTS, LABELS),
    "tensor data set": lambda: TensorDataset(INPUTS, LABELS),
    "data set": Noisy,
    "shuffled loader": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_all_samples_in_order_and_shuffles_by_seed(source):
    split = Split.of(source())
    assert len(split) == 10
    assert labels_of(split) == LABELS.tolist()
    shuffled = labels_of(split, seed=3)
    assert sorted(shuffled) == LABELS.tolist()
    assert shuffled != LABELS.tolist()
    assert shuffled == labels_of(split, seed=3) != labels_of(split, seed=4)


def test_limit_and_head_take_the_first_samples():
    split = Split.of((INPUTS, LABELS))
    assert [len(targets) for _, targets in split.batches(4, limit=6)] == [4, 2]
    assert labels_of(split.head(3)) == [0, 1, 2]
    assert len(split.head(99)) == 10
    assert sorted(labels_of(split.head(3), seed=1)) == [0, 1, 2]


def test_subsets_and_subset_samplers_keep_to_their_samples():
    assert labels_of(Split.of(Subset(TensorDataset(INPUTS, LABELS), [7, 2]))) == [7, 2]
    assert labels_of(Split.of(Subset(Noisy(), [7, 2]))) == [7, 2]
    loader = DataLoader(Noisy(), batch_size=2, sampler=SubsetRandomSampler([8, 1, 5]))
    assert labels_of(Split.of(loader)) == [1, 5, 8]


def test_a_data_set_is_read_once_in_order_and_anew_with_a_seed():
    data = Noisy()
    split = Split.of(data)
    first = torch.cat([inputs[0] for inputs, _ in split.batches(4)])
    reads = data.reads
    assert torch.equal(first, torch.cat([inputs[0] for inputs, _ in split.batches(5)]))
    assert data.reads == reads
    seeded = [inputs[0] for inputs, _ in split.batches(4, seed=1)]
    assert data.reads == reads + 10
    assert torch.equal(torch.cat(seeded), torch.cat([inputs[0] for inputs, _ in split.batches(4, seed=1)]))


def test_reading_a_data_set_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    list(Split.of(Noisy()).batches(4, seed=1))
    assert torch.equal(torch.rand(1), expected)


def test_several_inputs_transform_and_tuple_targets():
    split = Split.of((INPUTS, INPUTS * 2, (LABELS, LABELS + 1)), transform=lambda a, b: (a + 1, b))
    (first, second), (low, high) = next(split.batches(3))
    assert torch.equal(first, INPUTS[:3] + 1)
    assert torch.equal(second, INPUTS[:3] * 2)
    assert torch.equal(low + 1, high)


def test_digest_follows_the_data_and_survives_pickling():
    split = Split.of((INPUTS, LABELS))
    assert split.digest == Split.of(TensorDataset(INPUTS, LABELS)).digest == pickle.loads(pickle.dumps(split)).digest
    assert split.digest != Split.of((INPUTS + 1, LABELS)).digest
    assert split.digest != split.head(9).digest
    assert Split.of(Noisy()).digest == Split.of(Noisy()).digest


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((INPUTS, LABELS[:9]), "train: the tensors hold 10, 9 samples"),
        ((INPUTS[:0], LABELS[:0]), "train: the split is empty"),
        ("data.csv", "train: got a str; allowed: a tuple of tensors"),
        (DataLoader(Noisy(), sampler=WeightedRandomSampler([1.0] * 10, 10)), "WeightedRandomSampler"),
    ],
)
def test_refuses_in_one_line(source, message):
    with pytest.raises(InputError, match=message) as caught:
        Split.of(source, "train")
    assert "\n" not in str(caught.value)


def test_a_sampler_of_batches_keeps_the_function_that_joins_samples() -> None:
    def padded(samples: list[Any]) -> Any:
        return torch.full((len(samples), 3), 7.0), torch.zeros(len(samples), dtype=torch.long)

    batches = BatchSampler(SequentialSampler(Noisy()), 2, False)
    split = Split.of(DataLoader(Noisy(), batch_sampler=batches, collate_fn=padded), "train")
    ((inputs,), _) = next(split.batches(2))
    assert torch.equal(inputs, torch.full((2, 3), 7.0))

    class Own(BatchSampler):
        pass

    with pytest.raises(InputError, match="draws with a Own"):
        Split.of(DataLoader(Noisy(), batch_sampler=Own(SequentialSampler(Noisy()), 2, False)), "train")
