"""Compares controllers on one task: `python scripts/bench_controllers.py FOLDER --task digits --seeds 0 1 2`.

Every controller searches with every seed by `autocompress search`, in a folder of its own: the same space, the same
training of a trial, the same uniform plans first (`planned` has them after its waves). A search that is complete
is not run again, one that was interrupted starts anew, so that its clock is true. Then the hypervolume of the trials is
printed, by trials and by wall-clock, with everything that a controller measures before it asks: that of accuracy lost
and of costs as shares of the dense model's, each linear and with the costs in logarithms, as shares of what the union
of all trials of all searches reaches. Prints the machine, versions and seeds.

`--save` keeps the trials in a file. `--load` prints the tables of such a file and searches nothing. `--replay` lets the
controllers search among the trials of such a file: each plan is told what the nearest recorded one reached, so that
nothing is trained.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import controller_runs
import numpy as np
import optuna
from controller_runs import KINDS, Search, Trial

from autocompress.config import driver_of
from autocompress.core.constraint import Budget
from autocompress.core.metric import UNITS, Metric
from autocompress.core.space import Vector
from autocompress.emit.report_data import load_report_data
from autocompress.run.environment import versions
from autocompress.run.executors import InProcess
from autocompress.run.folder import REPORT, REPORT_DATA, Names, Run
from autocompress.run.jobs import Job, Progress, Shared, TrialJob
from autocompress.run.progress import Silent
from autocompress.run.settings import SearchConfig
from autocompress.run.storage import open_storage
from autocompress.run.study import Study, result_of, state_of
from autocompress.run.trials import run_trials
from autocompress.search.controllers import CONTROLLERS
from autocompress.search.record import TELLING, Record
from autocompress.targets.calibrate import cpu_model
from autocompress.wired import Wired, wire


def search(folder: Path, controller: str, seed: int, arguments: argparse.Namespace) -> None:
    """One search; its final training is as short as it can be, since it is not what is compared."""
    if (folder / REPORT).is_file():
        return
    if (folder / "run.yaml").is_file():
        shutil.rmtree(folder)
    command = [sys.executable, "-m", "autocompress", "search", "--controller", controller, "--seed", str(seed)]
    command += ["--task", arguments.task, "--target", arguments.target, "--space", arguments.space]
    command += ["--budget", str(arguments.budget), "--output", str(folder)]
    command += ["--final-epochs", "0", "--final-points", "1"]
    for option in ("short_steps", "validation_samples"):
        value = getattr(arguments, option)
        command += [f"--{option.replace('_', '-')}", str(value)] if value is not None else []
    print(f"{controller}, seed {seed}", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


def read_search(folder: Path, controller: str, seed: int) -> Search:
    """The trials of a search that were trained; those that were stopped have what they would reach at best."""
    run = Run.open(folder)
    study: Any = optuna.load_study(study_name=run.study, storage=open_storage(folder, None))
    trials = [trial for trial in study.get_trials(deepcopy=False) if state_of(trial) in TELLING]
    trials.sort(key=lambda trial: trial.datetime_complete)
    began = datetime.fromisoformat(load_report_data(run.path / REPORT_DATA).started)
    return Search(
        controller,
        seed,
        tuple(run.front["objectives"]),
        tuple(
            Trial(
                tuple(int(index) for index in trial.params.values()),
                {name: metric["value"] for name, metric in result_of(trial)["metrics"].items()},
                (trial.datetime_complete.astimezone(UTC) - began).total_seconds(),
            )
            for trial in trials
        ),
    )


@dataclass(frozen=True)
class _Told:
    """A job that is done: a trial with recorded results."""

    record: Record

    def __call__(self, shared: Shared, progress: Progress) -> Record:
        return self.record


class Replay(InProcess):
    """An executor that trains nothing: a trial has the results of the recorded one whose plan is nearest."""

    def __init__(self, shared: Shared, pool: Sequence[Trial]) -> None:
        """Takes what jobs need that are not trials, and the recorded trials."""
        super().__init__(shared)
        self._pool, self._spans = pool, np.maximum(1, np.array(shared.space.extreme_vector))
        self._plans = np.array([trial.vector for trial in pool], dtype=np.float64) / self._spans

    def start(self, key: str, job: Job) -> None:
        """Puts a job in line, a trial with what it will come to."""
        super().start(key, _Told(self._recorded(job)) if isinstance(job, TrialJob) else job)

    def nearest(self, vector: Vector) -> Trial:
        """The recorded trial whose plan differs least, each decision by the share of its options in between."""
        apart = np.abs(self._plans - np.array(vector) / self._spans).sum(axis=1)
        return self._pool[int(apart.argmin())]

    def _recorded(self, job: TrialJob) -> Record:
        values = self.nearest(job.vector).values
        metrics = {name: Metric.exact(value, UNITS[name]) for name, value in values.items()}
        return Record(job.number, job.label, job.vector, "complete", "short", metrics, {"train": 0.0})


def replay(wired: Wired, pool: Sequence[Trial], controller: str, budget: int) -> Search:
    """A search among recorded trials."""
    executor = Replay(Shared(wired.context, wired.space), pool)
    objectives = tuple(objective.name for objective in wired.objectives)
    dense = executor.nearest(wired.space.dense_vector)
    with TemporaryDirectory() as name:
        began = time.monotonic()
        study = Study(Path(name), wired.space, wired.objectives)
        driver = driver_of(wired, Path(name), Names(), Silent())
        metrics = {key: Metric.exact(value, UNITS[key]) for key, value in dense.values.items()}
        run_trials(driver.trials(study, metrics, executor), Budget(trials=budget))
        seconds = time.monotonic() - began
        done = [record for record in study.records() if record.state == "complete"]
    values = [{name: metric.value for name, metric in record.metrics.items()} for record in done]
    trials = (Trial(record.vector, told, seconds) for record, told in zip(done, values, strict=True))
    return Search(controller, wired.config.seed, objectives, tuple(trials))


def replayed(file: Path, arguments: argparse.Namespace) -> tuple[Mapping[str, Any], list[Search]]:
    """Searches of all controllers among the trials of a file."""
    about, recorded = controller_runs.load(file)
    pool = [trial for each in recorded for trial in each.trials]
    found = []
    for seed in arguments.seeds:
        for controller in arguments.controllers:
            print(f"{controller}, seed {seed}, replayed", file=sys.stderr, flush=True)
            named = {key: about.get(key) for key in ("task", "target", "space", "short_steps", "validation_samples")}
            wired = wire(SearchConfig(controller=controller, seed=seed, workers=1, **named))
            if wired.space.digest != about["space_digest"]:
                raise SystemExit(f"{file} is of another version of space {about['space']!r}; record it again")
            found.append(replay(wired, pool, controller, arguments.budget))
    return about, found


def searched(arguments: argparse.Namespace) -> tuple[Mapping[str, Any], list[Search]]:
    """Real searches of all controllers."""
    found = []
    # Seed by seed, so that what was done before an interruption compares all.
    for seed in arguments.seeds:
        for controller in arguments.controllers:
            folder = arguments.folder / f"{controller}-{seed}"
            search(folder, controller, seed, arguments)
            found.append(read_search(folder, controller, seed))
    named = {key: getattr(arguments, key) for key in ("task", "target", "space", "short_steps", "validation_samples")}
    digest = wire(SearchConfig(task=arguments.task, target=arguments.target, space=arguments.space)).space.digest
    return {**named, "space_digest": digest, "machine": cpu_model(), "versions": dict(versions())}, found


def main() -> None:
    """Searches, or replays, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="for the runs; complete ones in it are kept")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--target", default="jetson-nano")
    parser.add_argument("--space", default="joint")
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--short-steps", type=int, help="of a trial; a search's own by default")
    parser.add_argument("--validation-samples", type=int, help="that a trial is judged on; all by default")
    parser.add_argument("--controllers", nargs="+", default=list(CONTROLLERS), choices=list(CONTROLLERS))
    parser.add_argument("--save", type=Path, help="file for the trials")
    parser.add_argument("--load", type=Path, nargs="+", help="compare the trials of these files; search nothing")
    parser.add_argument("--replay", type=Path, help="search among the trials of this file; train nothing")
    parser.add_argument("--plot", type=Path, help="SVG file for the curves, costs linear")
    arguments = parser.parse_args()
    if arguments.load:
        about, found = read_files(arguments.load)
    elif arguments.replay:
        about, found = replayed(arguments.replay, arguments)
    elif arguments.folder:
        about, found = searched(arguments)
    else:
        parser.error("name a folder for the runs, or a file to --load or to --replay")
    for kind, *_ in KINDS:
        print(
            f"\nCosts {kind}: share of the union of all trials, median of seeds\n\n{controller_runs.table(found, kind)}"
        )
    seeds = ", ".join(str(seed) for seed in sorted({each.seed for each in found}))
    facts = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    print(f"\n{about['task']} on {about['target']}, seeds {seeds}; {about['machine']}; {facts}.")
    if arguments.save:
        controller_runs.save(arguments.save, about, found)
    if arguments.plot:
        title = f"{about['task']} on {about['target']}: hypervolume, median of seeds {seeds}"
        arguments.plot.write_text(controller_runs.curves_svg(found, "linear", title), encoding="utf-8")


def read_files(files: Sequence[Path]) -> tuple[Mapping[str, Any], list[Search]]:
    """The searches of several files of the same comparison."""
    read = [controller_runs.load(file) for file in files]
    about = read[0][0]
    for file, (other, _) in zip(files, read, strict=True):
        for key in ("task", "target", "space_digest", "short_steps", "validation_samples"):
            if other[key] != about[key]:
                raise SystemExit(f"{file} has {key} {other[key]!r}, {files[0]} {about[key]!r}: they do not compare")
    return about, [each for _, searches in read for each in searches]


if __name__ == "__main__":
    main()
