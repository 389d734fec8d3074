from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from autocompress.compress.apply import compress
from autocompress.compress.quantize import activation_quantizers
from autocompress.compress.quantizer import ActivationQuantizer
from autocompress.core.codec import packed_bytes
from autocompress.core.plan import LayerOp, LowRank, Plan, Prune, Quantize, Sparsify
from autocompress.emit.serialize import graph_from_dict, graph_to_dict
from autocompress.errors import InputError, UnsupportedError
from autocompress.graph.info import trace_model
from autocompress.tasks.builtin.resnet import resnet20
from tests.nets import NETS, build

torch.set_num_threads(1)

PLANS: dict[str, tuple[tuple[LayerOp, ...], Prune | None]] = {
    "dense": ((), None),
    "pruned w4a8": ((Quantize(4, 8),), Prune(0.5)),
    "w3 unstructured": ((Sparsify(0.7), Quantize(3)), None),
    "w8a8 2:4": ((Sparsify(0.5, "2:4"), Quantize(8, 8)), None),
    "w5a16 per tensor": ((Quantize(5, 16, "tensor"),), None),
    "lowrank w8": ((LowRank(0.3), Quantize(8, 8)), None),
    "fp16": ((Quantize(16),), None),
    "sparse fp16": ((Sparsify(0.8), Quantize(16)), None),
    "sparse fp32": ((Sparsify(0.8),), None),
}


def compressed(
    model: nn.Module, inputs: tuple[Tensor, ...], *ops: LayerOp, prune: Prune | None = None
) -> tuple[fx.GraphModule, tuple[Tensor, ...], Plan]:
    """The model with these ops on every layer and group, calibrated, and four inputs."""
    torch.manual_seed(0)
    traced = trace_model(model, inputs)
    plan = Plan(
        groups=tuple((g.name, prune) for g in traced.info.groups if prune and g.blocked_by is None),
        layers=tuple((layer.name, ops) for layer in traced.info.layers if ops and layer.frozen_reason is None),
    )
    module = compress(traced, plan).module
    batch = tuple(
        torch.randn(4, *x.shape[1:]) if x.is_floating_point() else torch.randint(0, 9, (4, *x.shape[1:]))
        for x in inputs
    )
    for quantizer in activation_quantizers(module):
        quantizer.observe()
    with torch.no_grad():
        module(*batch)
    for quantizer in activation_quantizers(module):
        quantizer.freeze()
    return module, batch, plan


def through_json(module: fx.GraphModule) -> fx.GraphModule:
    data, tensors = graph_to_dict(module)
    return graph_from_dict(json.loads(json.dumps(data, allow_nan=False)), tensors)


