"""Optuna's samplers as controllers.

Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE); Deb et al. 2002, "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II"; Deb and Jain 2014, NSGA-III; as implemented in Optuna.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from autocompress.core.space import Space, Vector
from autocompress.search.controller import mix, new_vector, telling
from autocompress.search.record import TELLING, Objective, Record, losses

POPULATION = 16
# TPE goes through every trial it knows for every decision: with many more than these an ask takes over 200 ms.
_MOST_KNOWN = {"tpe": 150}
_GENERATIONS = {"nsga2": "NSGAIISampler:generation", "nsga3": "NSGAIIISampler:generation"}
# Place in the history, plan and losses of a complete trial.
_Told = tuple[int, Vector, tuple[float, ...]]


@dataclass(frozen=True)
class SamplerController:
    """An Optuna sampler as a controller.

    Attributes:
        name: Of the sampler, a key of `SAMPLERS`.
    """

    name: str
    space: Space
    objectives: tuple[Objective, ...]
    seed: int

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan; the random numbers of the n-th depend on the seed and n alone."""
        self._memory.follow(history)

        def propose(_: np.random.Generator, attempt: int) -> Vector:
            return self._memory.sample(SAMPLERS[self.name](mix(self.seed, len(history), attempt)))

        return new_vector(self.space, history, self.seed, propose)

    @cached_property
    def _memory(self) -> _Memory:
        return _Memory(self.space, self.objectives, _GENERATIONS.get(self.name), _MOST_KNOWN.get(self.name))


class _Memory:
    """A study in memory that holds the complete trials of a history, which are told once.

    A history that does not go on from the last one is told anew, so that what is asked depends on it alone.
    """

    def __init__(
        self, space: Space, objectives: tuple[Objective, ...], generation: str | None, most: int | None
    ) -> None:
        """Knows nothing yet.

        Args:
            space: Of the plans.
            objectives: Of the run.
            generation: The attribute in which a genetic sampler looks for the generation of a trial.
            most: At most so many trials are told, those that tell most.
        """
        self._objectives, self._generation, self._most = objectives, generation, most
        self._distributions: dict[str, BaseDistribution] = {
            decision.name: _Options(0, len(decision.options) - 1) for decision in space.decisions
        }
        self._followed: list[Record] = []
        self._complete: list[_Told] = []
        self._told: list[_Told] = []
        self._trials: dict[_Told, FrozenTrial] = {}
        self._study = self._new_study()

    def follow(self, history: Sequence[Record]) -> None:
        """Tells what is new. Samplers learn of trials with results alone, so others are left out."""
        complete = self._complete_of(history)
        if self._most is not None and len(complete) > self._most:
            values = np.array([one[2] for one in complete], dtype=np.float64)
            complete = [complete[index] for index in telling(values, self._most)]
        if complete[: len(self._told)] != self._told:
            self._told, self._study = [], self._new_study()
        for one in complete[len(self._told) :]:
            if one not in self._trials:
                self._trials[one] = self._trial(*one)
            self._study.add_trial(self._trials[one])
        self._told = complete

    def _complete_of(self, history: Sequence[Record]) -> list[_Told]:
        """The complete trials of a history; of one that goes on only what is new is looked at."""
        if list(history[: len(self._followed)]) != self._followed:
            self._followed, self._complete = [], []
        settled = len(self._followed)
        while settled < len(history) and history[settled].state != "running":
            settled += 1
        self._complete += self._told_of(history, len(self._followed), settled)
        self._followed += history[len(self._followed) : settled]
        return [*self._complete, *self._told_of(history, settled, len(history))]

    def _told_of(self, history: Sequence[Record], start: int, end: int) -> list[_Told]:
        """Place, plan and losses of the complete trials between two places."""
        return [
            (place, history[place].vector, losses(self._objectives, history[place].metrics))
            for place in range(start, end)
            if history[place].state in TELLING
        ]

    def sample(self, sampler: BaseSampler) -> Vector:
        """What a sampler asks for."""
        self._study.sampler = sampler
        trial = self._study.ask(self._distributions)
        # Every look at them copies all.
        params = trial.params
        vector = tuple(int(params[name]) for name in self._distributions)
        # The trial itself runs elsewhere; one that failed teaches nothing.
        self._study.tell(trial, state=TrialState.FAIL)
        return vector

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(directions=["minimize"] * len(self._objectives), study_name="history")

    def _trial(self, index: int, vector: Vector, values: tuple[float, ...]) -> FrozenTrial:
        attributes: dict[str, Any] = {}
        if self._generation is not None:
            attributes[self._generation] = index // POPULATION
        return optuna.trial.create_trial(
            params=dict(zip(self._distributions, vector, strict=True)),
            distributions=self._distributions,
            values=list(values),
            system_attrs=attributes,
        )


class _Options(IntDistribution):
    """A distribution that is never changed, so that the copies Optuna makes of trials hold the same one."""

    def __deepcopy__(self, memo: object) -> _Options:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)

    __hash__ = IntDistribution.__hash__


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """One ordered integer per decision: the index of its option."""
    return {decision.name: IntDistribution(0, len(decision.options) - 1) for decision in space.decisions}


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=10)


def _nsga2(seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)


def _nsga3(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.NSGAIIISampler(seed=seed, population_size=POPULATION)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
}
