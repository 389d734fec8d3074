"""One suite for every op: it applies, runs, repeats, leaves the model alone and refuses by name what is not legal."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, fx, nn

from autocompress.compress.apply import Compressed, apply, compress
from autocompress.compress.calibrate import batch_statistics, calibrate
from autocompress.compress.importance import Gradients
from autocompress.compress.quantize import activation_quantizers, weight_parametrizations
from autocompress.compress.quantizer import HalfWeight, SparseMask, WeightQuantizer
from autocompress.core.fusion import fuse
from autocompress.core.fusion_rules import FUSIONS
from autocompress.core.plan import (
    CRITERIA,
    FACTORISATIONS,
    GRANULARITIES,
    OPS,
    RANGES,
    SCHEMES,
    WEIGHT_BITS,
    LayerOp,
    LowRank,
    Op,
    Plan,
    Prune,
    Quantize,
    Sparsify,
    Student,
)
from autocompress.errors import PlanError
from autocompress.graph.info import Traced, total_macs, trace_model
from autocompress.graph.kernels import network_of
from autocompress.proxy.memory import peak_activation_bytes
from tests.graph.published import batch_like, net
from tests.graph.test_trace import Tied
from tests.graph.traced import traced

NETS = ("mobilenet", "text_encoder", "unet", "groupnorm", "text_cnn")


@dataclass(frozen=True)
class Case:
    """An op that is put on everything in a net that can take it."""

    op: Op
    kinds: tuple[str, ...] = field(default=("conv1d", "conv2d", "conv_transpose2d", "linear", "embedding"))

    def plan(self, model: Traced) -> Plan:
        if isinstance(self.op, Prune):
            return Plan(groups=tuple((g.name, self.op) for g in model.info.groups if g.blocked_by is None))
        layers = [layer.name for layer in model.info.layers if layer.op in self.kinds]
        return Plan(layers=tuple((name, (self.op,)) for name in layers))

    def __str__(self) -> str:
        return repr(self.op).replace("'", "")


def _cases() -> Iterator[Case]:
    yield from (Case(Prune(0.3, criterion)) for criterion in CRITERIA)
    yield Case(Prune(0.3, round_to=4))
    yield from (Case(Sparsify(share)) for share in (0.1, 0.7))
    yield Case(Sparsify(0.5, "2:4"))
    for bits in WEIGHT_BITS[:-1]:
        yield from (Case(Quantize(bits, None, granularity)) for granularity in GRANULARITIES)
    for scheme in SCHEMES:
        yield from (Case(Quantize(4, 8, "channel", scheme, method)) for method in RANGES)
    yield from (Case(Quantize(8, a_bits)) for a_bits in (8, 16))
    yield Case(Quantize(16))
    factorised = ("conv1d", "conv2d", "linear")
    yield from (Case(LowRank(0.4, method), factorised) for method in (*FACTORISATIONS, None))


CASES = list(_cases())


def gradients(model: Traced) -> Gradients:
    module = copy.deepcopy(model.module)
    module(*batch_like(model.inputs, 4)).square().mean().backward()
    return {path: p.grad for path, p in module.named_parameters() if p.grad is not None}


def make(model: Traced, plan: Plan, seed: int = 0) -> Compressed:
    wanted = any(op.criterion == "taylor" for _, op in plan.groups)
    return compress(model, plan, gradients=gradients(model) if wanted else None, seed=seed)


def calibrated(model: Traced, made: Compressed) -> fx.GraphModule:
    inputs = batch_like(model.inputs, 8, seed=3)
    calibrate(made.module, inputs, batch_statistics(model.module, inputs), model.coupling, made.removed)
    return made.module


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[key]) for key, value in left.items())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_applies_runs_repeats_and_leaves_the_model_alone(case: Case, name: str) -> None:
    model = traced(name)
    plan = case.plan(model)
    before, code = state(model.module), model.module.code
    made = make(model, plan)
    module = calibrated(model, made)
    for count in (1, 3):
        inputs = batch_like(model.inputs, count)
        with torch.no_grad():
            outputs = module(*inputs)
            assert outputs.shape == model.module(*inputs).shape
        assert bool(outputs.isfinite().all())
    assert not module.training
    assert same(state(model.module), before)
    assert model.module.code == code
    again = make(model, plan)
    calibrated(model, again)
    assert same(state(module), state(again.module))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_without_weights_are_those_with_them(case: Case) -> None:
    model = traced("mobilenet")
    plan = case.plan(model)
    full, quick = make(model, plan), compress(model, plan, weights=False)
    shapes = [{k: v.shape for k, v in m.module.state_dict().items()} for m in (full, quick)]
    assert shapes[0] == shapes[1]
    assert total_macs(full.module) == total_macs(quick.module)
    networks = [network_of(one.module) for one in (full, quick)]
    peaks = [peak_activation_bytes(one, fuse(one, FUSIONS["onnxruntime"]), "fp32") for one in networks]
    assert peaks[0] == peaks[1]


def test_every_op_has_a_case() -> None:
    assert {type(case.op) for case in CASES} == set(OPS.values())


def test_pruning_keeps_what_the_plan_says() -> None:
    model = traced("resnet20")
    plan = Plan(groups=(("layer1.0.conv1", Prune(0.4, round_to=4)), ("conv1", Prune(0.5))))
    module = make(model, plan).module
    assert module.get_submodule("layer1.0.conv1").weight.shape == (12, 8, 3, 3)
    assert total_macs(module) < model.info.macs


def test_the_least_important_channels_go() -> None:
    model, inputs = net("resnet20")
    weak = [1, 5, 6, 11]
    with torch.no_grad():
        for path in ("layer1.0.conv1", "layer1.0.bn1"):
            model.get_submodule(path).weight[weak] *= 1e-3
        model.get_submodule("layer1.0.conv2").weight[:, weak] *= 1e-3
    result = trace_model(model, inputs)
    group = next(g for g in result.coupling.groups if g.name == "layer1.0.conv1")
    for criterion in ("l1", "l2", "taylor"):
        removed = make(result, Plan(groups=((group.name, Prune(0.25, criterion)),))).removed
        assert removed == {group.roots[i] for i in weak}, criterion


def test_random_channels_depend_on_the_seed_alone() -> None:
    model = traced("mobilenet")
    plan = Case(Prune(0.5, "random")).plan(model)
    assert make(model, plan, 1).removed == make(model, plan, 1).removed
    assert make(model, plan, 1).removed != make(model, plan, 2).removed


def test_factors_are_smaller_and_named() -> None:
    model = traced("resnet20")
    made = make(model, Plan(layers=(("layer3.1.conv1", (LowRank(0.25),)), ("linear", (LowRank(0.5),)))))
    assert made.factors == {
        "layer3.1.conv1": ("layer3.1.conv1.reduce", "layer3.1.conv1.core", "layer3.1.conv1.expand"),
        "linear": ("linear.first", "linear.second"),
    }
    assert sum(p.numel() for p in made.module.parameters()) < model.info.params


@pytest.mark.parametrize(
    ("layer", "ratio", "why"),
    [("2.depthwise.0", 0.1, "its convolution has groups"), ("0.0", 0.9, "would not be smaller")],
)
def test_what_is_not_factorised_is_noted(layer: str, ratio: float, why: str) -> None:
    made = make(traced("mobilenet"), Plan(layers=((layer, (LowRank(ratio),)),)))
    assert made.factors == {}
    assert len(made.notes) == 1
    assert layer in made.notes[0]
    assert why in made.notes[0]


@pytest.mark.parametrize(
    ("name", "plan", "words"),
    [
        ("resnet20", Plan(groups=(("conv9", Prune(0.5)),)), "group 'conv9', which the model does not have"),
        ("resnet20", Plan(groups=(("linear", Prune(0.5)),)), "'linear' cannot be pruned: model output"),
        ("text_encoder", Plan(groups=(("embedding", Prune(0.5)),)), "layer_norm"),
        ("resnet20", Plan(layers=(("conv9", (Quantize(),)),)), "layer 'conv9', which the model does not have"),
        ("resnet20", Plan(student=Student(drop=("layer9",))), "block 'layer9', which the model does not have"),
        ("unet", Plan(layers=(("up2", (LowRank(0.5),)),)), "conv_transpose2d, which lowrank does not factorise"),
        ("text_cnn", Plan(layers=(("words", (LowRank(0.5),)),)), "embedding, which lowrank does not factorise"),
        ("bare_weights", Plan(layers=(("weight", (Quantize(),)),)), "'weight' cannot be compressed: matmul"),
    ],
)
def test_illegal_plans_are_refused_by_name(name: str, plan: Plan, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        compress(traced(name), plan)


def test_frozen_layers_are_refused() -> None:
    with pytest.raises(PlanError, match="'words' cannot be compressed: its weights are shared"):
        apply(Tied().eval(), Plan(layers=(("words", (Quantize(),)),)), (torch.randint(0, 20, (1, 5)),))


def test_rank_and_zeros_do_not_meet_on_a_layer() -> None:
    with pytest.raises(PlanError, match="lowrank and sparsify cannot be combined"):
        Plan(layers=(("conv1", (LowRank(0.5), Sparsify(0.5))),))


def _both(*ops: LayerOp) -> Plan:
    kept = ("layer1.0.conv1", "layer2.1.conv1", "layer3.2.conv1")
    return Plan(
        student=Student(drop=("layer1.1", "layer2.2")),
        groups=tuple((name, Prune(0.4)) for name in (*kept, "conv1", "layer2.0.conv2", "layer2.2.conv1")),
        layers=tuple((name, ops) for name in (*kept, "layer1.1.conv1")),
    )


@pytest.mark.parametrize(
    ("ops", "first", "then"),
    [
        ((Sparsify(0.5), Quantize(4, 8)), SparseMask, WeightQuantizer),
        ((Quantize(8, 8), Sparsify(0.5, "2:4")), SparseMask, WeightQuantizer),
        ((Sparsify(0.5), Quantize(16)), SparseMask, HalfWeight),
        ((Quantize(4), LowRank(0.3)), WeightQuantizer, None),
    ],
    ids=str,
)
def test_ops_are_combined_in_one_order(ops: tuple[LayerOp, ...], first: type, then: type | None) -> None:
    model = traced("resnet20")
    made = make(model, _both(*ops))
    module = calibrated(model, made)
    with torch.no_grad():
        assert bool(module(*batch_like(model.inputs, 3)).isfinite().all())
    paths = made.factors.get("layer2.1.conv1", ("layer2.1.conv1",))
    assert len(paths) == (3 if any(isinstance(op, LowRank) for op in ops) else 1)
    for path in paths:
        layer = module.get_submodule(path)
        found = weight_parametrizations(layer)
        assert [type(p) for p in found] == [kind for kind in (first, then) if kind is not None]
        if isinstance(found[0], SparseMask):
            assert bool((layer.weight[found[0].mask == 0] == 0).all()), "zeros stay zeros on the grid"
    assert "layer1.1.conv1" not in dict(module.named_modules())
    assert module.get_submodule(paths[0]).weight.shape[1] < 32


def test_activations_are_rounded_where_kernels_begin_and_end() -> None:
    model = traced("resnet20")
    plan = Plan(layers=tuple((layer.name, (Quantize(8, 8),)) for layer in model.info.layers))
    module = calibrated(model, make(model, plan))
    assert len(activation_quantizers(module)) >= len(model.info.layers)
    names = {key.removeprefix("quantizers.") for key, _ in module.named_modules() if key.startswith("quantizers.")}
    assert "x" in names, "the input"
    assert "linear" not in names, "the output stays as it is"


def test_apply_takes_a_plain_model() -> None:
    model, inputs = net("resnet20")
    before = state(model)
    small = apply(model, Plan(student=Student(resolution=0.5), groups=(("conv1", Prune(0.5)),)), inputs)
    with torch.no_grad():
        assert small(*inputs).shape == (1, 10)
    assert total_macs(small) < traced("resnet20").info.macs / 4
    assert same(state(model), before)


def test_a_dense_plan_changes_nothing() -> None:
    model = traced("mobilenet")
    made = compress(model, Plan())
    assert same(state(made.module), state(model.module))
    assert made.removed == frozenset()
