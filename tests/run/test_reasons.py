"""Why points are as they are, in the report: from the table of a search, and only from that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autocompress.core.plan import Plan
from autocompress.proxy.sensitivity import Effects
from autocompress.run.folder import SENSITIVITY
from autocompress.run.jobs import Shared
from autocompress.run.progress import Silent
from autocompress.run.reasons import explained
from autocompress.search.explain import explain
from tests.run.tiny import Told, tiny_context, tiny_space


@dataclass(frozen=True)
class Named:
    """What is asked of a point."""

    id: str
    plan: Plan


@pytest.fixture(scope="module")
def shared() -> Shared:
    context = tiny_context()
    return Shared(context, tiny_space(context))


def points_of(shared: Shared) -> list[Any]:
    space = shared.space
    return [Named("t001", space.decode(space.extreme_vector)), Named("t002", space.decode(space.centre_vector))]


def test_every_point_is_explained_as_the_command_does(shared: Shared, tmp_path: Path) -> None:
    effects = Effects(shared.meter, tmp_path / SENSITIVITY)
    options, blocks = effects.of_options(), shared.context.dense.info.blocks
    before = (tmp_path / SENSITIVITY).read_bytes()
    found = explained(shared, tmp_path, points_of(shared), Silent())
    wanted = {one.id: explain(effects, options, shared.space.encode(one.plan), blocks) for one in points_of(shared)}
    assert found == wanted
    assert found["t001"].choices
    assert (tmp_path / SENSITIVITY).read_bytes() == before


def test_what_was_not_measured_for_the_search_is_not_measured_for_the_report(shared: Shared, tmp_path: Path) -> None:
    assert explained(shared, tmp_path, points_of(shared), Silent()) == {}
    Effects(shared.meter, tmp_path / SENSITIVITY).of([shared.space.dense_vector])
    before = (tmp_path / SENSITIVITY).read_bytes()
    assert explained(shared, tmp_path, points_of(shared), Silent()) == {}
    assert (tmp_path / SENSITIVITY).read_bytes() == before


def test_ctrl_c_keeps_those_that_are_ready(shared: Shared, tmp_path: Path) -> None:
    class Interrupting(Told):
        def step(self, text: str, done: int, total: int) -> None:
            if done == 1:
                raise KeyboardInterrupt

    Effects(shared.meter, tmp_path / SENSITIVITY).of_options()
    listener = Interrupting()
    assert list(explained(shared, tmp_path, points_of(shared), listener)) == ["t001"]
    assert listener.said == ["interrupted: the report explains the points that are ready"]
