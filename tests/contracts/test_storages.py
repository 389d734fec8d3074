"""What a study promises wherever it is kept: in the journal of its run, in SQLite, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from autocompress.core.plan import Quantize
from autocompress.core.space import Decision, Space
from autocompress.errors import InputError, RunError
from autocompress.run.folder import STUDY
from autocompress.run.study import Study, new_names
from autocompress.search.record import Record, front_of
from tests.run.postgres import Server, needs_postgres, serving
from tests.run.studies import METRICS, SPACE, TWO, fill, results


@dataclass
class Place:
    """Where studies are kept; closes those that were opened."""

    folder: Path
    url: str | None
    opened: list[Study] = field(default_factory=list)

    def study(self, name: str = STUDY, space: Space = SPACE) -> Study:
        self.opened.append(Study(self.folder, space, TWO, self.url, name))
        return self.opened[-1]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture(params=["journal", "sqlite", pytest.param("postgresql", marks=needs_postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    urls: dict[str, Callable[[], str | None]] = {
        "journal": lambda: None,
        "sqlite": lambda: f"sqlite:///{tmp_path / 'study.db'}",
        "postgresql": lambda: request.getfixturevalue("server").new_database(),
    }
    found = Place(tmp_path, urls[request.param]())
    yield found
    for study in found.opened:
        study.close()


def test_what_is_written_is_read_back_by_whoever_opens_it(place: Place) -> None:
    study = fill(place.study())
    assert study.records() == results()
    assert place.study().records() == results()


def test_a_running_trial_is_there_with_its_plan(place: Place) -> None:
    assert fill(place.study()).start((1, 1), "search") == 5
    last = place.study().records()[-1]
    assert (last.number, last.vector, last.state, last.label, last.metrics) == (5, (1, 1), "running", "search", {})


@pytest.mark.parametrize("written", [0, 1])
def test_a_trial_whose_results_were_cut_off_is_still_running(
    written: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = place.study()
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
    (seen,) = place.study().records()
    assert (seen.state, seen.metrics, seen.label) == ("running", {}, "dense")
    assert front_of([seen], TWO, "short") == []
    assert study.lost() == [seen]
    study.finish(first)
    assert place.study().records() == [first]


def test_lost_trials_are_run_again_under_their_numbers(place: Place) -> None:
    before = fill(place.study())
    before.start((1, 1), "uniform w4")
    before.start((0, 2), "search")
    study = place.study()
    again = [
        Record(5, "uniform w4", (1, 1), "complete", "short", METRICS, {}),
        Record(6, "search", (0, 2), "failed", "short", {}, {}),
    ]
    assert [(one.number, one.label, one.vector) for one in study.lost()] == [
        (one.number, one.label, one.vector) for one in again
    ]
    for one in reversed(again):
        study.finish(one)
    assert study.lost() == place.study().lost() == []
    assert place.study().records() == study.records() == [*results(), *again]
    assert study.start((1, 1), "uniform w4") == 7


def test_a_trial_ends_once(place: Place) -> None:
    study = fill(place.study())
    for one in results():
        study.finish(one)
    with pytest.raises(RunError, match="trial 4 of the study has ended already, with other results"):
        study.finish(replace(results()[4], halfway=12.5))
    with pytest.raises(RunError, match="trial 3 of the study has ended already"):
        study.finish(replace(results()[4], number=3))
    assert place.study().records() == results()


def test_one_process_writes_whoever_has_a_copy_of_the_run_folder(place: Place) -> None:
    first = fill(place.study())
    first.claim("process 1 on here, with run /a")
    number = first.start((1, 1), "search")
    second = place.study()
    second.claim("process 2 on there, with run /b")
    told = r"study '.+' was taken over by process 2 on there, with run /b; what this process was doing is dropped"
    with pytest.raises(RunError, match=told):
        first.start((0, 2), "search")
    with pytest.raises(RunError, match=told):
        first.finish(Record(number, "search", (1, 1), "complete", "short", METRICS, {}))
    assert [one.number for one in second.lost()] == [number]
    second.finish(Record(number, "search", (1, 1), "failed", "short", {}, {}))
    assert place.study().lost() == []


def test_another_space_is_refused_and_changes_nothing(place: Place) -> None:
    study = fill(place.study())
    study.start((1, 1), "search")
    other = Space("other", (*SPACE.decisions, Decision("quantize", "b", (None, Quantize(8)))))
    for ask in (Study.records, Study.lost):
        with pytest.raises(InputError, match=r"decides 2 things and space 'other' 3; resume with the space"):
            ask(place.study(space=other))
    assert [record.state for record in place.study().records()][-1] == "running"


def test_studies_in_one_storage_do_not_disturb_each_other(place: Place) -> None:
    if place.url is None:
        pytest.skip("a journal holds one study")
    one, other = (place.study(new_names(place.folder, place.url, None).study) for _ in range(2))
    for record in results():
        assert other.start((0, 2), "search") == one.start(record.vector, record.label) == record.number
        one.finish(record)
    assert one.records() == results()
    assert one.lost() == []
    assert {record.state for record in other.records()} == {"running"}
    assert len(other.lost()) == len(results())
    assert one.records() == results()


def test_no_trial_waits_to_be_taken_for_another(place: Place) -> None:
    study = place.study()
    study.start((1, 1), "search")
    assert [trial.state for trial in study._study.get_trials()] == [TrialState.RUNNING]
