"""Compares controllers on one task: `python scripts/bench_controllers.py FOLDER --task digits --seeds 0 1 2`.

Every controller searches with every seed by `autocompress search`, in a folder of its own: the same space, the same
training of a trial, the same uniform plans first. A search that is complete is not run again, one that was interrupted
starts anew, so that its clock is true. Then the hypervolume of the trials is printed, by trials and by wall-clock, with
everything that a controller measures before it asks: that of accuracy lost and of costs as shares of the dense model's,
each linear and with the costs in logarithms, as shares of what the union of all trials of all searches reaches.
Prints the machine, versions and seeds.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from autocompress.core.metric import MAXIMISED
from autocompress.core.pareto import hypervolume
from autocompress.emit.report_data import load_report_data
from autocompress.run.environment import versions
from autocompress.run.folder import REPORT, REPORT_DATA, Run
from autocompress.run.study import open_storage
from autocompress.search.controllers import CONTROLLERS
from autocompress.targets.calibrate import cpu_model

AT = (5, 10, 15, 25, 50)
RIVALS = ("random", "tpe", "nsga2", "jitter", "tpe-seeded")
# Below the dense model's accuracy by more than this a plan counts for nothing, in its points.
WORST_POINTS = 10.0
Point = tuple[float, ...]


@dataclass(frozen=True)
class Search:
    """One finished search.

    Attributes:
        points: What its trials reached, in the order in which they ended: accuracy lost in points, then costs as
            shares of the dense model's.
        seconds: When each of them ended, from the start of the run: tables that are measured before count.
    """

    controller: str
    seed: int
    points: tuple[Point, ...]
    seconds: tuple[float, ...]

    @cached_property
    def curves(self) -> Mapping[str, list[float]]:
        """The hypervolume after every trial, by how costs count."""
        return {
            kind: [hypervolume(list(map(scaled, self.points[: n + 1])), one(self.points[0])) for n in range(len(self))]
            for kind, scaled, one in KINDS
        }

    def __len__(self) -> int:
        return len(self.points)


def linear(point: Point) -> Point:
    """Costs as they are."""
    return (point[0] / WORST_POINTS, *point[1:])


def logarithmic(point: Point) -> Point:
    """Costs so that a halving counts the same everywhere."""
    return (point[0] / WORST_POINTS, *(math.log(max(cost, 1e-4)) for cost in point[1:]))


def corner(value: float) -> Callable[[Point], Point]:
    """What a plan must be better than: the dense model's costs, and the worst accuracy."""
    return lambda point: (1.0, *(value for _ in point[1:]))


KINDS = (("linear", linear, corner(1.0)), ("logarithmic", logarithmic, corner(0.0)))


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
    """The trials of a search that were trained."""
    run = Run.open(folder)
    study: Any = optuna.load_study(study_name=run.study, storage=open_storage(folder, None))
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    trials.sort(key=lambda trial: trial.datetime_complete)
    names = run.front["objectives"]
    dense = next(trial for trial in trials if not any(trial.params.values()))
    # Of the split that trials are judged on, which is not that of the front.
    base = {name: dense.user_attrs["metrics"][name]["value"] for name in names}
    began = datetime.fromisoformat(load_report_data(run.path / REPORT_DATA).started)
    return Search(
        controller,
        seed,
        tuple(point_of(trial, names, base) for trial in trials),
        tuple((trial.datetime_complete.astimezone(UTC) - began).total_seconds() for trial in trials),
    )


def point_of(trial: FrozenTrial, names: Sequence[str], base: Mapping[str, float]) -> Point:
    """Accuracy lost in points, then costs as shares."""
    values = {name: trial.user_attrs["metrics"][name]["value"] for name in names}
    lost = [base[name] - values[name] for name in names if MAXIMISED.get(name, False)]
    return (*lost, *(values[name] / base[name] for name in names if not MAXIMISED.get(name, False)))


def table(searches: Sequence[Search], kind: str) -> None:
    """One line for each controller, medians over its seeds."""
    (_, scaled, one) = next(each for each in KINDS if each[0] == kind)
    union = hypervolume([scaled(point) for each in searches for point in each.points], one(searches[0].points[0]))
    grouped: dict[str, list[Search]] = {}
    for each in searches:
        grouped.setdefault(each.controller, []).append(each)
    ended = {name: float(np.median([each.curves[kind][-1] for each in group])) for name, group in grouped.items()}
    rivals = [name for name in RIVALS if name in ended]
    heads = [f"after {n}" for n in AT] + [f"trials to pass {name}" for name in rivals] + ["minutes"]
    print(f"\nCosts {kind}: share of the union of all trials, median of seeds\n")
    print(f"| controller | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for name, group in sorted(grouped.items(), key=lambda item: -ended[item[0]]):
        shares = [f"{np.median([at(each.curves[kind], n) for each in group]) / union:.3f}" for n in AT]
        passes = [passing([each.curves[kind] for each in group], ended[rival]) for rival in rivals]
        minutes = float(np.median([each.seconds[-1] for each in group])) / 60.0
        print(f"| {name} | {' | '.join(shares + passes)} | {minutes:.1f} |")


def at(curve: Sequence[float], trials: int) -> float:
    """A curve after so many trials, or after its last one."""
    return curve[min(trials, len(curve)) - 1]


def passing(curves: Sequence[Sequence[float]], wanted: float) -> str:
    """After how many trials the median of curves is above what another reached at its end."""
    for trials in range(1, max(map(len, curves)) + 1):
        if float(np.median([at(curve, trials) for curve in curves])) > wanted:
            return str(trials)
    return "never"


def main() -> None:
    """Searches and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the runs; complete ones in it are kept")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--target", default="jetson-nano")
    parser.add_argument("--space", default="joint")
    parser.add_argument("--budget", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--short-steps", type=int, help="of a trial; a search's own by default")
    parser.add_argument("--validation-samples", type=int, help="that a trial is judged on; all by default")
    parser.add_argument("--controllers", nargs="+", default=list(CONTROLLERS), choices=list(CONTROLLERS))
    arguments = parser.parse_args()
    found = []
    # Seed by seed, so that what was done before an interruption compares all.
    for seed in arguments.seeds:
        for controller in arguments.controllers:
            folder = arguments.folder / f"{controller}-{seed}"
            search(folder, controller, seed, arguments)
            found.append(read_search(folder, controller, seed))
    for kind, *_ in KINDS:
        table(found, kind)
    facts = ", ".join(f"{name} {value}" for name, value in versions().items())
    print(f"\nSeeds {', '.join(map(str, arguments.seeds))}; {cpu_model()}; {facts}.")


if __name__ == "__main__":
    main()
