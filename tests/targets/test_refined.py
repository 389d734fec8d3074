from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autocompress.core.kernel import Kernel
from autocompress.targets.inside import Network
from autocompress.targets.law import Law
from autocompress.targets.learning import told_ms
from autocompress.targets.profile import load_target
from autocompress.targets.refined import USUAL_ERROR, refined, refinement
from tests.targets.chains import Link, build

# A machine on which 3 x 3 convolutions take twice and 1 x 1 ones half as long as its law says.
FACTORS = {3: 2.0, 1: 0.5}


def laws() -> dict[str, Law]:
    law = load_target("raspberry-pi-5").laws["fp32"]
    return {"fp32": law, "int8": law}


def network(channels: int, side: int, factors: dict[int, float] = FACTORS) -> Network:
    told = laws()
    kernels: list[Kernel] = [
        kernel for window in factors for kernel in build(Link("conv", channels, side, window)).kernels
    ]
    kernels = [replace(kernel, dtype="fp32") for kernel in kernels]
    times = []
    for kernel in kernels:
        ms = told["fp32"].kernel_ms(kernel, "fp32")
        times.append(ms * (factors[kernel.weight_shape[-1]] if kernel.weight_shape is not None else 1.0))
    whole = sum(times) + told["fp32"].coefficients["network"]
    return Network(0, tuple(kernels), tuple(times), whole)


def test_other_plans_of_a_known_model_are_told() -> None:
    known = [network(channels, 16) for channels in (16, 24, 32, 48)]
    found = refinement(laws(), known)
    assert found.error_after < 0.5 * found.error_before
    better = refined(laws(), found)
    for channels in (20, 28, 40):
        other = network(channels, 16)
        assert told_ms(better, other.kernels) == pytest.approx(other.whole_ms, rel=0.1)
        assert abs(told_ms(laws(), other.kernels) / other.whole_ms - 1.0) > 0.15


def test_the_interval_goes_by_plans_that_were_left_out() -> None:
    tight = refinement(laws(), [network(channels, 16) for channels in (16, 24, 32, 48)]).spread
    mixed = [network(16, 16, {3: factor}) for factor in (0.5, 2.0, 0.5, 2.0)]
    wide = refinement(laws(), mixed).spread
    assert wide.low < tight.low < 1.0 < tight.high < wide.high
    # Few plans that happen to be told exactly do not say that all are.
    assert tight.high > math.exp(1.28 * USUAL_ERROR / 2)
    spreads = [spread for law in refined(laws(), refinement(laws(), mixed)).values() for spread in law.spreads.values()]
    assert set(spreads) == {wide}


def test_what_is_far_from_the_model_stays_as_the_law_says() -> None:
    better = refined(laws(), refinement(laws(), [network(16, 16), network(32, 16)]))["fp32"]
    kernel = replace(build(Link("linear", 512)).kernels[0], dtype="fp32")
    assert better.kernel_ms(kernel, "fp32") == pytest.approx(laws()["fp32"].kernel_ms(kernel, "fp32"))
