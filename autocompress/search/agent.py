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

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.core.decision import KINDS
from autocompress.core.space import Space, Vector
from autocompress.search.controller import mix, new_vector, scaled_losses
from autocompress.search.record import Objective, Record

_FIRST = 10
_STEPS = 150
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
        done = [record for record in history if record.state == "complete"]
        if len(done) < _FIRST:
            return new_vector(self.space, history, self.seed, lambda rng, _: self.space.random(rng))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(mix(self.seed, len(history)))
            rng = np.random.default_rng(mix(self.seed, len(history)))
            actor = self._trained(done, rng)
        noise = _NOISE * _FADES ** (len(done) - _FIRST)
        return new_vector(self.space, history, self.seed, lambda rng, _: self._walk(actor, noise, rng))

    def _trained(self, done: Sequence[Record], rng: np.random.Generator) -> nn.Module:
        walks = [self._states(record.vector) for record in done]
        states = torch.cat(walks)
        actions = torch.cat([self._actions(record.vector) for record in done])
        rewards = torch.from_numpy(self._rewards(done, rng)).float().repeat_interleave(len(self.space.decisions))
        actor, critic = _net(states.shape[1], nn.Sigmoid()), _net(states.shape[1] + 1, nn.Identity())
        steps = [torch.optim.Adam(net.parameters(), lr=_RATE) for net in (actor, critic)]
        for _ in range(_STEPS):
            chosen = torch.from_numpy(rng.integers(len(states), size=_BATCH))
            state, action = states[chosen], actions[chosen, None]
            told = critic(torch.cat([state, action], dim=1)).squeeze(1)
            _descend(F.mse_loss(told, rewards[chosen]), steps[1])
            _descend(-critic(torch.cat([state, actor(state)], dim=1)).mean(), steps[0])
        return actor

    def _rewards(self, done: Sequence[Record], rng: np.random.Generator) -> Rewards:
        """Better than the mean is positive; the objectives are weighed by chance."""
        cost = scaled_losses(self.objectives, done) @ rng.dirichlet(np.ones(len(self.objectives)))
        rewards: Rewards = cost.mean() - cost
        return rewards

    def _walk(self, actor: nn.Module, noise: float, rng: np.random.Generator) -> Vector:
        vector: list[int] = []
        for place, decision in enumerate(self.space.decisions):
            last = len(decision.options) - 1
            with torch.no_grad():
                action = float(actor(self._state(place, vector)[None]))
            vector.append(int(np.clip(round(_truncated(action, noise, rng) * last), 0, last)))
        return tuple(vector)

    def _states(self, vector: Vector) -> Tensor:
        return torch.stack([self._state(place, vector) for place in range(len(vector))])

    def _actions(self, vector: Vector) -> Tensor:
        ends = self.space.extreme_vector
        return torch.tensor([one / max(1, end) for one, end in zip(vector, ends, strict=True)], dtype=torch.float32)

    def _state(self, place: int, before: Sequence[int]) -> Tensor:
        """Where in the model, what is decided and between how many options, and what was decided before."""
        decisions = self.space.decisions
        decision = decisions[place]
        taken = [before[p] / max(1, len(decisions[p].options) - 1) for p in range(place)]
        kinds = [float(decision.kind == kind) for kind in KINDS]
        levels = [np.mean(taken) if taken else 0.0, taken[-1] if taken else 0.0]
        state = [place / len(decisions), len(decision.options) / 8.0, decision.layers / 8.0, *kinds, *levels]
        return torch.tensor(state, dtype=torch.float32)


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
