from __future__ import annotations

import math

import pytest

from autocompress.core.metric import MAXIMISED, OBJECTIVES, UNITS, Metric
from autocompress.errors import InputError


def test_every_objective_has_a_unit_and_a_direction() -> None:
    assert set(UNITS) == set(MAXIMISED) == set(OBJECTIVES)
    assert [name for name, more_is_better in MAXIMISED.items() if more_is_better] == ["accuracy"]


def test_plain_data_and_back() -> None:
    metric = Metric(3.0, 2.5, 4.0, "interpolated", "ms")
    assert metric.to_dict() == {"value": 3.0, "low": 2.5, "high": 4.0, "origin": "interpolated", "unit": "ms"}
    assert Metric.from_dict(metric.to_dict()) == metric
    assert Metric.exact(5, "bytes") == Metric(5, 5, 5, "measured", "bytes")


@pytest.mark.parametrize(
    ("value", "low", "high"), [(1.0, 2.0, 3.0), (4.0, 2.0, 3.0), (math.nan, 0.0, 1.0), (math.inf, 0.0, math.inf)]
)
def test_a_value_lies_in_its_interval_and_is_finite(value: float, low: float, high: float) -> None:
    with pytest.raises(InputError, match="finite and inside its interval"):
        Metric(value, low, high, "measured", "ms")


def test_the_origin_is_one_of_five() -> None:
    with pytest.raises(InputError, match="did you mean 'measured'"):
        Metric(1.0, 1.0, 1.0, "measure", "ms")
