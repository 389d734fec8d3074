from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from autocompress.proxy.teacher import Teacher, autocast, in_bf16, layout
from autocompress.tasks.tree import leaves


class Counting(nn.Module):
    """Counts its calls in a list that copies share; answers with a dict."""

    def __init__(self, calls: list[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.5)
        self.calls = calls

    def __deepcopy__(self, memo: dict[int, object]) -> Counting:
        twin = Counting(self.calls)
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.calls.append(len(x))
        return {"logits": self.dropout(self.linear(x)), "first": x[:, 0]}


def test_a_batch_is_answered_once_and_the_answer_is_the_models() -> None:
    calls: list[int] = []
    model = Counting(calls).train()
    teacher = Teacher(model)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    first, again = teacher.answer((x,)).outputs, teacher.answer((x.clone(),)).outputs
    assert calls == [5]
    assert model.training
    for one, two, wanted in zip(leaves(first), leaves(again), leaves(copy.deepcopy(model).eval()(x)), strict=True):
        assert torch.equal(one, two)
        # The teacher may run in bf16.
        assert torch.allclose(one.float(), wanted, atol=0.05)
        assert not one.requires_grad


@pytest.mark.parametrize("changed", [torch.zeros(5, 4), torch.zeros(4, 5), torch.zeros(5, 4, dtype=torch.float64)])
def test_another_batch_is_another_answer(changed: Tensor) -> None:
    teacher = Teacher(nn.Flatten())
    x = torch.ones(5, 4)
    teacher.answer((x,))
    assert torch.equal(teacher.answer((changed,)).outputs, changed)
    assert torch.equal(teacher.answer((x,)).outputs, x)


def test_what_does_not_fit_is_computed_again() -> None:
    calls: list[int] = []
    teacher = Teacher(Counting(calls), kept_bytes=100)
    small, large = torch.zeros(2, 4), torch.zeros(64, 4)
    for x in (large, small, large, small):
        assert len(leaves(teacher.answer((x,)).outputs)[0]) == len(x)
    assert calls == [64, 2, 64]


def test_layouts() -> None:
    full = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3))
    odd = nn.Sequential(full, nn.Conv2d(32, 12, 1))
    cpu = torch.device("cpu")
    assert layout(full, cpu) is torch.channels_last
    assert layout(odd, cpu) is (torch.contiguous_format if in_bf16(cpu) else torch.channels_last)
    assert layout(odd, torch.device("cuda")) is torch.contiguous_format
    assert layout(nn.Linear(4, 4), cpu) is torch.contiguous_format


def test_only_tiles_make_bf16_worth_it_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not in_bf16(torch.device("cpu"))
    assert in_bf16(torch.device("cuda"))
    with autocast(torch.device("cpu")):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with autocast(torch.device("cpu")):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype is torch.bfloat16
