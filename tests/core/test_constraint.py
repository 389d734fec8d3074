from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.core.constraint import Budget, parse_budget, parse_constraint, shares_allowed
from autocompress.core.metric import UNITS, Metric
from autocompress.errors import InputError

DENSE = {
    "accuracy": Metric(92.0, 91.0, 93.0, "measured", "percent"),
    "size_bytes": Metric.exact(1_000_000, "bytes"),
    "latency_ms": Metric(40.0, 35.0, 50.0, "analytic", "ms"),
    "macs": Metric.exact(40e6, "macs"),
    "peak_memory_bytes": Metric.exact(2**20, "bytes"),
    "params": Metric.exact(250_000, "count"),
}


def changed(metric: str, value: float) -> dict[str, Metric]:
    return {**DENSE, metric: Metric.exact(value, UNITS[metric])}


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("latency<=20ms", "latency_ms", 20.0),
        ("latency <= 0.5 s", "latency_ms", 500.0),
        ("latency<=1500us", "latency_ms", 1.5),
        ("latency<=50%", "latency_ms", 20.0),
        ("latency_ms<=2e1ms", "latency_ms", 20.0),
        ("size<=30%", "size_bytes", 300_000),
        ("size<=200KB", "size_bytes", 200_000),
        ("size<=200KiB", "size_bytes", 204_800),
        ("size_bytes<=.5MB", "size_bytes", 500_000),
        ("memory<=1MiB", "peak_memory_bytes", 2**20),
        ("memory<=100B", "peak_memory_bytes", 100),
        ("macs<=50%", "macs", 20e6),
        ("macs<=20M", "macs", 20e6),
        ("macs<=20000000", "macs", 20e6),
        ("params<=100K", "params", 100_000),
        ("accuracy>=-1.0", "accuracy", 91.0),
        ("accuracy>=0", "accuracy", 92.0),
    ],
)
def test_limits(text: str, metric: str, limit: float) -> None:
    constraint = parse_constraint(text)
    assert (constraint.metric, constraint.text) == (metric, text)
    assert constraint.limit(DENSE) == pytest.approx(limit)
    assert constraint.violation(changed(metric, limit), DENSE) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("latency<=20ms", 25.0, 0.25),
        ("latency<=20ms", 19.0, 0.0),
        ("size<=30%", 600_000, 1.0),
        ("accuracy>=-1.0", 90.0, 0.01),
        ("accuracy>=-1.0", 95.0, 0.0),
    ],
)
def test_violation_is_the_relative_excess(text: str, value: float, expected: float) -> None:
    constraint = parse_constraint(text)
    assert constraint.violation(changed(constraint.metric, value), DENSE) == pytest.approx(expected)


def test_a_limit_of_zero_still_has_a_violation() -> None:
    dense = {"macs": Metric.exact(0, "macs")}
    assert parse_constraint("macs<=50%").violation(changed("macs", 3.0), dense) == 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latencyy<=20ms", "unknown metric 'latencyy'; did you mean 'latency'"),
        ("watt<=1", "allowed: accuracy"),
        ("latency<=20", "the unit is missing; allowed: %, ms, s, us"),
        ("size<=3kb", "unknown unit 'kb'"),
        ("macs<=3MB", "unknown unit 'MB'"),
        ("latency>=20ms", "sense is '>='; allowed for latency: '<='"),
        ("size=30%", "sense is '='"),
        ("accuracy<=-1.0", "sense is '<='; allowed for accuracy: '>='"),
        ("accuracy>=-1%", "takes no unit, and got '%'"),
        ("accuracy>=90", "points relative to the dense model"),
        ("accuracy>=-101", "allowed: -100 to 0"),
        ("latency<=infms", "inf; it must be a finite"),
        ("latency<=nan%", "nan; it must be a finite"),
        ("latency<=1e999ms", "it must be a finite"),
        ("size<=0%", "must be above 0"),
        ("size<=-5KB", "must be above 0"),
        ("size", "cannot be read"),
        ("size<=", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_bad_constraints_say_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_constraint(text)
    assert message in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tightest_limit_of_a_cost_is_a_share_of_the_dense_model() -> None:
    dense = {"size_bytes": Metric.exact(200e3, "bytes"), "peak_memory_bytes": Metric.exact(64e3, "bytes")}
    texts = ("size<=30%", "size<=20KB", "memory<=32KB", "accuracy>=-1.0")
    costs = {"size_bytes": 200e3, "latency_ms": 2.0}
    assert shares_allowed([parse_constraint(text) for text in texts], dense, costs) == {
        "size_bytes": pytest.approx(0.1)
    }
    assert shares_allowed([], {}, costs) == {}


def test_a_missing_metric_is_named() -> None:
    with pytest.raises(InputError, match="needs latency_ms, which was not computed for the dense model"):
        parse_constraint("latency<=50%").limit({"macs": DENSE["macs"]})
    with pytest.raises(InputError, match="for the plan"):
        parse_constraint("latency<=5ms").violation({}, DENSE)


@given(st.text(max_size=20))
def test_any_text_parses_or_is_an_input_error(text: str) -> None:
    for parse in (parse_constraint, parse_budget):
        message = ""
        try:
            parse(text)
        except InputError as error:
            message = str(error)
        assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("50", Budget(trials=50)),
        (" 1 ", Budget(trials=1)),
        ("90s", Budget(seconds=90.0)),
        ("30m", Budget(seconds=1800.0)),
        ("2h", Budget(seconds=7200.0)),
        ("1.5h", Budget(seconds=5400.0)),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "above 0"),
        ("-5", "above 0"),
        ("0h", "above 0"),
        ("2.5", "not a whole number"),
        ("2d", "unknown unit 'd'; allowed: h, m, s"),
        ("inf", "finite"),
        ("many", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_bad_budgets(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_budget(text)
    assert message in str(caught.value)
