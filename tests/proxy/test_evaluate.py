"""Plan in, metrics out: the same every time, and the same as a file of the same model says."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from autocompress.core.fusion import fuse
from autocompress.core.plan import LowRank, Plan, Prune, Quantize, Sparsify, Student
from autocompress.core.rules import build_space, load_rules, lowrank_shrinks
from autocompress.emit.onnx_export import export_onnx
from autocompress.errors import PlanError, RunError
from autocompress.graph.info import total_macs
from autocompress.graph.kernels import network_of
from autocompress.proxy.context import Context, Effort
from autocompress.proxy.cost import cost_of_model, cost_of_plan, latency_of_plan
from autocompress.proxy.evaluate import evaluate, realise, starting_rate
from autocompress.proxy.memory import peak_activation_bytes
from autocompress.run.adapt import adapt_rules
from autocompress.targets.profile import load_target
from autocompress.tasks.builtin.resnet import resnet20
from autocompress.tasks.evaluate import evaluate_metric
from tests.nets import make_task
from tests.run.tiny import laws_of_another_device, tiny_context, tiny_model, tiny_task

PLAN = Plan(
    groups=(("0", Prune(0.25)), ("3", Prune(0.5))),
    layers=(("0", (Quantize(8),)), ("3", (Sparsify(0.5), Quantize(4))), ("8", (Quantize(2),))),
)
PLANS = [
    Plan(),
    PLAN,
    Plan(groups=(("3", Prune(0.5, "taylor")),)),
    Plan(layers=(("3", (LowRank(0.5), Quantize(4))),)),
]
# Random pruning must follow from the seed as well.
RANDOM = Plan(groups=(("0", Prune(0.5, "random")),), layers=(("3", (Quantize(3),)),))


@pytest.fixture(scope="module")
def context() -> Context:
    return tiny_context()


@pytest.mark.parametrize("plan", [*PLANS, RANDOM], ids=str)
def test_the_same_plan_gives_the_same_numbers(context: Context, plan: Plan) -> None:
    first = evaluate(plan, "short", context)
    evaluate(PLAN, "short", context)
    torch.randn(3)
    second = evaluate(plan, "short", context)
    fresh = evaluate(plan, "short", tiny_context())
    assert first.metrics == second.metrics == fresh.metrics
    for other in (second, fresh):
        for name, value in first.module.state_dict().items():
            assert torch.equal(value, other.module.state_dict()[name])
    assert (first.fidelity, first.plan, first.module.training) == ("short", plan, False)


def test_a_seed_gives_another_training(context: Context) -> None:
    one, other = (evaluate(PLAN, "short", tiny_context(seed=seed)).module for seed in (0, 1))
    assert not torch.equal(one.get_submodule("8").bias, other.get_submodule("8").bias)


def test_the_accuracy_is_that_of_the_module(context: Context) -> None:
    result = evaluate(PLAN, "short", context)
    task = context.task
    assert result.metrics["accuracy"].value == evaluate_metric(result.module, task, task.validation)
    few = replace(context.effort, validation_samples=8)
    short = evaluate(PLAN, "short", Context(task, context.target, "fp16", few))
    assert short.metrics["accuracy"].value == evaluate_metric(short.module, task, task.validation.head(8))


def test_the_dense_plan_is_the_model_itself(context: Context) -> None:
    result = evaluate(Plan(), "short", context)
    (images,), _ = next(context.task.validation.batches(16))
    with torch.no_grad():
        torch.testing.assert_close(result.module(images), context.task.model(images))


def test_untrained_is_what_calibration_gives(context: Context) -> None:
    result = evaluate(PLAN, "untrained", context)
    wanted = realise(PLAN, context).module.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in result.module.state_dict().items())


def test_plans_that_share_their_structure_have_it_made_once(context: Context) -> None:
    shared = [Plan(groups=PLAN.groups, layers=(("3", ops),)) for ops in ((), (Quantize(8),), (LowRank(0.5),))]
    fresh = [realise(plan, tiny_context()).module.state_dict() for plan in (PLAN, *shared)]
    shaped = context.shaped(PLAN)
    for plan, wanted in zip((PLAN, *shared, PLAN), (*fresh, fresh[0]), strict=True):
        compressed = realise(plan, context)
        assert compressed.plan == plan
        found = compressed.module.state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(value, wanted[name]) for name, value in found.items())
    assert context.shaped(PLAN) is not shaped
    assert context.shaped(PLAN) is context.shaped(shared[0]) is not context.shaped(shared[2])


def test_training_goes_on_from_where_it_ended(context: Context) -> None:
    first = evaluate(PLAN, "short", context)
    second = evaluate(PLAN, "full", context, steps=0, start=first.module.state_dict())
    assert second.metrics == first.metrics
    steps: list[int] = []
    evaluate(PLAN, "full", context, steps=5, progress=lambda step, _: steps.append(step))
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 5


def test_models_and_the_task_are_left_alone(context: Context) -> None:
    before = (context.task.model_digest, context.task.data_digest)
    dense = {name: value.clone() for name, value in context.dense.module.state_dict().items()}
    for plan in PLANS:
        evaluate(plan, "short", context)
    assert (context.task.model_digest, context.task.data_digest) == before
    assert all(torch.equal(value, dense[name]) for name, value in context.dense.module.state_dict().items())


def test_a_metric_that_is_not_finite_is_an_error() -> None:
    context = tiny_context(replace(tiny_task(trained=False), metric=lambda outputs, targets: float("nan")))
    with pytest.raises(RunError, match="accuracy on validation is nan"):
        evaluate(PLAN, "short", context)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(layers=(("9", (Quantize(8),)),)), "9"),
        (Plan(groups=(("conv9", Prune(0.5)),)), "conv9"),
        (Plan(Student(drop=("block",))), "block"),
        (Plan(Student(choices=(("width", 8),))), "has no 'width'"),
    ],
)
def test_plans_that_do_not_fit_are_refused(context: Context, plan: Plan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        cost_of_plan(plan, context)


def test_a_resolution_or_choice_that_does_not_run_is_refused() -> None:
    text = make_task("text_encoder")
    context = Context(text, load_target("jetson-nano"), "fp16", Effort())
    with pytest.raises(PlanError, match=r"resolution is 0\.5; the model of task 'text_encoder' does not run there"):
        cost_of_plan(Plan(Student(resolution=0.5)), context)
    task = replace(tiny_task(trained=False), student=lambda width: tiny_model(width), student_choices={"width": (1, 2)})
    context = Context(task, load_target("jetson-nano"), "fp16", Effort())
    with pytest.raises(PlanError, match=r"choices\.width is 3; allowed: 1, 2"):
        cost_of_plan(Plan(Student(choices=(("width", 3),))), context)
    assert cost_of_plan(Plan(Student(choices=(("width", 2),))), context).metrics["macs"].value > 0


def test_a_student_is_built_by_the_task() -> None:
    task = replace(tiny_task(), student=lambda width: tiny_model(width), student_choices={"width": (1, 2)})
    context = Context(task, load_target("jetson-nano"), "fp16", Effort(short_steps=2, calibration_samples=16))
    plan = Plan(Student(choices=(("width", 2),)), layers=(("8", (Quantize(8),)),))
    result = evaluate(plan, "untrained", context)
    assert torch.equal(result.module.get_submodule("0").weight, tiny_model(2)[0].weight)
    assert evaluate(plan, "short", context).metrics == evaluate(plan, "short", context).metrics


def test_a_measured_target_measures_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.targets.calibrate.local_laws", laws_of_another_device)
    context = tiny_context(target="local")
    plan = Plan(layers=(("3", (Quantize(8, 8),)),))
    short, untrained = evaluate(plan, "short", context), evaluate(plan, "untrained", context)
    latency = short.metrics["latency_ms"]
    assert (latency.origin, short.metrics["size_bytes"].origin) == ("measured", "measured")
    assert 0.0 < latency.low <= latency.value <= latency.high
    assert untrained.metrics["latency_ms"].origin != "measured"
    assert short.metrics["accuracy"] == evaluate(plan, "short", context).metrics["accuracy"]


@cache
def net_context(name: str) -> Context:
    """A net whose tensors all differ, as those of a trained one do: equal ones are stored once."""
    task = make_task("mobilenet" if name == "resnet20" else name)
    if name == "resnet20":
        task = replace(task, model=resnet20(classes=4).eval())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return Context(task, load_target("jetson-nano"), "fp16", Effort(short_steps=0, calibration_samples=16))


@pytest.mark.parametrize("name", ["resnet20", "unet", "text_encoder"])
def test_the_predicted_size_is_that_of_the_file(name: str, tmp_path: Path) -> None:
    context = net_context(name)
    space = build_space(adapt_rules(load_rules("joint"), context.target.profile)[0], context.dense.info)
    rungs = [plan for _, plan in space.uniform_plans()]
    vectors = (space.dense_vector, space.centre_vector, space.extreme_vector)
    for plan in [*(space.decode(vector) for vector in vectors), rungs[4]]:
        module = realise(plan, context).module
        predicted = cost_of_plan(plan, context).metrics
        exported = export_onnx(module, context.dense.inputs, tmp_path / "model.onnx", opset=13)
        size = predicted.pop("size_bytes").value
        # A few bytes of a graph weigh more in a tiny file.
        assert abs(size - exported.size_bytes) <= max(0.03 * exported.size_bytes, 512), plan
        # Weights do not matter to what a plan costs, but for how few of them are zero.
        found = cost_of_model(module, context).metrics
        assert found.pop("size_bytes").value == pytest.approx(size, rel=0.003, abs=min(128, 0.03 * size))
        assert predicted == found
        assert predicted["macs"].value == total_macs(module)
        network = network_of(module)
        peak = peak_activation_bytes(network, fuse(network, context.target.fusion), "fp16")
        assert predicted["peak_memory_bytes"].value == peak
        assert predicted["latency_ms"].low <= predicted["latency_ms"].value <= predicted["latency_ms"].high


def test_the_rate_starts_higher_the_more_was_cut_and_the_longer_it_trains_and_not_at_a_smaller_input() -> None:
    context = Context(make_task("senet"), load_target("jetson-nano"), "fp16", Effort(), shares=(1.0, 0.5))
    base = context.task.learning_rate
    groups = [group.name for group in context.dense.info.groups if group.blocked_by is None]

    def rate(sparsity: float | None, resolution: float = 1.0, steps: int = 40) -> float:
        ops = tuple((name, Prune(sparsity)) for name in groups) if sparsity else ()
        plan = Plan(Student(resolution=resolution), groups=ops)
        return starting_rate(plan, realise(plan, context).module, context, steps) / base

    assert rate(None) == rate(None, 0.5) == 1.0
    assert 1.0 < rate(0.125) < rate(0.25) < rate(0.75) == 3.0
    assert rate(None, steps=10) == 1.0
    assert [rate(None, steps=steps) for steps in (320, 2560, 10**6)] == pytest.approx([2.0, 4.0, 5.0])
    assert rate(0.75, steps=320) == pytest.approx(5.0)

    wide = [layer.name for layer in context.dense.info.layers if lowrank_shrinks(layer, LowRank(0.25))]
    plan = Plan(layers=tuple((name, (LowRank(0.25), Quantize(4, 8))) for name in wide))
    module = realise(plan, context).module
    assert total_macs(module) < 0.8 * context.dense.info.macs
    assert starting_rate(plan, module, context, 40) == base


def test_the_rate_of_a_model_without_batchnorm_is_the_tasks() -> None:
    context = Context(make_task("lenet"), load_target("jetson-nano"), "fp16", Effort())
    group = next(group.name for group in context.dense.info.groups if group.blocked_by is None)
    plan = Plan(groups=((group, Prune(0.5)),))
    module = realise(plan, context).module
    assert {starting_rate(plan, module, context, steps) for steps in (40, 4000)} == {context.task.learning_rate}


@pytest.mark.parametrize("plan", [*PLANS, RANDOM, Plan(layers=(("3", (Quantize(4, 8),)),))], ids=str)
def test_the_latency_of_a_plan_needs_no_model(context: Context, plan: Plan) -> None:
    alone, whole = latency_of_plan(plan, context), cost_of_plan(plan, context).latency
    assert alone == whole
    assert pickle.loads(pickle.dumps(context)).network(plan) == context.network(plan)


def test_the_latency_of_a_plan_that_does_not_fit_is_refused(context: Context) -> None:
    with pytest.raises(PlanError, match="does not have"):
        latency_of_plan(Plan(groups=(("nothing", Prune(0.5)),)), context)
