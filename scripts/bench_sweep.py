"""What a long sweep costs beside its trials: `python scripts/bench_sweep.py --trials 1000 --seconds 1`.

The real loop, study and workers on a Ray of this machine; only the trials themselves are replaced by a pause of known
length and results at random. Prints trials a second, the time over the ideal, the driver's memory and how long the
journal is, with the machine, versions and seed. `--address` joins a cluster instead. With `--virtual` there are no
workers at all, and any number of them: the time of trials is counted and not spent, that of the driver is its own, so
that it is seen when one driver is too slow for them.

    python scripts/bench_sweep.py --trials 1000 --seconds 1       # how far from the ideal time
    python scripts/bench_sweep.py --trials 1000 --seconds 0.1     # trials a second
    python scripts/bench_sweep.py --trials 10000 --seconds 0      # the memory of the driver
    python scripts/bench_sweep.py --trials 10000 --seconds 60 --workers 200 --virtual
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from autocompress.core.constraint import Budget
from autocompress.core.metric import Metric
from autocompress.core.space import Space, Vector
from autocompress.proxy.context import Context
from autocompress.run.environment import versions
from autocompress.run.executors import Done, Executor, Shown, Workers, make_executor
from autocompress.run.jobs import Job, Progress, Shared, TrialJob
from autocompress.run.journal import JOURNAL
from autocompress.run.progress import Silent
from autocompress.run.reach import dense_cost
from autocompress.run.settings import SearchConfig
from autocompress.run.study import Study
from autocompress.run.trials import Trials, run_trials
from autocompress.search.controllers import make_controller
from autocompress.search.record import Objective, Record
from autocompress.targets.calibrate import cpu_model
from autocompress.wired import wire

SEED = 0
OBJECTIVES = (Objective("accuracy", True), Objective("size_bytes", False), Objective("latency_ms", False))
MARKS = 10


@dataclass(frozen=True)
class PauseJob:
    """A trial that does nothing for a while; its results follow from its plan."""

    job: TrialJob
    seconds: float

    def __call__(self, shared: Shared | None, progress: Progress) -> Record:
        """Pauses."""
        time.sleep(self.seconds)
        strength = float(np.mean(self.job.vector))
        values = {
            "accuracy": (90.0 - strength**2, "percent"),
            "size_bytes": (1e6 / (1.0 + strength), "bytes"),
            "latency_ms": (10.0 / (1.0 + strength), "ms"),
        }
        metrics = {name: Metric.exact(value, unit, "table") for name, (value, unit) in values.items()}
        taken = {"train": self.seconds}
        return Record(self.job.number, self.job.label, self.job.vector, "complete", "short", metrics, taken)


@dataclass
class Pausing:
    """An executor whose trials pause."""

    inner: Executor
    seconds: float

    @property
    def workers(self) -> int:
        """As the inner one's."""
        return self.inner.workers

    @property
    def busy(self) -> int:
        """As the inner one's."""
        return self.inner.busy

    def start(self, key: str, job: Job) -> None:
        """Starts a pause in place of the trial."""
        assert isinstance(job, TrialJob)
        self.inner.start(key, PauseJob(job, self.seconds))

    def next(self, shown: Shown | None = None) -> Done:
        """As the inner one's."""
        return self.inner.next(shown)

    def stop(self) -> None:
        """As the inner one's."""
        self.inner.stop()


@dataclass
class Virtual:
    """Workers on a clock of their own, which what the driver really takes moves on, and waiting for a trial too.

    Attributes:
        now: Seconds since the beginning, on that clock.
    """

    workers: int
    seconds: float
    now: float = 0.0
    _since: float = field(default_factory=time.perf_counter)
    _ends: list[tuple[float, int, str, PauseJob]] = field(default_factory=list)
    _count: Iterator[int] = field(default_factory=itertools.count)

    @property
    def busy(self) -> int:
        """How many trials are under way."""
        return len(self._ends)

    def start(self, key: str, job: Job) -> None:
        """A worker is given a trial."""
        assert isinstance(job, TrialJob)
        self._move()
        heapq.heappush(self._ends, (self.now + self.seconds, next(self._count), key, PauseJob(job, 0.0)))

    def next(self, shown: Shown | None = None) -> Done:
        """The trial that ends first."""
        self._move()
        end, _, key, job = heapq.heappop(self._ends)
        self.now = max(self.now, end)
        record = job(None, lambda done, total: None)
        self._since = time.perf_counter()
        return Done(key, replace(record, seconds={"train": self.seconds}))

    def stop(self) -> None:
        """Nothing to stop."""

    def _move(self) -> None:
        now = time.perf_counter()
        self.now, self._since = self.now + now - self._since, now


