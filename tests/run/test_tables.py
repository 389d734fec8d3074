"""What a run tells of a model and a device: spaces adapted to it, what they reach, and the table of layers."""

from __future__ import annotations

from functools import cache

import pytest

from autocompress.compress.quantize import weight_quantizer
from autocompress.core.constraint import parse_constraint
from autocompress.core.plan import LowRank, Plan, Prune, Quantize, Student
from autocompress.core.rules import SpaceRules, build_space, load_rules
from autocompress.emit.onnx_export import payload_of
from autocompress.graph.info import total_macs
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.cost import cost_of_plan
from autocompress.proxy.evaluate import realise
from autocompress.run.adapt import adapt_rules
from autocompress.run.layer_table import layer_rows
from autocompress.run.reach import COSTS, dense_cost, least_costs, reach
from autocompress.targets.profile import load_target
from autocompress.tasks import Task
from tests.nets import make_task
from tests.run.tiny import RULES, tiny_context, tiny_space

NANO, LOCAL = load_target("jetson-nano").profile, load_target("local").profile


def activation_bits(rules: SpaceRules) -> set[int | None]:
    return {op.a_bits for rule in rules.rules for op in rule.options if isinstance(op, Quantize)}


def test_activations_stay_in_floats_where_there_are_no_integers() -> None:
    rules, notes = adapt_rules(RULES, NANO)
    assert activation_bits(RULES) == {8}
    assert activation_bits(rules) == {None}
    assert [len(rule.options) for rule in rules.rules] == [len(rule.options) for rule in RULES.rules]
    (note,) = notes
    assert NANO.title in note
    assert "activations stay in fp16" in note


def test_options_that_become_equal_are_one() -> None:
    rules = SpaceRules.from_dict({"rules": [{"op": "quantize", "w_bits": [8, 4], "a_bits": [8, None]}]})
    assert len(rules.rules[0].options) == 4
    assert len(adapt_rules(rules, NANO)[0].rules[0].options) == 2


def test_a_device_with_integers_gets_the_space_as_it_is() -> None:
    assert adapt_rules(RULES, LOCAL) == (RULES, ())
    assert activation_bits(adapt_rules(load_rules("joint"), LOCAL)[0]) == {8}


def test_a_space_without_activations_needs_no_note() -> None:
    rules = load_rules("prune")
    assert adapt_rules(rules, NANO) == (rules, ())


@pytest.fixture(scope="module")
def context() -> Context:
    return tiny_context()


def test_what_a_space_reaches(context: Context) -> None:
    space = tiny_space(context)
    limits = [parse_constraint(text) for text in ("size<=30%", "macs<=1%", "accuracy>=-1.0")]
    found = reach(space, context, limits)
    assert (found["space"], found["plans"], len(found["decisions"])) == ("tiny", 243, 5)
    assert found["decisions"][0] == {"name": "prune:0", "options": 3}
    assert set(found["costs"]) == set(COSTS)
    dense = dense_cost(context)
    for name, row in found["costs"].items():
        assert row["minimum"] <= row["centre"] <= row["maximum"] == dense[name].value
        assert row["unit"] == dense[name].unit
    checks = {check["constraint"]: check for check in found["constraints"]}
    assert {text: check["can_be_met"] for text, check in checks.items()} == {"size<=30%": True, "macs<=1%": False}
    assert checks["macs<=1%"]["best"] == found["costs"]["macs"]["minimum"]


def test_nothing_is_cheaper_than_the_least(context: Context) -> None:
    space = tiny_space(context)
    least = least_costs(space, context)
    extreme = cost_of_plan(space.decode(space.extreme_vector), context).metrics
    for name in ("size_bytes", "macs", "peak_memory_bytes", "params"):
        assert least[name].value <= extreme[name].value
    assert least == least_costs(space, context)


@cache
def net_context(name: str) -> Context:
    task: Task = make_task(name)
    target = load_target("jetson-nano")
    return Context(task, target, "fp16", Effort(short_steps=0, calibration_samples=8))


def plans(context: Context) -> list[Plan]:
    info = context.dense.info
    space = build_space(adapt_rules(load_rules("joint"), NANO)[0], info)
    return [space.decode(vector) for vector in (space.dense_vector, space.centre_vector, space.extreme_vector)]


@pytest.mark.parametrize("name", ["lenet", "unet", "mobilenet", "text_encoder"])
def test_the_table_of_layers_adds_up(name: str) -> None:
    context = net_context(name)
    for plan in plans(context):
        found = realise(plan, context)
        cost = cost_of_plan(plan, context)
        rows = layer_rows(context.dense, plan, found.module, cost.latency)
        assert [row.layer for row in rows] == [layer.name for layer in context.dense.info.layers]
        products = total_macs(context.dense.module) - sum(layer.macs for layer in context.dense.info.layers)
        assert sum(row.macs_before for row in rows) == context.dense.info.macs - products
        if not products:
            assert sum(row.macs_after for row in rows) == total_macs(found.module)
        assert sum(row.latency_ms or 0.0 for row in rows) <= cost.latency.ms
        assert sum(row.bytes for row in rows) <= payload_of(found.module).now * 1.01
        for row in rows:
            assert 0 <= row.channels_after <= row.channels_before
            assert row.macs_after <= row.macs_before
            quantized = plan.quantize_of(row.layer)
            assert row.w_bits == (quantized.w_bits if quantized and row.channels_after else None)
        if plan.is_dense:
            assert {row.what for row in rows} == {"as it was"}


def test_the_table_says_what_was_done() -> None:
    context = net_context("lenet")
    ops = (LowRank(0.25), Quantize(4))
    plan = Plan(groups=(("0", Prune(0.5)),), layers=(("7", ops), ("3", (Quantize(8),))))
    module = realise(plan, context).module
    rows = {row.layer: row for row in layer_rows(context.dense, plan, module, None)}
    assert (rows["0"].channels_after, rows["0"].what) == (4, "4 of 8 channels")
    assert (rows["3"].w_bits, rows["3"].what, rows["3"].channels_after) == (8, "w8", 16)
    assert weight_quantizer(module.get_submodule("3")) is not None
    assert (rows["7"].rank, rows["7"].what, rows["7"].w_bits) == ("12 of 48", "rank 0.25, w4", 4)
    assert all(row.latency_ms is None for row in rows.values())


def test_a_dropped_block_is_named() -> None:
    context = net_context("mobilenet")
    block = context.dense.info.blocks[0]
    plan = Plan(Student(drop=(block.name,)))
    rows = layer_rows(context.dense, plan, realise(plan, context).module, None)
    gone = [row for row in rows if row.what == "dropped with its block"]
    assert {row.layer for row in gone} == set(block.layers)
    assert {(row.channels_after, row.macs_after, row.bytes) for row in gone} == {(0, 0, 0)}
