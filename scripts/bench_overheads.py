"""What controllers and the study take of a long run: `python scripts/bench_overheads.py`.

A made-up space of 150 decisions and 2,000 finished trials at random, in a journal as a run keeps it: the time of the
next ask and tell, of opening the run again with a first ask, and of an additive front. The planner's effects are made
up as well, so that its time is what it takes beside measuring. Prints the machine, versions and seed. Controllers that
measure plans untrained are left out: their asks do not depend on the trials.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from autocompress.core.decision import Decision, Option
from autocompress.core.metric import Metric
from autocompress.core.plan import Prune, Quantize
from autocompress.core.space import Space, Vector
from autocompress.proxy.sensitivity import COSTS, Effect, Effects, Meter
from autocompress.run.drive import WAVES
from autocompress.run.environment import versions
from autocompress.run.study import Study
from autocompress.search.additive import BUCKETS, additive_front
from autocompress.search.controllers import CONTROLLERS, PLANNED, WITH_TABLES, make_controller, no_tables
from autocompress.search.planned import Planner
from autocompress.search.record import Objective, Record
from autocompress.search.stopping import telling_of
from autocompress.targets.calibrate import cpu_model

SEED = 0
REPEATS = 5
OBJECTIVES = (Objective("accuracy", True), Objective("size_bytes", False), Objective("latency_ms", False))


def space_of(decisions: int) -> Space:
    """Half of the decisions cut channels, half round weights."""
    cuts: tuple[Option, ...] = (None, *(Prune(share) for share in (0.125, 0.25, 0.375, 0.5, 0.75)))
    bits: tuple[Option, ...] = (None, *(Quantize(w_bits, 8) for w_bits in (8, 6, 5, 4, 3)))
    kinds = (("prune", cuts), ("quantize", bits))
    found = (Decision(kind, f"layer{n // 2}", options) for n in range(decisions) for kind, options in (kinds[n % 2],))
    return Space("made up", tuple(found))


def finished(space: Space, number: int, rng: np.random.Generator) -> Record:
    """A trial whose accuracy falls with what is saved."""
    vector = space.random(rng)
    strength = np.mean([one / end for one, end in zip(vector, space.extreme_vector, strict=True)])
    values = {
        "accuracy": (90.0 - 40.0 * strength**2 + rng.normal(), "%"),
        "size_bytes": (1e6 * (1.2 - strength), "bytes"),
        "latency_ms": (10.0 * (1.5 - strength) + rng.normal() * 0.1, "ms"),
        "macs": (1e8 * (1.3 - strength), "macs"),
        "peak_memory_bytes": (1e5, "bytes"),
    }
    metrics = {name: Metric.exact(float(value), unit, "table") for name, (value, unit) in values.items()}
    return Record(number, "search", vector, "complete", "short", metrics, {"train": 1.0})


def filled(folder: Path, space: Space, trials: int) -> Study:
    """A study with so many finished trials."""
    study, rng = Study(folder, space, OBJECTIVES), np.random.default_rng(SEED)
    for _ in range(trials):
        add(study, space, rng)
    return study


class MadeUp(Meter):
    """Measures plans of the made-up space: what options lose and save adds up."""

    def __init__(self, space: Space) -> None:
        """Draws what every option does."""
        rng = np.random.default_rng(SEED)
        self.space = space
        self._losses = [np.sort(rng.uniform(0.0, 0.02, len(decision.options))) for decision in space.decisions]
        self._saved = [np.sort(rng.uniform(0.0, 0.9, len(decision.options))) for decision in space.decisions]

    @property
    def digest(self) -> str:
        """Of the only one there is."""
        return "made up"

    @property
    def chance(self) -> float:
        """That of ten classes."""
        return 2.3

    def measured(self, vector: Vector) -> Effect:
        """Sums."""
        return Effect(sum(losses[one] for losses, one in zip(self._losses, vector, strict=True)), self.costs(vector))

    def costs(self, vector: Vector) -> dict[str, float]:
        """All of them the same share of the dense model's."""
        saved = [float(shares[one]) if one else 0.0 for shares, one in zip(self._saved, vector, strict=True)]
        return dict.fromkeys(COSTS, 1e6 * (1.0 - sum(saved) / len(saved)))

    def structure_costs(self, vector: Vector) -> dict[str, float]:
        """The same."""
        return self.costs(vector)


