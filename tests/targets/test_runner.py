"""The runner as a device runs it: one file, started by itself, that answers lines."""

from __future__ import annotations

import ast
import base64
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from autocompress.targets import runner
from autocompress.targets.micro import Network, empty_network, yardstick

Job = dict[str, Any]
NETWORKS = [empty_network(17), yardstick("fp32", 17)]


def job(number: int, networks: list[Network], repeats: int = 3, precision: str = "fp32") -> Job:
    models = [
        [
            base64.b64encode(zlib.compress(network.model)).decode(),
            [[feed.name, feed.shape, feed.element, feed.below] for feed in network.feeds],
        ]
        for network in networks
    ]
    return {"id": number, "models": models, "repeats": repeats, "precision": precision}


def answers(jobs: list[Job], folder: Path, runtime: str = "onnxruntime", path: str | None = None) -> list[Job]:
    """Everything that a runner says to these jobs; it runs as a copy, far from this package."""
    script = shutil.copy(Path(runner.__file__), folder)
    environment = {"PATH": os.environ["PATH"] if path is None else path}
    lines = "".join(json.dumps(one) + "\n" for one in jobs)
    done = subprocess.run(
        [sys.executable, script, runtime, "1"],
        input=lines,
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_needs_nothing_of_ours_and_an_old_python() -> None:
    tree = ast.parse(Path(runner.__file__).read_text(), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


def test_says_what_the_machine_is_and_answers_each_job(tmp_path: Path) -> None:
    hello, first, second = answers([job(1, NETWORKS), job(2, NETWORKS[:1], repeats=5)], tmp_path)
    assert (hello["runtime"], hello["version"], hello["threads"]) == ("onnxruntime", onnxruntime.__version__, 1)
    assert hello["cores"] == os.cpu_count()
    assert {"cpu", "governor", "clock_khz", "python", "machine", "board"} <= set(hello)
    assert (first["id"], second["id"]) == (1, 2)
    assert first["p50_ms"][0] < first["p50_ms"][1]
    assert all(p50 <= p90 for p50, p90 in zip(first["p50_ms"], first["p90_ms"], strict=True))
    # Enough undisturbed ones, or all that were to be tried on a busy machine.
    for found, repeats in ((first, 3), (second, 5)):
        for n, disturbed in zip(found["n"], found["disturbed"], strict=True):
            assert n >= repeats or n + disturbed == runner.MOST_SAMPLES * repeats


def test_a_model_that_does_not_run_leaves_the_others_alone(tmp_path: Path) -> None:
    broken = Network(b"no model", ())
    unfed = Network(NETWORKS[0].model, ())
    _, first, second, third = answers([job(1, [broken]), job(2, [unfed]), job(3, NETWORKS[:1])], tmp_path)
    assert (first["id"], "p50_ms" in first) == (1, False)
    assert "rotobuf" in first["error"]
    assert "x0" in second["error"]
    assert third["p50_ms"][0] > 0.0


def test_disturbed_samples_do_not_count() -> None:
    taken = iter([5.0, 1.0, 3.0, 1.08, 9.0, 9.0])
    found = runner.rounds([lambda: next(taken)], repeats=2)
    assert found == [[5.0, 1.0, 3.0, 1.08]]
    assert runner.summary(found) == {"p50_ms": [1.08], "p90_ms": [5.0], "n": [2], "disturbed": [2]}
    noisy = iter([5.0, 1.0, 3.0, 2.0, 4.0, 7.0, 8.0, 6.0])
    found = runner.rounds([lambda: next(noisy)], repeats=2)
    assert runner.summary(found) == {"p50_ms": [1.0], "p90_ms": [8.0], "n": [1], "disturbed": [7]}


def test_models_are_sampled_in_turn() -> None:
    seen: list[str] = []

    def sample(name: str) -> float:
        seen.append(name)
        return 1.0

    runner.rounds([lambda: sample("a"), lambda: sample("b")], repeats=3)
    assert seen == ["a", "b"] * 3


def test_quantiles_that_can_be_counted() -> None:
    found = runner.summary([[100.0 + ms for ms in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)]])
    assert (found["p50_ms"], found["p90_ms"], found["n"], found["disturbed"]) == ([106.0], [110.0], [10], [0])


# No board with TensorRT is at hand: a stand-in takes the options of trtexec 8.2 and writes its files. It shows that the
# runner calls and reads trtexec as documented, and nothing about a real engine.
STAND_IN = """#!{python}
import json, os, sys
options = dict(part.lstrip("-").partition("=")[::2] for part in sys.argv[1:])
with open({log!r}, "a") as log:
    log.write(" ".join(sorted(options)) + "\\n")
print("&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # trtexec")
if "onnx" in options:
    content = open(options["onnx"], "rb").read()
    if content == b"no model":
        print("[E] ModelImporter.cpp: cannot parse")
        sys.exit(1)
    open(options["saveEngine"], "w").write(str(len(content)))
if "loadEngine" in options:
    ms = float(open(options["loadEngine"]).read()) / 1000
    runs = [{{"startMs": 0, "computeMs": ms * (1 + 0.01 * n)}} for n in range(int(options["iterations"]))]
    json.dump(runs, open(options["exportTimes"], "w"))
"""


@pytest.fixture
def trtexec(tmp_path: Path) -> Path:
    """A folder with the stand-in and the log of its options."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "trtexec"
    program.write_text(STAND_IN.format(python=sys.executable, log=str(tmp_path / "log")))
    program.chmod(0o755)
    return folder


def test_a_stand_in_for_trtexec_is_called_and_read(trtexec: Path, tmp_path: Path) -> None:
    jobs = [job(1, NETWORKS, repeats=6, precision="fp16"), job(2, NETWORKS[:1], repeats=3, precision="int8")]
    hello, first, second = answers(jobs, tmp_path, "tensorrt", str(trtexec))
    assert (hello["runtime"], hello["version"]) == ("tensorrt", "8201")
    # Three rounds of two runs each: half of the samples are 1 % slower.
    expected = [len(network.model) / 1000 for network in NETWORKS]
    assert first["n"] == [6, 6]
    assert first["p50_ms"] == pytest.approx([ms * 1.01 for ms in expected])
    assert second["n"] == [3]
    log = (tmp_path / "log").read_text().splitlines()
    builds = [line.split() for line in log if "onnx" in line.split()]
    assert [("fp16" in line, "int8" in line) for line in builds] == [(True, False), (True, False), (False, True)]
    # The engines of a job run in turn.
    assert len([line for line in log if "loadEngine" in line]) == 3 * 2 + 3


def test_a_model_that_a_stand_in_for_trtexec_refuses(trtexec: Path, tmp_path: Path) -> None:
    _, first = answers([job(1, [Network(b"no model", ())])], tmp_path, "tensorrt", str(trtexec))
    assert first["error"] == "trtexec ended with 1: [E] ModelImporter.cpp: cannot parse"


def test_a_machine_without_trtexec(tmp_path: Path) -> None:
    (only,) = answers([job(1, NETWORKS)], tmp_path, "tensorrt", str(tmp_path))
    assert only["error"] == "trtexec"
