from __future__ import annotations

from functools import cache

import pytest

from autocompress.core.constraint import parse_constraint
from autocompress.core.metric import Metric
from autocompress.core.plan import Quantize
from autocompress.core.space import Decision, Space
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.cost import cost_of_plan
from autocompress.proxy.sensitivity import Effect, Sensitivity
from autocompress.run.limits import limits_of
from autocompress.search.planned import Limits
from autocompress.targets.profile import load_target
from tests.nets import make_task

OPTIONS = (None, Quantize(8), Quantize(2))
BARE, EIGHT, TWO, NOWHERE = (0, 0), (1, 0), (2, 0), (0, 1)


@cache
def space_and_context() -> tuple[Space, Context]:
    """The second decision is about a layer that there is not."""
    context = Context(make_task("senet", steps=0), load_target("jetson-nano"), "fp16", Effort(0, 16))
    layer = max(context.dense.info.layers, key=lambda layer: layer.params).name
    return Space("two", (Decision("quantize", layer, OPTIONS), Decision("quantize", "nowhere", OPTIONS))), context


def limits(*texts: str) -> Limits | None:
    space, context = space_and_context()
    dense = {"accuracy": Metric.exact(90.0, "percent"), **cost_of_plan(space.decode(BARE), context).metrics}
    costs = {name: metric.value for name, metric in dense.items() if name in ("size_bytes", "latency_ms")}
    options = Sensitivity(Effect(0.0, costs), {}, 1.0)
    return limits_of([parse_constraint(text) for text in texts], space, context, dense, options)


def test_without_a_limit_on_a_cost_there_is_none() -> None:
    assert limits() is None
    assert limits("accuracy>=-1.0") is None


def test_limits_tell_which_plans_a_trial_would_train() -> None:
    space, context = space_and_context()
    size = cost_of_plan(space.decode(TWO), context).metrics["size_bytes"].value
    found = limits(f"size<={size}B", "accuracy>=-1.0")
    assert found is not None
    assert found.fits is None
    assert 0.0 < found.shares["size_bytes"] < 1.0
    assert [found.allows(vector) for vector in (BARE, EIGHT, TWO)] == [False, False, True]


def test_memory_is_told_from_the_plan_alone() -> None:
    space, context = space_and_context()
    peak = cost_of_plan(space.decode(BARE), context).metrics["peak_memory_bytes"].value
    enough, less = limits(f"memory<={peak}B"), limits(f"memory<={peak - 1}B")
    assert enough is not None
    assert enough.fits is not None
    assert enough.fits(BARE)
    assert enough.allows(BARE)
    assert less is not None
    assert less.fits is not None
    assert not less.fits(BARE)
    assert not less.allows(BARE)
    assert enough.shares == {}


@pytest.mark.parametrize("text", ["size<=99%", "memory<=1MB"])
def test_a_plan_that_cannot_be_applied_is_none_to_try(text: str) -> None:
    found = limits(text)
    assert found is not None
    assert not found.allows(NOWHERE)
    assert found.fits is None or not found.fits(NOWHERE)
