"""The command line: whatever is wrong with the input, one line says so, the exit code is 2 and nothing is written."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from autocompress import cli
from autocompress.config import search
from autocompress.emit.report_data import load_report_data
from autocompress.run.folder import Run
from autocompress.run.settings import SearchConfig
from tests.run.tiny import RULES, tiny_task

TASKS = """
from dataclasses import replace

import torch
from torch import nn

from autocompress.tasks import Split, classification
from tests.run.tiny import tiny_data, tiny_model, tiny_task


def good():
    return tiny_task(trained=False)


def fails():
    raise ValueError("no data here\\nand more lines")


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("this model\\ncannot run")


def bad_model():
    return replace(good(), model=Fails())


def bad_labels():
    images, labels = tiny_data(16, 0)
    labels[3] = 9
    return classification("bad", tiny_model(), (images, labels), tiny_data(8, 1), tiny_data(8, 2))


def bad_numbers():
    images, labels = tiny_data(16, 0)
    images[5, 0, 0, 0] = float("nan")
    return replace(good(), train=Split.of((images, labels)))


def no_task():
    return 3


class Foreign(nn.Sequential):
    def __init__(self, kind):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        self.kind = kind

    def forward(self, x):
        x = self[0](x)
        if self.kind == "fft":
            x = torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])
        else:
            x = torch.ops.mine.twist(x)
        for layer in list(self)[1:]:
            x = layer(x)
        return x


if not hasattr(torch.ops.mine, "twist"):
    twist = torch.library.custom_op("mine::twist", lambda x: x.flip(-1), mutates_args=(), schema="(Tensor x) -> Tensor")
    twist.register_fake(torch.empty_like)
    twist.register_autograd(lambda _, gradient: gradient.flip(-1))


def foreign_fft():
    return replace(good(), model=Foreign("fft"))


def foreign_twist():
    return replace(good(), model=Foreign("twist"))
"""
SPACE = """name: small
rules:
  - op: prune
    sparsity: [0.25, 0.5]
  - op: quantize
    w_bits: [8, 4]
