from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from autocompress.core.metric import Metric
from autocompress.core.plan import Prune, Quantize
from autocompress.core.space import Decision, Space
from autocompress.errors import InputError
from autocompress.run.study import Study, new_name
from autocompress.search.record import Objective, Record, front_of

SPACE = Space(
    "small",
    (Decision("prune", "a", (None, Prune(0.5))), Decision("quantize", "a", (None, Quantize(8), Quantize(4)))),
)
TWO = (Objective("accuracy", True), Objective("size_bytes", False))
METRICS = {"accuracy": Metric.exact(91.25, "percent"), "size_bytes": Metric(1000, 970, 1030, "analytic", "bytes")}


def results() -> list[Record]:
    seconds = {"tables": 0.25, "train": 1.5}
    return [
        Record(0, "dense", (0, 0), "complete", "short", METRICS, seconds, None, ("a note", "another")),
        Record(1, "uniform w8", (0, 1), "complete", "short", METRICS, seconds, "size<=30% is not met"),
        Record(2, "search", (1, 2), "infeasible", "cost", {"size_bytes": METRICS["size_bytes"]}, {}, "too large"),
        Record(3, "search", (1, 0), "failed", "short", {}, {"apply": 0.5}, "RuntimeError: no"),
        Record(4, "search", (1, 0), "complete", "short", METRICS, seconds, halfway=88.5),
    ]


def filled(folder: Path) -> Study:
    study = Study(folder, SPACE, TWO)
    for one in results():
        assert study.start(one.vector, one.label) == one.number
        study.finish(one)
    return study


def test_what_is_written_is_read_back_by_whoever_opens_it(tmp_path: Path) -> None:
    study = filled(tmp_path)
    assert study.records() == results()
    assert Study(tmp_path, SPACE, TWO).records() == results()
    assert (tmp_path / "study.journal").is_file()


@pytest.mark.parametrize("written", range(8))
def test_a_trial_whose_results_were_cut_off_is_still_running(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(tmp_path, SPACE, TWO)
    storage, left = study._study._storage, iter(range(written))
    for name in ("set_trial_user_attr", "set_trial_state_values"):
        write = getattr(storage, name)

        def cut_off(*values: object, write: Callable[..., object] = write, **named: object) -> object:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return write(*values, **named)

        monkeypatch.setattr(storage, name, cut_off)
    first = results()[0]
    study.start(first.vector, first.label)
    with pytest.raises(KeyboardInterrupt):
        study.finish(first)
    monkeypatch.undo()
    (seen,) = Study(tmp_path, SPACE, TWO).records()
    assert (seen.state, seen.metrics, seen.label) == ("running", {}, "dense")
    assert front_of([seen], TWO, "short") == []
    assert study.requeue_lost() == [(0, first.vector, "dense")]


def test_another_storage_holds_the_same(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    name, other = new_name(tmp_path / "run", url), new_name(tmp_path / "run", url)
    study = Study(tmp_path / "run", SPACE, TWO, url, name)
    for one in results():
        assert study.start(one.vector, one.label) == one.number
        study.finish(one)
    assert Study(tmp_path / "moved", SPACE, TWO, url, name).records() == results()
    assert Study(tmp_path / "run", SPACE, TWO, url, other).records() == []


@pytest.mark.parametrize("url", ["foo", "postgres+nothing://here/db", "sqlite:////no/such/folder/study.db"])
def test_a_storage_that_cannot_be_opened_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened") as caught:
        Study(tmp_path, SPACE, TWO, url)
    assert "\n" not in str(caught.value)


def test_a_running_trial_is_there_with_its_plan(tmp_path: Path) -> None:
    study = filled(tmp_path)
    assert study.start((1, 1), "search") == 5
    last = Study(tmp_path, SPACE, TWO).records()[-1]
    assert (last.number, last.vector, last.state, last.label, last.metrics) == (5, (1, 1), "running", "search", {})


def test_a_lost_trial_is_given_back_once(tmp_path: Path) -> None:
    filled(tmp_path).start((1, 1), "uniform w4")
    study = Study(tmp_path, SPACE, TWO)
    assert study.requeue_lost() == [(5, (1, 1), "uniform w4")]
    assert study.records() == results()
    assert study.requeue_lost() == []
    assert Study(tmp_path, SPACE, TWO).requeue_lost() == []
    assert study.start((1, 1), "uniform w4") == 6


def test_starting_a_trial_is_one_step(tmp_path: Path) -> None:
    """Cut off after any entry of the journal, a study holds whole trials: none waits to be taken for another."""
    filled(tmp_path)
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
        lost = study.requeue_lost()
        for _, vector, label in lost:
            study.start(vector, label)
        assert [one.vector for one in study.records()] == [one.vector for one in results()][:before]


def test_another_space_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    other = Space("other", (*SPACE.decisions, Decision("quantize", "b", (None, Quantize(8)))))
    with pytest.raises(InputError, match=r"decides 2 things and space 'other' 3; resume with the space"):
        Study(tmp_path, other, TWO).records()
