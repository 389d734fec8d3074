from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from autocompress.compress.apply import compress
from autocompress.compress.repair import Reference, _rows, _weights, reference_outputs, repair
from autocompress.core.plan import LowRank, Plan, Prune, Student
from autocompress.errors import PlanError
from autocompress.graph.cut import cut
from autocompress.graph.info import Traced, trace_model
from tests.graph.published import ALL, batch_like
from tests.graph.traced import traced

# Nothing in conv_mixer can be cut.
CUTTABLE = tuple(name for name in ALL if name != "conv_mixer")


@cache
def reference(name: str) -> Reference:
    return reference_outputs(traced(name).module, batch_like(traced(name).inputs, 48, seed=1))


def halved(model: Traced) -> Plan:
    return Plan(groups=tuple((group.name, Prune(0.5)) for group in model.coupling.groups if not group.blocked_by))


def low_rank(model: Traced) -> Plan:
    offered = (layer for layer in model.info.layers if layer.op in ("linear", "conv1d", "conv2d"))
    return Plan(layers=tuple((layer.name, (LowRank(0.5),)) for layer in offered if layer.frozen_reason is None))


def without_blocks(model: Traced) -> Plan:
    return Plan(Student(drop=tuple(block.name for block in model.blocks)))


def error(module: nn.Module, dense: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Root mean square of what the outputs are off, relative to the dense ones."""
    with torch.no_grad():
        ours, theirs = module(*inputs), dense(*inputs)
    return float((ours - theirs).norm() / theirs.norm())


def changed(ours: nn.Module, theirs: nn.Module) -> set[str]:
    """Paths of the layers whose weight or bias differs in a bit."""
    other = theirs.state_dict()
    assert ours.state_dict().keys() == other.keys()
    return {name.rpartition(".")[0] for name, value in ours.state_dict().items() if not torch.equal(value, other[name])}


def check_rows(layer: nn.Conv1d | nn.Conv2d | nn.Linear, x: Tensor) -> None:
    """Rows times weights are the layer's own outputs at some places, in the order of these places."""
    with torch.no_grad():
        out = layer(x)
        expected = (out if isinstance(layer, nn.Linear) else out.movedim(1, -1)).flatten(0, -2)
        places = torch.randperm(len(expected))[: max(1, len(expected) * 2 // 3)]
        found = _rows(layer, x, places) @ _weights(layer).t() + (0.0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(found, expected[places], rtol=1e-4, atol=1e-5)


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Conv1d | nn.Conv2d:
    def sides(least: int, *most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, side)) for side in most[:rank])

    torch.manual_seed(draw(st.integers(0, 99)))
    rank = draw(st.sampled_from([1, 2]))
    padding = draw(st.sampled_from(["same", "valid", "given"]))
    return (nn.Conv1d if rank == 1 else nn.Conv2d)(
        3,
        5,
        sides(1, 4, 3),  # type: ignore[arg-type]
        stride=sides(1, 3, 2) if padding != "same" else 1,  # type: ignore[arg-type]
        padding=sides(0, 3, 2) if padding == "given" else padding,  # type: ignore[arg-type]
        dilation=sides(1, 2, 3),  # type: ignore[arg-type]
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@given(convolutions())
def test_rows_of_convolutions_times_weights_are_their_outputs(layer: nn.Conv1d | nn.Conv2d) -> None:
    x = torch.randn(2, 3, *(11, 9)[: len(layer.kernel_size)])
    check_rows(layer, x)
    check_rows(layer, x.movedim(1, -1).contiguous().movedim(-1, 1))


@pytest.mark.parametrize("shape", [(7, 6), (4, 5, 6), (2, 3, 4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_linear_layers_times_weights_are_their_outputs(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    check_rows(nn.Linear(6, 5, bias), torch.randn(shape))


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("between", [nn.Identity, nn.ReLU])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d"])
def test_channels_that_repeat_others_are_not_missed(kind: str, between: type[nn.Module], scale: float) -> None:
    torch.manual_seed(0)
    maker, reader, shape = {
        "linear": (nn.Linear(12, 16), nn.Linear(16, 6), (12,)),
        "conv1d": (nn.Conv1d(4, 16, 3), nn.Conv1d(16, 6, 5, dilation=2), (4, 24)),
        "conv2d": (nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 6, 3, stride=2), (3, 10, 10)),
    }[kind]
    with torch.no_grad():
        for values in maker.parameters():
            values[8:] = scale * values[:8]
    model = trace_model(nn.Sequential(maker, between(), reader).eval(), (torch.randn(1, *shape),))
    (group,) = (group for group in model.coupling.groups if not group.blocked_by)
    removed = set(group.roots[8:])
    module = copy.deepcopy(model.module)
    cut(module, model.coupling, removed, model.inputs)
    others = batch_like(model.inputs, 32, seed=2)
    assert error(module, model.module, others) > 0.1
    known = reference_outputs(model.module, batch_like(model.inputs, 256, seed=1))
    repair(module, known, model.coupling, frozenset(removed), {})
    # The ridge holds back a little.
    assert error(module, model.module, others) < 0.05


CASES = [
    *((name, halved) for name in CUTTABLE),
    *((name, low_rank) for name in ("lenet", "unet", "text_encoder", "attention", "resnext", "text_cnn")),
    *((name, without_blocks) for name in ("resnet20", "text_encoder", "attention", "senet", "shufflenet", "convnext")),
]


@pytest.mark.parametrize(("name", "make_plan"), CASES, ids=[f"{name}-{make.__name__}" for name, make in CASES])
def test_outputs_on_other_samples_come_closer_to_the_dense_ones(name: str, make_plan: Callable[[Traced], Plan]) -> None:
    model, plan = traced(name), make_plan(traced(name))
    assert plan.changes_shapes
    others = batch_like(model.inputs, 48, seed=2)
    plain, repaired = compress(model, plan), compress(model, plan, reference=reference(name))
    assert error(repaired.module, model.module, others) < 0.95 * error(plain.module, model.module, others)


@pytest.mark.parametrize("name", ["resnet20", "lenet", "mobilenet", "text_encoder", "text_cnn"])
def test_an_unchanged_model_keeps_every_bit(name: str) -> None:
    module = copy.deepcopy(traced(name).module)
    repair(module, reference(name), traced(name).coupling, frozenset(), {})
    assert changed(module, traced(name).module) == set()


def both(name: str, plan: Plan) -> tuple[fx.GraphModule, fx.GraphModule]:
    return compress(traced(name), plan, reference=reference(name)).module, compress(traced(name), plan).module


def test_a_layer_that_is_called_twice_is_left_alone() -> None:
    touched = changed(*both("shared", halved(traced("shared"))))
    assert "shared" not in touched
    assert {"tail", "head.fc"} <= touched


@pytest.mark.parametrize("name", ["mobilenet", "shufflenet", "resnext"])
def test_layers_with_groups_are_left_alone(name: str) -> None:
    repaired, plain = both(name, halved(traced(name)))
    touched = [getattr(plain.get_submodule(path), "groups", 1) for path in changed(repaired, plain)]
    assert touched
    assert set(touched) == {1}


@pytest.mark.parametrize(("width", "fitted"), [(2500, True), (2501, False)])
def test_layers_with_too_many_inputs_are_left_alone(width: int, fitted: bool) -> None:
    torch.manual_seed(0)
    model = trace_model(nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)), (torch.randn(1, 4),))
    plan, known = halved(model), reference_outputs(model.module, batch_like(model.inputs, 8))
    touched = changed(compress(model, plan, reference=known).module, compress(model, plan).module)
    assert touched == ({"2"} if fitted else set())


def test_of_factors_only_the_last_is_fitted() -> None:
    model = traced("lenet")
    made = compress(model, low_rank(model), reference=reference("lenet"))
    touched = changed(made.module, compress(model, low_rank(model)).module)
    assert touched & {paths[-1] for paths in made.factors.values()}
    assert not touched & {path for paths in made.factors.values() for path in paths[:-1]}


def test_repairing_twice_gives_the_same_weights() -> None:
    model, modules = traced("resnext"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        known = reference_outputs(model.module, batch_like(model.inputs, 16))
        modules.append(compress(model, halved(model), reference=known).module)
    assert changed(*modules) == set()


def test_the_dense_model_is_not_touched_and_no_hook_stays() -> None:
    model = traced("senet")
    before = copy.deepcopy(model.module)
    made = compress(model, halved(model), reference=reference_outputs(model.module, batch_like(model.inputs, 16)))
    assert changed(model.module, before) == set()
    for module in (*model.module.modules(), *made.module.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_gradients_are_asked_for_where_they_decide() -> None:
    model = traced("lenet")
    name = next(group.name for group in model.info.groups if group.blocked_by is None)
    with pytest.raises(PlanError, match="needs gradients of the loss"):
        compress(model, Plan(groups=((name, Prune(0.5, "taylor")),)))
