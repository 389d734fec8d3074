"""A run folder whose files were emptied, overwritten or taken away: whoever asks gets the answer or one line.

What a driver itself can leave behind, see `test_journal.py`, `test_full_disk.py` and `test_interrupts.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.config import resume
from autocompress.run.folder import Run
from autocompress.search.record import Record
from tests.run.on_a_small_disk import cli
from tests.run.regenerate_golden_run import GOLDEN, TRIALS
from tests.run.test_golden_run import ended

ROOT = Path(__file__).parents[2]
FILES = ("run.yaml", "study.journal", "sensitivity.jsonl", "front.json", "report.json", "report.html", "run.lock")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(max(1, path.stat().st_size)))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00{]\n" * 50)


def other(path: Path) -> None:
    path.write_text("[1]\n")


def nothing_in_it(path: Path) -> None:
    path.write_text("{}\n")


def gone(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


DAMAGE: tuple[Callable[[Path], None], ...] = (zeros, empty, noise, other, nothing_in_it, gone, a_folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a run has."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        shutil.copytree(GOLDEN, folder)
        resume(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("name", FILES)
def test_who_looks_gets_an_answer_or_one_line(name: str, run: Path, finished: Path) -> None:
    for damage in DAMAGE:
        (run / name).rmdir() if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
        shutil.copyfile(finished / name, run / name)
        damage(run / name)
        for command in ("status", "report"):
            code, said = cli(command, str(run))
            assert (code, said.count("\n")) in ((0, 0), (1, 1), (2, 1)), (damage.__name__, command, said)
            shutil.copyfile(finished / "report.html", run / "report.html") if name != "report.html" else None


def test_what_can_be_written_again_is(run: Path, finished: Path) -> None:
    before = trials_of(finished)
    for name, damage in (
        ("front.json", zeros),
        ("sensitivity.jsonl", noise),
        ("run.lock", gone),
        ("report.json", other),
    ):
        damage(run / name)
    assert cli("resume", str(run))[0] == 0
    assert trials_of(run) == before
    assert cli("status", str(run)) == (0, "")
    assert cli("report", str(run)) == (0, "")


@pytest.mark.parametrize("name", ["run.lock", "study.journal", "study.journal.flock"])
def test_what_is_in_the_way_is_named(name: str, run: Path) -> None:
    a_folder(run / name)
    code, said = cli("resume", str(run), "--budget", "+1")
    last = said.splitlines()[-1]
    assert code in (1, 2)
    assert "Traceback" not in said
    assert f"{run / name} cannot be " in last
    assert "(Is a directory); put" in last


def trials_of(run: Path) -> list[Record]:
    records = ended(Run.open(run))
    assert len(records) == TRIALS
    return records
