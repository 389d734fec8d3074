"""A run that an earlier version wrote is read and gone on with, and one of a later version is refused."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from autocompress import cli
from autocompress.config import read_config, resume
from autocompress.errors import InputError
from autocompress.run.folder import CONFIG, FORMAT, Run
from autocompress.run.show import status_of
from autocompress.search.record import Record
from tests.run.regenerate_golden_run import FOLDERS, TRIALS
from tests.run.studies import trials_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=FOLDERS, ids=lambda folder: str(folder.name))
def source(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture
def golden(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy; its space and target are named from the root of the repository."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(source, tmp_path / "run")
    return tmp_path / "run"


def ended(run: Run) -> list[Record]:
    return [one for one in trials_of(run) if one.state != "running"]


def test_a_run_of_each_format_is_shown_and_gone_on_with(golden: Path, source: Path) -> None:
    run = Run.open(golden)
    told = status_of(run)
    assert sum(told["trials"].values()) == TRIALS
    assert (told["budget"], told["finished"], told["points"]) == (str(TRIALS), True, 1)
    before = ended(run)
    assert len(before) == TRIALS
    resumed = resume(golden, "+2")
    after = ended(resumed)
    assert after[:TRIALS] == before
    assert len(after) == TRIALS + 2
    assert resumed.config["search"]["budget"] == str(TRIALS + 2)
    assert resumed.config["format"] == FORMAT
    assert resumed.points
    # What was measured of the options is not measured again.
    assert (golden / "sensitivity.jsonl").read_bytes().startswith((source / "sensitivity.jsonl").read_bytes())


@pytest.mark.parametrize("later", [FORMAT + 1, "two", 0, None, [1]])
def test_a_run_of_a_later_format_is_refused(
    later: object, golden: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = yaml.safe_load((golden / CONFIG).read_text())
    (golden / CONFIG).write_text(yaml.safe_dump({**data, "format": later}))
    for words in (["status"], ["resume", "--budget", "+1"], ["report"]):
        monkeypatch.setattr(sys, "argv", ["autocompress", *words, str(golden)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr().err
        assert (end.value.code, said.count("\n")) == (2, 1)
        assert f"run.yaml is of format {later!r}, this version reads {FORMAT}; upgrade with `pip install -U" in said


@pytest.mark.parametrize("source", FOLDERS[:1])
def test_a_run_that_names_no_format_is_of_the_first(golden: Path) -> None:
    data = yaml.safe_load((golden / CONFIG).read_text())
    del data["format"]
    (golden / CONFIG).write_text(yaml.safe_dump(data))
    assert sum(status_of(Run.open(golden))["trials"].values()) == TRIALS


def test_a_configuration_that_was_cut_anywhere_is_refused_or_whole(golden: Path) -> None:
    content = (golden / CONFIG).read_bytes()
    whole = yaml.safe_load(content)
    taken = 0
    for size in range(len(content)):
        (golden / CONFIG).write_bytes(content[:size])
        with suppress(InputError):
            run = Run.open(golden)
            config = read_config(run)
            # `resume` refuses what has no digests.
            if run.config.get("digests") == whole["digests"]:
                taken += 1
                assert config == read_config(Run(golden, whole))
                assert run.study == Run(golden, whole).study
    assert taken > 0
