"""Kills whatever a search consists of, again and again, and looks whether anything is lost: `python scripts/drill.py`.

A real search with workers on a Ray of its own, its study in the journal or at `--storage`. At random moments the
driver, a worker, Ray's head (`gcs_server`) or its node (`raylet`) is ended by SIGKILL; a driver that is gone is started
again by `autocompress resume`, as a user would. In the end: finished trials that were lost or changed, plans that
finished twice, trials and processes without an owner, and whether every plan gives the same numbers in one
undisturbed process. Exit code 1 if anything of that is not as it should be.

    python scripts/drill.py --kills 100
    python scripts/drill.py --storage postgresql://me@host/db --victims driver storage --restart 'pg_ctl -D db restart'
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from autocompress.errors import AutoCompressError, RunError
from autocompress.run.environment import versions
from autocompress.run.executors import InProcess
from autocompress.run.folder import Run
from autocompress.run.jobs import Shared, TrialJob
from autocompress.run.reach import dense_cost
from autocompress.run.report_input import work_seconds
from autocompress.run.settings import read_config
from autocompress.run.study import Study
from autocompress.search.record import Record, front_of
from autocompress.targets.calibrate import cpu_model
from autocompress.wired import Wired, wire

RULES = """
name: drill
rules:
  - {op: prune, sparsity: [0.125, 0.25, 0.375, 0.5, 0.625]}
  - {op: quantize, w_bits: [8, 7, 6, 5, 4, 3]}
