"""MACs, kernels and blocks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress.core.fusion import fuse
from autocompress.core.fusion_rules import FUSIONS, RUNTIMES
from autocompress.core.kernel import Kernel
from autocompress.graph.blocks import drop_blocks
from autocompress.graph.couple import NORM_MODULES
from autocompress.graph.info import total_macs, trace_model
from autocompress.graph.kernels import kernels, network_of
from autocompress.graph.trace import record_shapes, tidy
from tests.graph.published import ALL, batch_like, net
from tests.graph.traced import traced

TENSORRT, EAGER = FUSIONS["tensorrt"], FUSIONS["eager"]


@pytest.mark.parametrize("name", ALL)
def test_macs_agree_with_the_counter_of_torch(name: str) -> None:
    result = traced(name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result.module(*result.inputs)
    assert result.info.macs * 2 * 2 == counter.get_total_flops(), "two operations each, a batch of two"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALL)
def test_layer_macs_agree_with_fvcore(name: str) -> None:
    fvcore = pytest.importorskip("fvcore.nn")
    model, inputs = net(name)
    if name in ("text_encoder", "vision_transformer"):
        # The fast path of torch's encoder hides its layers from fvcore.
        model = traced(name).module
        inputs = traced(name).inputs
    analysis = fvcore.FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    found = analysis.by_operator()
    layers = {layer.op: 0 for layer in traced(name).info.layers}
    for layer in traced(name).info.layers:
        layers[layer.op] += layer.macs
    convs = sum(macs for op, macs in layers.items() if op.startswith("conv"))
    batch = len(inputs[0])
    assert convs * batch == found.get("conv", 0)
    if name not in ("sequence_first", "tied_head"):
        # There torch's own attention reads the packed weights of three projections one by one, or no layer a matrix.
        assert layers.get("linear", 0) * batch == found.get("linear", 0) + found.get("addmm", 0)


# What no operator stands for moves no data: inputs, weights, the output, views, parts of a split, dropout.
FREE = {
    *(
        "size",
        "view",
        "reshape",
        "flatten",
        "unsqueeze",
        "squeeze",
        "expand",
        "expand_as",
        "select",
        "unbind",
        "split",
        "chunk",
    ),
    *("getitem", "contiguous", "type_as", "unflatten", "add", "mul", "floordiv", "sym_size", "clone", "_unsafe_view"),
}


@pytest.mark.parametrize("name", ALL)
def test_operators_are_what_moves_data(name: str) -> None:
    module = traced(name).module
    operators = {operator.name for operator in network_of(module)}
    for node in module.graph.nodes:
        if node.name in operators or node.op in ("placeholder", "get_attr", "output"):
            continue
        if node.op == "call_module":
            assert isinstance(module.get_submodule(node.target), nn.Dropout), node
            continue
        base = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if base.startswith("slice"):
            assert next(iter(node.users)).target == node.target, "slices along several dimensions are one"
            continue
        assert base in FREE, node
        assert base not in ("add", "mul", "floordiv") or "shape" not in node.meta, node


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ALL)
def test_kernels_cover_every_operator_once(name: str, runtime: str) -> None:
    network = network_of(traced(name).module)
    steps = fuse(network, FUSIONS[runtime])
    covered = [operator.name for step in steps for operator in step.operators]
    assert len(covered) == len(set(covered))
    missing = {operator.name for operator in network} - set(covered)
    # Only what is written twice is left out of these networks.
    assert not missing or FUSIONS[runtime].repeated
    assert sum(step.kernel.macs for step in steps if step.kernel) == total_macs(traced(name).module)
    written: set[str] = set(network.inputs)
    for step in steps:
        assert set(step.reads) <= written, "a kernel runs when all it reads is there"
        written.update(step.writes)
    assert set(network.outputs) <= written


@pytest.mark.parametrize("name", ALL)
def test_no_kernel_of_these_nets_is_unknown(name: str) -> None:
    unknown = [kernel.aten for kernel in kernels(traced(name).module, TENSORRT) if kernel.op == "other"]
    # A matrix that two operators share belongs to no layer.
    assert unknown == (["embedding", "linear"] if name == "tied_head" else [])


def _kernels(name: str) -> dict[str, Kernel]:
    return {kernel.layer: kernel for kernel in kernels(traced(name).module, TENSORRT)}


def test_convolutions_take_norm_activation_and_addition() -> None:
    found = _kernels("resnet20")
    assert found["layer1.0.conv1"].fused == ("batch_norm", "relu")
    assert found["layer1.0.conv2"].fused == ("batch_norm", "add", "relu")
    assert found["layer1.0.conv2"].in_shapes == ((16, 32, 32), (16, 32, 32))
    assert found["linear"].fused == ()
    # The padded shortcut is made first; the two slices of the export are one operator in the file.
    assert found["layer2.0.conv2"].fused == ("batch_norm", "add", "relu")
    others = [kernel.aten for kernel in kernels(traced("resnet20").module, TENSORRT) if kernel.op != "conv2d"]
    assert others == ["slice", "pad"] * 2 + ["adaptive_avg_pool2d", "linear"]


def test_batch_norm_alone_is_a_kernel() -> None:
    first = next(kernel for kernel in kernels(traced("densenet").module, EAGER) if kernel.op == "norm")
    assert (first.fused, first.aten) == ((), "batch_norm")


def test_a_pool_says_what_it_looks_at() -> None:
    pools = [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.MaxPool2d((1, 2), (1, 2))]
    found = kernels(trace_model(nn.Sequential(*pools), (torch.randn(1, 4, 32, 32),)).module, EAGER)
    assert [(kernel.aten, kernel.window, kernel.stride) for kernel in found] == [
        ("max_pool2d", (3, 3), (2, 2)),
        ("avg_pool2d", (2, 2), (2, 2)),
        ("max_pool2d", (1, 2), (1, 2)),
    ]


def test_attention_is_two_products_and_a_softmax() -> None:
    ops = [kernel.op for kernel in kernels(traced("timm_transformer").module, EAGER)]
    assert (ops.count("matmul"), ops.count("softmax")) == (2, 1)
    products = [kernel.macs for kernel in kernels(traced("timm_transformer").module, EAGER) if kernel.op == "matmul"]
    assert products == [3 * 17 * 17 * 8] * 2


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(self.first(x)).real + F.relu(x.sum())


def test_an_unknown_operator_is_called_other() -> None:
    result = trace_model(Unknown().eval(), (torch.randn(1, 3, 8, 8),))
    found = [kernel.aten for kernel in kernels(result.module, EAGER) if kernel.op == "other"]
    assert "fft_fft2" in found


@pytest.mark.parametrize("name", [n for n in ALL if traced(n).blocks])
def test_every_block_can_be_dropped(name: str) -> None:
    result = traced(name)
    for block in result.blocks:
        module = copy.deepcopy(result.module)
        drop_blocks(module, [block])
        tidy(module)
        record_shapes(module, result.inputs)
        inputs = batch_like(result.inputs, 3)
        with torch.no_grad():
            assert module(*inputs).shape == result.module(*inputs).shape
        assert total_macs(module) < result.info.macs
        left = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
        assert not left & set(block.layers), block.name


def test_a_dropped_block_is_one_whose_branch_is_zero() -> None:
    result = traced("resnet20")
    assert [block.name for block in result.blocks] == [f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)]
    for block in result.blocks:
        dropped, zeroed = copy.deepcopy(result.module), copy.deepcopy(result.module)
        drop_blocks(dropped, [block])
        tidy(dropped)
        norm = zeroed.get_submodule(f"{block.name}.bn2")
        assert isinstance(norm, NORM_MODULES)
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
        with torch.no_grad():
            torch.testing.assert_close(dropped(*result.inputs), zeroed(*result.inputs))


def test_blocks_whose_layers_serve_elsewhere_are_not_offered() -> None:
    assert traced("attend").blocks == (), "its two pools share their layers"
    assert traced("densenet").blocks == ()


def test_shapes_are_recorded_on_every_tensor() -> None:
    module: fx.GraphModule = traced("attention").module
    for node in module.graph.nodes:
        assert node.op == "output" or {"shape", "shapes", "int"} & set(node.meta), node


class Alike(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4] * x[:, 4:] + (x * 2.0)[:, :4] + (x * 3.0)[:, :4] + (x * 2.0)[:, :4]


def test_only_what_does_the_same_runs_once() -> None:
    found = kernels(trace_model(Alike(), (torch.randn(1, 8, 8, 8),)).module, FUSIONS["onnxruntime"])
    names = [kernel.aten for kernel in found]
    # Two different halves of x, of x * 2 and x * 3 one each, and x * 2 only once.
    assert (names.count("slice"), names.count("mul"), names.count("add")) == (4, 3, 3)


@pytest.mark.parametrize("name", ["attention", "vision_transformer", "timm_transformer", "conv_mixer", "resnet20"])
def test_blocks_whose_shortcut_is_a_dropped_sum_go_as_well(name: str) -> None:
    model = traced(name)
    module = copy.deepcopy(model.module)
    drop_blocks(module, model.blocks)
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    assert called.isdisjoint(layer for block in model.blocks for layer in block.layers)
    assert called
