"""The study on disk: every trial in an Optuna storage, written by one driver."""

from __future__ import annotations

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
from autocompress.run.folder import STUDY
from autocompress.run.storage import StorageAway, answered, close_storage, open_storage, reason_of, shown_url
from autocompress.run.uninterrupted import uninterrupted
from autocompress.search.record import Objective, Record
from autocompress.search.samplers import distributions

optuna.logging.set_verbosity(optuna.logging.WARNING)


def state_of(trial: FrozenTrial) -> str:
    """One of `STATES`; a trial has its state and its results when the last of them is written."""
    return "running" if trial.state == TrialState.RUNNING else str(trial.user_attrs.get("state", "running"))


def new_name(folder: Path, storage: str | None) -> str:
    """What the study of a new run is called: in a storage that many runs share, like no other."""
    return STUDY if storage is None else f"{STUDY}-{folder.resolve().name}-{secrets.token_hex(4)}"


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
        # Trials that ended stay as they are.
        self._ended: dict[int, Record] = {}
        self._storage = open_storage(folder, storage)
        try:
            self._study = optuna.create_study(
                study_name=name,
                storage=self._storage,
                directions=["maximize" if objective.maximised else "minimize" for objective in self.objectives],
                load_if_exists=True,
            )
        except (StorageAway, StorageInternalError, SQLAlchemyError) as error:
            self.close()
            where = "" if storage is None else f" {shown_url(storage)!r}"
            raise InputError(f"storage{where} cannot hold a study: {reason_of(error)}") from None

    def close(self) -> None:
        """Closes the connections of the storage."""
        close_storage(self._storage)

    def records(self) -> list[Record]:
        """Every trial that was started, in order."""
        started = [trial for trial in self._trials() if trial.state != TrialState.WAITING]
        return [self._record(trial) for trial in started if "replaced_by" not in trial.user_attrs]

    def began(self) -> datetime | None:
        """When the first trial was started."""
        starts = [trial.datetime_start for trial in self._trials()]
        return min((start.astimezone(UTC) for start in starts if start is not None), default=None)

    def start(self, vector: Vector, label: str) -> int:
        """Writes a new running trial and returns its number."""
        token = secrets.token_hex(8)
        # One entry of the journal: whoever is killed here leaves the trial or nothing, never one that waits.
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(zip(self._distributions, vector, strict=True)),
            distributions=self._distributions,
            user_attrs={"label": label, "token": token},
        )

        def write() -> int:
            self._check()
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
        results = {
            "state": record.state,
            "fidelity": record.fidelity,
            "metrics": {name: metric.to_dict() for name, metric in record.metrics.items()},
            "seconds": dict(record.seconds),
            "error": record.error,
            "notes": list(record.notes),
            "halfway": record.halfway,
        }
        results = {key: json.loads(json.dumps(value)) for key, value in results.items()}
        if record.state == "complete":
            state, values = TrialState.COMPLETE, [record.metrics[o.name].value for o in self.objectives]
        else:
            state, values = TrialState.FAIL, None
        answered(lambda: self._end(record.number, results, state, values))

    def requeue_lost(self) -> list[tuple[int, Vector, str]]:
        """Closes the trials that a dead driver left running; returns their numbers, plans and labels, to run again."""
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        lost = [(trial.number, self._vector(trial), str(trial.user_attrs.get("label", ""))) for trial in running]
        for number, _, _ in lost:
            self._replace(number)
        return lost

    def _replace(self, number: int) -> None:
        attributes = {"replaced_by": "a new trial of the same plan"}
        answered(lambda: self._end(number, attributes, TrialState.FAIL, None))

    def _end(
        self, number: int, attributes: Mapping[str, Any], state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Writes how a trial ended, its state last; nothing if that is written already."""
        self._check()
        trial = self._read()[number]
        if trial.state.is_finished():
            known = {key: trial.user_attrs.get(key) for key in attributes}
            if trial.state != state or json.dumps(known) != json.dumps(dict(attributes)):
                raise RunError(f"trial {number} of the study has ended already, with other results; it stays as it is")
            return
        with uninterrupted():
            for key, value in attributes.items():
                self._study._storage.set_trial_user_attr(trial._trial_id, key, value)
            self._study.tell(number, values, state)

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
        if trial.number in self._ended:
            return self._ended[trial.number]
        record = self._new_record(trial)
        if trial.state.is_finished():
            self._ended[trial.number] = record
        return record

    def _new_record(self, trial: FrozenTrial) -> Record:
        attributes: Mapping[str, Any] = trial.user_attrs
        if trial.state == TrialState.RUNNING:
            # What `finish` wrote before it was interrupted is not a result: the trial is run again.
            attributes = {"label": attributes.get("label", "")}
        try:
            metrics = {name: Metric.from_dict(data) for name, data in attributes.get("metrics", {}).items()}
            return Record(
                number=trial.number,
                label=str(attributes.get("label", "")),
                vector=self._vector(trial),
                state=state_of(trial),
                fidelity=str(attributes.get("fidelity", "short")),
                metrics=metrics,
                seconds=dict(attributes.get("seconds", {})),
                error=attributes.get("error"),
                notes=tuple(attributes.get("notes", ())),
                halfway=attributes.get("halfway"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"trial {trial.number} of the study is damaged: {type(error).__name__} {error}") from None
