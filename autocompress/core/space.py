"""The finite set of plans that may be tried: a list of decisions, and a plan as one choice for each of them.

A vector holds, for every decision in order, the index of the option that was chosen. Options run from the least to the
most compression, so that "unchanged", where it is allowed, is always index 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index as as_index

import numpy as np

from autocompress.core.decision import Decision, Option, Vector
from autocompress.core.digest import short_digest
from autocompress.core.ladder import uniform_vectors
from autocompress.core.plan import LayerOp, LowRank, Plan, Prune, Quantize, Sparsify, Student
from autocompress.errors import PlanError, nearest

__all__ = ["Decision", "Option", "Space", "Vector"]


@dataclass(frozen=True)
class Space:
    """Every plan that may be tried, with the distillation terms that its trials are fine-tuned with.

    Attributes:
        decisions: In order: resolution, student, drop, then per layer of the graph prune, shape, quantize.
        distill_temperature: Temperature of the softened outputs of the dense teacher.
        distill_weight: Weight of the teacher's loss; the task's own loss has the rest.
    """

    name: str
    decisions: tuple[Decision, ...]
    distill_temperature: float = 4.0
    distill_weight: float = 0.7

    @cached_property
    def digest(self) -> str:
        """Of everything that may be chosen: what a vector means, 16 hex digits."""
        return short_digest(self.decisions)

    def __post_init__(self) -> None:
        names = [decision.name for decision in self.decisions]
        if len(self._places) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise PlanError(f"space {self.name!r} has the decision {twice!r} twice; keep one")

    @cached_property
    def _places(self) -> dict[str, int]:
        return {decision.name: place for place, decision in enumerate(self.decisions)}

    def changed(self, vector: Vector) -> set[str]:
        """The kinds of the decisions that a plan does not leave at their first option."""
        return {decision.kind for decision, index in zip(self.decisions, vector, strict=True) if index}

    @property
    def size(self) -> int:
        """The number of plans."""
        return math.prod(len(decision.options) for decision in self.decisions)

    def decode(self, vector: Sequence[int]) -> Plan:
        """The plan that a vector of option indices stands for; `encode` gives the vector back.

        Raises:
            PlanError: the vector is too short or too long, or an index is outside its decision's options.
        """
        resolution = 1.0
        drop: list[str] = []
        choices: list[tuple[str, str | int | float | bool]] = []
        groups: list[tuple[str, Prune]] = []
        layers: dict[str, tuple[LayerOp, ...]] = {}
        for decision, option in zip(self.decisions, self._chosen(vector), strict=True):
            if isinstance(option, Prune):
                groups.append((decision.target, option))
            elif isinstance(option, LowRank | Sparsify | Quantize):
                layers[decision.target] = (*layers.get(decision.target, ()), option)
            elif decision.kind == "student" and option is not None:
                choices.append((decision.target, option))
            elif decision.kind == "drop" and option:
                drop.append(decision.target)
            elif decision.kind == "resolution" and option is not None:
                resolution = float(option)
        return Plan(Student(tuple(drop), resolution, tuple(choices)), tuple(groups), tuple(layers.items()))

    def _chosen(self, vector: Sequence[int]) -> list[Option]:
        if len(vector) != len(self.decisions):
            raise PlanError(
                f"vector has {len(vector)} choices; space {self.name!r} has {len(self.decisions)} decisions"
            )
        chosen = []
        for decision, place in zip(self.decisions, vector, strict=True):
            if not 0 <= as_index(place) < len(decision.options):
                raise PlanError(f"choice for {decision.name!r} is {place}; allowed: 0 to {len(decision.options) - 1}")
            chosen.append(decision.options[place])
        return chosen

    def encode(self, plan: Plan) -> Vector:
        """The vector of a plan; `decode` gives the plan back.

        Raises:
            PlanError: the plan does, or leaves open, something that this space does not allow; the message names it.
        """
        wanted = _options_of(plan)
        for name, option in wanted.items():
            # Full resolution is what a plan says where nothing was asked.
            if name not in self._places and not (name == "resolution" and option == 1.0):
                raise PlanError(
                    f"plan has {name!r} = {option!r}, which space {self.name!r} does not decide; "
                    f"{nearest(name, self._places)}"
                )
        vector = []
        for decision in self.decisions:
            option = wanted.get(decision.name, False if decision.kind == "drop" else None)
            if option not in decision.options:
                raise PlanError(
                    f"plan has {decision.name!r} = {option!r}, which space {self.name!r} does not offer; "
                    f"allowed: {', '.join(map(repr, decision.options))}"
                )
            vector.append(decision.options.index(option))
        return tuple(vector)

    @property
    def dense_vector(self) -> Vector:
        """The plan closest to the unchanged model: the first option of every decision."""
        return (0,) * len(self.decisions)

    @property
    def centre_vector(self) -> Vector:
        """The middle option of every decision, the milder one of two."""
        return tuple((len(decision.options) - 1) // 2 for decision in self.decisions)

    @property
    def extreme_vector(self) -> Vector:
        """The last option of every decision: the most compression."""
        return tuple(len(decision.options) - 1 for decision in self.decisions)

    def random(self, rng: np.random.Generator) -> Vector:
        """A vector drawn evenly from all of them."""
        return tuple(int(rng.integers(len(decision.options))) for decision in self.decisions)

    def uniform_plans(self) -> list[tuple[str, Plan]]:
        """Named plans that do the same everywhere, at most 20, to be tried before a search has learned anything.

        The families: one quantization everywhere; the same with the first and last layer at their highest precision;
        one pruning, one rank or one sparsity everywhere, and one pruning inside blocks alone, each with the
        quantization nearest to 4 bits; resolutions, dropped blocks and student choices; half, three quarters and all
        of every choice. Where a layer lacks an option it takes its strongest one that is not stronger. Families that
        are too long are thinned evenly. The order is by the mean position of the chosen options between first (least)
        and last (most compression).
        """
        return [(name, self.decode(vector)) for name, vector in uniform_vectors(self.decisions)]


def _options_of(plan: Plan) -> dict[str, Option]:
    wanted: dict[str, Option] = {"resolution": plan.student.resolution}
    wanted.update((f"student:{name}", value) for name, value in plan.student.choices)
    wanted.update((f"drop:{name}", True) for name in plan.student.drop)
    wanted.update((f"prune:{name}", op) for name, op in plan.groups)
    for name, ops in plan.layers:
        wanted.update((f"{'quantize' if isinstance(op, Quantize) else 'shape'}:{name}", op) for op in ops)
    return wanted