def planned_ms(study: Study, space: Space, folder: Path) -> tuple[float, list[float]]:
    """The milliseconds of a wave put together after all trials, and of picks from it."""
    effects, known = Effects(MadeUp(space), folder / "effects.jsonl"), study.records()
    effects.of([record.vector for record in known])
    dense = {"accuracy": Metric.exact(90.0, "percent")}
    planner = Planner(effects, effects.of_options(), (), OBJECTIVES, 5_000, dense)
    wave = taken_ms(lambda: planner.prepare(known, WAVES[-1]))
    return wave, [taken_ms(lambda: planner.pick(known, ())) for _ in range(REPEATS)]


def add(study: Study, space: Space, rng: np.random.Generator) -> float:
    """One more trial; returns the milliseconds that telling it took."""
    record = finished(space, 0, rng)
    number = study.start(record.vector, record.label)
    start = time.perf_counter()
    study.finish(Record(number, *list(vars(record).values())[1:]))
    return (time.perf_counter() - start) * 1e3


def taken_ms(work: Callable[[], object]) -> float:
    """The time of one piece of work."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def front_s(groups: int, options: int) -> float:
    """The seconds of the whole additive front of so many groups and options."""
    rng = np.random.default_rng(SEED)
    losses, savings = rng.uniform(size=(2, groups, options))
    return taken_ms(lambda: additive_front(losses.tolist(), savings.tolist())) * 1e-3


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=150)
    parser.add_argument("--trials", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = space_of(arguments.decisions)
    rng = np.random.default_rng(SEED + 1)
    with TemporaryDirectory() as name:
        study = filled(Path(name), space, arguments.trials)
        told = [add(study, space, rng) for _ in range(REPEATS)]
        read = [taken_ms(study.records) for _ in range(REPEATS)]
        opened = [taken_ms(lambda: Study(Path(name), space, OBJECTIVES).records()) for _ in range(3)]
        print(f"{arguments.decisions} decisions, {arguments.trials} finished trials, medians\n")
        print("| what | ms |\n|---|---|")
        print(f"| tell | {np.median(told):.1f} |")
        print(f"| read all trials, again | {np.median(read):.1f} |")
        judged = [taken_ms(lambda: telling_of(study.records(), OBJECTIVES)) for _ in range(REPEATS)]
        print(f"| choose the trials by which one is stopped | {np.median(judged):.1f} |")
        print(f"| open the run and read all trials | {np.median(opened):.0f} |")
        seconds = front_s(150, 150)
        print(f"| the additive front of 150 groups of 150 options | {seconds * 1e3:.0f} |")
        wave, picks = planned_ms(study, space, Path(name))
        print(f"| a wave of the planner put together, without measuring | {wave:.0f} |")
        print(f"| a pick of the planner | {np.median(picks):.0f} |")
        print(f"\nThe front adds up {150 * 150 * BUCKETS / seconds * 1e-6:.0f} million choices a second.")
        print("\n| controller | first ask after opening, ms | ask, ms |\n|---|---|---|")
        for controller in (each for each in CONTROLLERS if each not in (*WITH_TABLES, PLANNED)):
            asks = asked(study, space, controller, rng)
            print(f"| {controller} | {asks[0]:.0f} | {np.median(asks[1:]):.0f} |", flush=True)
    print(f"\nSeed {SEED}; {cpu_model()}; {', '.join(f'{name} {value}' for name, value in versions().items())}.")


def asked(study: Study, space: Space, name: str, rng: np.random.Generator) -> list[float]:
    """The times of some asks, each after one more trial."""
    controller = make_controller(name, space, OBJECTIVES, SEED, no_tables)
    asks = []
    for _ in range(1 + REPEATS):
        asks.append(taken_ms(partial(controller.ask, study.records())))
        add(study, space, rng)
    return asks


if __name__ == "__main__":
    main()
