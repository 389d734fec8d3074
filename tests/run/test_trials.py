"""The loop of a search on a real, tiny task: whatever a trial does, the search goes on and loses nothing."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autocompress.core.constraint import Budget, parse_constraint
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan
from autocompress.core.rules import SpaceRules
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_plan
from autocompress.run import jobs
from autocompress.run import trials as loop
from autocompress.run.executors import InProcess
from autocompress.run.jobs import PointJob, Shared, refused_by
from autocompress.run.study import Study
from autocompress.run.trials import Trials, run_trials
from autocompress.run.weights import checkpoint_path, load_weights
from autocompress.search.record import Record
from tests.run.tiny import OBJECTIVES, Planned, Told, make_trials, tiny_context, tiny_space, tiny_task

Loss = Callable[[Any, Any], Tensor]


@pytest.fixture(scope="module")
def context() -> Context:
    return tiny_context()


def failing(change: Callable[[Tensor], Tensor], first: int, last: int) -> Loss:
    """Cross entropy that goes wrong from its `first` to its `last` call."""
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        value = F.cross_entropy(outputs, targets)
        return change(value) if first <= calls <= last else value

    return loss


def raising(value: Tensor) -> Tensor:
    raise RuntimeError(f"no luck\nand a second line about {value.shape}")


def test_trials_are_run_until_the_budget_is_spent(tmp_path: Path, context: Context) -> None:
    trials = make_trials(tmp_path, context)
    assert run_trials(trials, Budget(trials=4))
    records = trials.study.records()
    assert [record.label for record in records] == ["dense", "search", "search", "search"]
    assert len({record.vector for record in records}) == 4
    assert {(record.state, record.fidelity) for record in records} == {("complete", "short")}
    names = {"accuracy", "size_bytes", "latency_ms", "macs", "peak_memory_bytes", "params"}
    for record in records:
        assert set(record.metrics) == names
        assert set(record.seconds) == {"tables", "apply", "train", "evaluate", "measure", "wait"}
        path = checkpoint_path(trials.checkpoints, record.number)
        weights = load_weights(path, trials.space.decode(record.vector))
        assert weights is not None
        assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    assert isinstance(trials.listener, Told)
    assert trials.listener.records == records
    assert load_weights(tmp_path / "none.safetensors", Plan()) is None
    # A number that a crash freed belongs to another plan, and half a file to none.
    assert load_weights(path, Plan()) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert load_weights(path, trials.space.decode(record.vector)) is None
    assert trials.space.decode(records[0].vector).is_dense


@pytest.mark.parametrize("damage", ["gone", "cut", "of another plan"])
def test_weights_that_are_lost_are_trained_again_to_the_same(damage: str, tmp_path: Path, context: Context) -> None:
    trials = make_trials(tmp_path, context)
    assert run_trials(trials, Budget(trials=3))
    dense, _, last = trials.study.records()
    path, other = (checkpoint_path(trials.checkpoints, record.number) for record in (last, dense))
    plan, before = trials.space.decode(last.vector), path.read_bytes()
    kept = load_weights(path, plan)
    assert kept is not None
    # They lie in the file, which is about to be damaged.
    wanted = {name: tensor.clone() for name, tensor in kept.items()}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(before[:-100] if damage == "cut" else other.read_bytes())
    job = PointJob(last, tmp_path / "artifacts" / "t002", 0, path, trials.dense)
    found = job._start(plan, context)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert path.read_bytes() == before


def test_a_baseline_that_goes_further_than_a_hopeless_one_is_left_out(tmp_path: Path, context: Context) -> None:
    space = tiny_space(context)
    far = tuple(len(decision.options) - 1 for decision in space.decisions)
    mild = tuple(min(1, last) for last in far)
    beside = tuple(last if place % 2 else 0 for place, last in enumerate(far))
    baselines = (("dense", space.dense_vector), ("mild", mild), ("far", far), ("beside", beside))
    trials = make_trials(tmp_path, context, baselines=baselines)
    lossless = replace(trials, dense={**trials.dense, "accuracy": Metric.exact(1e-6, "percent")})
    # Any share of an accuracy beyond every model's is lost by all of them.
    hopeless = replace(trials, dense={**trials.dense, "accuracy": Metric.exact(1e6, "percent")})
    assert run_trials(replace(hopeless, baselines=baselines[1:]), Budget(trials=2))
    assert [record.label for record in trials.study.records()] == ["mild", "beside"]
    again = make_trials(tmp_path / "again", context, baselines=baselines[1:])
    assert run_trials(replace(again, dense=lossless.dense), Budget(trials=3))
    assert [record.label for record in again.study.records()] == ["mild", "far", "beside"]


def test_baselines_come_first_and_once(tmp_path: Path, context: Context) -> None:
    space = tiny_space(context)
    baselines = (("dense", space.dense_vector), ("middle", space.centre_vector), ("again", space.centre_vector))
    trials = make_trials(tmp_path, context, baselines=baselines)
    assert run_trials(trials, Budget(trials=3))
    assert [record.label for record in trials.study.records()] == ["dense", "middle", "search"]


def test_every_pick_knows_what_ended_before_it_and_a_run_that_goes_on_picks_the_same(
    tmp_path: Path, context: Context
) -> None:
    space = tiny_space(context)
    vectors = [(*[0] * (len(space.decisions) - 2), *pair) for pair in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))]
    waves = [[(f"planned {n}", vectors[n]) for n in each] for each in ((0, 1), (2,), (3, 4))]

    def trials(planner: Planned) -> Trials:
        return replace(make_trials(tmp_path, context), planner=planner, waves=(2, 2, 2))

    first = Planned(waves)
    assert run_trials(trials(first), Budget(trials=3))
    labels = ["dense", *(f"planned {n}" for n in range(5))]
    assert first.before == [labels[:1]]
    assert first.asked == [(labels[:1], 0), (labels[:2], 0)]
    again = Planned(waves)
    assert run_trials(trials(again), Budget(trials=7))
    assert again.before == [labels[:1], labels[:3], labels[:4], labels]
    # What the second wave does not have ends it; after the last one the controller asks.
    assert again.asked == [(labels[:n], 0) for n in (3, 4, 4, 5, 6)]
    assert [record.label for record in trials(Planned(waves)).study.records()] == [*labels, "search"]


def test_a_short_first_wave_is_followed_by_longer_ones_also_in_a_run_that_goes_on(
    tmp_path: Path, context: Context
) -> None:
    space = tiny_space(context)
    vectors = [(*[0] * (len(space.decisions) - 2), *pair) for pair in itertools.product(range(3), repeat=2)][1:]
    waves = [[(f"planned {n}", vectors[n]) for n in each] for each in (range(3), range(3, 6))]
    labels = ["dense", *(f"planned {n}" for n in range(6))]
    for budget, counts in ((3, [1, 2]), (7, [1, 2, 2, 2])):
        planner = Planned(waves)
        trials = replace(make_trials(tmp_path, context), planner=planner, waves=(1, 2))
        assert run_trials(trials, Budget(trials=budget))
        assert planner.counts == counts
    # One plan of what the first offers, then two each, until nothing is left.
    assert planner.before == [labels[:1], labels[:2], labels[:4], labels[:6]]
    assert [record.label for record in trials.study.records()] == labels


def test_what_several_workers_have_ended_but_is_not_known_yet_is_not_picked_again(
    tmp_path: Path, context: Context
) -> None:
    class Two(InProcess):
        workers = 2

    space = tiny_space(context)
    planner = Planned([[(f"planned {n}", (*[0] * (len(space.decisions) - 1), n + 1)) for n in range(2)]])
    trials = make_trials(tmp_path, context)
    pair = replace(trials, executor=Two(Shared(context, space)), planner=planner, waves=(2, 2))
    assert run_trials(pair, Budget(trials=5))
    # Nothing is left for the second wave, nor for the one behind the uniform plans: the controller asks.
    assert [record.label for record in trials.study.records()] == [
        "dense",
        "planned 0",
        "planned 1",
        "search",
        "search",
    ]


def test_other_baselines_come_after_the_first_waves(tmp_path: Path, context: Context) -> None:
    space = tiny_space(context)
    baselines = (("dense", space.dense_vector), ("middle", space.centre_vector), ("far", space.extreme_vector))
    waves = [[(f"planned {n}", (*[0] * (len(space.decisions) - 1), n + 1))] for n in range(2)]
    planner = Planned(waves)
    trials = replace(make_trials(tmp_path, context, baselines=baselines), planner=planner, waves=(1,))
    assert run_trials(trials, Budget(trials=6))
    labels = [record.label for record in trials.study.records()]
    assert labels == ["dense", "planned 0", "middle", "far", "planned 1", "search"]
    # A wave more after each that had any.
    assert planner.before == [labels[:1], labels[:4], labels[:5]]


def test_a_trial_that_others_beat_is_stopped_half_way(tmp_path: Path, context: Context) -> None:
    space, patient = tiny_space(context), replace(context, effort=replace(context.effort, short_steps=8))
    # What eight other plans reached: as small as nothing, and as good as the dense model in the end.
    known = [(*[0] * (len(space.decisions) - 1), 0), *itertools.islice(itertools.product(*[[1, 2]] * 5), 8)]
    trials = make_trials(tmp_path, patient)
    for vector in known:
        number, lossless = trials.study.start(vector, "told"), not any(vector)
        metrics = {name: Metric.exact(0.1, unit) for name, unit in (("size_bytes", "bytes"), ("latency_ms", "ms"))}
        metrics["accuracy"] = Metric.exact(100.0, "percent")
        trials.study.finish(
            Record(number, "told", vector, "complete", "short", metrics, {}, halfway=1000.0 if lossless else 0.0)
        )
    controller = SimpleNamespace(ask=lambda history: space.extreme_vector)
    assert run_trials(replace(trials, controller=controller), Budget(trials=len(known) + 1))
    record = trials.study.records()[-1]
    assert (record.state, record.fidelity) == ("stopped", "halfway")
    assert "others are better in everything" in str(record.error)
    assert record.metrics["accuracy"].origin == "surrogate"
    assert set(record.seconds) == {"tables", "train", "wait"}
    assert not checkpoint_path(trials.checkpoints, record.number).exists()
    # A baseline runs to its end, whatever others reached.
    again = replace(trials, baselines=(("nearly the same", (*space.extreme_vector[:-1], 1)),))
    assert run_trials(again, Budget(trials=len(known) + 2))
    assert again.study.records()[-1].state == "complete"


def test_more_trials_go_on_where_the_last_ones_ended(tmp_path: Path, context: Context) -> None:
    whole = make_trials(tmp_path / "whole", context)
    assert run_trials(whole, Budget(trials=5))
    for budget in (2, 2, 5):
        parts = make_trials(tmp_path / "parts", context)
        assert run_trials(parts, Budget(trials=budget))
    for one, other in zip(whole.study.records(), parts.study.records(), strict=True):
        assert replace(one, seconds={}) == replace(other, seconds={})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (raising, "RuntimeError: no luck"),
        (lambda value: value * math.nan, "training diverged: the loss is nan"),
        (lambda value: value / 0.0, "training diverged: the loss is inf"),
    ],
    ids=["raises", "nan", "infinite"],
)
def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(
    tmp_path: Path, change: Callable[[Tensor], Tensor], error: str
) -> None:
    # The dense model is not trained; the first plan of the search meets the error at once.
    trials = make_trials(tmp_path, tiny_context(tiny_task(failing(change, 1, 1), trained=False)))
    assert run_trials(trials, Budget(trials=4))
    records = trials.study.records()
    assert [record.state for record in records] == ["complete", "failed", "complete", "complete"]
    assert str(records[1].error).startswith(error)
    assert "\n" not in str(records[1].error)
    assert (records[1].metrics, records[1].fidelity) == ({}, "short")
    assert not checkpoint_path(trials.checkpoints, 1).exists()
    assert len({record.vector for record in records}) == 4


def test_a_search_in_which_everything_fails_ends(tmp_path: Path) -> None:
    trials = make_trials(tmp_path, tiny_context(tiny_task(failing(raising, 1, 10**6), trained=False)))
    assert run_trials(trials, Budget(trials=5))
    assert [record.state for record in trials.study.records()] == ["complete", *["failed"] * 4]


def test_a_metric_that_is_not_finite_fails_the_trial(tmp_path: Path) -> None:
    task = replace(tiny_task(trained=False), metric=lambda outputs, targets: math.nan)
    trials = make_trials(tmp_path, tiny_context(task))
    assert run_trials(trials, Budget(trials=1))
    (record,) = trials.study.records()
    assert record.state == "failed"
    assert record.error is not None
    assert "accuracy on validation is nan" in record.error


def test_what_the_tables_refuse_is_recorded_and_never_trained(
    tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def evaluate(plan: Any, *args: Any, **options: Any) -> Any:
        trained.append(plan)
        return real(plan, *args, **options)

    real = jobs.evaluate
    monkeypatch.setattr(jobs, "evaluate", evaluate)
    trials = make_trials(tmp_path, context, constraints=["size<=50%", "macs<=80%"])
    assert run_trials(trials, Budget(trials=3))
    records = trials.study.records()
    refused = [record for record in records if record.state == "infeasible"]
    complete = [record for record in records if record.state == "complete"]
    assert (len(complete), records[0].state) == (3, "infeasible")
    assert trained == [trials.space.decode(record.vector) for record in complete]
    dense = trials.dense
    for record in refused:
        assert record.fidelity == "cost"
        assert record.metrics == cost_of_plan(trials.space.decode(record.vector), context).metrics
        assert record.error is not None
        assert " is not met: " in record.error
    for record in complete:
        assert record.metrics["size_bytes"].value <= 0.5 * dense["size_bytes"].value
        assert record.metrics["macs"].value <= 0.8 * dense["macs"].value


def test_accuracy_is_judged_after_training(tmp_path: Path, context: Context) -> None:
    dense = {"accuracy": Metric.exact(200.0, "percent")}
    trials = make_trials(tmp_path, context, constraints=["accuracy>=-1.0"])
    assert run_trials(replace(trials, dense={**trials.dense, **dense}), Budget(trials=2))
    for record in trials.study.records():
        assert record.state == "complete"
        assert (
            record.error
            == f"accuracy>=-1.0 is not met: accuracy is {record.metrics['accuracy'].value:g}, the limit 199"
        )


def test_a_search_that_finds_nothing_feasible_ends(
    tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REFUSALS_PER_TRIAL", 3)
    trials = make_trials(tmp_path, context, constraints=["size<=1B"])
    assert run_trials(trials, Budget(trials=2))
    assert [record.state for record in trials.study.records()] == ["infeasible"] * 7
    assert isinstance(trials.listener, Told)
    assert trials.listener.said == ["the tables refused 7 plans: the search ends after 0 trials"]


def test_a_search_ends_when_every_plan_was_tried(tmp_path: Path, context: Context) -> None:
    rules = SpaceRules.from_dict({"name": "few", "rules": [{"op": "quantize", "w_bits": [8, 4], "name": "8"}]})
    trials = make_trials(tmp_path, context, tiny_space(context, rules))
    assert run_trials(trials, Budget(trials=50))
    assert sorted(record.vector for record in trials.study.records()) == [(0,), (1,), (2,)]
    assert isinstance(trials.listener, Told)
    assert trials.listener.said == ["every one of the 3 plans was tried"]
    rules = SpaceRules.from_dict({"rules": [{"op": "quantize", "w_bits": 8, "name": "8", "optional": False}]})
    single = make_trials(tmp_path / "one", context, tiny_space(context, rules))
    assert run_trials(single, Budget(trials=50))
    assert [record.vector for record in single.study.records()] == [(0,)]


def test_time_is_a_budget_too(tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)), perf_counter=time.perf_counter)
    monkeypatch.setattr(loop, "time", clock)
    trials = make_trials(tmp_path, context)
    assert run_trials(trials, Budget(seconds=8.5))
    # Four looks at the clock for each trial: before it, when it is handed out, when it is back, and for the listener.
    assert len(trials.study.records()) == 2


def test_an_interrupted_trial_is_run_again_and_the_budget_is_reached(tmp_path: Path, context: Context) -> None:
    first = make_trials(tmp_path, context, listener=Told(interrupt_at=2))
    assert not run_trials(first, Budget(trials=4))
    before = first.study.records()
    assert [record.state for record in before] == ["complete", "complete", "running"]
    again = make_trials(tmp_path, context)
    assert run_trials(again, Budget(trials=4))
    after = again.study.records()
    assert [record.state for record in after] == ["complete"] * 4
    assert after[:2] == before[:2]
    assert (after[2].number, after[2].vector, after[2].label) == (2, before[2].vector, before[2].label)
    whole = make_trials(tmp_path / "whole", context)
    assert run_trials(whole, Budget(trials=4))
    wanted = [(record.vector, record.metrics) for record in whole.study.records()]
    assert [(record.vector, record.metrics) for record in after] == wanted
    assert Study(tmp_path, again.space, OBJECTIVES).lost() == []


def test_constraints_in_words() -> None:
    dense = {"size_bytes": Metric.exact(1000.0, "bytes")}
    limits = [parse_constraint(text) for text in ("latency<=20ms", "size<=30%")]
    assert refused_by({"size_bytes": Metric.exact(300.0, "bytes")}, limits, dense) is None
    refusal = refused_by({"size_bytes": Metric.exact(301.0, "bytes")}, limits, dense)
    assert refusal == "size<=30% is not met: size_bytes is 301, the limit 300"
