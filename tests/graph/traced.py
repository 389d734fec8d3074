"""Traced nets, kept for the whole test run; `Traced.module` is never changed by a test."""

from __future__ import annotations

from functools import cache

from autocompress.graph.couple import Channels
from autocompress.graph.info import Traced, trace_model
from tests.graph.published import net


@cache
def traced(name: str) -> Traced:
    model, inputs = net(name)
    return trace_model(model, inputs)


def group(name: str, layer: str) -> Channels:
    """The group of that name in a net."""
    return next(group for group in traced(name).coupling.groups if group.name == layer)
