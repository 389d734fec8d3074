"""Small networks for the Nano, and what `joint` offers for them."""

from __future__ import annotations

from autocompress.core.rules import build_space, load_rules
from autocompress.core.space import Space
from autocompress.proxy.context import Context, Effort
from autocompress.run.adapt import adapt_rules
from autocompress.targets.profile import load_target
from tests.nets import make_task


def nano_context(network: str, shares: tuple[float, ...] = (1.0,)) -> Context:
    """Of a network of `tests.nets`, at shares of its side."""
    return Context(make_task(network, steps=20), load_target("jetson-nano"), "fp16", Effort(2, 64), shares=shares)


def joint_space(context: Context) -> Space:
    """`joint` as the target of the context takes it."""
    return build_space(adapt_rules(load_rules("joint"), context.target.profile)[0], context.dense.info)
