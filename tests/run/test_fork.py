"""Trials of one run in another: for another target, under other limits, never trained again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from autocompress.config import fork, resume, search
from autocompress.core.space import Vector
from autocompress.errors import InputError
from autocompress.proxy.cost import cost_of_plan
from autocompress.run.folder import Run
from autocompress.run.settings import SearchConfig, read_config
from autocompress.run.study import Study
from autocompress.search.record import Record
from autocompress.wired import wire
from tests.run.studies import trials_of
from tests.run.tiny import FILE_RULES, TASK, Told


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight trials on a Jetson Nano."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "space.yaml").write_text(FILE_RULES)
    config = SearchConfig(workers=1, short_steps=8, final_epochs=0.0, final_points=2)
    space = str(folder / "space.yaml")
    search(TASK, space=space, budget=8, output=folder / "run", config=config)
    return folder / "run"


def records(run: Run | Path) -> list[Record]:
    return trials_of(run if isinstance(run, Run) else Run.open(run))


def by_number(run: Run | Path) -> Mapping[int, Record]:
    return {record.number: record for record in records(run)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_target_gets_every_trial_with_its_own_costs(source: Path, tmp_path: Path) -> None:
    before = files(source)
    told = Told()
    forked = fork(source, tmp_path / "tx2", target="jetson-tx2", listener=told)
    assert files(source) == before
    assert "8 trials are carried over without training" in told.said
    # None was trained.
    assert not told.records
    wired = wire(read_config(forked))
    old, new = by_number(source), by_number(forked)
    assert list(old) == list(new)
    for number, record in new.items():
        costs = cost_of_plan(wired.space.decode(record.vector), wired.context).metrics
        assert record.metrics == {"accuracy": old[number].metrics["accuracy"], **costs}
        assert record.metrics["latency_ms"] != old[number].metrics["latency_ms"]
        assert (record.seconds, record.label) == (old[number].seconds, old[number].label)
    assert forked.points
    assert forked.config["search"]["target"] == "jetson-tx2"
    assert forked.config["forked_from"] == str(source)
    assert {manifest_target(forked, point["id"]) for point in forked.points} == {"jetson-tx2"}
    # The weights came along: no trial was trained again for its artifact.
    assert "trained again" not in (forked.path / "logs" / "run.log").read_text()


def manifest_target(run: Run, point: str) -> str:
    data = yaml.safe_load((run.artifact(point) / "manifest.json").read_text())
    return str(data["target"])


def test_a_table_of_options_is_priced_anew_and_not_measured_again(source: Path, tmp_path: Path) -> None:
    forked = fork(source, tmp_path / "tx2", target="jetson-tx2")
    old, new = (path.read_text().splitlines()[1:] for path in (table(source), table(forked.path)))
    assert [yaml.safe_load(row)["plan"] for row in new] == [yaml.safe_load(row)["plan"] for row in old]
    for one, other in zip(map(yaml.safe_load, old), map(yaml.safe_load, new), strict=True):
        assert one.get("loss") == other.get("loss")
        assert one["costs"]["latency_ms"] != other["costs"]["latency_ms"]
    more = resume(forked.path, "+2")
    assert table(more.path).read_text().splitlines()[1 : 1 + len(new)] == new
    assert len(records(more)) == 10


def table(run: Path) -> Path:
    return run / "sensitivity.jsonl"


def test_a_target_with_other_options_gets_the_trials_that_mean_the_same_there(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(FILE_RULES.replace("w_bits: [8, 4]", "w_bits: [8, 4], a_bits: [null, 8]"))
    config = SearchConfig(workers=1, short_steps=4, final_epochs=0.0, final_points=1, controller="random")
    space = str(tmp_path / "space.yaml")
    run = search(TASK, target="raspberry-pi-4", space=space, budget=12, output=tmp_path / "pi", config=config)
    told = Told()
    forked = fork(run.path, tmp_path / "nano", target="jetson-nano", listener=told)
    old, new = by_number(run), by_number(forked)
    there = {number for number, record in old.items() if not any_activations(run, record.vector)}
    assert there <= set(new)
    carried = len(there)
    assert 0 < carried < 12
    left = f"{carried} trials are carried over without training, {12 - carried} are not"
    assert any(said.startswith(left) for said in told.said)
    # Those that mean nothing there left room for others.
    assert len(told.records) == 12 - carried
    assert sorted(record.number for record in told.records) == [number for number in new if number not in there]


def any_activations(run: Run, vector: Vector) -> bool:
    plan = wire(read_config(run)).space.decode(vector)
    return any(getattr(op, "a_bits", None) for _, ops in plan.layers for op in ops)


def test_limits_are_narrowed_and_loosened_in_place(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    before = by_number(folder)
    sizes = sorted(record.metrics["size_bytes"].value for record in before.values())
    limit = round(sizes[3]) + 1
    narrowed = resume(folder, constraints=[f"size<={limit}B"])
    after = by_number(narrowed)
    assert list(after) == list(before)
    for number, record in after.items():
        assert (record.error is None) == (record.metrics["size_bytes"].value <= limit)
        assert replace(record, error=None) == replace(before[number], error=None)
    assert narrowed.points
    assert all(point["metrics"]["size_bytes"]["value"] <= limit for point in narrowed.points)
    # What the tables refuse from now on is not trained, and may be once the limit is gone.
    more = resume(folder, "+1")
    assert [one.state for one in records(more)].count("complete") == 9
    loosened = resume(folder, constraints=[])
    assert all(record.error is None for record in records(loosened))
    assert loosened.config["search"]["constraints"] == []
    assert resume(folder).points == loosened.points


def test_what_was_refused_is_tried_when_it_may_be(source: Path, tmp_path: Path) -> None:
    dense = by_number(source)[0].metrics["size_bytes"].value
    limit = f"size<={round(dense * 0.5)}B"
    forked = fork(source, tmp_path / "small", constraints=[limit], budget="+2")
    refused = [record for record in records(forked) if record.state == "infeasible"]
    loosened = resume(forked.path, "+3", constraints=["size<=99%"])
    states = {record.vector: record.state for record in records(loosened)}
    assert all(states.get(record.vector) != "infeasible" for record in refused)
    assert len({record.vector for record in records(loosened)}) == len(records(loosened))


def test_a_limit_that_no_plan_meets_leaves_the_run_as_it_was(source: Path, tmp_path: Path) -> None:
    before = files(source)
    with pytest.raises(InputError, match="cannot be met"):
        resume(source, constraints=["size<=10B"])
    with pytest.raises(InputError, match="cannot be met"):
        fork(source, tmp_path / "new", constraints=["size<=10B"])
    assert files(source) == before
    assert not (tmp_path / "new").exists()


def test_whoever_is_stopped_while_trials_are_judged_has_lost_none(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    before = records(folder)
    real = Study.carry

    def stopped(self: Study, record: Record) -> int:
        if record.number == 5:
            raise KeyboardInterrupt
        return real(self, record)

    monkeypatch.setattr(Study, "carry", stopped)
    with pytest.raises(KeyboardInterrupt):
        resume(folder, constraints=["size<=90%"])
    with pytest.raises(KeyboardInterrupt):
        fork(folder, tmp_path / "new", target="jetson-tx2")
    monkeypatch.undo()
    assert records(folder) == before
    assert read_config(Run.open(folder)).constraints == ()
    # The folder of the new run can be used as if nothing had happened.
    assert len(records(fork(folder, tmp_path / "new", target="jetson-tx2"))) == 8
    assert len(records(resume(folder, constraints=["size<=90%"]))) == 8


def test_other_objectives(source: Path, tmp_path: Path) -> None:
    forked = fork(source, tmp_path / "macs", objectives=["accuracy", "macs"])
    assert [record.metrics for record in records(forked)] == [record.metrics for record in records(source)]
    assert forked.front["objectives"] == ["accuracy", "macs"]
    one, other = (list(map(yaml.safe_load, table(run).read_text().splitlines())) for run in (forked.path, source))
    assert one == other


def test_a_target_that_times_files_takes_no_trials_of_others(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="times the file of each trial"):
        fork(source, tmp_path / "local", target="local")
    assert not (tmp_path / "local").exists()


def test_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    data = yaml.safe_load((folder / "run.yaml").read_text())
    data["digests"]["model"] = "0" * 16
    (folder / "run.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match="the model of task 'tiny' changed since"):
        fork(folder, tmp_path / "new", target="jetson-tx2")
    assert not (tmp_path / "new").exists()
