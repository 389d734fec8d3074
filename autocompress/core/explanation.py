"""Why a plan is as it is: what each of its choices does, what a looser limit would buy, and why the rest was left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One choice of a plan.

    Attributes:
        decision: Its name; option: what was chosen.
        loss: What it adds alone, untrained, as a share of the loss of a model that knows nothing.
        saves: By cost, the share of the dense cost that the plan would cost more without it.
    """

    decision: str
    option: str
    loss: float
    saves: Mapping[str, float]


@dataclass(frozen=True)
class Relaxed:
    """What a tenth more of one cost would buy: choices that could be taken back.

    Attributes:
        share: Of the dense cost that the plan takes.
        taken_back: The decisions that relieve most loss within a tenth more, of those that save any of the cost.
        relief: What these choices lose alone, together, as a share of the loss of a model that knows nothing.
    """

    cost: str
    share: float
    taken_back: tuple[str, ...]
    relief: float


@dataclass(frozen=True)
class Left:
    """A decision that a plan leaves as it is, and why."""

    decision: str
    why: str


@dataclass(frozen=True)
class Explanation:
    """All of it; choices by what they lose, the most first."""

    choices: tuple[Choice, ...]
    relaxed: tuple[Relaxed, ...]
    left: tuple[Left, ...]
