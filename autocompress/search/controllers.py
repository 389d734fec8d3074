"""Controllers: what to try next, given what is known. Thin bridges to Optuna's samplers.

A controller keeps nothing between calls: the same history gives the same next plan, so a run that was killed and
resumed asks for what it would have asked for anyway.

Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE); Deb et al. 2002, "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II"; Deb and Jain 2014, NSGA-III; as implemented in Optuna.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from autocompress.core.space import Space, Vector
from autocompress.errors import InputError, nearest
from autocompress.search.record import Objective, Record, losses

POPULATION = 16
_GENERATIONS = {"nsga2": "NSGAIISampler:generation", "nsga3": "NSGAIIISampler:generation"}
_TRIES = 20


class Controller(Protocol):
    """Proposes plans of a space."""

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan to try: legal, and not in `history` unless the whole space is."""


@dataclass(frozen=True)
class SamplerController:
    """An Optuna sampler as a controller.

    Attributes:
        name: Of the sampler.
        make: Builds the sampler from a seed.
    """

    name: str
    space: Space
    objectives: tuple[Objective, ...]
    seed: int
    make: Callable[[int], BaseSampler]

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan; the random numbers of the n-th depend on the seed and n alone."""
        tried = {record.vector for record in history}
        number = len(history)
        for attempt in range(_TRIES):
            vector = self._sample(history, _mix(self.seed, number, attempt))
            if vector not in tried:
                return vector
        return self._untried(tried, number)

    def _sample(self, history: Sequence[Record], seed: int) -> Vector:
        study = optuna.create_study(
            sampler=self.make(seed), directions=["minimize"] * len(self.objectives), study_name="history"
        )
        known = distributions(self.space)
        for index, record in enumerate(history):
            study.add_trial(self._trial(record, known, index))
        trial = study.ask(known)
        return tuple(int(trial.params[name]) for name in known)

    def _trial(self, record: Record, known: dict[str, BaseDistribution], index: int) -> optuna.trial.FrozenTrial:
        complete = record.state == "complete"
        attributes: dict[str, Any] = {}
        if self.name in _GENERATIONS:
            attributes[_GENERATIONS[self.name]] = index // POPULATION
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            params=dict(zip(known, record.vector, strict=True)),
            distributions=known,
            values=list(losses(self.objectives, record.metrics)) if complete else None,
            system_attrs=attributes,
        )

    def _untried(self, tried: set[Vector], number: int) -> Vector:
        """The first plan after a random one that was not tried; any plan where all were."""
        vector = self.space.random(np.random.default_rng(_mix(self.seed, number, _TRIES)))
        for _ in range(len(tried)):
            if vector not in tried:
                break
            vector = self._after(vector)
        return vector

    def _after(self, vector: Vector) -> Vector:
        """The next vector, counted up from the last decision; the first one after the last."""
        result = list(vector)
        for place in reversed(range(len(result))):
            result[place] = (result[place] + 1) % len(self.space.decisions[place].options)
            if result[place]:
                break
        return tuple(result)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """One ordered integer per decision: the index of its option."""
    return {decision.name: IntDistribution(0, len(decision.options) - 1) for decision in space.decisions}


def _mix(*parts: int) -> int:
    return zlib.crc32(repr(parts).encode())


def _random(seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


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


CONTROLLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
}
DEFAULT_CONTROLLER = "tpe"


def make_controller(name: str, space: Space, objectives: Sequence[Objective], seed: int) -> Controller:
    """The controller of that name.

    Raises:
        InputError: there is none.
    """
    if name not in CONTROLLERS:
        raise InputError(f"unknown controller {name!r}; {nearest(name, CONTROLLERS)}")
    return SamplerController(name, space, tuple(objectives), seed, CONTROLLERS[name])
