"""The controllers by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autocompress.core.space import Space
from autocompress.errors import InputError, nearest
from autocompress.proxy.sensitivity import Effects, Sensitivity
from autocompress.search.agent import AgentController
from autocompress.search.controller import Controller
from autocompress.search.evolution import EvolutionController
from autocompress.search.jitter import JitterController
from autocompress.search.oneshot import OneShotController, Tables
from autocompress.search.random_plans import RandomController
from autocompress.search.record import Objective
from autocompress.search.samplers import SAMPLERS, SamplerController
from autocompress.search.scalarised import GaussianController
from autocompress.search.seeded import SeededController

Objectives = tuple[Objective, ...]
Make = Callable[[Space, Objectives, int, Tables], Controller]
_SEEDS = 8


def _sampler(name: str) -> Make:
    return lambda space, objectives, seed, _: SamplerController(name, space, objectives, seed)


def _seeded(space: Space, objectives: Objectives, seed: int, tables: Tables) -> Controller:
    first = OneShotController(space, objectives, seed, tables)
    return SeededController(first, SamplerController("tpe", space, objectives, seed), _SEEDS)


# Waves of plans from measured effects come before what the controller of this name asks for.
PLANNED = "planned"
CONTROLLERS: dict[str, Make] = {
    PLANNED: _sampler("tpe"),
    **{name: _sampler(name) for name in SAMPLERS},
    "tpe-seeded": _seeded,
    "random": lambda space, _, seed, __: RandomController(space, seed),
    "jitter": lambda space, _, seed, __: JitterController(space, seed),
    "gp": lambda space, objectives, seed, _: GaussianController(space, objectives, seed),
    "evolution": EvolutionController,
    "ilp": OneShotController,
    "amc": lambda space, objectives, seed, _: AgentController(space, objectives, seed),
}
DEFAULT_CONTROLLER = PLANNED
# What single options do is measured for these before the first trial.
WITH_TABLES = ("evolution", "ilp", "tpe-seeded")


def no_tables() -> tuple[Effects, Sensitivity]:
    """For controllers that need none.

    Raises:
        InputError: always; one asked for them.
    """
    raise InputError("this controller needs tables; give what measures plans untrained")


def make_controller(
    name: str, space: Space, objectives: Sequence[Objective], seed: int, tables: Tables = no_tables
) -> Controller:
    """The controller of that name.

    Args:
        name: A key of `CONTROLLERS`.
        space: Of the plans.
        objectives: Of the run.
        seed: Of anything random.
        tables: Measures plans untrained; called only by controllers that need them.

    Raises:
        InputError: there is none.
    """
    if name not in CONTROLLERS:
        raise InputError(f"unknown controller {name!r}; {nearest(name, CONTROLLERS)}")
    return CONTROLLERS[name](space, tuple(objectives), seed, tables)
