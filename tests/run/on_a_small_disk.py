"""What `test_full_disk.py` runs in a mount namespace of its own: searches on a disk that is full or read-only.

`unshare -m python -m tests.run.on_a_small_disk FOLDER` prints the name of each case with what came of it, as JSON.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import autocompress.cli
from autocompress.config import resume, search
from autocompress.core.metric import Metric
from autocompress.errors import RunError
from autocompress.run import drive
from autocompress.run.disk import DiskError
from autocompress.run.folder import Run
from autocompress.run.journal import JOURNAL, repair
from autocompress.run.settings import SearchConfig, new_folder
from autocompress.run.study import Study
from autocompress.search.record import Record
from tests.run.studies import trials_of
from tests.run.test_study import SPACE, TWO, results
from tests.run.tiny import Told

SPACE_FILE = """
name: few
rules:
  - {op: prune, sparsity: [0.25, 0.5]}
  - {op: quantize, w_bits: [8, 4]}
"""
TASK = "tests.run.tiny:tiny_task"
PAGE = 4096
PASSED = "all as it should be"


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leaves no room at all."""
    with (folder / "filler").open("ab", buffering=0) as file:
        while (free := os.statvfs(folder).f_bavail) > 0:
            file.write(bytes(free * PAGE))


def cli(*words: str) -> tuple[int, str]:
    """The exit code of the command line and what it says on standard error."""
    said = io.StringIO()
    with patch("sys.argv", ["autocompress", *words]), redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            autocompress.cli.main()
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


def ended(run: Path) -> list[Record]:
    """Trials of a run that ended, read as they are written, and repaired only in memory."""
    return [one for one in trials_of(Run.open(run)) if one.state != "running"]


def nothing_half_written(run: Path) -> None:
    assert [path.name for path in run.rglob("*") if path.name.endswith(".part")] == []
    assert repair(run / JOURNAL) is None
    for folder in (run / "artifacts").glob("*"):
        assert not folder.name.startswith(".")


def goes_on(run: Path, before: list[Record], trials: int) -> None:
    """Every trial of before is there as it was, and no plan was tried twice."""
    after = ended(run)
    assert after[: len(before)] == before
    assert len(after) == trials
    assert len({one.vector for one in after}) == trials
    assert Run.open(run).points
    assert (run / "report.html").read_text().rstrip().endswith("</html>")


def started(run: Path, space: Path, listener: Told, budget: int = 4) -> Run:
    config = SearchConfig(controller="random", short_steps=1, final_epochs=0, final_points=1, workers=1)
    return search(TASK, space=str(space), budget=budget, output=run, config=config, listener=listener)


