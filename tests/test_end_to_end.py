"""Whole searches, small: what is on disk is what the contract says, and what is reported is what the file does."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from scipy.stats import spearmanr
from torch import Tensor

import autocompress
from autocompress.config import resume, search
from autocompress.core.metric import OBJECTIVES, Metric
from autocompress.core.pareto import dominates
from autocompress.core.plan import Plan
from autocompress.emit.report_data import load_report_data
from autocompress.run import drive
from autocompress.run.folder import Run
from autocompress.run.settings import SearchConfig, read_config
from autocompress.run.study import Study
from autocompress.search.record import Record
from autocompress.targets.profile import load_target
from autocompress.tasks import Task, load_task
from autocompress.wired import wire
from tests.run.tiny import Told, run_little_here

TASKS = """
from dataclasses import replace
from functools import cache

from tests.nets import make_task
from tests.run.tiny import tiny_task


@cache
def classify():
    return tiny_task()


@cache
def segment():
    task = make_task("unet", steps=8)
    return replace(task, train=task.train.head(96), validation=task.validation.head(32), test=task.test.head(32))
"""
SPACE = """name: mixed
rules:
  - {op: prune, sparsity: [0.25, 0.5]}
  - {op: lowrank, rank_ratio: 0.5}
  - {op: quantize, w_bits: [8, 4], a_bits: 8}
"""
FILES = ["manifest.json", "model.onnx", "model.pt2", "plan.yaml", "weights.safetensors"]
ENTRIES = {"run.yaml", "study.journal", "front.json", "report.html", "artifacts", "logs"}
OBJECTIVE_NAMES = ("accuracy", "size_bytes", "latency_ms")


class Case(NamedTuple):
    task: str
    target: str


CASES = [Case(task, target) for task in ("classify", "segment") for target in ("jetson-nano", "local")]


class Places:
    """Where searches are made, each of them once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "small_tasks.py").write_text(TASKS)
        (folder / "mixed.yaml").write_text(SPACE)

    def search(self, case: Case, name: str) -> Run:
        config = SearchConfig(short_steps=2, final_epochs=0.1, calibration_samples=32, seed=1)
        points = 1 if case.task == "segment" else 2
        return search(
            self.task(case),
            target=case.target,
            space=str(self.folder / "mixed.yaml"),
            budget=4,
            output=self.folder / name,
            config=replace(config, final_points=points),
        )

    def task(self, case: Case) -> str:
        return f"{self.folder / 'small_tasks.py'}:{case.task}"

    @cache  # noqa: B019  # lives as long as the module's fixture
    def run(self, case: Case) -> Run:
        return self.search(case, f"{case.task}-{case.target}")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "LEAST_FINAL_STEPS", 3)
        run_little_here(patch)
        yield Places(tmp_path_factory.mktemp("searches"))


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    assert isinstance(request.param, Case)
    return request.param


def records(run: Run) -> list[Record]:
    """Every trial of a run, read from its journal."""
    wired = wire(read_config(run))
    return Study(run.path, wired.space, wired.objectives).records()


