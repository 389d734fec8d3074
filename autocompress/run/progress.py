"""Listeners: nothing, or a live picture of the search on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from autocompress.core.constraint import Budget
from autocompress.search.record import Objective, Record, front_of

_SHOWN = 8


class Silent:
    """Shows nothing."""

    def begin(self, objectives: Sequence[Objective], records: Sequence[Record]) -> None:
        """A search begins or goes on."""

    def trial(self, record: Record, done: int, budget: Budget, seconds: float) -> None:
        """A trial ended."""

    def step(self, text: str, done: int, total: int) -> None:
        """Part of a longer piece of work is done."""

    def say(self, text: str) -> None:
        """A phase begins."""


class Terminal:
    """Trials done, best points and the time left; plain lines where the output is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        """Shows everything on `console`, by default the standard error."""
        self._objectives: tuple[Objective, ...] = ()
        self._console = console or Console(stderr=True)
        self._records: list[Record] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[left]}"),
        )
        self._trials = self._progress.add_task("trials", total=1, left="")
        self._work: dict[str, TaskID] = {}
        self._live = Live(self._picture(), console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Terminal:
        """Starts drawing."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops drawing."""
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, objectives: Sequence[Objective], records: Sequence[Record]) -> None:
        """A search begins or goes on; its trials so far count among the best points."""
        self._objectives = tuple(objectives)
        self._records = list(records)

    def say(self, text: str) -> None:
        """A phase begins."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def trial(self, record: Record, done: int, budget: Budget, seconds: float) -> None:
        """A trial ended."""
        self._records.append(record)
        total = budget.trials or max(1, done)
        left = _left(done, budget, seconds)
        self._progress.update(self._trials, completed=done, total=total, left=left)
        self.step(f"trial {record.number}", 1, 1)
        if self._console.is_terminal:
            self._live.update(self._picture())
        else:
            line = f"trial {record.number:>3} {record.label}: {_told(record)} {left}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def step(self, text: str, done: int, total: int) -> None:
        """Part of a longer piece of work is done; the last one ends it."""
        if done >= total:
            if text in self._work:
                self._progress.remove_task(self._work.pop(text))
            return
        if text not in self._work:
            self._work[text] = self._progress.add_task(text, total=total, left="")
        self._progress.update(self._work[text], completed=done, total=total)

    def _picture(self) -> Group:
        if not self._objectives:
            return Group(self._progress)
        table = Table(title="best points so far", title_justify="left")
        for name in ("trial", "", *(objective.name for objective in self._objectives)):
            table.add_column(name, justify="left" if not name else "right")
        front = front_of(self._records, self._objectives, "short")
        front = sorted(front, key=lambda r: self._objectives[0].loss(r.metrics))
        for record in front[:_SHOWN]:
            values = [f"{record.metrics[o.name].value:,.4g}" for o in self._objectives]
            table.add_row(str(record.number), record.label, *values)
        return Group(self._progress, table)


def _left(done: int, budget: Budget, seconds: float) -> str:
    if budget.seconds is not None:
        return f"{max(0.0, budget.seconds - seconds) / 60:.0f} min left"
    if not done or budget.trials is None:
        return ""
    minutes = seconds / done * max(0, budget.trials - done) / 60
    return f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"


def _told(record: Record) -> str:
    if record.state != "complete":
        return f"{record.state}: {record.error}"
    return ", ".join(f"{name} {metric.value:,.4g}" for name, metric in record.metrics.items() if name != "params")
