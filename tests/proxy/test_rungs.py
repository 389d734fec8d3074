"""A training that was broken off goes on where it was kept, and gives what it would have given without a break."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.core.plan import Plan, Prune, Quantize
from autocompress.proxy import rungs as module
from autocompress.proxy.evaluate import Evaluation, evaluate
from autocompress.tasks import Split, Task
from tests.run.tiny import tiny_context, tiny_data, tiny_task

STEPS = 9
HALF = 5


class Memory:
    """Rungs that stay in memory, as a file would hold them."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.kept: list[int] = []

    def load(self) -> Mapping[str, Any] | None:
        if self.content is None:
            return None
        found: Mapping[str, Any] = torch.load(io.BytesIO(self.content), weights_only=True)
        return found

    def save(self, state: Mapping[str, Any]) -> None:
        file = io.BytesIO()
        torch.save(dict(state), file)
        self.content = file.getvalue()
        self.kept.append(int(state["done"]))


@pytest.fixture(autouse=True)
def everything_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_S", 0.0)


def with_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + 0.1 * torch.randn(images.shape, generator=generator)


def plain_task() -> Task:
    """Without BatchNorm, which AdamW trains, with dropout, which draws numbers, and with a last batch of one sample."""
    body = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model = nn.Sequential(*body, nn.Linear(32, 4)).eval()
    return replace(tiny_task(), model=model, train=Split.of(tiny_data(65, 1)))


def augmented_task() -> Task:
    return replace(tiny_task(), augment=with_noise, train=Split.of(tiny_data(65, 1)))


def stop_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def plan_of(task: Task, a_bits: int | None = None) -> Plan:
    context = tiny_context(task)
    names = [layer.name for layer in context.dense.info.layers]
    layers = tuple((name, (Quantize(4, a_bits),)) for name in names)
    return Plan(groups=((context.dense.info.groups[0].name, Prune(0.25)),), layers=layers)


def same(one: Evaluation, other: Evaluation) -> bool:
    states = one.module.state_dict(), other.module.state_dict()
    return list(states[0]) == list(states[1]) and all(
        torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True)
    )


@pytest.mark.parametrize(("make", "a_bits"), [(augmented_task, 8), (plain_task, None)])
@pytest.mark.parametrize("step", [1, HALF, HALF + 1, STEPS])
def test_a_training_that_is_broken_off_goes_on_from_its_half(
    make: Callable[[], Task], a_bits: int | None, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.proxy.evaluate.affordable_steps", lambda steps, *_: steps)
    task = make()
    plan, rungs, seen = plan_of(task, a_bits), Memory(), list[float]()

    def judged(value: float) -> bool:
        seen.append(value)
        return True

    def train(rungs: Memory | None, progress: Callable[[int, int], None] | None) -> Evaluation:
        # Another process has nothing of what this one has computed.
        context = tiny_context(task)
        return evaluate(
            plan, "short", context, steps=STEPS, progress=progress, halfway=judged, rungs=rungs
        )  # fmt: skip

    whole = train(None, None)
    with pytest.raises(KeyboardInterrupt):
        train(rungs, stop_at(step))
    assert rungs.kept == ([HALF] if step > HALF else [])
    done: list[int] = []
    again = train(rungs, lambda now, total: done.append(now))
    assert done[0] == (HALF + 1 if step > HALF else 1)
    assert same(whole, again)
    assert whole.metrics == again.metrics
    assert len(set(seen)) == 1


def test_long_trainings_are_kept_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVERY_S", 0.0)
    monkeypatch.setattr("autocompress.proxy.evaluate.affordable_steps", lambda steps, *_: steps)
    task = augmented_task()
    plan, rungs = plan_of(task), Memory()
    whole = evaluate(plan, "full", tiny_context(task), steps=STEPS)
    for step in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            evaluate(plan, "full", tiny_context(task), steps=STEPS, progress=stop_at(step), rungs=rungs)
    assert rungs.kept == list(range(1, 8))
    assert same(whole, evaluate(plan, "full", tiny_context(task), steps=STEPS, rungs=rungs))
    # What is judged half way is not kept after that: a training that goes on from there would not know the judgement.
    judged = Memory()
    evaluate(plan, "short", tiny_context(task), steps=STEPS, rungs=judged, halfway=lambda value: True)
    assert judged.kept == list(range(1, HALF + 1))


def test_what_is_done_in_a_moment_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_S", 1000.0)
    task, rungs = augmented_task(), Memory()
    evaluate(plan_of(task), "short", tiny_context(task), steps=STEPS, rungs=rungs)
    assert rungs.kept == []
