from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from autocompress.core.kernel import Kernel
from autocompress.targets.correction import Correction, learnt, likeness
from tests.targets.chains import Link, build


def kernel(channels: int, op: str = "conv", dtype: str = "fp32") -> Kernel:
    return build(Link(op, channels, 16, 3, dtype=dtype)).kernels[0]


def corrected(factors: dict[int, float], law_ms: float = 0.1) -> Correction:
    """What follows from convolutions by their channels that take so many times what the law says."""
    likenesses = [likeness(kernel(channels), "fp32") for channels in factors]
    law = np.full(len(factors), law_ms)
    return learnt(likenesses, law, law * np.array(list(factors.values())))


def test_factors_of_kernels_are_learnt() -> None:
    factors = {8: 1.3, 16: 0.8, 24: 1.2, 32: 0.9, 64: 1.1}
    correction = corrected(factors)
    for channels, factor in factors.items():
        assert correction.factor(kernel(channels), "fp32") == pytest.approx(factor, abs=0.07)
    # Between two that are alike, and the same kernel elsewhere in a network.
    assert 0.8 < correction.factor(kernel(48), "fp32") < 1.2
    assert correction.factor(replace(kernel(8), layer="elsewhere"), "fp32") == correction.factor(kernel(8), "fp32")


def test_nothing_is_said_of_what_is_unlike_all_that_is_known() -> None:
    correction = corrected({8: 1.5, 16: 1.5, 32: 1.5})
    assert correction.factor(kernel(16), "fp32") > 1.3
    assert correction.factor(kernel(16), "int8") == 1.0
    assert correction.factor(kernel(64, "depthwise"), "fp32") == 1.0
    assert correction.factor(kernel(64, "add"), "fp32") == 1.0


def test_it_is_the_same_in_another_process() -> None:
    correction = corrected({8: 1.3, 16: 0.8, 24: 1.2})
    said = correction.factor(kernel(12), "fp32")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(correction.factor, kernel(12), "fp32").result() == said != 1.0


def test_no_kernel_takes_less_than_nothing() -> None:
    assert corrected({8: 0.0, 16: 0.0, 32: 0.0}).factor(kernel(16), "fp32") > 0.0


def test_what_takes_almost_no_time_says_little() -> None:
    assert corrected({16: 1.5}, law_ms=1e-4).factor(kernel(16), "fp32") < 1.1
