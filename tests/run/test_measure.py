"""Kernels of a space measured on this machine: a target that is kept, found again and gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import InputError
from autocompress.proxy.context import Context
from autocompress.proxy.wanted import space_kernels
from autocompress.run.measure import Bench, measure_space
from autocompress.run.trials import Listener
from autocompress.targets.own import own_folder
from autocompress.targets.profile import load_target
from autocompress.targets.remote import parse_where
from autocompress.targets.table import read_table
from tests.run.tiny import tiny_context, tiny_space


class Quiet(Listener):
    def say(self, text: str) -> None:
        assert text

    def step(self, what: str, done: int, total: int) -> None:
        assert 0 < done <= total, what


def measured(context: Context, folder: Path, limit: int) -> dict[str, object]:
    bench = Bench(parse_where("local"), folder, limit, repeats=3, threads=1)
    return measure_space(context, tiny_space(context), "raspberry-pi-5", bench, Quiet())


@pytest.fixture
def context() -> Context:
    return tiny_context(target="raspberry-pi-5")


def test_what_is_measured_is_a_target_and_the_next_call_goes_on(context: Context, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    first = measured(context, folder, limit=4)
    assert (first["measured"], first["known"], first["interrupted"]) == (4, 4, False)
    table = read_table(folder / "latency.csv")
    assert len(table.rows) == 4
    assert all(row.source == first["source"] for row in table.rows.values())
    second = measured(context, folder, limit=8)
    assert (second["measured"], second["known"]) == (8, 12)
    assert set(table.rows) < set(read_table(folder / "latency.csv").rows)

    mine = load_target(folder)
    assert (mine.profile, mine.validation, dict(mine.setups)) == (context.target.profile, (), {})
    kernel = next(iter(table.rows)).kernel()
    estimate = mine.estimate_kernels([kernel], "fp32").layers[0]
    assert (estimate.origin, estimate.ms) == ("table", table.rows[next(iter(table.rows))].p50_ms)
    assert estimate.low_ms < estimate.ms < estimate.high_ms


def test_kernels_come_with_the_dtype_they_run_in(context: Context) -> None:
    space = tiny_space(context)
    found = space_kernels(space, context)
    assert {dtype for _, dtype in found} == {"fp32", "int8"}
    assert {kernel.op for kernel, _ in found} >= {"conv2d", "linear"}
    assert found == space_kernels(space, context), "the same plans every time"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(InputError, match=r"holds something else than a target; name another folder with --output"):
        own_folder(load_target("raspberry-pi-5"), tmp_path)


def test_a_setup_has_no_folder_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"raspberry-pi-5:litert is one setup of raspberry-pi-5.*name raspberry-pi-5"):
        own_folder(load_target("raspberry-pi-5:litert"), tmp_path)