def assert_same(module: fx.GraphModule, again: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        wanted, found = module(*inputs), again(*inputs)
    assert torch.equal(wanted, found)
    assert [(n.op, n.name) for n in module.graph.nodes] == [(n.op, n.name) for n in again.graph.nodes]
    keys = ("shape", "shapes", "int", "dtype")
    for node, other in zip(module.graph.nodes, again.graph.nodes, strict=True):
        assert {k: node.meta[k] for k in keys if k in node.meta} == dict(other.meta)
    assert not again.training


@pytest.mark.parametrize("name", PLANS)
def test_resnet_comes_back_bit_for_bit(name: str) -> None:
    ops, prune = PLANS[name]
    torch.manual_seed(1)
    module, inputs, _ = compressed(resnet20().eval(), (torch.randn(1, 3, 32, 32),), *ops, prune=prune)
    again = through_json(module)
    assert_same(module, again, inputs)
    for path, layer in again.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert type(layer) in (nn.Conv2d, nn.Linear)
            assert torch.equal(layer.weight, module.get_submodule(path).weight)
        if isinstance(layer, ActivationQuantizer):
            other = module.get_submodule(path)
            assert (layer.bits, layer.scale, layer.zero_point) == (other.bits, other.scale, other.zero_point)
    assert len(activation_quantizers(module)) == len(activation_quantizers(again))


@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_net_comes_back(name: str) -> None:
    net = build(name)
    module, inputs, _ = compressed(net.model, net.example_inputs, Quantize(5, 8))
    assert_same(module, through_json(module), inputs)


def test_what_came_back_can_be_stored_again() -> None:
    net = build("lenet")
    module, inputs, _ = compressed(net.model, net.example_inputs, Quantize(4, 8))
    assert_same(module, through_json(through_json(module)), inputs)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_weights_take_their_bits(bits: int) -> None:
    net = build("lenet")
    module, _, _ = compressed(net.model, net.example_inputs, Quantize(bits))
    data, tensors = graph_to_dict(module)
    for path, (stored_bits, _) in data["weights"].items():
        count = module.get_submodule(path.removesuffix(".weight")).weight.numel()
        mask = tensors.get(f"{path}.mask")
        held = tensors[path].numel() + (mask.numel() if mask is not None else 0)
        assert stored_bits == bits
        assert held <= packed_bytes(count, bits)


def test_zeros_of_a_mask_are_kept() -> None:
    net = build("lenet")
    module, inputs, _ = compressed(net.model, net.example_inputs, Sparsify(0.9), Quantize(8))
    data, tensors = graph_to_dict(module)
    again = graph_from_dict(data, tensors)
    assert_same(module, again, inputs)
    for path in data["weights"]:
        layer = path.removesuffix(".weight")
        zeros = module.get_submodule(layer).parametrizations.weight[0].mask == 0
        assert f"{path}.mask" in tensors
        assert not again.get_submodule(layer).weight[zeros].any()


def test_values_off_the_grid_are_stored_plainly() -> None:
    module, inputs, _ = compressed(nn.Sequential(nn.Linear(4, 3)), (torch.randn(1, 4),), Quantize(4))
    parametrize.register_parametrization(module.get_submodule("0"), "weight", nn.Softplus())
    data, tensors = graph_to_dict(module)
    assert not data["weights"]
    assert_same(module, graph_from_dict(data, tensors), inputs)


class Words(nn.Module):
    """Arguments of every kind: infinities, dtypes, text, tuples, slices of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("hidden", torch.tensor([True, False, False, True]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x).masked_fill(self.hidden, float("-inf")).softmax(-1)
        y = torch.nn.functional.gelu(y, approximate="tanh").to(torch.float64).float()
        left, right = y.split(2, dim=1)
        return torch.cat([left, right.contiguous()], 1)[:, 1:3] + torch.arange(2, dtype=torch.float32)


def test_arguments_of_every_kind() -> None:
    module, inputs, _ = compressed(Words().eval(), (torch.randn(1, 4),))
    assert_same(module, through_json(module), inputs)


def test_a_module_without_a_stored_form_is_named() -> None:
    module = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    with pytest.raises(UnsupportedError, match="module '1' is a Tanh"):
        graph_to_dict(module)


def test_an_operator_without_a_stored_form_is_named() -> None:
    with pytest.raises(UnsupportedError, match="'sinh' is not known"):
        graph_to_dict(fx.symbolic_trace(lambda_module()))


def lambda_module() -> nn.Module:
    class Sinh(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sinh(x)

    return Sinh()


@pytest.fixture(scope="module")
def stored() -> tuple[dict[str, Any], dict[str, Tensor]]:
    net = build("lenet")
    return graph_to_dict(compressed(net.model, net.example_inputs, Sparsify(0.9), Quantize(4, 8))[0])


def _call(data: dict[str, Any], op: str) -> list[Any]:
    return next(node for node in data["nodes"] if node[0] == op)


def _set(op: str, index: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        _call(data, op)[index] = value

    return change


def _nested(depth: int) -> list[Any]:
    return [_nested(depth - 1)] if depth else []


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        f"operator {name}": _set("call_function", 2, name)
        for name in (
            *(
                "os.system",
                "eval",
                "aten.save.default",
                "aten.from_file.default",
                "aten.from_file.out",
                "aten.add_.Tensor",
            ),
            *(
                "aten.relu.nothing",
                "aten.nothing.default",
                "aten.__class__.mro",
                "aten.relu.__class__",
                "aten.warn.default",
            ),
            *("prim.device.default", "aten._local_scalar_dense.default", "aten.relu", "", "getattr", "aten.relu.out"),
        )
    },
    "operator list": _set("call_function", 2, ["add"]),
    "input injects code": _set("placeholder", 2, "x=__import__('os').system('false')"),
    "input keyword": _set("placeholder", 2, "None"),
    "input self": _set("placeholder", 2, "self"),
    "input with a default": _set("placeholder", 3, [1]),
    "name injects code": _set("placeholder", 1, "x\nimport os"),
    "method": _set("call_module", 0, "call_method"),
    "unknown operation": _set("call_module", 0, "root"),
    "operation list": _set("call_module", 0, []),
    "unknown module": _set("call_module", 2, "nothing.here"),
    "private attribute": _set("call_module", 2, "__class__"),
    "module without input": _set("call_module", 3, []),
    "module of a number": _set("call_module", 3, [3]),
    "module with keywords": _set("call_module", 4, {"x": 1}),
    "later node": _set("call_module", 3, ["output"]),
    "deep argument": _set("call_function", 3, [_nested(50)]),
    "huge number": _set("call_function", 3, [10**400]),
    "unknown constant": _set("call_function", 3, [{"constant": "torch.load"}]),
    "slice of two": _set("call_function", 3, [{"slice": [1, 2]}]),
    "keyword injects code": _set("call_function", 4, {"a=1, b": 1}),
    "meta": _set("call_function", 5, {"shape": "abc"}),
    "meta key": _set("call_function", 5, {"val": 1}),
    "no output": lambda data: data["nodes"].pop(),
    "nodes twice": lambda data: data["nodes"].extend(data["nodes"]),
    "no nodes": lambda data: data.update(nodes=[]),
    "nodes missing": lambda data: data.pop("nodes"),
    "modules is a list": lambda data: data.update(modules=[]),
    "unknown kind": lambda data: data["modules"].update(a=["Module", {}]),
    "missing argument": lambda data: data["modules"]["0"][1].pop("stride"),
    "dict argument": lambda data: data["modules"]["0"][1].update(stride={}),
    "negative channels": lambda data: data["modules"]["0"][1].update(out_channels=-8),
    "huge channels": lambda data: data["modules"]["0"][1].update(out_channels=2**60),
    "other channels": lambda data: data["modules"]["0"][1].update(out_channels=16),
    "module path injects code": lambda data: data["modules"].update({'a"]': data["modules"]["0"]}),
    "module path forward": lambda data: data["modules"].update(forward=data["modules"].pop("0")),
    "module path parent": lambda data: data["modules"].update({"..": data["modules"].pop("0")}),
    "weight bits": lambda data: data["weights"].update({"0.weight": [9, 0]}),
    "weight axis": lambda data: data["weights"].update({"0.weight": [4, 7]}),
    "weight form": lambda data: data["weights"].update({"0.weight": "packed"}),
    "weight of nothing": lambda data: data["weights"].update({"99.weight": [4, 0]}),
    "weight other bits": lambda data: data["weights"].update({"0.weight": [8, 0]}),
    "state without tensor": lambda data: data["state"].update(a="buffer"),
    "state role": lambda data: data["state"].update({"0.bias": "pickle"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graphs_are_refused(name: str, stored: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    data = json.loads(json.dumps(stored[0]))
    HOSTILE[name](data)
    with pytest.raises(InputError):
        graph_from_dict(data, stored[1])


@pytest.mark.parametrize("key", ["0.weight", "0.weight.mask", "0.weight.scale", "0.weight.zero_point", "0.bias"])
def test_tensors_that_do_not_fit_are_refused(key: str, stored: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    data, tensors = stored
    assert key in tensors
    shorter, other = tensors[key][:-1], tensors[key].to(torch.int32)
    for wrong in ({key: shorter}, {key: other}, {"stray": tensors[key]}):
        with pytest.raises(InputError):
            graph_from_dict(data, {**tensors, **wrong})
    with pytest.raises(InputError):
        graph_from_dict(data, {name: tensor for name, tensor in tensors.items() if name != key})


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_random_damage_is_an_input_error_or_a_model(stored: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    generator = random.Random(0)
    values = [None, -1, 0, 3, 2**70, 1.5, "", "x", "relu", [], [1], {}, {"tuple": [1]}, {"text": "a"}, True]
    refused = 0
    for _ in range(400):
        data = json.loads(json.dumps(stored[0]))
        place: Any = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = generator.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and generator.random() < 0.8:
                place = place[key]
                continue
            place[key] = copy.deepcopy(generator.choice(values))
            break
        try:
            graph_from_dict(data, stored[1])
        except InputError:
            refused += 1
    assert refused > 200
