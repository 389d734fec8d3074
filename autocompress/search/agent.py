"""An agent that walks through a model decision by decision, and learns from whole trials.

Source: He et al. 2018, "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", and Wang et al. 2019,
"HAQ: Hardware-Aware Automated Quantization": deep deterministic policy gradient (Lillicrap et al. 2015) with one reward
for all steps of an episode, truncated normal noise that fades, a baseline of rewards. Deviations: the agent is trained
again from the whole history at each question, so that nothing is kept but the trials; the reward weighs accuracy and
costs by drawn weights, since there is no single budget; an action is the place between the first and the last option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.core.decision import KINDS
from autocompress.core.space import Space, Vector
from autocompress.search.controller import mix, new_vector, scaled_losses, telling
from autocompress.search.record import TELLING, Objective, Record

_FIRST = 10
_STEPS = 75
# Of so many trials it is trained.
_REPLAYED = 200
_BATCH = 128
_HIDDEN = 64
_RATE = 3e-3
_NOISE, _FADES = 0.5, 0.95

Rewards = NDArray[np.float64]


@dataclass(frozen=True)
class AgentController:
    """Deep deterministic policy gradient over the decisions of a plan."""

    space: Space
    objectives: tuple[Objective, ...]
    seed: int

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan: random at first, then the walk of an agent that has seen all trials."""
        done = [record for record in history if record.state in TELLING]
        if len(done) < _FIRST:
            return new_vector(self.space, history, self.seed, lambda rng, _: self.space.random(rng))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(mix(self.seed, len(history)))
            rng = np.random.default_rng(mix(self.seed, len(history)))
            actor = self._trained(done, rng)
        noise = _NOISE * _FADES ** (len(done) - _FIRST)
        return new_vector(self.space, history, self.seed, lambda rng, _: self._walk(actor, noise, rng))

    def _trained(self, done: Sequence[Record], rng: np.random.Generator) -> nn.Module:
        rewards = self._rewards(done, rng)
        kept = telling(-rewards[:, None], _REPLAYED)
        vectors = np.array([done[index].vector for index in kept]) / np.maximum(1, self.space.extreme_vector)
        actions = torch.from_numpy(vectors).float()
        states, actions = self._states(actions).flatten(0, 1), actions.flatten()
        rewarded = torch.from_numpy(rewards[kept]).float().repeat_interleave(len(self.space.decisions))
        actor, critic = _net(states.shape[1], nn.Sigmoid()), _net(states.shape[1] + 1, nn.Identity())
        steps = [torch.optim.Adam(net.parameters(), lr=_RATE) for net in (actor, critic)]
        for _ in range(_STEPS):
            chosen = torch.from_numpy(rng.integers(len(states), size=_BATCH))
            state, action = states[chosen], actions[chosen, None]
            told = critic(torch.cat([state, action], dim=1)).squeeze(1)
            _descend(F.mse_loss(told, rewarded[chosen]), steps[1])
            _descend(-critic(torch.cat([state, actor(state)], dim=1)).mean(), steps[0])
        return actor

    def _rewards(self, done: Sequence[Record], rng: np.random.Generator) -> Rewards:
        """Better than the mean is positive; the objectives are weighed by chance."""
        cost = scaled_losses(self.objectives, done) @ rng.dirichlet(np.ones(len(self.objectives)))
        rewards: Rewards = cost.mean() - cost
        return rewards

    def _walk(self, actor: nn.Module, noise: float, rng: np.random.Generator) -> Vector:
        ends = self.space.extreme_vector
        vector: list[int] = []
        taken = before = 0.0
        for place, end in enumerate(ends):
            levels = torch.tensor([taken / max(1, place), before])
            with torch.no_grad():
                action = float(actor(torch.cat([self._places[place], levels])[None]))
            chosen = int(np.clip(round(_truncated(action, noise, rng) * end), 0, end))
            vector.append(chosen)
            before = chosen / max(1, end)
            taken += before
        return tuple(vector)

    def _states(self, actions: Tensor) -> Tensor:
        """What the agent sees at every step of walks, `[walks, decisions, features]`.

        Where in the model it is, and of what was decided before the mean and the last.
        """
        before = F.pad(actions[:, :-1], (1, 0))
        means = before.cumsum(dim=1) / torch.arange(actions.shape[1]).clamp(min=1)
        return torch.cat([self._places.expand(len(actions), -1, -1), torch.stack([means, before], dim=2)], dim=2)

    @cached_property
    def _places(self) -> Tensor:
        """Where in the model each decision stands, what kind it is and between how many options, `[decisions, n]`."""
        decisions = self.space.decisions
        return torch.tensor(
            [
                [
                    place / len(decisions),
                    len(one.options) / 8.0,
                    one.layers / 8.0,
                    *(one.kind == kind for kind in KINDS),
                ]
                for place, one in enumerate(decisions)
            ],
            dtype=torch.float32,
        )


def _net(inputs: int, last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1), last)


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _truncated(mean: float, deviation: float, rng: np.random.Generator) -> float:
    """A normal variable between 0 and 1."""
    for _ in range(8):
        drawn = float(rng.normal(mean, deviation))
        if 0.0 <= drawn <= 1.0:
            return drawn
    return float(rng.uniform())
