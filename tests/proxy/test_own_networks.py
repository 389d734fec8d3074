"""Real files of real plans are run; the laws of another device stand in for those of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.core.plan import Plan
from autocompress.emit.onnx_export import export_onnx
from autocompress.errors import RunError
from autocompress.proxy import own_networks
from autocompress.proxy.context import Context
from autocompress.proxy.cost import latency_of_plan
from autocompress.proxy.own_networks import knowing_its_model, learnt_of
from autocompress.run import measure
from autocompress.run.measure import measure_here
from autocompress.targets.law import Law
from tests.run.tiny import laws_of_another_device, run_little_here, tiny_context, tiny_space


def laws() -> dict[str, Law]:
    """Those of a device whose kernels take five times as long as another's, and whose calls cost nothing."""
    law = laws_of_another_device()["fp32"]
    slow = {term: 5.0 * ms for term, ms in law.coefficients.items()}
    law = replace(law, coefficients={**slow, "network": 1e-3})
    return {"fp32": law, "int8": law}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    run_little_here(monkeypatch)
    monkeypatch.setattr("autocompress.targets.calibrate.local_laws", laws)
    monkeypatch.setattr(own_networks, "RANDOM_PLANS", 2)


def local() -> Context:
    context = tiny_context(target="local")
    return replace(context, target=context.target.calibrated())


def test_this_machine_is_known_better_than_by_the_laws_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    context = local()
    space = tiny_space(context)
    known = knowing_its_model(context, space)
    found = learnt_of(context, space)
    assert found is not None
    # By so few plans, each of them left out in turn: half of it on one machine, 0.52 on another.
    assert found.error_after < 0.75 * found.error_before
    ms = [latency_of_plan(plan, known).ms for plan in (Plan(), space.decode(space.extreme_vector))]
    assert all(value > 0.0 for value in ms)
    assert ms[0] != latency_of_plan(Plan(), context).ms
    # The second time nothing is run.
    monkeypatch.setattr(own_networks, "measured_steadily", lambda *arguments: pytest.fail("measured although kept"))
    again = knowing_its_model(context, space)
    assert [latency_of_plan(plan, again).ms for plan in (Plan(), space.decode(space.extreme_vector))] == ms


@pytest.mark.parametrize("content", ["", "[]", '{"known": [], "weights": [], "spread": [1], "errors": [1, 2]}'])
def test_what_was_kept_is_measured_again_if_it_is_corrupt(tmp_path: Path, content: str) -> None:
    context = local()
    space = tiny_space(context)
    first = learnt_of(context, space)
    (kept,) = (tmp_path / "cache").glob("latency-*.json")
    good = kept.read_text()
    kept.write_text(content)
    second = learnt_of(context, space)
    assert (first is None, second is None) == (False, False)
    assert kept.read_text() not in ("", content)
    assert len(kept.read_text()) > 0.5 * len(good)


def test_other_targets_and_given_laws_are_left_alone() -> None:
    context = tiny_context()
    assert knowing_its_model(context, tiny_space(context)) is context


def test_whoever_asks_has_more_plans_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MEASURED_PLANS", 4)
    context = local()
    space = tiny_space(context)
    told = measure_here(context, space, "local")
    assert (told["target"], told["interrupted"], told["not_measured"]) == ("local", False, [])
    assert told["measured"] > 3
    assert told["dense_after_ms"] > 0.0
    assert told["laws"]["all"]["error_after"] < 0.5 * told["laws"]["all"]["error_before"]
    # It is what the next search goes by.
    monkeypatch.setattr(own_networks, "measured_steadily", lambda *arguments: pytest.fail("measured although kept"))
    kept = learnt_of(context, space)
    assert kept is not None
    assert kept.kernels == told["measured"]


def test_a_model_that_cannot_be_a_file_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **named: object) -> None:
        raise RunError("no file of it")

    assert own_networks.export_onnx is export_onnx
    monkeypatch.setattr(own_networks, "export_onnx", refused)
    context = local()
    space = tiny_space(context)
    assert learnt_of(context, space) is None
    assert knowing_its_model(context, space) is context
    with pytest.raises(RunError, match="fewer than two plans can be exported"):
        measure_here(context, space, "local")
