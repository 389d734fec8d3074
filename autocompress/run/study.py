"""The study on disk: every trial in an Optuna storage, written by one driver."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from autocompress.core.metric import Metric
from autocompress.core.space import Space, Vector
from autocompress.errors import InputError, RunError
from autocompress.run.folder import STUDY, Names
from autocompress.run.storage import StorageAway, answered, close_storage, open_storage, reason_of, shown_url
from autocompress.run.uninterrupted import uninterrupted
from autocompress.search.record import Objective, Record
from autocompress.search.samplers import distributions

optuna.logging.set_verbosity(optuna.logging.WARNING)
_RESULT, _REPLACED = "result", "replaced_by"
# Of a study: who alone writes to it.
_DRIVER = "driver"


def result_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """How a trial ended, as `Study.finish` wrote it; empty while it runs, whatever is written of it already."""
    if not trial.state.is_finished():
        return {}
    # Runs of the first format have each part beside the others.
    found: Mapping[str, Any] = trial.user_attrs.get(_RESULT, trial.user_attrs)
    return found


def state_of(trial: FrozenTrial) -> str:
    """One of `STATES`."""
    return str(result_of(trial).get("state", "running"))


def is_replaced(trial: FrozenTrial) -> bool:
    """True of a trial whose number means nothing here.

    One that was lost with its driver and run again under another, as the first format did; one of another study that
    was not carried.
    """
    return _REPLACED in trial.user_attrs


def new_names(folder: Path, storage: str | None, checkpoints: str | None) -> Names:
    """What a new run is called where many share a storage, or a place for weights: like no other."""
    name = another_name(folder)
    weights = None if checkpoints is None else f"{checkpoints.rstrip('/')}/{name}"
    return Names(STUDY if storage is None else name, weights)


def another_name(folder: Path) -> str:
    """A name that no other study has."""
    return f"{STUDY}-{folder.resolve().name}-{secrets.token_hex(4)}"


class Study:
    """Trials of one run; the truth that everything else is rebuilt from."""

    def __init__(
        self,
        folder: Path,
        space: Space,
        objectives: Sequence[Objective],
        storage: str | None = None,
        name: str = STUDY,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens or creates the study of a run.

        Args:
            folder: The run folder; holds the journal unless `storage` is given.
            space: Decides the parameters of a trial.
            objectives: Decide its values.
            storage: Any URL that Optuna takes, or None.
            name: What the study is called there.
            check: Called before anything is written; raises if another driver took over.

        Raises:
            InputError: the storage cannot be opened, or the study not be made there.
        """
        self._check = check
        self.space = space
        self.objectives = tuple(objectives)
        self._distributions = distributions(space)
        # Of the first so many trials, all of which have ended: those stay as they are.
        self._settled, self._ended = 0, list[Record]()
        self._claim: dict[str, str] | None = None
        self._storage = open_storage(folder, storage)
        try:
            self._study = self._opened(name)
        except (StorageAway, StorageInternalError, SQLAlchemyError) as error:
            self.close()
            where = "" if storage is None else f" {shown_url(storage)!r}"
            raise InputError(f"storage{where} cannot hold a study: {reason_of(error)}") from None

    def _opened(self, name: str) -> optuna.Study:
        """The study; nothing is written where it is there."""
        try:
            return optuna.load_study(study_name=name, storage=self._storage)
        except KeyError:
            return optuna.create_study(
                study_name=name,
                storage=self._storage,
                directions=["maximize" if objective.maximised else "minimize" for objective in self.objectives],
                load_if_exists=True,
            )

    def claim(self, by: str) -> None:
        """From now on no other process writes to it, not even one that drives a copy of the run folder.

        Args:
            by: Who writes, for the message that another one ends with.
        """
        claim = {"by": by, "token": secrets.token_hex(8)}
        answered(lambda: self._study.set_user_attr(_DRIVER, claim))
        self._claim = claim

    def _require_ours(self) -> None:
        """Refuses to write where somebody else does.

        Raises:
            RunError: says who.
        """
        self._check()
        if self._claim is None:
            return
        found = self._study.user_attrs.get(_DRIVER, {})
        if found != self._claim:
            by = found.get("by", "another program")
            raise RunError(
                f"study {self._study.study_name!r} was taken over by {by}; what this process was doing is dropped"
            )

    def close(self) -> None:
        """Closes the connections of the storage."""
        close_storage(self._storage)

    def records(self) -> list[Record]:
        """Every trial that was started, in order."""
        trials = self._trials()
        while self._settled < len(trials) and trials[self._settled].state.is_finished():
            trial = trials[self._settled]
            if not is_replaced(trial):
                self._ended.append(self._record(trial))
            # All of it is in the record, and takes three times as much room here.
            trial.params, trial.distributions, trial.user_attrs = {}, {}, {}
            self._settled += 1
        later = (trial for trial in trials[self._settled :] if trial.state != TrialState.WAITING)
        return [*self._ended, *(self._record(trial) for trial in later if not is_replaced(trial))]

    def began(self) -> datetime | None:
        """When the first trial was started."""
        starts = [trial.datetime_start for trial in self._trials()]
        return min((start.astimezone(UTC) for start in starts if start is not None), default=None)

    def start(self, vector: Vector, label: str) -> int:
        """Writes a new running trial and returns its number."""
        return self._create(TrialState.RUNNING, self._parameters(vector), {"label": label})

    def carry(self, record: Record) -> int:
        """Writes a trial of another study, ended or running, and returns its number here."""
        told: dict[str, Any] = {"label": record.label}
        if record.state == "running":
            return self._create(TrialState.RUNNING, self._parameters(record.vector), told)
        state, values = self._outcome(record)
        return self._create(state, self._parameters(record.vector), told | {_RESULT: _written(record)}, values)

    def skip(self) -> int:
        """Leaves out a number that a trial of another study has, which is not carried here; returns the number."""
        return self._create(TrialState.FAIL, {}, {_REPLACED: None})

    def _parameters(self, vector: Vector) -> dict[str, int]:
        return dict(zip(self._distributions, vector, strict=True))

    def _create(
        self,
        state: TrialState,
        parameters: Mapping[str, int],
        told: Mapping[str, Any],
        values: Sequence[float] | None = None,
    ) -> int:
        """Writes a trial as one entry: whoever is killed here leaves it or nothing, never one that waits."""
        token = secrets.token_hex(8)
        trial = create_trial(
            state=state,
            values=values,
            params=dict(parameters),
            distributions={name: self._distributions[name] for name in parameters},
            user_attrs={**told, "token": token},
        )
        tries = itertools.count()

        def write() -> int:
            self._require_ours()
            if next(tries):
                # The answer to a write may be lost with the connection: the trial is there then.
                written = [one.number for one in self._read() if one.user_attrs.get("token") == token]
                if written:
                    return written[0]
            with uninterrupted():
                trial_id = self._study._storage.create_new_trial(self._study._study_id, trial)
                return int(self._study._storage.get_trial_number_from_id(trial_id))

        return answered(write)

    def finish(self, record: Record) -> None:
        """Writes the results of a trial that `start` began.

        Raises:
            RunError: it has others already.
        """
        state, values = self._outcome(record)
        answered(lambda: self._end(record, state, values))

    def _outcome(self, record: Record) -> tuple[TrialState, list[float] | None]:
        """State and values in the storage of a trial that ended."""
        if record.state != "complete":
            return TrialState.FAIL, None
        return TrialState.COMPLETE, [record.metrics[objective.name].value for objective in self.objectives]

    def lost(self) -> list[Record]:
        """The trials that a dead driver left running: to be run again, under the numbers they have."""
        return [record for record in self.records() if record.state == "running"]

    def _end(self, record: Record, state: TrialState, values: Sequence[float] | None) -> None:
        """Writes how a trial ended, its state last; nothing if that is written already."""
        self._require_ours()
        trial, result = self._read()[record.number], _written(record)
        if trial.state.is_finished():
            known = next((_written(other) for other in self.records() if other.number == record.number), None)
            if known != result:
                raise RunError(
                    f"trial {record.number} of the study has ended already, with other results; it stays as it is"
                )
            return
        with uninterrupted():
            self._study._storage.set_trial_user_attr(trial._trial_id, _RESULT, result)
            self._study.tell(record.number, values, state)

    def _trials(self) -> list[FrozenTrial]:
        """Every trial that is in the storage, in order."""
        return answered(self._read)

    def _read(self) -> list[FrozenTrial]:
        """The same, if the storage is there."""
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def _vector(self, trial: FrozenTrial) -> Vector:
        if set(trial.params) != set(self._distributions):
            raise InputError(
                f"trial {trial.number} of the study decides {len(trial.params)} things and space "
                f"{self.space.name!r} {len(self._distributions)}; resume with the space the run was started with"
            )
        return tuple(int(trial.params[name]) for name in self._distributions)

    def _record(self, trial: FrozenTrial) -> Record:
        result = result_of(trial)
        return Record(
            number=trial.number,
            label=str(trial.user_attrs.get("label", "")),
            vector=self._vector(trial),
            state=state_of(trial),
            fidelity=str(result.get("fidelity", "short")),
            metrics={name: Metric.from_dict(data) for name, data in result.get("metrics", {}).items()},
            seconds=dict(result.get("seconds", {})),
            error=result.get("error"),
            notes=tuple(result.get("notes", ())),
            halfway=result.get("halfway"),
        )


def _written(record: Record) -> dict[str, Any]:
    """How a trial ended, as it is written."""
    result = {
        "state": record.state,
        "fidelity": record.fidelity,
        "metrics": {name: metric.to_dict() for name, metric in record.metrics.items()},
        "seconds": dict(record.seconds),
        "error": record.error,
        "notes": list(record.notes),
        "halfway": record.halfway,
    }
    written: dict[str, Any] = json.loads(json.dumps(result))
    return written
