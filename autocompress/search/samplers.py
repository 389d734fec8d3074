"""Optuna's samplers as controllers.

Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE); Deb et al. 2002, "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II"; Deb and Jain 2014, NSGA-III; as implemented in Optuna.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from autocompress.core.space import Space, Vector
from autocompress.search.controller import mix, new_vector
from autocompress.search.record import Objective, Record, losses

POPULATION = 16
_GENERATIONS = {"nsga2": "NSGAIISampler:generation", "nsga3": "NSGAIIISampler:generation"}


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

        def propose(_: np.random.Generator, attempt: int) -> Vector:
            return self._sample(history, mix(self.seed, len(history), attempt))

        return new_vector(self.space, history, self.seed, propose)

    def _sample(self, history: Sequence[Record], seed: int) -> Vector:
        study = optuna.create_study(
            sampler=SAMPLERS[self.name](seed),
            directions=["minimize"] * len(self.objectives),
            study_name="history",
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


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """One ordered integer per decision: the index of its option."""
    return {decision.name: IntDistribution(0, len(decision.options) - 1) for decision in space.decisions}


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


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
}
