"""A training that is under way, kept so that whoever is killed does not begin it again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

# What takes less is as soon done again.
_WORTH_S = 1.0
_EVERY_S = 60.0


class Rungs(Protocol):
    """Where the state of one training is kept."""

    def load(self) -> Mapping[str, Any] | None:
        """What `save` was given last; None where there is nothing of this training."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps a state in place of the one before."""


@dataclass
class UnderWay:
    """All that decides how a training goes on.

    Attributes:
        generator: Of the augmentation.
        device: Of the training.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    device: torch.device

    def state(self, done: int) -> dict[str, Any]:
        """The state after so many steps."""
        state = {
            "done": done,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "augmentation": self.generator.get_state(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self, state: Mapping[str, Any]) -> int:
        """Goes back to a state and returns the steps that were done."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(dict(state["schedule"]))
        self.generator.set_state(state["augmentation"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        return int(state["done"])


@dataclass
class Keeper:
    """Keeps a training at its half, and in between where it takes minutes.

    Attributes:
        rungs: Where; None keeps nothing.
        half: Steps after which it is judged, if it is.
        judged: Whether it is: what was judged is then not kept again, since the judgement would be lost.
    """

    rungs: Rungs | None
    half: int
    judged: bool
    _began: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)

    def resumed(self, training: UnderWay) -> int:
        """Goes back to what was kept; returns the steps that were done by then."""
        state = self.rungs.load() if self.rungs is not None else None
        return 0 if state is None else training.restore(state)

    def keep(self, training: UnderWay, done: int) -> None:
        """Keeps it if it is time to."""
        now = time.monotonic()
        is_time = now - self._last >= _EVERY_S and not (self.judged and done > self.half)
        if self.rungs is not None and now - self._began >= _WORTH_S and (is_time or done == self.half):
            self.rungs.save(training.state(done))
            self._last = time.monotonic()
