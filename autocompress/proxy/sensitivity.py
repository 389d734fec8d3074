"""What every option does alone: how far the outputs move from the dense model's, and what it saves.

No option is trained; weights are fitted anew and statistics corrected, as in a trial before its training.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocompress.core.decision import Decision, Option, strength
from autocompress.core.digest import short_digest
from autocompress.core.files import append_line, write_whole
from autocompress.core.metric import Metric
from autocompress.core.plan import Prune, Quantize, Sparsify
from autocompress.core.space import Space, Vector
from autocompress.errors import AutoCompressError, PlanError, RunError
from autocompress.proxy.context import Context
from autocompress.proxy.cost import cost_of_model, cost_of_plan, structure_cost_of_plan
from autocompress.proxy.evaluate import realise
from autocompress.tasks.tree import map_tensors, mean_alone

LOG = logging.getLogger("autocompress")
# A share of the training samples, within these limits: small data sets are searched in minutes.
_SAMPLES = (64, 128)
_TRAINING_PER_SAMPLE = 32
_LEAST_LOSS = 1e-7
COSTS = ("size_bytes", "latency_ms", "macs", "params")


@dataclass(frozen=True)
class Effect:
    """One plan without training.

    Attributes:
        loss: Distance of its outputs from the dense model's: the KL divergence for logits.
        costs: By name, those of `COSTS`.
    """

    loss: float
    costs: Mapping[str, float]


Measure = Callable[[Sequence[Vector]], Iterable[tuple[Vector, Effect | None]]]


@dataclass(frozen=True)
class Sensitivity:
    """The effects of a space.

    Attributes:
        dense: Of the space's plan closest to the unchanged model.
        options: By decision, one per option with all other decisions at their first; None where it cannot be applied.
        chance: Loss of a model that gives its mean output for every sample: what knows nothing.
    """

    dense: Effect
    options: Mapping[str, tuple[Effect | None, ...]]
    chance: float


class Meter:
    """Measures plans of a space without training them."""

    def __init__(self, space: Space, context: Context) -> None:
        """Plans are fitted to the first calibration samples and judged on the next ones."""
        self.space = space
        least, most = _SAMPLES
        self._samples = min(most, max(least, len(context.task.train) // _TRAINING_PER_SAMPLE))
        self._context = context.with_calibration(self._samples)

    @property
    def digest(self) -> str:
        """Names everything that an effect depends on."""
        return _digest(self.space, self._context)

    def measured(self, vector: Vector) -> Effect | None:
        """The effect of a plan, None if it cannot be applied, fails, or answers what is no number."""
        with self._context.working():
            try:
                module = realise(self.space.decode(vector), self._context).module
                with torch.no_grad():
                    loss = _distance(module(*self._judged), self._wanted, self._context)
                metrics = cost_of_model(module, self._context).metrics
            except AutoCompressError:
                return None
            except Exception as error:  # noqa: BLE001  # as with a trial: this plan came to nothing, others go on
                LOG.error("plan %s cannot be measured: %s\n%s", vector, error, traceback.format_exc())
                return None
        return Effect(loss, _costs(metrics)) if math.isfinite(loss) else None

    def costs(self, vector: Vector) -> dict[str, float] | None:
        """Those of `COSTS` from the tables alone, None if the plan cannot be applied."""
        with self._context.working():
            try:
                metrics = cost_of_plan(self.space.decode(vector), self._context).metrics
            except AutoCompressError:
                return None
        return _costs(metrics)

    def structure_costs(self, vector: Vector) -> dict[str, float] | None:
        """Latency, MACs and weights, a hundred times as fast as all costs; None if the plan cannot be applied."""
        with self._context.working():
            try:
                return structure_cost_of_plan(self.space.decode(vector), self._context)
            except AutoCompressError:
                return None

    @property
    def chance(self) -> float:
        """The loss of a model that gives its mean output for every sample."""
        return _distance(mean_alone(self._wanted), self._wanted, self._context)

    @cached_property
    def _wanted(self) -> Any:
        with torch.no_grad():
            return self._context.dense.module(*self._judged)

    @cached_property
    def _judged(self) -> tuple[Tensor, ...]:
        """Other samples than those that weights are fitted to, if there are enough."""
        split = self._context.task.calibration
        batches = split.batches(self._samples, limit=2 * self._samples)
        inputs, _ = list(batches)[-1]
        return self._context.laid_out(inputs)


class Effects:
    """Effects of plans of a space, kept in a file: what it already holds is not measured again."""

    def __init__(self, meter: Meter, file: Path, measure: Measure | None = None) -> None:
        """Reads the file, or begins it anew if it is of something else.

        Args:
            meter: Of the space.
            file: A line of JSON for each plan, under a first line that says what they are of.
            measure: Has `meter.measured` done for many plans, in any order; one after another by default.
        """
        self.space = meter.space
        self._meter = meter
        self._measure = measure or (lambda vectors: ((vector, meter.measured(vector)) for vector in vectors))
        self._file = file
        self._known = _read(file, meter.digest)

    def of(self, vectors: Sequence[Vector], progress: Callable[[int, int], None] | None = None) -> list[Effect | None]:
        """The effects of plans, None for one that cannot be applied.

        Args:
            vectors: The plans.
            progress: Called with the plans measured and their total.
        """
        todo = list(dict.fromkeys(vector for vector in vectors if _name(vector) not in self._known))
        # Whoever measures may be busy with something else; then what is known can still be asked for.
        for done, (vector, effect) in enumerate(self._measure(todo) if todo else ()):
            self._keep(vector, effect)
            if progress is not None:
                progress(done + 1, len(todo))
        return [self._known[_name(vector)] for vector in vectors]

    def take_over(self, file: Path, before: Meter, progress: Callable[[int, int], None] | None = None) -> None:
        """Keeps what another table knows, such as that of another target: losses hold there too, costs are read anew.

        Args:
            file: Of the other table, which is only read.
            before: Of its space and target.
            progress: Called with the plans taken and their total.
        """
        rows = _whole(_lines(file, before.digest) or [])
        is_same = before.digest == self._meter.digest
        for done, (name, effect) in enumerate(rows):
            with suppress(PlanError):
                vector = self.space.encode(before.space.decode([int(place) for place in name.split(",")]))
                self._keep(vector, effect if is_same or effect is None else self._priced(vector, effect.loss))
            if progress is not None:
                progress(done + 1, len(rows))

    def _priced(self, vector: Vector, loss: float) -> Effect | None:
        """A loss with the costs of its plan, None if it cannot be applied here."""
        costs = self._meter.costs(vector)
        return None if costs is None else Effect(loss, costs)

    def _keep(self, vector: Vector, effect: Effect | None) -> None:
        self._known[_name(vector)] = effect
        append_line(self._file, json.dumps({"plan": _name(vector), **_plain(effect)}))

    def known(self, vector: Vector) -> Effect | None:
        """The effect of a plan if it was measured; nothing is measured for it."""
        return self._known.get(_name(vector))

    def costs_of(self, vector: Vector) -> dict[str, float] | None:
        """What a plan costs by the tables, its loss left unmeasured; None if it cannot be applied."""
        return self._meter.costs(vector)

    def structure_costs_of(self, vector: Vector) -> dict[str, float] | None:
        """Latency, MACs and weights alone, in a millisecond; None if the plan cannot be applied."""
        return self._meter.structure_costs(vector)

    def known_options(self) -> Sensitivity | None:
        """What `of_options` gives if all of it was measured; nothing is measured for it."""
        wanted = [self.space.dense_vector, *(_single(self.space, *place) for place in self._places())]
        return self.of_options() if all(_name(one) in self._known for one in wanted) else None

    def of_options(self, progress: Callable[[int, int], None] | None = None) -> Sensitivity:
        """What every option does with all other decisions at their first.

        Args:
            progress: Called with the plans measured and their total.
        """
        places = self._places()
        singles = [_single(self.space, place, index) for place, index in places]
        dense, *effects = self.of([self.space.dense_vector, *singles], progress)
        if dense is None:
            raise RunError("the first plan of the space cannot be applied to the model")
        measured = dict(zip(places, effects, strict=True))
        options = {
            decision.name: (dense, *_completed(decision, {i: measured[place, i] for i in _anchors(decision)}))
            for place, decision in enumerate(self.space.decisions)
        }
        return Sensitivity(dense, options, self._meter.chance)

    def _places(self) -> list[tuple[int, int]]:
        """The options to measure, each by the place of its decision and its own in it."""
        return [(place, index) for place, one in enumerate(self.space.decisions) for index in _anchors(one)]


def _costs(metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {name: metrics[name].value for name in COSTS}


def _name(vector: Vector) -> str:
    return ",".join(map(str, vector))


def _single(space: Space, place: int, index: int) -> Vector:
    return tuple(index if other == place else 0 for other in range(len(space.decisions)))


def _anchors(decision: Decision) -> tuple[int, ...]:
    """The options to measure: all, or of a scale of three and more the middle and the strongest one."""
    rest = decision.options[1:]
    if len(rest) < 3 or not all(_on_scale(one, two) for one, two in itertools.pairwise(rest)):
        return tuple(range(1, len(decision.options)))
    # Where the middle is for bits, the loss begins to rise.
    middle = (len(rest) + 2 * isinstance(rest[0], Quantize)) // 2
    return (middle, len(rest))


def _on_scale(one: Option, two: Option) -> bool:
    """Whether two options are the same op at two strengths, and differ in nothing else."""
    if isinstance(one, Quantize):
        return isinstance(two, Quantize) and one.w_bits != two.w_bits and replace(one, w_bits=two.w_bits) == two
    if isinstance(one, Prune | Sparsify) and type(one) is type(two):
        return one.sparsity != two.sparsity and replace(one, sparsity=two.sparsity) == two
    return False


def _completed(decision: Decision, measured: Mapping[int, Effect | None]) -> Iterator[Effect | None]:
    """The effects of all options but the first; between measured ones the logarithm of the loss is a line.

    It is one in the bits (noise falls by 4 with each) and in the logarithm of the sparsity; costs are lines in either.
    """
    for index in range(1, len(decision.options)):
        if index in measured:
            yield measured[index]
            continue
        (one, first), (two, second) = sorted(measured.items())
        if first is None or second is None:
            yield None
            continue
        position, start, end = (_scale(decision.options[at]) for at in (index, one, two))
        share = (position - start) / (end - start)
        low, high = (math.log(max(effect.loss, _LEAST_LOSS)) for effect in (first, second))
        linear, left, right = (strength(decision.options[at]) for at in (index, one, two))
        costs = {
            name: first.costs[name] + (second.costs[name] - first.costs[name]) * (linear - left) / (right - left)
            for name in first.costs
        }
        yield Effect(math.exp(low + (high - low) * share), costs)


def _scale(option: Option) -> float:
    return -float(option.w_bits) if isinstance(option, Quantize) else math.log(strength(option))


def _distance(outputs: Any, wanted: Any, context: Context) -> float:
    def plain(x: Tensor) -> Tensor:
        return x.float() if x.is_floating_point() else x

    distance = float(context.task.distill_loss(map_tensors(outputs, plain), map_tensors(wanted, plain), 1.0))
    # Not the other way round: what is no number stays none.
    return 0.0 if distance < 0.0 else distance


def _plain(effect: Effect | None) -> dict[str, Any]:
    return {} if effect is None else {"loss": effect.loss, "costs": dict(effect.costs)}


def _digest(space: Space, context: Context) -> str:
    task = context.task
    samples = context.effort.calibration_samples
    told = (task.model_digest, task.data_digest, context.target.digest, context.precision, context.seed, samples)
    return short_digest((told, space.digest))


def _read(file: Path, digest: str) -> dict[str, Effect | None]:
    """What is known by option; a table of something else is begun anew, what stands behind damage is dropped."""
    lines = _lines(file, digest)
    if lines is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, _first(digest) + "\n")
        return {}
    whole = _whole(lines)
    if lines[-1] or len(whole) < len(lines) - 2:
        # The next row would be written behind what is damaged.
        write_whole(file, "\n".join(lines[: 1 + len(whole)]) + "\n")
    return dict(whole)


def _first(digest: str) -> str:
    return json.dumps({"table_of": digest})


def _lines(file: Path, digest: str) -> list[str] | None:
    """The lines of a table, None where there is none of that."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else []
    return lines if lines and lines[0] == _first(digest) else None


def _whole(lines: Sequence[str]) -> list[tuple[str, Effect | None]]:
    """The rows of a table up to the first that is damaged; what follows the last line break is not whole."""
    rows = itertools.takewhile(lambda row: row is not None, map(_row, lines[1:-1]))
    return [row for row in rows if row is not None]


def _row(line: str) -> tuple[str, Effect | None] | None:
    """A plan and its effect; None for a line that is damaged."""
    try:
        data = json.loads(line)
        costs = {name: float(data["costs"][name]) for name in COSTS} if "loss" in data else {}
        return str(data["plan"]), Effect(float(data["loss"]), costs) if "loss" in data else None
    except (ValueError, KeyError, TypeError):
        return None
