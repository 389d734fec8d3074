"""A Gaussian process on a few features of a plan, for one weighting of the objectives after another.

Source: Knowles 2006, "ParEGO: A Hybrid Algorithm With On-Line Landscape Approximation for Expensive Multiobjective
Optimization Problems": augmented Tchebycheff function (equation 2) of objectives normalised by what was seen, expected
improvement of a Gaussian process. Deviation: the features are means of the chosen options by kind and depth, since 50
trials cannot tell a hundred decisions apart, and weights are drawn evenly rather than from a lattice.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from autocompress.core.pareto import non_dominated
from autocompress.core.space import Space, Vector
from autocompress.search.controller import new_vector, scaled_losses, telling
from autocompress.search.jitter import jittered
from autocompress.search.record import TELLING, Objective, Record

_FIRST = 8
# A process of more trials takes seconds.
_MOST_KNOWN = 100
_CANDIDATES = 256
_DEPTHS = 3
_CHANGED = 0.1
# Weight of the sum beside the largest term, as in the source.
_RHO = 0.05

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianController:
    """Expected improvement of a Gaussian process for a random weighting of the objectives."""

    space: Space
    objectives: tuple[Objective, ...]
    seed: int

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan: jittered at first, then the candidate that promises most."""
        done = [record for record in history if record.state in TELLING]
        if len(done) < _FIRST:
            return new_vector(self.space, history, self.seed, lambda rng, _: jittered(self.space, rng))
        return new_vector(self.space, history, self.seed, lambda rng, _: self._best(history, done, rng))

    def _best(self, history: Sequence[Record], done: Sequence[Record], rng: np.random.Generator) -> Vector:
        scaled = scaled_losses(self.objectives, done)
        kept = telling(scaled, _MOST_KNOWN)
        done, scaled = [done[index] for index in kept], scaled[kept]
        weighted = scaled * rng.dirichlet(np.ones(len(self.objectives)))
        target = weighted.max(axis=1) + _RHO * weighted.sum(axis=1)
        tried = {record.vector for record in history}
        candidates = [vector for vector in self._candidates(done, scaled, rng) if vector not in tried]
        if not candidates:
            return self.space.random(rng)
        expected = _improvement(
            self._features([record.vector for record in done]),
            target,
            self._features(candidates),
        )
        return candidates[int(np.argmax(expected))]

    def _candidates(self, done: Sequence[Record], scaled: Array, rng: np.random.Generator) -> list[Vector]:
        """Half of them jittered, half of them the front with some decisions one option on or back."""
        front = non_dominated(scaled)
        found = [jittered(self.space, rng) for _ in range(_CANDIDATES // 2)]
        for _ in range(_CANDIDATES // 2):
            parent = done[int(rng.choice(front))].vector
            moves = rng.choice([-1, 1], size=len(parent)) * (rng.uniform(size=len(parent)) < _CHANGED)
            moved = np.clip(np.array(parent) + moves, 0, self.space.extreme_vector)
            found.append(tuple(int(option) for option in moved))
        return list(dict.fromkeys(found))

    def _features(self, vectors: Sequence[Vector]) -> Array:
        """The mean option, between first and last, of every kind of decision in each third of the model."""
        places: dict[tuple[str, int], list[int]] = {}
        for place, decision in enumerate(self.space.decisions):
            places.setdefault((decision.kind, place * _DEPTHS // len(self.space.decisions)), []).append(place)
        shares = np.array(vectors, dtype=np.float64) / np.maximum(1, self.space.extreme_vector)
        return np.stack([shares[:, each].mean(axis=1) for each in places.values()], axis=1)


def _improvement(known: Array, target: Array, asked: Array) -> Array:
    kernel = ConstantKernel() * Matern(np.full(known.shape[1], 1.0), (0.05, 20.0), nu=2.5) + WhiteKernel(1e-2)
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        # A feature that does not matter has the longest length there is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(known, target)
    mean, error = process.predict(asked, return_std=True)
    error = np.maximum(error, 1e-9)
    gain = target.min() - mean
    expected: Array = gain * norm.cdf(gain / error) + error * norm.pdf(gain / error)
    return expected
