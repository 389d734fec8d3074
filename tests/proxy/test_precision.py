"""No device is credited with a precision that it does not have, nor an engine with one it was not built for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autocompress.core.plan import Plan, Quantize
from autocompress.core.target import Profile
from autocompress.proxy.cost import latency_of_plan
from autocompress.targets.profile import list_targets
from tests.run.tiny import tiny_context

PROFILES = [profile for profile in list_targets() if not profile.measured and profile.runs_as("int8") != "int8"]
BUILT_FOR = [(profile, one.dtype) for profile in PROFILES for one in profile.precisions if one.native]


@pytest.mark.parametrize(("profile", "precision"), BUILT_FOR, ids=[f"{p.name}-{dtype}" for p, dtype in BUILT_FOR])
def test_integers_are_no_faster_where_there_is_no_integer_arithmetic(profile: Profile, precision: str) -> None:
    context = replace(tiny_context(target=profile.name), precision=precision)
    for w_bits in (8, 4):
        layers = tuple((layer.name, (Quantize(w_bits, 8),)) for layer in context.dense.info.layers)
        assert latency_of_plan(Plan(layers=layers), context).ms == latency_of_plan(Plan(), context).ms


def test_there_are_such_devices() -> None:
    assert ("jetson-nano", "fp32") in [(profile.name, dtype) for profile, dtype in BUILT_FOR]
