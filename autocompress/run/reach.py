"""What a space reaches on a target, from tables alone, before anything is searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autocompress.core.constraint import Constraint
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan
from autocompress.core.space import Space
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_plan

COSTS = ("size_bytes", "latency_ms", "macs", "peak_memory_bytes")
_SAMPLES = 24


def dense_cost(context: Context) -> dict[str, Metric]:
    """The cost of the model as it is."""
    return cost_of_plan(Plan(), context).metrics


def reach(space: Space, context: Context, constraints: Sequence[Constraint]) -> dict[str, Any]:
    """Decisions, number of plans, and the least, central and largest value of every cost.

    The least is that of the most compressed plan or of the best of some others (the extreme of every decision is not
    always the cheapest); each cost is looked at by itself.
    """
    dense = dense_cost(context)
    centre = cost_of_plan(space.decode(space.centre_vector), context).metrics
    least = least_costs(space, context)
    rows = {
        name: {
            "minimum": min(least[name].value, centre[name].value, dense[name].value),
            "centre": centre[name].value,
            "maximum": max(dense[name].value, centre[name].value),
            "unit": dense[name].unit,
        }
        for name in COSTS
    }
    checks = [
        {
            "constraint": constraint.text,
            "can_be_met": _met(constraint, least, dense),
            "best": least[constraint.metric].value,
        }
        for constraint in constraints
        if constraint.metric in least
    ]
    return {
        "space": space.name,
        "decisions": [{"name": decision.name, "options": len(decision.options)} for decision in space.decisions],
        "plans": space.size,
        "costs": rows,
        "constraints": checks,
    }


def least_costs(space: Space, context: Context) -> dict[str, Metric]:
    """The best value of each cost over the most compressed plan, its neighbours and a few random ones."""
    generator = np.random.default_rng(0)
    vectors = {space.dense_vector, space.extreme_vector}
    extreme = list(space.extreme_vector)
    for kind in {decision.kind for decision in space.decisions}:
        relaxed = tuple(
            index if decision.kind != kind else 0 for index, decision in zip(extreme, space.decisions, strict=True)
        )
        vectors.add(relaxed)
    vectors.update(space.random(generator) for _ in range(_SAMPLES))
    best: dict[str, Metric] = {}
    for vector in sorted(vectors):
        for name, metric in cost_of_plan(space.decode(vector), context).metrics.items():
            if name not in best or metric.value < best[name].value:
                best[name] = metric
    return best


def _met(constraint: Constraint, least: dict[str, Metric], dense: dict[str, Metric]) -> bool:
    return constraint.violation(least, dense) <= 0
