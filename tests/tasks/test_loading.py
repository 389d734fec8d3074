"""Finding tasks and reading weights; nothing in a file of weights is executed."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autocompress.errors import InputError
from autocompress.tasks import check_task, evaluate_metric, load_state_dict, load_task

TINY = """
import torch
from autocompress.tasks import classification

def build():
    data = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    return classification("tiny", torch.nn.Linear(3, 2), data, data, data)
"""
EXAMPLE = Path(__file__).parents[2] / "examples" / "my_task.py"


def test_the_example_loads_checks_and_has_learned():
    task = load_task(f"{EXAMPLE}:build")
    check_task(task)
    assert task.name == "stripes"
    assert evaluate_metric(task.model, task, task.test) > 95.0


def test_a_file_may_import_its_neighbour_and_a_module_is_found(tmp_path, monkeypatch):
    (tmp_path / "neighbour_of_task.py").write_text(TINY)
    (tmp_path / "another_task.py").write_text("from neighbour_of_task import build\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_task(f"{tmp_path}/another_task.py:build").name == "tiny"
    assert load_task("neighbour_of_task:build").name == "tiny"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("digitss", "unknown task 'digitss'; did you mean 'digits'"),
        ("{0}/good.py", "write .*good.py:build"),
        ("{0}/missing.py:build", "task file .*missing.py does not exist"),
        ("{0}/good.py:biuld", "has no function 'biuld'; did you mean 'build'"),
        ("{0}/good.py:build", r"build\(\) fails: ZeroDivisionError: division by zero \(good.py:2\)"),
        ("{0}/good.py:other", r"other\(\) returns a int; it must return a Task"),
        ("{0}/broken.py:build", r"cannot import .*broken.py: SyntaxError: .* \(broken.py:1\)"),
        ("{0}/raises.py:build", r"cannot import .*raises.py: ValueError: first \(raises.py:2\)"),
        ("no_such_package_at_all:build", "cannot import no_such_package_at_all: ModuleNotFoundError"),
    ],
)
def test_errors_are_one_line_and_say_where(ref, message, tmp_path):
    (tmp_path / "good.py").write_text("def build():\n    return 1 / 0\ndef other():\n    return 3\n")
    (tmp_path / "broken.py").write_text("def build(:\n")
    (tmp_path / "raises.py").write_text("x = 1\nraise ValueError('first\\nsecond')\n")
    with pytest.raises(InputError, match=message) as caught:
        load_task(ref.format(tmp_path))
    assert "\n" not in str(caught.value)


class _Runs:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


WEIGHTS = {"fc.weight": torch.ones(2, 2)}


@pytest.mark.parametrize("content", [WEIGHTS, {"state_dict": WEIGHTS, "epoch": 3}, {"model": WEIGHTS}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_of_every_form_load(content, prefix, tmp_path):
    def named(value):
        return {prefix + k if "." in k else k: named(v) if isinstance(v, dict) else v for k, v in value.items()}

    torch.save(named(content), tmp_path / "w.pt")
    assert list(load_state_dict(tmp_path / "w.pt")) == ["fc.weight"]


def test_safetensors_load(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert torch.equal(load_state_dict(tmp_path / "w.safetensors")["fc.weight"], torch.ones(2, 2))


def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(_Runs(), tmp_path / "code.pt")
    Path("code.pkl").write_bytes(pickle.dumps(_Runs()))
    for name in ("code.pt", "code.pkl"):
        with pytest.raises(InputError, match="never executed"):
            load_state_dict(name)
    assert not Path("executed").exists()


def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"fc": torch.ones(1), "epoch": 3}, tmp_path / "mixed.pt")
    (tmp_path / "noise.pt").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "noise.safetensors").write_bytes(b"\x01\x02")
    expected = {
        "list.pt": "holds a list",
        "mixed.pt": "'epoch' is a int, not a tensor",
        "noise.pt": "cannot be read|damaged",
        "noise.safetensors": "cannot be read",
        "none.pt": "do not exist",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message) as caught:
            load_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
