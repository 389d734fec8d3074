"""The configuration of a search: what it refuses, what a run keeps of it, and what a resumed run reads."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from autocompress.answers import estimate, read_plan, sensitivity
from autocompress.cli import app
from autocompress.config import resume, search, versions, write_config
from autocompress.core.plan import Plan, Prune, Quantize, Student
from autocompress.errors import InputError, PlanError
from autocompress.run.environment import doctor
from autocompress.run.folder import Names, Run
from autocompress.run.settings import SearchConfig, command_of, new_folder, read_config
from autocompress.wired import wire
from tests.run.tiny import RULES, run_little_here, tiny_task


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": ("acuracy",)}, "unknown objective 'acuracy'; did you mean 'accuracy'"),
        ({"objectives": ("macs", "macs")}, "objectives are macs, macs; name each metric once"),
        ({"objectives": ()}, "objectives are empty"),
        ({"workers": 0}, "workers is 0; allowed: 1 or more"),
        ({"controller": "bayes"}, "unknown controller 'bayes'; allowed: "),
        ({"short_steps": -1}, "short_steps is -1; allowed: 0 or more"),
        ({"final_epochs": -0.5}, "final_epochs is -0.5"),
        ({"final_minutes": -1}, "final_minutes is -1"),
        ({"final_points": 0}, "final_points is 0; allowed: 1 or more"),
        ({"calibration_samples": 0}, "calibration_samples is 0"),
        ({"validation_samples": 0}, "validation_samples is 0"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"budget": "0"}, "budget '0' is 0; it must be a finite number above 0"),
        ({"budget": "-3"}, "budget '-3' is -3"),
        ({"budget": "abc"}, "budget 'abc' cannot be read"),
        ({"budget": "3d"}, "unknown unit 'd'"),
        ({"constraints": ("speed<=3ms",)}, "unknown metric 'speed'"),
        ({"constraints": ("latency<=3 parsec",)}, "unknown unit 'parsec'"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SearchConfig(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wiring_checks_task_target_and_space() -> None:
    with pytest.raises(InputError, match="unknown task 'digit'; did you mean 'digits'"):
        wire(SearchConfig(task="digit"))
    with pytest.raises(InputError, match="did you mean 'jetson-nano'"):
        wire(SearchConfig(target="jetson-nan"), tiny_task(trained=False))
    with pytest.raises(InputError, match="there is no space 'joined'"):
        wire(SearchConfig(space="joined"), tiny_task(trained=False))
    with pytest.raises(InputError, match="'jetson-nano' does not compute in 'int8'; allowed: fp16, fp32"):
        wire(SearchConfig(precision="int8"), tiny_task(trained=False), RULES)


def test_wiring_takes_defaults_from_target_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    run_little_here(monkeypatch)
    task = tiny_task(trained=False)
    nano, local = (wire(SearchConfig(target=name), task, RULES) for name in ("jetson-nano", "local"))
    assert (nano.context.precision, local.context.precision) == ("fp16", "fp32")
    assert len(nano.notes) == 1
    assert local.notes == ()
    assert nano.context.effort.short_steps == 32
    assert wire(SearchConfig(short_steps=3), task, RULES).context.effort.short_steps == 3
    assert [objective.maximised for objective in nano.objectives] == [True, False, False]


def test_points_below_dense_are_points_above_it_where_less_is_better() -> None:
    config = SearchConfig(constraints=("accuracy>=-2.0", "size<=50%"))
    error = replace(tiny_task(trained=False), higher_is_better=False, metric_name="error")
    wired = wire(config, error, RULES)
    assert [objective.maximised for objective in wired.objectives] == [False, False, False]
    points, size = wired.constraints
    assert (points.sense, points.value, points.text) == ("<=", 2.0, "accuracy>=-2.0")
    assert wire(config, tiny_task(trained=False), RULES).constraints[0].sense == ">="
    assert size.sense == "<="


def test_a_run_keeps_its_configuration(tmp_path: Path) -> None:
    config = SearchConfig(budget="7", constraints=("size<=40%", "accuracy>=-1.5"), seed=3, objectives=("accuracy",))
    write_config(tmp_path, wire(replace(config, task="digits"), tiny_task(trained=False), RULES), Names("mine"))
    run = Run.open(tmp_path)
    assert run.study == "mine"
    assert read_config(run) == config
    assert set(run.config) == {"format", "search", "resolved", "digests", "versions"}
    assert set(run.config["search"]) == set(vars(config))
    assert run.config["resolved"]["precision"] == "fp16"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budjet": "5"}, "unknown key 'budjet'; did you mean 'budget'"),
        ({"task": "<Task tiny>"}, "was started from Python with a task object; resume it from Python"),
        ({"space": "<SpaceRules tiny>"}, "was started from Python with a space object"),
        ({"controller": "none"}, "unknown controller 'none'"),
    ],
)
def test_a_changed_configuration_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"search": {**vars(SearchConfig()), **change}}))
    with pytest.raises(InputError) as caught:
        resume(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.yaml:1: not valid YAML"),
        ("", "run.yaml is empty"),
        ("a: 1", "has no section 'search'"),
        ("search: 3", "has no section 'search'"),
        ("- 1", "holds a list"),
    ],
)
def test_what_is_no_run_is_not_opened(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"is not a run: it has no run\.yaml"):
        Run.open(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        Run.open(tmp_path)
    assert message in str(caught.value)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("search: {}")
    run = Run.open(tmp_path)
    with pytest.raises(InputError, match=r"has no front\.json yet; finish it"):
        assert run.points
    with pytest.raises(InputError, match="has no artifact 't001'; it has: none"):
        run.artifact("t001")
    (tmp_path / "artifacts" / "dense").mkdir(parents=True)
    (tmp_path / "artifacts" / "dense" / "manifest.json").write_text("{}")
    (tmp_path / "artifacts" / "t002-half").mkdir()
    (tmp_path / "artifacts" / ".t001-half").mkdir()
    assert run.artifacts == [tmp_path / "artifacts" / "dense"]
    with pytest.raises(InputError, match="has no artifact 't001'; it has: dense"):
        run.artifact("t001")


def test_the_folder_of_a_run_must_be_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchConfig()
    assert new_folder(tmp_path, config) == tmp_path
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below" / "run"):
        with pytest.raises(InputError, match="file is a file; name a folder"):
            new_folder(folder, config)
    with pytest.raises(InputError, match="is not empty"):
        new_folder(tmp_path, config)
    (tmp_path / "run.yaml").write_text("")
    with pytest.raises(InputError, match=r"holds another run; .*`autocompress resume "):
        new_folder(tmp_path, config)
    assert new_folder(tmp_path / "a" / "b", config) == tmp_path / "a" / "b"
    assert new_folder(None, SearchConfig(task="some/my_task.py:build")).name.startswith("my_task-jetson-nano-")
    assert new_folder(None, SearchConfig(task="<Task My Net>")).parent == Path("runs")


def test_a_search_that_cannot_be_done_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'size<=1B' cannot be met in space 'tiny': the best reachable size_bytes is"):
        search(tiny_task(trained=False), space=RULES, output=tmp_path / "run", constraints=["size<=1B"])
    assert list(tmp_path.iterdir()) == []


def test_a_budget_is_extended_by_trials_alone(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"search": vars(SearchConfig(budget="30m"))}))
    with pytest.raises(InputError, match=r"'\+5' cannot be added to '30m'"):
        resume(tmp_path, "+5")
    with pytest.raises(InputError, match="budget 'x' cannot be read"):
        resume(tmp_path, "x")


def test_the_command_starts_the_same_search() -> None:
    config = SearchConfig(budget="3", final_epochs=0.5, constraints=("size<=30%",), objectives=("accuracy", "macs"))
    words = shlex.split(command_of(config))
    assert words[:2] == ["autocompress", "search"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given == {
        "--target": "jetson-nano",
        "--budget": "3",
        "--objectives": "accuracy,macs",
        "--constraint": "size<=30%",
        "--final-epochs": "0.5",
    }
    assert shlex.split(command_of(SearchConfig())) == [*words[:2], "--target", "jetson-nano", "--budget", "50"]


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    plan = Plan(Student(resolution=0.75), (("conv1", Prune(0.5)),), (("fc", (Quantize(4),)),))
    file.write_text(yaml.safe_dump(plan.to_dict()))
    assert read_plan(file) == plan


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"layers: {", "plan.yaml:1: not valid YAML"),
        (b"\xff\xfe\x00", "plan.yaml: not valid YAML"),
        (b"", "plan.yaml is empty"),
        (b"- 1", "plan.yaml holds a list"),
        (b"layer: {}", "plan.yaml: plan has the unknown key 'layer'"),
        (b"layers: {fc: [{op: quantise}]}", "plan.yaml: plan.layers.fc: unknown op 'quantise'"),
        (b"groups: {a: {op: prune, sparsity: 2.0}}", "plan.yaml: Prune.sparsity is 2.0"),
    ],
)
def test_a_corrupt_plan_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "plan.yaml"
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(file)
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_plan(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_estimate_counts_every_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.answers.load_task", lambda name: tiny_task(trained=False))
    file = tmp_path / "plan.yaml"
    file.write_text("groups: {'0': {op: prune, sparsity: 0.5}}")
    dense, pruned = (estimate("tiny", "jetson-nano", plan, None) for plan in (None, file))
    assert pruned["metrics"]["macs"]["value"] < dense["metrics"]["macs"]["value"]
    assert sum(dense["coverage"].values()) == pytest.approx(1.0)
    assert sum(row["ms"] for row in dense["kernels"]) < dense["metrics"]["latency_ms"]["value"]
    file.write_text("groups: {'99': {op: prune, sparsity: 0.5}}")
    with pytest.raises(PlanError, match="99"):
        estimate("tiny", "jetson-nano", file, None)


def test_versions_and_installation_are_told() -> None:
    assert {"autocompress", "python", "machine", "torch", "optuna", "onnx", "onnxruntime"} <= set(versions())
    assert {"threads", "cuda", "AUTOCOMPRESS_DATA", "cache"} <= set(doctor())


def test_sensitivity_tells_what_every_option_loses_and_saves(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("name: few\nrules:\n  - {op: prune, sparsity: [0.25, 0.5]}\n  - {op: quantize, w_bits: [8, 2]}\n")
    config = SearchConfig(task="tests.run.tiny:tiny_task", space=str(space))
    data = sensitivity(config, tmp_path / "table")
    decisions = {row["decision"]: row["options"] for row in data["decisions"]}
    assert len(decisions) == len(wire(config).space.decisions)
    for name, options in decisions.items():
        words = ["prune 0.25", "prune 0.5"] if name.startswith("prune") else ["w8", "w2"]
        assert [option["option"] for option in options] == words
        assert all(option["loss_share"] >= 0 for option in options)
        if name in ("prune:0", "quantize:3"):  # the others are so small that their scales outweigh them
            saved = [option["saved"]["size_bytes"] for option in options]
            assert 0 < saved[0] < saved[1] < 1
    assert {"prune:0", "quantize:3"} <= set(decisions)
    assert max(option["loss_share"] for options in decisions.values() for option in options) > 0.001
    lines = (tmp_path / "table").read_text()
    assert sensitivity(config, tmp_path / "table") == data
    assert (tmp_path / "table").read_text() == lines


def test_sensitivity_on_the_command_line_shows_every_decision(tmp_path: Path) -> None:
    words = ["sensitivity", "--task", "tests.run.tiny:tiny_task", "--space", "quantize", "--table", str(tmp_path / "t")]
    shown = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for layer in ("0", "3", "8"):
        assert f"quantize:{layer}" in shown.output
    assert "w8" in shown.output
    words += ["--plot", str(tmp_path / "map.svg"), "--json"]
    data = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert data["target"] == "jetson-nano"
    texts = [each.text for each in ElementTree.parse(tmp_path / "map.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {option["option"] for row in data["decisions"] for option in row["options"]} <= set(texts)
    assert [row["decision"] for row in data["decisions"]] == ["quantize:0", "quantize:3", "quantize:8"]
