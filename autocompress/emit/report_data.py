"""Everything a report shows, as plain data that is stored beside it: `report.json`."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from autocompress.core.explanation import Explanation
from autocompress.core.files import write_whole
from autocompress.core.metric import MAXIMISED, Metric
from autocompress.core.target import LatencyEstimate, Profile
from autocompress.errors import InputError, nearest

FORMAT = "autocompress-report"
VERSION = 1
TRIAL_STATES = ("complete", "stopped", "infeasible", "failed")


@dataclass(frozen=True)
class TaskInfo:
    """What was compressed and how its quality is measured.

    Attributes:
        metric: Name of the quality metric as shown, e.g. `accuracy` or `IoU`.
        unit: Its unit, e.g. `percent`.
        splits: One sentence per data split: what it is and what it was used for.
    """

    name: str
    metric: str
    unit: str
    higher_is_better: bool
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerRow:
    """What was done to one layer.

    Attributes:
        channels_after: Output channels that are left; 0 for a layer that was dropped.
        macs_before: Multiply-accumulates in the dense model.
        w_bits: Bits of a stored weight, or None where the layer is not quantized.
        a_bits: Bits of an activation, or None where it is not quantized.
        sparsity: Share of single weights that are zero.
        rank: The ranks kept, e.g. `16 of 64`; empty where the layer is not factorised.
        bytes: What its weights take in the file.
        what: The ops in words.
    """

    layer: str
    op: str
    channels_before: int
    channels_after: int
    macs_before: int
    macs_after: int
    w_bits: int | None
    a_bits: int | None
    sparsity: float
    rank: str
    bytes: int
    latency_ms: float | None
    what: str


@dataclass(frozen=True)
class PointRow:
    """One artifact, or one baseline.

    Attributes:
        id: Name of its folder under `artifacts/`; `dense` for the model that everything is compared with.
        trial: The trial it came from, or None for a baseline.
        student: The architecture choices in words; empty where there are none.
        files: Size of every file, bytes.
        agreement: How far the exported file agrees with the PyTorch model, or None where it was not checked.
        reason: Why it is left off the front although it was made: verification failed, or a constraint is broken.
        why: What each choice of its plan does; None where the options were not measured alone.
    """

    id: str
    trial: int | None
    label: str
    fidelity: str
    metrics: Mapping[str, Metric]
    layers: tuple[LayerRow, ...] = ()
    student: str = ""
    files: Mapping[str, int] = field(default_factory=dict)
    agreement: Mapping[str, float] | None = None
    reason: str | None = None
    why: Explanation | None = None


@dataclass(frozen=True)
class TrialRow:
    """One trial: `complete`, `stopped` (half way, since others beat it), `infeasible` (the tables refused it, it was
    never trained) or `failed`.

    Attributes:
        error: Why it is not complete, or None.
        on_front: True if no other trial at its fidelity dominates it.
    """

    number: int
    label: str
    state: str
    fidelity: str
    metrics: Mapping[str, Metric]
    seconds: float
    error: str | None = None
    on_front: bool = False

    def __post_init__(self) -> None:
        if self.state not in TRIAL_STATES:
            raise InputError(f"trial {self.number}: state is {self.state!r}; {nearest(self.state, TRIAL_STATES)}")


@dataclass(frozen=True)
class WorkInfo:
    """Where the time of a search went.

    Attributes:
        workers: That worked side by side.
        busy_share: Of their time during the last stretch of trials, what they spent on trials; None without any.
        seconds: By phase, of all trials together; `wait` is what passed before or after a trial's own work.
    """

    workers: int
    busy_share: float | None
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class ReportData:
    """A finished run, complete enough to draw its report again without the models.

    Attributes:
        command: What to type to run it again.
        precision: What unquantized layers run in on the target.
        started: When the run began, ISO 8601.
        wall_seconds: Of the run, or of its last stretch if it was resumed.
        space: Name of the search space.
        decisions: How many decisions the space has.
        plans: How many plans it holds.
        baselines: The dense model (id `dense`, else the first) and uniformly compressed ones.
        points: The final front: artifacts that were verified.
        failed: Artifacts that did not pass verification.
        untouched: `(layer or group, why it was left alone)`.
        latency: The estimate behind each point's latency by id; None where it was measured.
        fidelity_correlations: Rank correlation between two fidelities, e.g. `{"untrained to short": 0.7}`.
        resumed: When its last stretch began, if that was not the first.
        work: Where the time went; None in a report of an older version.
    """

    title: str
    command: str
    task: TaskInfo
    target: Profile
    precision: str
    seed: int
    versions: Mapping[str, str]
    started: str
    wall_seconds: float
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    space: str
    decisions: int
    plans: int
    baselines: tuple[PointRow, ...] = ()
    points: tuple[PointRow, ...] = ()
    failed: tuple[PointRow, ...] = ()
    trials: tuple[TrialRow, ...] = ()
    untouched: tuple[tuple[str, str], ...] = ()
    latency: Mapping[str, LatencyEstimate | None] = field(default_factory=dict)
    fidelity_correlations: Mapping[str, float] | None = None
    resumed: str | None = None
    work: WorkInfo | None = None

    @property
    def dense(self) -> PointRow | None:
        """The baseline that everything is compared with, or None without baselines."""
        named = (row for row in self.baselines if row.id == "dense")
        return next(named, self.baselines[0] if self.baselines else None)

    @property
    def quality(self) -> str:
        """The key of the quality metric in `metrics`: the task's own name for it, else `accuracy`."""
        seen = {name for row in (*self.baselines, *self.points, *self.failed) for name in row.metrics}
        seen.update(name for trial in self.trials for name in trial.metrics)
        return self.task.metric if self.task.metric in seen else "accuracy"

    def higher_is_better(self, metric: str) -> bool:
        """The direction of one metric; the task decides for its own."""
        return self.task.higher_is_better if metric == self.quality else MAXIMISED.get(metric, False)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON; `from_dict` gives the same report back."""
        return {"format": FORMAT, "version": VERSION, **_encode(self)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ReportData:
        """Reads what `to_dict` wrote.

        Raises:
            InputError: another format or version, or a key that is missing, unknown or of the wrong kind.
        """
        if data.get("format") != FORMAT or data.get("version") != VERSION:
            raise InputError(
                f"report data is {data.get('format')!r} version {data.get('version')!r}; allowed: {FORMAT!r} version "
                f"{VERSION}; run `autocompress report` with the version that wrote it"
            )
        rest = {key: value for key, value in data.items() if key not in ("format", "version")}
        report = _decode(ReportData, rest, "report")
        assert isinstance(report, ReportData)
        return report


def save_report_data(path: Path, data: ReportData) -> None:
    """Writes `report.json`, complete or not at all."""
    write_whole(path, json.dumps(data.to_dict(), indent=1, allow_nan=False) + "\n")


def load_report_data(path: Path) -> ReportData:
    """Reads what `save_report_data` wrote.

    Raises:
        InputError: the file is not a report of this version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as report data: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds {type(data).__name__}; a report is a JSON object")
    try:
        return ReportData.from_dict(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _encode(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    return value


# What reports of the same version do not have if they are older.
_LATER = ("work", "why")


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Builds `kind` (a dataclass, tuple, mapping, optional or plain type) from what JSON holds."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _decode(inner, value, where)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin is tuple:
        _expect(isinstance(value, list | tuple), value, "a list", where)
        inner_kinds = [args[0]] * len(value) if args[1:] == (Ellipsis,) else list(args)
        _expect(len(inner_kinds) == len(value), value, f"a list of {len(inner_kinds)}", where)
        return tuple(
            _decode(each, item, f"{where}[{index}]")
            for index, (each, item) in enumerate(zip(inner_kinds, value, strict=True))
        )
    if origin is Mapping:
        _expect(isinstance(value, Mapping), value, "an object", where)
        return {key: _decode(args[1], item, f"{where}.{key}") for key, item in value.items()}
    plain = (int, float) if kind is float else (kind,)
    _expect(isinstance(value, plain) and (kind is bool or not isinstance(value, bool)), value, kind.__name__, where)
    return value


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, Mapping), value, "an object", where)
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise InputError(f"{where} has the unknown key {unknown[0]!r}; {nearest(unknown[0], hints)}")
    missing = [each.name for each in fields(kind) if each.name not in value and each.name not in _LATER]
    if missing:
        raise InputError(f"{where} has no {missing[0]!r}; it was cut short or written by another version")
    return kind(**{key: _decode(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _expect(ok: bool, value: object, wanted: str, where: str) -> None:
    if not ok:
        raise InputError(f"{where} is {value!r}; it must be {wanted}")
