"""The study on disk: every trial in an Optuna storage, written by one driver."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from autocompress.core.metric import Metric
from autocompress.core.space import Space, Vector
from autocompress.errors import InputError
from autocompress.run.folder import STUDY
from autocompress.run.journal import JOURNAL, open_journal
from autocompress.run.uninterrupted import uninterrupted
from autocompress.search.record import Objective, Record
from autocompress.search.samplers import distributions

optuna.logging.set_verbosity(optuna.logging.WARNING)


def state_of(trial: FrozenTrial) -> str:
    """One of `STATES`; a trial has its state and its results when the last of them is written."""
    return "running" if trial.state == TrialState.RUNNING else str(trial.user_attrs.get("state", "running"))


def open_storage(folder: Path, storage: str | None) -> BaseStorage:
    """The journal of a run folder, or the storage at a URL.

    Raises:
        InputError: there is none at the URL, or no driver for it, or the journal is damaged.
    """
    if storage is None:
        return open_journal(folder / JOURNAL)
    try:
        return optuna.storages.get_storage(storage)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"storage {storage!r} cannot be opened: {reason}; write a URL such as sqlite:///runs.db"
        ) from None


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
            InputError: the storage cannot be opened.
        """
        self._check = check
        self.space = space
        self.objectives = tuple(objectives)
        self._distributions = distributions(space)
        # Trials that ended stay as they are.
        self._ended: dict[int, Record] = {}
        self._study = optuna.create_study(
            study_name=name,
            storage=open_storage(folder, storage),
            directions=["maximize" if objective.maximised else "minimize" for objective in self.objectives],
            load_if_exists=True,
        )

    def records(self) -> list[Record]:
        """Every trial that was started, in order."""
        trials = self._study.get_trials(deepcopy=False)
        started = [trial for trial in trials if trial.state != TrialState.WAITING]
        return [self._record(trial) for trial in started if "replaced_by" not in trial.user_attrs]

    def began(self) -> datetime | None:
        """When the first trial was started."""
        starts = [trial.datetime_start for trial in self._study.get_trials(deepcopy=False)]
        return min((start.astimezone(UTC) for start in starts if start is not None), default=None)

    def start(self, vector: Vector, label: str) -> int:
        """Writes a new running trial and returns its number."""
        # One entry of the journal: whoever is killed here leaves the trial or nothing, never one that waits.
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(zip(self._distributions, vector, strict=True)),
            distributions=self._distributions,
            user_attrs={"label": label},
        )
        storage: BaseStorage = self._study._storage
        self._check()
        with uninterrupted():
            return storage.get_trial_number_from_id(storage.create_new_trial(self._study._study_id, trial))

    def finish(self, record: Record) -> None:
        """Writes the results of a trial that `start` began."""
        self._check()
        storage, trial_id = self._storage_of(record.number)
        results = {
            "state": record.state,
            "fidelity": record.fidelity,
            "metrics": {name: metric.to_dict() for name, metric in record.metrics.items()},
            "seconds": dict(record.seconds),
            "error": record.error,
            "notes": list(record.notes),
            "halfway": record.halfway,
        }
        with uninterrupted():
            for key, value in results.items():
                storage.set_trial_user_attr(trial_id, key, json.loads(json.dumps(value)))
            if record.state == "complete":
                values = [metrics.value for metrics in (record.metrics[o.name] for o in self.objectives)]
                self._study.tell(record.number, values)
            else:
                self._study.tell(record.number, state=TrialState.FAIL)

    def requeue_lost(self) -> list[tuple[int, Vector, str]]:
        """Closes the trials that a dead driver left running; returns their numbers, plans and labels, to run again."""
        self._check()
        lost = []
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING:
                storage, trial_id = self._storage_of(trial.number)
                with uninterrupted():
                    storage.set_trial_user_attr(trial_id, "replaced_by", "a new trial of the same plan")
                    self._study.tell(trial.number, state=TrialState.FAIL)
                lost.append((trial.number, self._vector(trial), str(trial.user_attrs.get("label", ""))))
        return lost

    def _storage_of(self, number: int) -> tuple[BaseStorage, int]:
        storage: BaseStorage = self._study._storage
        return storage, self._study.get_trials(deepcopy=False)[number]._trial_id

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