"""
VICTIMS = ("driver", "worker", "gcs_server", "raylet")
STARTED_S = 180.0


@dataclass(frozen=True)
class Kill:
    """One kill, and what it cost.

    Attributes:
        seconds: Until the next trial ended.
        lost: The same without what that trial itself worked.
    """

    victim: str
    seconds: float
    lost: float


@dataclass
class Drill:
    """One search that is disturbed."""

    folder: Path
    search: Sequence[str]
    rng: random.Random
    pause: float = 12.0
    driver: subprocess.Popen[bytes] | None = None
    kills: list[Kill] = field(default_factory=list)
    finished: dict[int, Record] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @cached_property
    def wired(self) -> Wired:
        """The task, the target and the space."""
        return wire(read_config(Run.open(self.run)))

    @cached_property
    def watched(self) -> Study:
        """The study, kept open: what it has told once it need not be asked again."""
        return self.opened()

    def opened(self) -> Study:
        """The study as another process finds it now."""
        run = Run.open(self.run)
        return Study(self.run, self.wired.space, self.wired.objectives, run.storage, run.study)

    def records(self) -> list[Record]:
        """What the study holds now, as another process reads it."""
        study = self.opened()
        try:
            return study.records()
        finally:
            study.close()

    def has_more(self) -> bool:
        """Whether a trial has ended since the last look; asked often, so it takes little from those who work."""
        return any(
            record.state != "running" and record.number not in self.finished for record in self.watched.records()
        )

    def look(self) -> int:
        """Compares the finished trials with those that were seen before; returns how many there are."""
        found = {record.number: record for record in self.records() if record.state != "running"}
        for number, record in self.finished.items():
            if found.get(number) != record:
                self.wrong.append(f"trial {number} had ended, and is now {found.get(number)}")
        self.finished = found
        return len(found)

    def start(self, *more: str) -> None:
        """Starts a driver, in a session of its own: `search` if there is no run yet, else `resume`."""
        begun = (self.run / "run.yaml").is_file()
        words = ["resume", str(self.run), *more] if begun else [*self.search, "--output", str(self.run)]
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "autocompress", *words], stdout=log, stderr=log, start_new_session=True
            )

    def go_on(self) -> None:
        """Starts a driver where there is none.

        Raises:
            RunError: the last one had nothing left to do: every plan of the space was tried.
        """
        if self.is_running():
            return
        if self.driver is not None and self.driver.returncode == 0:
            raise RunError(f"the search ended after {len(self.kills)} kills; take a larger task, or fewer of them")
        self.start()

    def is_running(self) -> bool:
        """Whether there is a driver that has not ended."""
        return self.driver is not None and self.driver.poll() is None

    def processes(self, victim: str) -> list[int]:
        """The processes of the present driver that a victim's name stands for."""
        assert self.driver is not None
        if victim == "driver":
            return [self.driver.pid]
        name = "ray::Worker" if victim == "worker" else f"/{victim} "
        return [process for process, args in self.session() if name in f"{args} "]

    def session(self) -> list[tuple[int, str]]:
        """Every process of the present driver, itself too, with how it was started."""
        assert self.driver is not None
        listed = subprocess.run(["ps", "-wweo", "pid=,sid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()]
        return [(int(process), args) for process, session, args in rows if session == str(self.driver.pid)]

    def kill(self, victim: str) -> bool:
        """Kills one of them; False if there is none now."""
        found = self.processes(victim)
        if found:
            os.kill(self.rng.choice(found), signal.SIGKILL)
        return bool(found)


def wait(until: Callable[[], bool], seconds: float, every: float = 0.3) -> bool:
    """Waits for something; False if it does not come in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if until():
            return True
        time.sleep(every)
    return False


def disturbed(drill: Drill, victims: Sequence[str], restart: str | None, after: int) -> None:
    """Runs the search through the kills of all victims, one after another, and a few trials beyond."""
    drill.start()
    if not wait(lambda: (drill.run / "run.yaml").is_file(), STARTED_S):
        raise RunError("the search did not start")
    while len(drill.kills) < len(victims):
        # Some kills come while a driver starts, most while trials run.
        wait(lambda: not drill.is_running(), drill.rng.uniform(0.0, drill.pause))
        victim = victims[len(drill.kills)]
        if not drill.is_running():
            drill.go_on()
        elif victim == "storage" and restart is not None:
            subprocess.run(shlex.split(restart), check=True, stdout=subprocess.DEVNULL)
            recovered(drill, victim)
        elif drill.kill(victim):
            recovered(drill, victim)
    assert drill.driver is not None
    drill.driver.kill()
    drill.driver.wait()
    drill.start("--budget", str(drill.look() + after))
    if drill.driver.wait() != 0:
        raise RunError(f"the last driver ended with exit code {drill.driver.returncode}")


def recovered(drill: Drill, victim: str) -> None:
    """Waits for the next trial that ends; starts a driver as often as it takes."""
    start = time.monotonic()
    drill.look()
    before = set(drill.finished)
    while not drill.has_more():
        drill.go_on()
        if time.monotonic() - start > STARTED_S:
            raise RunError(f"no trial ended in {STARTED_S:.0f} s after kill {len(drill.kills) + 1}, of {victim}")
        time.sleep(0.3)
    seconds = time.monotonic() - start
    drill.look()
    first = min((drill.finished[number] for number in set(drill.finished) - before), key=work_seconds)
    kill = Kill(victim, seconds, max(0.0, seconds - work_seconds(first)))
    drill.kills.append(kill)
    print(f"{len(drill.kills):4d} {victim:10s} {len(drill.finished)} trials; {kill.seconds:.1f} s", flush=True)


def checked(drill: Drill) -> dict[str, int | bool]:
    """What is wrong in the end."""
    drill.look()
    records = drill.records()
    complete = [record for record in records if record.state in ("complete", "stopped")]
    twice = [vector for vector, count in Counter(record.vector for record in complete).items() if count > 1]
    wired = drill.wired
    shared = Shared(wired.context, wired.space)
    here = InProcess(shared)
    dense = {"accuracy": complete[0].metrics["accuracy"], **dense_cost(wired.context)}
    again, differ = [], 0
    for record in complete:
        if record.state == "stopped":
            continue
        path = drill.folder / "again.safetensors"
        here.start("again", TrialJob(record.number, record.vector, record.label, (), dense, path))
        repeated: Record = here.next().result
        again.append(repeated)
        differ += repeated.metrics != record.metrics
    fronts = [
        [(record.number, record.vector) for record in front_of(some, wired.objectives, "short")]
        for some in ([record for record in complete if record.state == "complete"], again)
    ]
    return {
        "finished trials lost or changed": len(drill.wrong),
        "plans that finished twice": len(twice),
        "trials without an owner": sum(record.state == "running" for record in records),
        "failed trials": sum(record.state == "failed" for record in records),
        "processes left": sum("Agent" not in args for _, args in drill.session()),
        "plans with other numbers in one process": differ,
        "front as in one process": fronts[0] == fronts[1],
    }


def main() -> int:
    """Runs the drill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--after", type=int, default=10, help="trials that follow the last kill")
    parser.add_argument("--pause", type=float, default=12.0, help="seconds between two kills at most")
    parser.add_argument("--short-steps", type=int, default=10)
    parser.add_argument("--victims", nargs="+", choices=[*VICTIMS, "storage"], default=list(VICTIMS))
    parser.add_argument("--in-turn", action="store_true", help="the victims one after another, not at random")
    parser.add_argument("--storage", help="URL of the study; the journal without")
    parser.add_argument("--restart", help="command that restarts the storage, for the victim of that name")
    args = parser.parse_args()
    began = time.monotonic()
    with TemporaryDirectory(prefix="drill-") as name:
        folder = Path(name)
        (folder / "space.yaml").write_text(RULES, encoding="utf-8")
        search = ["search", "--task", args.task, "--space", str(folder / "space.yaml"), "--workers", "2"]
        search += ["--controller", "random", "--short-steps", str(args.short_steps), "--final-epochs", "0"]
        search += ["--final-points", "2", "--seed", str(args.seed), "--budget", "100000"]
        search += ["--storage", args.storage] if args.storage else []
        rng = random.Random(args.seed)
        turns = [args.victims[place % len(args.victims)] for place in range(args.kills)]
        victims = turns if args.in_turn else rng.choices(args.victims, k=args.kills)
        drill = Drill(folder, search, rng, args.pause)
        try:
            disturbed(drill, victims, args.restart, args.after)
            found = checked(drill)
        except AutoCompressError as error:
            print((folder / "driver.log").read_text(encoding="utf-8", errors="replace")[-3000:])
            raise SystemExit(str(error)) from error
        finally:
            if drill.is_running():
                assert drill.driver is not None
                os.killpg(drill.driver.pid, signal.SIGKILL)
    counts = Counter(kill.victim for kill in drill.kills)
    print(
        f"\n{len(drill.kills)} kills ({', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}), ",
        end="",
    )
    print(f"{len(drill.finished)} trials, {time.monotonic() - began:.0f} s")
    print("| what | found |\n|---|---|")
    for what, value in found.items():
        print(f"| {what} | {value} |")
    for victim in sorted(counts):
        for what, values in (
            ("to the end of the next trial", [kill.seconds for kill in drill.kills if kill.victim == victim]),
            ("lost beside that trial's own work", [kill.lost for kill in drill.kills if kill.victim == victim]),
        ):
            print(f"| s from a kill of {victim} {what}: median, most | {median(values):.1f}, {max(values):.1f} |")
    for line in drill.wrong[:5]:
        print(line)
    print(f"\n{cpu_model()}, seed {args.seed}; {', '.join(f'{name} {value}' for name, value in versions().items())}.")
    bad = [value for what, value in found.items() if what != "front as in one process" and value]
    return 1 if bad or not found["front as in one process"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