class NoPlans:
    """The controller alone asks."""

    def prepare(self, known: Sequence[Record], count: int) -> None:
        """Nothing to prepare."""

    def pick(self, known: Sequence[Record], pending: object) -> tuple[str, Vector] | None:
        """No plan."""
        return None


@dataclass
class Watched(Silent):
    """Remembers when trials ended, and the memory of this process then."""

    trials: int
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def trial(self, record: Record, done: int, budget: Budget, seconds: float) -> None:
        """Keeps it."""
        self.seconds.append(time.perf_counter())
        if done % max(1, self.trials // MARKS) == 0 or done == 100:
            self.megabytes.append(resident_mb())


def resident_mb() -> float:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def swept(context: Context, space: Space, args: argparse.Namespace, folder: Path) -> tuple[Watched, float, float]:
    """Runs the trials; returns when each ended, when the first one began, and the seconds in all."""
    watched = Watched(args.trials)
    shared = Shared(context, space)
    executor: Pausing | Virtual
    if args.virtual:
        executor = Virtual(args.workers, args.seconds)
    else:
        executor = Pausing(make_executor(shared, Workers(args.workers, 1, True, args.address)), args.seconds)
    trials = Trials(
        study=Study(folder, space, OBJECTIVES),
        space=space,
        controller=make_controller(args.controller, space, OBJECTIVES, SEED),
        executor=executor,
        constraints=(),
        baselines=(("dense", space.dense_vector),),
        planner=NoPlans(),
        waves=(),
        dense={"accuracy": Metric.exact(90.0, "percent"), **dense_cost(context)},
        checkpoints=folder / "checkpoints",
        listener=watched,
    )
    try:
        # Workers take seconds to start, once; that is not what a sweep costs for each trial.
        if isinstance(executor, Pausing):
            start_all(executor.inner)
        began = time.perf_counter()
        assert run_trials(trials, Budget(trials=args.trials))
    finally:
        executor.stop()
    taken = executor.now if isinstance(executor, Virtual) else watched.seconds[-1] - began
    return watched, began, taken


@dataclass(frozen=True)
class Nothing:
    """A job that only shows that its worker is there."""

    def __call__(self, shared: Shared, progress: Progress) -> None:
        """Takes long enough that every worker gets one."""
        time.sleep(2.0)


def start_all(executor: Executor) -> None:
    """Waits until every worker has done something."""
    for number in range(executor.workers):
        executor.start(f"start {number}", Nothing())
    for _ in range(executor.workers):
        executor.next()


def main() -> None:
    """Runs one sweep and prints a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a trial takes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--controller", default="random")
    parser.add_argument("--virtual", action="store_true", help="the time of trials is counted, not spent")
    parser.add_argument("--address", help="of a Ray cluster; one of this machine's own without")
    args = parser.parse_args()
    torch.set_num_threads(1)
    wired = wire(SearchConfig(task="digits", target="jetson-nano", space="joint"))
    with TemporaryDirectory() as name:
        watched, began, taken = swept(wired.context, wired.space, args, Path(name))
        journal_mb = (Path(name) / JOURNAL).stat().st_size / 1e6
    ideal = args.trials * args.seconds / args.workers
    over = f"{100 * (taken / ideal - 1):.1f} %" if ideal else ""
    memory = f"{watched.megabytes[0]:.0f} to {watched.megabytes[-1]:.0f} MB"
    print(
        "| controller | trials | of | workers | took | over the ideal | trials a second | driver's memory | journal |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {args.controller} | {args.trials} | {args.seconds:g} s | {args.workers} | {taken:.1f} s | {over} "
        f"| {args.trials / taken:.1f} | {memory} | {journal_mb:.1f} MB |"
    )
    half, end = (watched.seconds[place] - began for place in (len(watched.seconds) // 2 - 1, -1))
    print(
        f"\nHere the first half took {half:.1f} s, the second {end - half:.1f} s. {cpu_model()}, seed {SEED}; ", end=""
    )
    print(", ".join(f"{name} {value}" for name, value in versions().items()) + ".")


if __name__ == "__main__":
    main()
