"""The whole front of an additive model, exactly: one option for each group, losses and savings add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUCKETS = 10_000


@dataclass(frozen=True)
class AdditiveFront:
    """The least loss for every saving.

    Attributes:
        losses: By bucket of the saving, `[buckets + 1]`; infinite where no choice saves exactly so much.
        unit: Saving of one bucket.
        chosen: By group and bucket, the option that leads there, `[groups, buckets + 1]`.
        steps: By group and option, its saving in buckets.
    """

    losses: NDArray[np.float64]
    unit: float
    chosen: tuple[NDArray[np.int32], ...]
    steps: tuple[NDArray[np.int64], ...]

    def most_within(self, loss: float) -> float:
        """The largest saving of the choices that lose so much at most."""
        return float(np.flatnonzero(np.isfinite(self.losses) & (self.losses <= loss))[-1] * self.unit)

    def at_least(self, saving: float) -> tuple[int, ...] | None:
        """Per group the option of the choice with the least loss that saves so much, or None if none does."""
        first = max(0, int(np.ceil(saving / self.unit - 1e-9)))
        if first >= len(self.losses) or not np.isfinite(self.losses[first:]).any():
            return None
        bucket = first + int(np.argmin(self.losses[first:]))
        options = []
        for chosen, steps in zip(reversed(self.chosen), reversed(self.steps), strict=True):
            option = int(chosen[bucket])
            options.append(option)
            bucket -= int(steps[option])
        return tuple(reversed(options))


def additive_front(
    losses: Sequence[Sequence[float]], savings: Sequence[Sequence[float]], buckets: int = BUCKETS
) -> AdditiveFront:
    """Dynamic programming over groups; savings are rounded down to buckets, so what is found saves at least as told.

    Args:
        losses: By group and option, 0 or more.
        savings: By group and option; an option that saves nothing counts as 0.
        buckets: Into how many the largest saving is cut.

    Raises:
        ValueError: no option of any group saves anything.
    """
    total = sum(max(0.0, *saving) for saving in savings)
    if total <= 0:
        raise ValueError("no option saves anything")
    unit = total / buckets
    best = np.full(buckets + 1, np.inf)
    best[0] = 0.0
    chosen, steps, reach = [], [], 1
    for group_losses, group_savings in zip(losses, savings, strict=True):
        step = np.floor(np.maximum(0.0, np.asarray(group_savings, dtype=np.float64)) / unit + 1e-9).astype(np.int64)
        # Beyond what all groups so far save together there is nothing.
        known, reach = best[:reach], min(buckets + 1, reach + int(step.max()))
        best, choice = np.full(buckets + 1, np.inf), np.zeros(buckets + 1, dtype=np.int32)
        for option, (loss, jump) in enumerate(zip(group_losses, step.tolist(), strict=True)):
            there = slice(jump, min(buckets + 1, jump + len(known)))
            reached = known[: there.stop - jump] + loss
            better = reached < best[there]
            np.copyto(best[there], reached, where=better)
            np.copyto(choice[there], option, where=better)
        chosen.append(choice)
        steps.append(step)
    return AdditiveFront(best, unit, tuple(chosen), tuple(steps))
