"""Two searches that are sent into the same folder at the same moment: one has it, the other says so in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autocompress import config
from autocompress.config import search
from autocompress.errors import InputError
from autocompress.run.folder import Run
from autocompress.run.lease import HOLDER, LOCK, held
from autocompress.run.settings import SearchConfig, new_folder
from autocompress.run.show import status_of
from tests.run.on_a_small_disk import SPACE_FILE, TASK
from tests.run.tiny import RULES, tiny_task

ROOT = Path(__file__).parents[2]
# Both are ready before either begins, so that they look at the empty folder at the same moment.
PROGRAM = """
import sys
import autocompress.cli, autocompress.config, autocompress.run.progress
print("ready", flush=True)
sys.stdin.readline()
autocompress.cli.main()
"""


def ready(run: Path, space: Path) -> subprocess.Popen[str]:
    words = ["search", "--task", TASK, "--space", str(space), "--budget", "3", "--workers", "1", "-o", str(run)]
    words += ["--short-steps", "1", "--final-epochs", "0", "--final-points", "1", "--controller", "random"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_of_two_that_start_at_once_one_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    run, space = tmp_path / "run", tmp_path / "space.yaml"
    space.write_text(SPACE_FILE)
    both = [ready(run, space) for _ in range(2)]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate(timeout=300)[1] for one in both]
    assert sorted(one.returncode for one in both) == [0, 2], said
    refused = next(text for one, text in zip(both, said, strict=True) if one.returncode == 2)
    assert refused.count("\n") == 1
    assert f"run {run} is being driven by" in refused or f"output {run} holds another run" in refused
    told = status_of(Run.open(run))
    assert (told["trials"], told["driver"], told["finished"]) == ({"complete": 3}, None, True)
    known = {"artifacts", "checkpoints", "logs", "front.json", "report.html", "report.json", LOCK}
    known |= {"run.yaml", "study.journal", "study.journal.flock"}
    assert {path.name for path in run.iterdir()} == known


def test_a_folder_that_another_search_took_and_left_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is through before this one, which has found the folder empty, comes to take it."""
    settings, run = SearchConfig(short_steps=1, final_epochs=0, controller="random", workers=1), tmp_path / "run"
    real, files = config.wire, dict[Path, bytes]()

    def slow(*values: object) -> object:
        monkeypatch.setattr(config, "wire", real)
        search(tiny_task(), space=RULES, budget=2, output=run, config=settings)
        files.update({path: path.read_bytes() for path in run.rglob("*") if path.is_file()})
        return real(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(config, "wire", slow)
    with pytest.raises(InputError, match="holds another run"):
        search(tiny_task(), space=RULES, budget=2, output=run, config=settings)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_what_a_search_left_that_was_killed_before_it_began_is_no_run(tmp_path: Path) -> None:
    with held(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, HOLDER}
        new_folder(tmp_path, SearchConfig())
    (tmp_path / f".{HOLDER}.0123").write_text("{")
    (tmp_path / ".run.yaml.part").write_text("sea")
    assert new_folder(tmp_path, SearchConfig()) == tmp_path
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        new_folder(tmp_path, SearchConfig())
