"""What single options do alone, measured by workers: what plans are made of, and a table of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autocompress.core.decision import describe
from autocompress.core.space import Space, Vector
from autocompress.errors import RunError
from autocompress.proxy.sensitivity import COSTS, Effect, Effects, Sensitivity
from autocompress.run.executors import Executor, each
from autocompress.run.jobs import EffectJob, Shared


def effects_by(executor: Executor, shared: Shared, file: Path) -> Effects:
    """The effects of the plans of a space, measured by workers and kept in a file."""
    return Effects(shared.meter, file, partial(_measured, executor))


def _measured(executor: Executor, vectors: Sequence[Vector]) -> Iterator[tuple[Vector, Effect | None]]:
    named = {f"effect of {vector}": vector for vector in vectors}
    for done in each(executor, ((name, EffectJob(vector)) for name, vector in named.items())):
        if done.error is not None:
            raise RunError(f"{done.key} could not be measured: {done.error}")
        yield named[done.key], done.result


def effect_rows(space: Space, found: Sensitivity) -> dict[str, Any]:
    """The effects of all options as plain data.

    `loss_share` is the loss that an option adds, as a share of the loss of a model that knows nothing; `saved` are the
    shares of the dense costs that it saves. Both are None where it cannot be applied.
    """
    rows = []
    for decision in space.decisions:
        effects = zip(decision.options[1:], found.options[decision.name][1:], strict=True)
        options = [{"option": describe(option), **_row(effect, found)} for option, effect in effects]
        rows.append({"decision": decision.name, "options": options})
    return {"dense": dict(found.dense.costs), "chance_loss": found.chance, "decisions": rows}


def _row(effect: Effect | None, found: Sensitivity) -> dict[str, Any]:
    if effect is None:
        return {"loss_share": None, "saved": None}
    dense = found.dense
    return {
        "loss_share": max(0.0, effect.loss - dense.loss) / max(found.chance, 1e-12),
        "saved": {name: 1.0 - effect.costs[name] / max(dense.costs[name], 1e-12) for name in COSTS},
    }