def outputs_of(file: Path, task: Task, split: str) -> tuple[Tensor, Tensor]:
    """What ONNX Runtime gives for a split, and its targets; nothing of the package runs the model."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]
    outputs, targets = [], []
    for (images,), target in getattr(task, split).batches(50):
        outputs.append(session.run(None, {name: images.numpy()})[0])
        targets.append(target)
    return torch.from_numpy(np.concatenate(outputs)), torch.cat(targets)


def test_a_run_folder_follows_the_contract(places: Places, case: Case) -> None:
    run = places.run(case)
    assert {path.name for path in run.path.iterdir()} >= ENTRIES
    front = json.loads((run.path / "front.json").read_text())
    assert set(front) == {"objectives", "baseline", "points"}
    assert front["objectives"] == list(OBJECTIVE_NAMES)
    assert 1 <= len(front["points"]) <= 2
    for point in [front["baseline"], *front["points"]]:
        assert set(point) == {"id", "trial", "fidelity", "metrics", "plan"}
        assert point["fidelity"] == "full"
        assert set(point["metrics"]) == set(OBJECTIVES)
        for metric in point["metrics"].values():
            assert set(metric) == {"value", "low", "high", "origin", "unit"}
            assert Metric.from_dict(metric).to_dict() == metric
        folder = run.path / "artifacts" / point["id"]
        assert sorted(path.name for path in folder.iterdir()) == FILES
        plan = Plan.from_dict(yaml.safe_load((folder / "plan.yaml").read_text()))
        assert plan == Plan.from_dict(point["plan"])
    assert Plan.from_dict(front["baseline"]["plan"]).is_dense
    assert not list(run.path.rglob("*.part"))
    settings = yaml.safe_load((run.path / "run.yaml").read_text())
    assert set(settings["search"]) == set(vars(SearchConfig()))
    assert (settings["search"]["seed"], settings["search"]["target"]) == (1, case.target)
    assert {"torch", "onnxruntime", "autocompress"} <= set(settings["versions"])
    task = load_task(places.task(case))
    digests = settings["digests"]
    assert (digests["data"], digests["model"]) == (task.data_digest, task.model_digest)
    # Where files are timed, the law decides nothing that trials mean.
    assert set(digests) - {"data", "model"} == ({"space"} if case.target == "local" else {"space", "target"})


def test_a_manifest_vouches_for_its_files(places: Places, case: Case) -> None:
    run = places.run(case)
    profile = load_target(case.target).profile
    for point in [run.front["baseline"], *run.points]:
        folder = run.artifact(point["id"])
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["files"]) == set(FILES) - {"manifest.json"}
        for name, entry in manifest["files"].items():
            content = (folder / name).read_bytes()
            assert entry == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert manifest["metrics"] == point["metrics"]
        assert manifest["dense_metrics"] == run.front["baseline"]["metrics"]
        assert (manifest["target"], manifest["opset"]) == (profile.name, profile.opset)
        assert manifest["runtime_version"] == f"onnxruntime {onnxruntime.__version__}"
        assert manifest["agreement"]["cosine"] > 0.99
        assert manifest["extra"]["verified"] is True
        assert [entry.version for entry in onnx.load(folder / "model.onnx").opset_import] == [profile.opset]
        layers = [row["layer"] for row in manifest["layers"]]
        assert layers == sorted(set(layers), key=layers.index)
        assert len(layers) == (3 if case.task == "classify" else 7)


def test_what_is_reported_is_what_the_file_does(places: Places, case: Case) -> None:
    run, task = places.run(case), load_task(places.task(case))
    for point in [run.front["baseline"], *run.points]:
        folder = run.artifact(point["id"])
        outputs, targets = outputs_of(folder / "model.onnx", task, "test")
        metrics = point["metrics"]
        assert metrics["accuracy"]["value"] == pytest.approx(task.metric(outputs, targets), abs=1e-6)
        assert metrics["size_bytes"]["value"] == (folder / "model.onnx").stat().st_size
        assert {metrics[name]["origin"] for name in ("accuracy", "size_bytes")} == {"measured"}
        assert (metrics["latency_ms"]["origin"] == "measured") == (case.target == "local")
        seen, wanted = outputs_of(folder / "model.onnx", task, "validation")
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["extra"]["metric"]["validation"] == pytest.approx(task.metric(seen, wanted), abs=1e-6)


def test_an_artifact_is_loaded_as_the_very_model(places: Places, case: Case) -> None:
    run, task = places.run(case), load_task(places.task(case))
    for point in [run.front["baseline"], *run.points]:
        folder = run.artifact(point["id"])
        outputs, _ = outputs_of(folder / "model.onnx", task, "test")
        model = autocompress.load(folder)
        program = torch.export.load(folder / "model.pt2").module()
        for (images,), _ in task.test.batches(64):
            with torch.no_grad():
                loaded, exported = model(images), program(images)
            assert torch.equal(loaded, exported)
            assert float(torch.cosine_similarity(loaded.flatten(), outputs.flatten(), dim=0)) > 0.99
    dense = autocompress.load(run.artifact("dense"))
    with torch.no_grad():
        torch.testing.assert_close(dense(images), task.model(images), rtol=1e-3, atol=1e-4)


def test_no_point_of_the_front_is_dominated(places: Places, case: Case) -> None:
    run = places.run(case)
    signs = (-1, 1, 1)
    values = [
        [sign * point["metrics"][name]["value"] for sign, name in zip(signs, OBJECTIVE_NAMES, strict=True)]
        for point in run.points
    ]
    assert not any(dominates(a, b) for a in values for b in values)


def test_no_activation_is_rounded_where_it_buys_nothing(places: Places) -> None:
    def rounded(run: Run) -> set[int | None]:
        plans = [Plan.from_dict(point["plan"]) for point in run.points]
        return {op.a_bits for plan in plans for _, ops in plan.layers for op in ops if hasattr(op, "a_bits")}

    assert rounded(places.run(Case("classify", "jetson-nano"))) <= {None}
    trials = records(places.run(Case("classify", "local")))
    assert {record.state for record in trials} == {"complete"}


def test_a_report_stands_alone(places: Places, case: Case) -> None:
    run = places.run(case)
    text = (run.path / "report.html").read_text(encoding="utf-8")
    assert text.lower().startswith("<!doctype html>")
    outside = re.findall(r"""(?:src|href)=["'](?!#|data:|artifacts/)([^"']+)""", text)
    assert [link for link in outside if not link.startswith(("http://", "https://"))] == []
    assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']https?:", text)
    assert "@import" not in text
    for point in run.points:
        assert point["id"] in text


def test_a_report_says_how_well_one_fidelity_foretells_the_next(places: Places, tmp_path: Path) -> None:
    shutil.copytree(places.run(Case("segment", "jetson-nano")).path, tmp_path / "run")
    run = resume(tmp_path / "run", "+2")
    found = load_report_data(run.path / "report.json").fidelity_correlations or {}
    reached = {r.vector: r.metrics["accuracy"].value for r in records(run) if r.state == "complete"}
    halfway = {record.vector: record.halfway for record in records(run)}
    lines = [json.loads(line) for line in (run.path / "sensitivity.jsonl").read_text().splitlines()[1:]]
    untrained = {tuple(map(int, line["plan"].split(","))): -line["loss"] for line in lines}
    assert len(set(reached.values())) > 1
    for name, before in (("halfway to short", halfway), ("untrained to short", untrained)):
        pairs = [(before[vector], after) for vector, after in reached.items() if vector in before]
        assert len(pairs) > 2, name
        if min(len(set(side)) for side in zip(*pairs, strict=True)) > 1 and len(pairs) > 3:
            assert found[name] == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
        else:
            assert name not in found


def test_more_trials_keep_the_finished_ones(places: Places, tmp_path: Path) -> None:
    first = places.run(Case("classify", "jetson-nano"))
    before = records(first)
    shutil.copytree(first.path, tmp_path / "run")
    told = Told()
    run = resume(tmp_path / "run", "+2", told)
    after = records(run)
    assert after[: len(before)] == before
    assert [record.state for record in after] == ["complete"] * 6
    assert [record.number for record in told.records] == [4, 5]
    assert run.config["search"]["budget"] == "6"
    assert len({record.vector for record in after}) == 6
    assert {entry["trial"] for entry in run.points} <= set(range(6))


def test_an_interrupted_search_leaves_what_it_has_and_goes_on(places: Places, tmp_path: Path) -> None:
    case = Case("classify", "jetson-nano")
    settings = SearchConfig(short_steps=2, final_epochs=0.1, final_points=2, calibration_samples=32, seed=1)
    told = Told(interrupt_at=2)
    space = str(places.folder / "mixed.yaml")
    run = search(places.task(case), space=space, budget=4, output=tmp_path / "run", config=settings, listener=told)
    assert [record.state for record in records(run)] == ["complete", "complete", "running"]
    assert "interrupted: the front so far is exported without further training" in told.said
    assert {point["fidelity"] for point in run.points} <= {"short"}
    done = resume(run.path)
    trials = records(done)
    assert [record.state for record in trials] == ["complete"] * 4
    wanted = records(places.run(case))
    assert [(r.vector, r.metrics) for r in trials] == [(r.vector, r.metrics) for r in wanted]
    assert done.front["points"] != []
    assert {point["fidelity"] for point in done.points} == {"full"}


@pytest.mark.parametrize("case", CASES[:2], ids="-".join)
def test_the_same_seed_gives_the_same_run(places: Places, case: Case) -> None:
    one, other = places.run(case), places.search(case, f"again-{case.task}-{case.target}")

    def told(run: Run) -> list[Any]:
        return [
            (r.label, r.vector, r.state, {n: m for n, m in r.metrics.items() if n != "latency_ms"})
            for r in records(run)
        ]

    def files(run: Run) -> dict[str, str]:
        found = run.path.glob("artifacts/*/model.onnx")
        return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    assert told(one) == told(other)
    both = set(files(one)) & set(files(other))
    assert "dense" in both
    assert {name: files(one)[name] for name in both} == {name: files(other)[name] for name in both}
    if case.target == "jetson-nano":
        assert one.front == other.front


def test_an_objective_alone_is_a_search_too(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.run.drive.WAVES", (1,))
    settings = SearchConfig(short_steps=1, final_epochs=0, calibration_samples=16)
    told = Told()
    run = search(
        load_task(places.task(CASES[0])),
        space=autocompress.SpaceRules.from_dict({"rules": [{"op": "prune", "sparsity": [0.25, 0.5]}]}),
        budget=8,
        output=tmp_path / "run",
        objectives=("size_bytes",),
        constraints=("size<=90%",),
        config=settings,
        listener=told,
    )
    assert [record.label for record in told.records][-1] == "search"
    assert [point["fidelity"] for point in run.points] == ["short"]
    dense = run.front["baseline"]["metrics"]["size_bytes"]["value"]
    assert run.points[0]["metrics"]["size_bytes"]["value"] <= 0.9 * dense
    assert run.front["objectives"] == ["size_bytes"]


def test_a_model_that_returns_a_tuple(places: Places, tmp_path: Path) -> None:
    """A tuple of one stays a tuple, for the loss and the metric and on the file as well."""
    task = load_task(places.task(CASES[0]))

    class Tuple(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = task.model

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (self.inner(x),)

    tupled = replace(
        task,
        model=Tuple().eval(),
        loss=lambda outputs, targets: task.loss(outputs[0], targets),
        metric=lambda outputs, targets: task.metric(outputs[0], targets),
    )
    settings = SearchConfig(short_steps=1, final_epochs=0, calibration_samples=16, final_points=1)
    run = search(tupled, space=str(places.folder / "mixed.yaml"), budget=2, output=tmp_path / "run", config=settings)
    dense = places.run(CASES[0]).front["baseline"]["metrics"]["accuracy"]
    assert run.front["baseline"]["metrics"]["accuracy"] == dense
    assert len(run.points) == 1