"""


@dataclass
class Shell:
    """Calls the command line as a shell would."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        """The exit code, and what was printed on stdout and stderr."""
        self.monkeypatch.setattr(sys, "argv", ["autocompress", *map(str, words)])
        self.capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = self.capsys.readouterr()
        return code, printed.out, printed.err

    def refused(self, *words: str | Path) -> str:
        """The one line on stderr of a call that ends with exit code 2 and leaves every file as it was."""
        before = self.files()
        code, out, err = self(*words)
        assert (code, out) == (2, ""), err
        assert err.startswith("autocompress: ")
        assert (err.count("\n"), err[-1]) == (1, "\n")
        assert self.files() == before
        return err

    def json(self, *words: str | Path) -> Any:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {str(path): path.read_bytes() for path in found}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "small.yaml").write_text(SPACE)
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = SearchConfig(short_steps=1, final_epochs=0, calibration_samples=16, final_points=1, controller="random")
    search(tiny_task(), space=RULES, budget=3, output=folder, config=config)
    return folder


GOOD = ("search", "--task", "tasks.py:good", "--space", "small.yaml", "--output", "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "jetson-nan"), "did you mean 'jetson-nano'"),
        (("--task", "digit"), "unknown task 'digit'; did you mean 'digits'"),
        (("--task", "tasks.py:god"), "has no function 'god'; did you mean 'good'"),
        (("--task", "none.py:good"), "none.py does not exist"),
        (("--task", "tasks.py:fails"), "fails() fails: ValueError: no data here (tasks.py:16)"),
        (("--task", "tasks.py:no_task"), "no_task() returns a int; it must return a Task"),
        (("--task", "tasks.py:bad_model"), "the model fails on the example inputs as a batch of 1"),
        (("--task", "tasks.py:bad_labels"), "train: the label of sample 3 is 9; allowed: 0 to 3"),
        (("--task", "tasks.py:bad_numbers"), "train: sample 5 holds a NaN or an infinity"),
        (("--space", "joined"), "there is no space 'joined'; did you mean 'joint'"),
        (("--space", "none.yaml"), "space file 'none.yaml' does not exist"),
        (("--controller", "tpee"), "unknown controller 'tpee'; did you mean 'tpe'"),
        (("--objectives", "accuracy,latensy"), "unknown objective 'latensy'; "),
        (("--objectives", ""), "unknown objective ''"),
        (("--constraint", "speed<=3ms"), "unknown metric 'speed'"),
        (("--constraint", "latency<=3parsec"), "unknown unit 'parsec'"),
        (("--constraint", "latency<=3"), "the unit is missing"),
        (("--constraint", "latency>=3ms"), "allowed for latency: '<='"),
        (("--constraint", "latency"), "cannot be read"),
        (("--constraint", "size<=10B"), "cannot be met in space 'small': the best reachable size_bytes is "),
        (("--constraint", "latency<=1%"), "the best reachable latency_ms is 0.6"),
        (("--budget", "0"), "budget '0' is 0; it must be a finite number above 0"),
        (("--budget", "-3"), "budget '-3' is -3"),
        (("--budget", "abc"), "budget 'abc' cannot be read"),
        (("--budget", "2.5"), "2.5 is not a whole number of trials"),
        (("--precision", "int8"), "does not compute in 'int8'"),
        (("--short-steps", "-1"), "short_steps is -1"),
        (("--device", "tpu"), "device is 'tpu'"),
        (("--storage", "foo"), "storage 'foo' cannot be opened"),
        (("--output", "tasks.py"), "tasks.py is a file; name a folder"),
        (("--output", "tasks.py/run"), "tasks.py is a file; name a folder"),
        (("--output", "."), "is not empty; name a new folder"),
    ],
)
def test_a_search_refuses_what_is_wrong(shell: Shell, options: tuple[str, ...], message: str) -> None:
    assert message in shell.refused(*GOOD, *options)
    assert not (shell.folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: small\nrules:\n  - op: prune\n   sparsity: 0.5\n", "small.yaml:4: not valid YAML"),
        ("name: small\nrules:\n  - op: prunee\n", "small.yaml:3: rules[0].op: unknown op 'prunee'"),
        ("rules:\n  - op: prune\n    sparsity: 1.5\n", "small.yaml:2: rules[0]: Prune.sparsity is 1.5"),
        ("rules:\n  - op: prune\n    sparsity: high\n", "small.yaml:3: rules[0].sparsity is 'high'"),
        ("", "small.yaml is empty"),
        ("rules: []\n", "leaves nothing to decide for this model"),
    ],
)
def test_a_space_that_is_wrong_is_named_with_its_line(shell: Shell, text: str, message: str) -> None:
    (shell.folder / "small.yaml").write_text(text)
    assert message in shell.refused(*GOOD)
    assert message in shell.refused("space", "show", "small.yaml", "--task", "tasks.py:good")


def test_the_folder_of_another_run_is_left_alone(shell: Shell, finished: Path) -> None:
    before = sorted(path.name for path in finished.iterdir())
    assert "holds another run; name a new folder" in shell.refused(*GOOD, "--output", finished)
    assert sorted(path.name for path in finished.iterdir()) == before


@pytest.mark.parametrize("command", ["resume", "status", "report", "export", "verify"])
def test_what_is_no_run_is_refused(shell: Shell, command: str) -> None:
    more = ("model.onnx",) if command == "export" else ()
    (shell.folder / "empty").mkdir()
    for name in ("missing", "empty", "tasks.py"):
        assert name in shell.refused(command, name, *more)


@pytest.mark.parametrize("command", ["status", "report", "resume", "verify"])
def test_a_run_that_has_just_begun(shell: Shell, command: str) -> None:
    data = {"search": vars(SearchConfig(task="tasks.py:good", space="small.yaml")), "digests": {}}
    (shell.folder / "run").mkdir()
    (shell.folder / "run" / "artifacts").mkdir()
    (shell.folder / "run" / "run.yaml").write_text(yaml.safe_dump(data))
    if command == "status":
        found = shell.json("status", "run")
        assert (found["finished"], found["trials"], found["artifacts"]) == (False, {}, [])
    else:
        message = "has no digests of its task" if command == "resume" else "yet; finish it with"
        assert message in shell.refused(command, "run")


def test_an_unknown_point_is_refused(shell: Shell, finished: Path) -> None:
    message = shell.refused("export", finished, "model.onnx", "--point", "t999")
    assert "has no artifact 't999'; it has: dense, t00" in message
    assert "choose one with --point: dense, t00" in shell.refused("export", finished, "model.onnx")


def test_a_run_from_python_is_resumed_from_python(shell: Shell, finished: Path) -> None:
    assert "resume it from Python" in shell.refused("resume", finished)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"layers: {", "plan.yaml:1: not valid YAML"),
        (b"\x80\x81", "plan.yaml: not valid YAML"),
        (b"layers: {fc: [{op: quantise}]}", "unknown op 'quantise'; did you mean 'quantize'"),
        (b"layers: {fc: [{op: quantize, w_bits: 9}]}", "Quantize.w_bits is 9"),
        (b"layers: {fc: [{op: quantize}]}", "fc"),
        (b"student: {choices: {width: 3}}", "has no 'width'"),
        (b"student: {drop: [layer1]}", "layer1"),
    ],
)
def test_an_estimate_refuses_a_corrupt_plan(shell: Shell, content: bytes, message: str) -> None:
    (shell.folder / "plan.yaml").write_bytes(content)
    assert message in shell.refused("estimate", "--task", "tasks.py:good", "--plan", "plan.yaml")


def test_an_estimate_refuses_what_is_wrong(shell: Shell) -> None:
    assert "no.yaml cannot be read" in shell.refused("estimate", "--task", "tasks.py:good", "--plan", "no.yaml")
    assert "unknown task 'mnits'" in shell.refused("estimate", "--task", "mnits")
    assert "neither shipped nor a path" in shell.refused("targets", "show", "toaster")
    assert "precision is 'fp61'" in shell.refused("estimate", "--task", "tasks.py:good", "--precision", "fp61")


@pytest.mark.parametrize("words", [("serch",), ("search", "--budgett", "3"), ("search", "--seed", "x"), ("export",)])
def test_wrong_usage_is_exit_code_2(shell: Shell, words: tuple[str, ...]) -> None:
    code, out, err = shell(*words)
    assert (code, out) == (2, "")
    assert err


def test_a_file_that_cannot_be_written_is_one_line(shell: Shell, finished: Path) -> None:
    code, out, err = shell("report", finished, "--output", shell.folder)
    assert (code, out) == (1, "")
    assert err == f"autocompress: {shell.folder} cannot be used (Is a directory); put it right\n"


def test_validation_ends_as_its_thresholds_say(shell: Shell) -> None:
    (shell.folder / "mine.csv").write_text("model,input,ms\nresnet18,1x3x224x224,11.4\nresnet50,1x3x224x224,29.8\n")
    words = ("targets", "validate", "jetson-nano", "--data", "mine.csv")
    (found,) = shell.json(*words)
    assert (found["source"], found["precision"], len(found["points"])) == ("mine.csv", "fp16", 2)
    code, out, err = shell(*words, "--least-within-10", "90", "--plot", "mine.svg")
    assert (code, err) == (0, "")
    assert "mine.csv" in out
    assert (shell.folder / "mine.svg").read_text().startswith("<svg")
    (shell.folder / "mine.csv").write_text("model,input,ms\nresnet18,1x3x224x224,1.4\n")
    code, _, err = shell(*words, "--most-error", "50")
    assert code == 1
    assert "mine.csv: mean_error is" in err
    assert "most 50 wanted" in err
    (shell.folder / "mine.csv").write_text("model,input,ms\nresnet18,1x3x224x224,zero\n")
    assert "line 2: ms is 'zero'" in shell.refused(*words)


def test_a_machine_that_cannot_be_reached_leaves_nothing(shell: Shell) -> None:
    words = ("targets", "measure", "raspberry-pi-5", "--output", "mine", "--task", "tasks.py:good", "--on")
    assert "scp://pi" in shell.refused(*words, "scp://pi")
    assert "-oProxyCommand" in shell.refused(*words, "ssh://-oProxyCommand=x")


def test_a_profile_by_another_tool_makes_a_target(shell: Shell) -> None:
    (shell.folder / "bad.json").write_text("[]")
    words = ("targets", "import", "raspberry-pi-5")
    assert "bad.json" in shell.refused(*words, "bad.json", "--output", "mine")


def test_targets_for_machines(shell: Shell) -> None:
    assert {"jetson-nano", "local"} <= {row["name"] for row in shell.json("targets", "list")}
    shown = shell.json("targets", "show", "jetson-nano")
    assert (shown["name"], shown["runtime"], shown["opset"]) == ("jetson-nano", "tensorrt", 13)


def test_a_space_for_machines(shell: Shell) -> None:
    words = ("space", "show", "small.yaml", "--task", "tasks.py:good")
    found = shell.json(*words, "--constraint", "size<=50%")
    assert (found["space"], found["plans"]) == ("small", 243)
    assert found["constraints"][0]["can_be_met"] is True
    code, out, _ = shell(*words, "--constraint", "size<=10B", "--json")
    assert code == 1
    assert json.loads(out)["constraints"][0]["can_be_met"] is False


def test_an_estimate_for_machines(shell: Shell) -> None:
    found = shell.json("estimate", "--task", "tasks.py:good")
    assert set(found) == {"task", "target", "precision", "notes", "metrics", "coverage", "kernels"}
    assert (found["metrics"]["latency_ms"]["unit"], found["notes"]) == ("ms", [])


@pytest.mark.parametrize(("kind", "operator"), [("fft", "fft_rfft2"), ("twist", "mine::twist")])
@pytest.mark.parametrize("target", ["jetson-nano", "raspberry-pi-5", "cortex-a76", "jetson-tx2"])
def test_an_operator_that_no_table_knows_is_flagged_and_not_free(
    shell: Shell, kind: str, operator: str, target: str
) -> None:
    found = shell.json("estimate", "--task", f"tasks.py:foreign_{kind}", "--target", target)
    flagged = [each for each in found["kernels"] if operator in (each["flag"] or "")]
    assert flagged
    assert all(each["ms"] > 0 and each["origin"] == "analytic" for each in flagged)
    (note,) = found["notes"]
    assert operator in note


@pytest.mark.parametrize("kind", ["fft", "twist"])
def test_a_model_that_cannot_be_a_file_is_refused_before_a_run(shell: Shell, kind: str) -> None:
    message = shell.refused("search", "--task", f"tasks.py:foreign_{kind}", "--output", "out", "--budget", "2")
    assert "cannot be written as ONNX opset 13" in message
    assert not (shell.folder / "out").exists()


def test_a_finished_run_for_machines(shell: Shell, finished: Path) -> None:
    found = shell.json("status", finished)
    assert (found["trials"], found["budget"], found["finished"]) == ({"complete": 3}, "3", True)
    points = [point["id"] for point in Run.open(finished).points]
    assert {"dense", *points} <= set(found["artifacts"])
    assert all(row["passed"] for row in shell.json("verify", finished))
    written = shell.json("export", finished, shell.folder / "plain.onnx", "--point", "dense", "--plain")
    assert written["size_bytes"] == (shell.folder / "plain.onnx").stat().st_size
    assert shell.json("report", finished, "--output", shell.folder / "r.html")["report"] == str(shell.folder / "r.html")
    assert (shell.folder / "r.html").read_text() == (finished / "report.html").read_text()
    assert "cuda" in shell.json("doctor")


def test_tables_for_people(shell: Shell, finished: Path) -> None:
    for words in (
        ("targets", "list"),
        ("targets", "show", "jetson-nano"),
        ("space", "show", "small.yaml", "--task", "tasks.py:good"),
        ("estimate", "--task", "tasks.py:good"),
        ("status", finished),
        ("verify", finished),
    ):
        code, out, err = shell(*words)
        assert (code, err) == (0, "")
        assert out.count("\n") > 2


def test_a_damaged_artifact_fails_verification(shell: Shell, tmp_path: Path, finished: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (finished / "artifacts" / "dense").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert shell("verify", copy)[0] == 0
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"x")
    code, out, _ = shell("verify", copy, "--json")
    (row,) = json.loads(out)
    assert (code, row["passed"]) == (1, False)
    assert "the file was changed" in row["reason"]


def test_a_point_that_was_not_verified_is_not_verified_later(shell: Shell, tmp_path: Path, finished: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (finished / "artifacts" / "dense").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["extra"].update(verified=False, reason="top-1 agrees on 80.00% of the rows")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, out, _ = shell("verify", copy, "--json")
    (row,) = json.loads(out)
    assert (code, row["passed"], row["reason"]) == (1, False, "top-1 agrees on 80.00% of the rows")


def test_this_machine_is_measured_here_and_on_one_thread(shell: Shell) -> None:
    words = ("targets", "measure", "local", "--task", "tasks.py:good", "--space", "small.yaml")
    for more in (("--on", "ssh://pi@board"), ("--output", "mine"), ("--threads", "2")):
        assert "is this machine, on one thread" in shell.refused(*words, *more)


def test_a_search_and_its_continuation(shell: Shell) -> None:
    quick = ("--short-steps", "1", "--final-epochs", "0", "--calibration-samples", "16", "--final-points", "1")
    found = shell.json(*GOOD, *quick, "--budget", "2")
    assert found["run"] == "out"
    assert found["objectives"] == ["accuracy", "size_bytes", "latency_ms"]
    assert shell.json("status", "out")["trials"] == {"complete": 2}
    assert shell.json("resume", "out", "--budget", "+1")["run"] == "out"
    assert shell.json("status", "out")["trials"] == {"complete": 3}
    told = load_report_data(shell.folder / "out" / "report.json")
    assert told.resumed is not None
    assert told.started < told.resumed
    point = Run.open(shell.folder / "out").points[0]["id"]
    why = shell.json("explain", "out", "--point", point)
    assert set(why) == {"run", "point", "choices", "relaxed", "left", "untouched"}
    assert [one["cost"] for one in why["relaxed"]] == ["size_bytes", "latency_ms", "macs"]
    code, out, _ = shell("explain", "out", "--point", point)
    assert (code, "left alone" in out) == (0, True)
    code, _, err = shell("explain", "out", "--point", "t999")
    assert (code, "has no artifact 't999'" in err) == (2, True)
    (shell.folder / "tasks.py").write_text(TASKS.replace("trained=False", "trained=True"))
    assert "the model of task 'tiny' changed since out was started" in shell.refused("resume", "out")


def test_a_run_goes_on_with_the_space_it_was_started_with(shell: Shell) -> None:
    words = (*GOOD[:1], "--short-steps", "1", "--final-epochs", "0", "--final-points", "1", "--workers", "1")
    assert shell(*GOOD, *words[1:], "--budget", "2")[0] == 0
    (shell.folder / "small.yaml").write_text(SPACE.replace("[8, 4]", "[8, 3]"))
    assert "the space of task" in shell.refused("resume", "out", "--budget", "+1")