def until_it_is_full(folder: Path, space: Path) -> None:
    """The program itself, on a disk too small for its search."""
    with disk(folder / "disk", "112k") as small:
        run = small / "run"
        words = ["search", "--task", TASK, "--space", str(space), "--budget", "14", "--workers", "1"]
        words += ["--short-steps", "1", "--final-epochs", "0", "--final-points", "1", "-o", str(run)]
        command = [sys.executable, "-m", "autocompress", *words, "--controller", "random"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done
        *_, last = done.stderr.splitlines()
        assert last.startswith(f"autocompress: there is no room to write {run}/"), last
        assert f"make some, then `autocompress resume {run}` goes on; every trial that had ended is kept" in last
        assert "Traceback" not in done.stderr
        nothing_half_written(run)
        before = ended(run)
        assert before
        assert {one.state for one in before} == {"complete"}
        mount("-o", "remount,size=20m", str(small))
        assert cli("resume", str(run))[0] == 0
        goes_on(run, before, 14)


def at_the_journal(folder: Path, space: Path) -> None:
    """What is written when the disk is full is written whole or not at all, also when there is room again."""
    with disk(folder / "disk", "64k") as small:
        study = Study(small, SPACE, TWO)
        fill(small)
        written, refused = list[Record](), 0
        metrics = {"accuracy": Metric.exact(1.0, "percent"), "size_bytes": Metric.exact(1, "bytes")}
        for number in range(40):
            try:
                started_as = study.start((1, 1), "search")
                study.finish(Record(started_as, "search", (1, 1), "complete", "short", metrics, {}))
                written.append(study.records()[-1])
            except DiskError as error:
                refused += str(small / JOURNAL) in str(error)
            content = (small / JOURNAL).read_bytes()
            assert content.endswith(b"\n"), number
        assert written
        assert refused > 20
        assert [one for one in study.records() if one.state == "complete"] == written
        (small / "filler").unlink()
        number = study.start(results()[0].vector, "dense")
        assert repair(small / JOURNAL) is None
        again = Study(small, SPACE, TWO).records()
        assert [one for one in again if one.state == "complete"] == written
        assert again[-1].number == number


class Filling(Told):
    """Fills the disk when it is told something."""

    def __init__(self, folder: Path, trial: int | None = None, words: str = "no such words") -> None:
        super().__init__()
        self._folder, self._trial, self._words = folder, trial, words

    def trial(self, record: Record, done: int, budget: Any, seconds: float) -> None:
        super().trial(record, done, budget, seconds)
        if done == self._trial:
            fill(self._folder)

    def say(self, text: str) -> None:
        super().say(text)
        if self._words in text:
            fill(self._folder)


@contextmanager
def stopped_at(run: Path, where: str) -> Iterator[None]:
    """What is done inside ends in a line that says where there is no room and what to do; then there is room again."""
    try:
        yield
    except RunError as error:
        text = str(error)
    else:
        raise AssertionError(f"there was room for {where}")
    assert text.startswith(f"there is no room to write {run / where}"), text
    assert f"`autocompress resume {run}` goes on" in text
    nothing_half_written(run)
    (run.parent / "filler").unlink()


def at_every_stage(folder: Path, space: Path) -> None:
    """One run that finds the disk full at a checkpoint, at artifacts, at its front and at its report."""
    with disk(folder / "disk", "4m") as small:
        run = small / "run"
        with stopped_at(run, "checkpoints/trial-0002.safetensors"):
            started(run, space, Filling(small, trial=2))
        before = ended(run)
        assert [one.state for one in before] == ["complete"] * 2
        with stopped_at(run, "artifacts/dense"):
            resume(run, listener=Filling(small, words="exporting the dense"))
        assert ended(run)[:2] == before
        before = ended(run)
        assert [one.state for one in before] == ["complete"] * 4
        with stopped_at(run, "artifacts/t0"):
            resume(run, listener=Filling(small, words="point 1 of"))
        for name, file in (("write_front", "front.json"), ("save_report_data", "report.json")):
            with stopped_at(run, file), full_before(name, small):
                resume(run)
            assert not (run / file).exists()
        with full_before("render_report", small):
            code, said = cli("resume", str(run))
        assert (code, "Traceback" in said) == (1, False)
        assert f"there is no room to write {run / 'report.html'}" in said.splitlines()[-1]
        assert (cli("status", str(run)), cli("report", str(run))[0]) == ((0, ""), 1)
        assert not (run / "report.html").exists()
        (small / "filler").unlink()
        assert cli("report", str(run)) == (0, "")
        goes_on(run, before, 4)


def at_the_table_of_options(folder: Path, space: Path) -> None:
    """Half a row of the table is measured again; the others are not."""
    # A wave so long that its rows do not fit into the block that those of the options begin.
    with disk(folder / "disk", "4m") as small, patch.object(drive, "WAVES", (7,)):
        run, config = small / "run", SearchConfig(short_steps=1, final_epochs=0, final_points=1, workers=1)
        with stopped_at(run, "sensitivity.jsonl"):
            listener = Filling(small, words="planning what to try next")
            search(TASK, space=str(space), budget=3, output=run, config=config, listener=listener)
        before, rows = ended(run), (run / "sensitivity.jsonl").read_bytes()
        assert before
        assert rows.count(b"\n") > 1
        resume(run)
        goes_on(run, before, 3)
        assert (run / "sensitivity.jsonl").read_bytes().startswith(rows[: rows.rindex(b"\n") + 1])


@contextmanager
def full_before(name: str, small: Path) -> Iterator[None]:
    """The disk is full when the driver comes to one of its last steps."""
    real: Callable[..., Any] = getattr(drive, name)

    def filled(*values: Any) -> Any:
        fill(small)
        return real(*values)

    with patch.object(drive, name, filled):
        yield


def before_there_is_a_run(folder: Path, space: Path) -> None:
    """A search that finds no room for its first file leaves nothing that keeps the next one out."""
    with disk(folder / "disk", "4m") as small:
        fill(small)
        words = ["search", "--task", TASK, "--space", str(space), "--budget", "2", "--workers", "1"]
        words += ["--short-steps", "1", "--final-epochs", "0", "--final-points", "1", "-o", str(small / "run")]
        code, said = cli(*words)
        assert code == 1, said
        assert said.count("\n") == 1, said
        assert "make some, then start the search again; nothing of it was kept" in said
        assert new_folder(small / "run", SearchConfig()) == small / "run"


def where_nothing_may_be_written(folder: Path, space: Path) -> None:
    """A run on a read-only file system is shown, and nothing else."""
    with disk(folder / "disk", "4m") as small:
        run = small / "run"
        started(run, space, Told(), budget=2)
        files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        mount("-o", "remount,ro", str(small))
        assert cli("status", str(run)) == (0, "")
        for words, code, expected in (
            (("resume", str(run), "--budget", "+2"), 2, f"run {run} cannot be written (Read-only file system)"),
            (("report", str(run)), 1, f"{run / 'report.html'} cannot be written (Read-only file system)"),
            (
                ("search", "-o", str(small / "new")),
                2,
                f"output {small / 'new'} cannot be written: {small} is read-only",
            ),
            (("search", "-o", str(run)), 2, f"output {run} cannot be written"),
        ):
            found, said = cli(*words)
            assert (found, said.count("\n")) == (code, 1), said
            assert expected in said, said
        assert cli("report", str(run), "-o", str(folder / "elsewhere.html")) == (0, "")
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


CASES = (
    until_it_is_full,
    at_the_journal,
    at_every_stage,
    at_the_table_of_options,
    before_there_is_a_run,
    where_nothing_may_be_written,
)


def main() -> None:
    folder, told = Path(sys.argv[1]), dict[str, str]()
    space = folder / "space.yaml"
    space.write_text(SPACE_FILE)
    for case in CASES:
        (folder / case.__name__).mkdir()
        try:
            case(folder / case.__name__, space)
            told[case.__name__] = PASSED
        except Exception:  # noqa: BLE001  # told by the test of this name
            told[case.__name__] = traceback.format_exc()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
