"""What the constraints of a run leave to those who put plans together, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from autocompress.core.constraint import Constraint, shares_allowed
from autocompress.core.metric import Metric
from autocompress.core.space import Space, Vector
from autocompress.errors import AutoCompressError
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_plan, peak_memory_of_plan
from autocompress.proxy.sensitivity import Sensitivity
from autocompress.run.jobs import refused_by
from autocompress.search.planned import Limits

_MEMORY = "peak_memory_bytes"


def limits_of(
    constraints: Sequence[Constraint],
    space: Space,
    context: Context,
    dense: Mapping[str, Metric],
    options: Sensitivity,
) -> Limits | None:
    """The limits on costs, None without any; a trial that is trained keeps to them too.

    Args:
        constraints: Of the run.
        space: Of the plans.
        context: Of the model and the target.
        dense: Metrics of the dense model that the constraints are relative to.
        options: Has the dense model's costs.
    """
    if all(one.metric == "accuracy" for one in constraints):
        return None

    # The same plans come up wave after wave.
    @cache
    def allows(vector: Vector) -> bool:
        try:
            metrics = cost_of_plan(space.decode(vector), context).metrics
        except AutoCompressError:
            # It cannot be applied.
            return False
        return refused_by(metrics, constraints, dense) is None

    memory = min((one.limit(dense) for one in constraints if one.metric == _MEMORY), default=None)

    @cache
    def fits(vector: Vector) -> bool:
        assert memory is not None
        try:
            return peak_memory_of_plan(space.decode(vector), context) <= memory
        except AutoCompressError:
            return False

    return Limits(shares_allowed(constraints, dense, options.dense.costs), allows, None if memory is None else fits)
