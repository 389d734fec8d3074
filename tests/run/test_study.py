"""What a study in a journal promises beyond `tests/contracts/test_storages.py`, and what URLs are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from autocompress.errors import InputError
from autocompress.run.storage import shown_url
from autocompress.run.study import Study
from tests.run.studies import SPACE, TWO, fill, results


@pytest.mark.parametrize("url", ["foo", "postgres+nothing://here/db", "sqlite:////no/such/folder/study.db"])
def test_a_storage_that_cannot_be_opened_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened") as caught:
        Study(tmp_path, SPACE, TWO, url)
    assert "\n" not in str(caught.value)


def test_starting_a_trial_is_one_step(tmp_path: Path) -> None:
    """Cut off after any entry of the journal, a study holds whole trials: none waits to be taken for another."""
    fill(Study(tmp_path, SPACE, TWO))
    lines = (tmp_path / "study.journal").read_text().splitlines(keepends=True)
    for count in range(2, len(lines)):
        cut = tmp_path / str(count)
        cut.mkdir()
        (cut / "study.journal").write_text("".join(lines[:count]))
        study = Study(cut, SPACE, TWO)
        before = len(study.records())
        states = [trial.state for trial in study._study.get_trials()]
        assert TrialState.WAITING not in states
        assert states.count(TrialState.RUNNING) <= 1
        assert len(study.lost()) == states.count(TrialState.RUNNING)
        assert [one.vector for one in study.records()] == [one.vector for one in results()][:before]


def test_a_driver_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psycopg2", "psycopg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r'is not installed; pip install "autocompress\[postgresql\]"$') as caught:
        Study(tmp_path, SPACE, TWO, "postgresql://me:s3cret@here/db")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("postgresql://me@here:5433/db?connect_timeout=3", "postgresql://me@here:5433/db?connect_timeout=3"),
        ("postgresql:///?passfile=here&service=team", "postgresql:///?passfile=here&service=team"),
        ("postgresql://me:s3cret@here/db", "postgresql://me:***@here/db"),
        ("postgresql:///db?password=s3cret&user=me", "postgresql:///db?password=hidden&user=me"),
        ("postgresql://me:an@s3cret@here/db", "postgresql://me:***@here/db"),
        ("postgresql://me:s3cret@here:port/db", "postgresql://..."),
        ("me:s3cret@here", "..."),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    "url", ["postgresql://me:s3@cret@here/db", "postgresql://me:s3cret@here:port/db", "postgresql://me:s3cret{@here/db"]
)
def test_a_url_that_cannot_be_understood_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be opened: .*password.* %40") as caught:
        Study(tmp_path, SPACE, TWO, url)
    assert "cret" not in str(caught.value)
