from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Tracer
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils import parametrize

from autocompress.compress.apply import compress
from autocompress.compress.calibrate import calibrate as calibrate_compressed
from autocompress.compress.quantizer import ActivationQuantizer, HalfWeight, SparseMask, WeightQuantizer
from autocompress.core.plan import Plan, Quantize
from autocompress.emit.fold import fold_batchnorm
from autocompress.emit.onnx_export import export_onnx, graph_overhead_bytes, payload_of, unpack_onnx
from autocompress.emit.settle import settle_biases
from autocompress.emit.verify import run_onnx, verify
from autocompress.errors import UnsupportedError
from autocompress.graph.info import trace_model

aten = torch.ops.aten
END = 9223372036854775807


class _LeafTracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ActivationQuantizer) or super().is_leaf_module(m, module_qualified_name)


def lift(model: nn.Module, *inputs: Tensor) -> GraphModule:
    model.eval()
    lifted = GraphModule(model, _LeafTracer().trace(model))
    ShapeProp(lifted).propagate(*inputs)
    for node in lifted.graph.nodes:
        node.meta["shape"] = getattr(node.meta.get("tensor_meta"), "shape", ())
    return lifted


class Residual(nn.Module):
    """Two blocks of a residual network, the second with a strided, zero-padded shortcut; quantizers optional."""

    def __init__(self, bits: int | None = None, width: int = 8) -> None:
        super().__init__()
        for i, (cin, cout, stride) in enumerate(
            [(3, width, 1), (width, width, 1), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        ):
            self.add_module(f"conv{i}", nn.Conv2d(cin, cout, 3, stride, 1, bias=False))
            self.add_module(f"norm{i}", _norm(nn.BatchNorm2d(cout)))
        self.linear = nn.Linear(2 * width, 10)
        self.width = width
        for name in ("input", "r0", "r1", "c2", "s0", "r3", "c4", "s1", "pool"):
            self.add_module(f"q_{name}", ActivationQuantizer(bits) if bits else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        relu = aten.relu.default
        x = self.q_r0(relu(self.norm0(self.conv0(self.q_input(x)))))
        y = self.q_c2(self.norm2(self.conv2(self.q_r1(relu(self.norm1(self.conv1(x)))))))
        x = self.q_s0(relu(aten.add.Tensor(y, x)))
        y = self.q_c4(self.norm4(self.conv4(self.q_r3(relu(self.norm3(self.conv3(x)))))))
        x = aten.slice.Tensor(aten.slice.Tensor(x, 2, 0, END, 2), 3, 0, END, 2)
        x = aten.constant_pad_nd.default(x, [0, 0, 0, 0, self.width // 2, self.width // 2], 0.0)
        x = self.q_pool(aten.avg_pool2d.default(self.q_s1(relu(aten.add.Tensor(y, x))), [8, 8]))
        return self.linear(aten.view.default(x, [-1, 2 * self.width]))


def _norm(norm: nn.Module) -> nn.Module:
    # Statistics and factors that are not the identity; some factors are negative.
    with torch.no_grad():
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2.0)
        norm.weight.uniform_(-0.3, 1.5)
        norm.bias.normal_(0, 0.2)
    return norm


def residual(bits: int | None = None, *ops: Quantize, width: int = 8) -> tuple[GraphModule, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 16, 16)
    model = lift(Residual(bits, width), x)
    for op in ops:
        quantize_weights(model, op)
    calibrate(model, x)
    return model, x


def quantize_weights(model: nn.Module, op: Quantize) -> None:
    for layer in list(model.modules()):
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
            axis = 1 if isinstance(layer, (nn.ConvTranspose2d, nn.Embedding)) else 0
            parametrize.register_parametrization(layer, "weight", WeightQuantizer(layer.weight, op, axis))


def sparsify(model: nn.Module, share: float) -> None:
    for layer in list(model.modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            mask = (torch.rand_like(layer.weight) > share).float()
            parametrize.register_parametrization(layer, "weight", SparseMask(mask))


def calibrate(model: nn.Module, *inputs: Tensor) -> None:
    quantizers = [module for module in model.modules() if isinstance(module, ActivationQuantizer)]
    for quantizer in quantizers:
        quantizer.observe()
    with torch.no_grad():
        model(*inputs)
    for quantizer in quantizers:
        quantizer.freeze()


def difference(model: GraphModule, path: Path, *inputs: Tensor) -> float:
    with torch.no_grad():
        wanted = model(*inputs)
    return float((run_onnx(path, [inputs])[0] - wanted).abs().max() / (wanted.max() - wanted.min()))


def optimized(path: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".opt.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_folding_changes_no_output_and_leaves_no_norm() -> None:
    model, x = residual()
    folded = fold_batchnorm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.module.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded.module(x), model(x), rtol=1e-4, atol=1e-4)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_folding_keeps_quantized_weights_on_their_codes(granularity: str, scheme: str) -> None:
    model, x = residual(None, Quantize(4, granularity=granularity, scheme=scheme))
    before, _, _ = model.conv1.parametrizations.weight[0].codes(model.conv1.parametrizations.weight.original)
    folded = fold_batchnorm(model)
    assert torch.equal(folded.weights["conv1"].values, before)
    assert (folded.weights["conv1"].scale < 0).any()
    with torch.no_grad():
        torch.testing.assert_close(folded.module(x), model(x), rtol=1e-4, atol=1e-4)


def test_integer_weights_are_flipped_exactly() -> None:
    for op in (Quantize(8), Quantize(4), Quantize(6, scheme="affine"), Quantize(5, granularity="tensor")):
        model, _ = residual(8, op)
        stored = fold_batchnorm(model).weights["conv1"]
        assert stored.input_scale is not None
        assert (stored.scale > 0).all()
        norm = model.norm1
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        wanted = model.conv1.weight * factor[:, None, None, None]
        torch.testing.assert_close(stored.dequantized(), wanted.detach(), rtol=1e-5, atol=1e-6)


def test_a_tiny_channel_with_a_bias_stays_exact_enough() -> None:
    model, x = residual(8)
    with torch.no_grad():
        model.norm1.weight[2] = 1e-12
        model.norm1.weight[3] = 0.0
        model.norm1.bias[2:4] = 3.0
    quantize_weights(model, Quantize(8))
    calibrate(model, x)
    stored = fold_batchnorm(model).weights["conv1"]
    assert stored.input_scale is not None
    assert (3.0 / (stored.scale * stored.input_scale) < 2**31).all()
    with torch.no_grad():
        folded = fold_batchnorm(model).module(x)
        wanted = model(x)
    assert (folded - wanted).abs().max() < 0.05 * (wanted.max() - wanted.min())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_packed_weights_compute_the_same_and_vanish_when_the_file_is_opened(
    bits: int, scheme: str, tmp_path: Path
) -> None:
    model, x = residual(None, Quantize(bits, scheme=scheme))
    exported = export_onnx(model, (x[:2],), tmp_path / "m.onnx", opset=13)
    assert exported.input_names == ("x",)
    assert exported.output_names == ("output",)
    assert difference(model, exported.path, x) < 1e-5
    left = set(optimized(exported.path))
    assert not left & {"Cast", "Div", "Mod", "Mul", "Sub", "Gather", "CumSum", "Split"}


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_each_opset_is_checked_by_onnx(opset: int, tmp_path: Path) -> None:
    model, x = residual(8, Quantize(3))
    exported = export_onnx(model, (x[:2],), tmp_path / "m.onnx", opset=opset)
    proto = onnx.load(exported.path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    assert exported.size_bytes == exported.path.stat().st_size


def test_an_opset_out_of_range_is_refused(tmp_path: Path) -> None:
    model, x = residual()
    with pytest.raises(UnsupportedError, match="opset is 12; allowed: 13 to 20"):
        export_onnx(model, (x,), tmp_path / "m.onnx", opset=12)


def test_an_operator_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return aten.special_i0e.default(x)

    x = torch.randn(2, 3)
    with pytest.raises(UnsupportedError, match="i0e"):
        export_onnx(lift(Odd(), x), (x,), tmp_path / "m.onnx", opset=17)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("w_bits", [4, 8])
def test_an_int8_network_runs_on_integer_kernels_alone(w_bits: int, tmp_path: Path) -> None:
    model, x = residual(8, Quantize(w_bits))
    exported = export_onnx(model, (x[:2],), tmp_path / "m.onnx", opset=17)
    kernels = optimized(exported.path)
    assert kernels["QLinearConv"] == 5
    assert kernels["QLinearAdd"] == 2
    assert kernels["QLinearAveragePool"] == 1
    assert kernels["QGemm"] == 1
    assert kernels["QuantizeLinear"] == 1
    assert kernels["DequantizeLinear"] == 0
    assert kernels["Slice"] == 1
    assert difference(model, exported.path, x) < 0.05


def test_behind_a_float_convolution_sums_are_turned_no_more_than_in_an_integer_network(tmp_path: Path) -> None:
    whole, x = residual(8, Quantize(8), width=16)
    mixed, _ = residual(8, width=16)
    # ONNX Runtime makes a convolution between two rounded values an integer one.
    mixed.set_submodule("q_input", nn.Identity())
    for name, layer in list(mixed.named_modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and name != "conv0":
            parametrize.register_parametrization(layer, "weight", WeightQuantizer(layer.weight, Quantize(8), 0))
    files = [tmp_path / "whole.onnx", tmp_path / "mixed.onnx"]
    for model, path in zip((whole, mixed), files, strict=True):
        export_onnx(model, (x[:2],), path, opset=17)
    integers, kernels = (optimized(path) for path in files)
    assert (kernels["Conv"], kernels["QLinearConv"], kernels["QLinearAdd"]) == (1, 4, 2)
    assert kernels["Transpose"] <= integers["Transpose"]
    assert difference(mixed, files[1], x) < 0.02
    assert run_onnx(files[1], [(x[:5],)])[0].shape == (5, 10)


def test_a_second_quantizer_on_the_same_grid_is_left_out_unless_it_is_an_output(tmp_path: Path) -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = ActivationQuantizer(8)

        def forward(self, x: Tensor) -> Tensor:
            x = aten.constant_pad_nd.default(self.q(x), [1, 2], 0.0)
            return self.q(aten.slice.Tensor(self.q(x), 1, 0, END, 2))

    x = torch.randn(3, 5)
    model = lift(Moved(), x)
    calibrate(model, x)
    exported = export_onnx(model, (x,), tmp_path / "m.onnx", opset=13)
    assert Counter(node.op_type for node in onnx.load(exported.path).graph.node)["QuantizeLinear"] == 2
    with torch.no_grad():
        torch.testing.assert_close(run_onnx(exported.path, [(x,)])[0], model(x))


def test_sixteen_bit_activations_round_as_in_torch(tmp_path: Path) -> None:
    model, x = residual(16)
    exported = export_onnx(model, (x[:2],), tmp_path / "m.onnx", opset=17)
    assert difference(model, exported.path, x) < 1e-3
    assert optimized(exported.path)["Round"] == 9


@pytest.mark.parametrize("w_bits", [None, 3, 4, 8, 16])
@pytest.mark.parametrize("a_bits", [None, 8])
def test_sparse_weights_are_stored_as_a_mask(w_bits: int | None, a_bits: int | None, tmp_path: Path) -> None:
    sizes = []
    for share in (0.0, 0.8):
        torch.manual_seed(0)
        x = torch.randn(4, 3, 16, 16)
        model = lift(Residual(a_bits, 32), x)
        sparsify(model, share)
        if w_bits == 16:
            for layer in (model.conv1, model.conv2, model.linear):
                parametrize.register_parametrization(layer, "weight", HalfWeight())
        elif w_bits is not None:
            quantize_weights(model, Quantize(w_bits))
        calibrate(model, x)
        exported = export_onnx(model, (x,), tmp_path / "m.onnx", opset=17)
        sizes.append(exported.size_bytes)
        limit = 0.05 if a_bits else 2e-3 if w_bits == 16 else 1e-5
        assert difference(model, exported.path, x) < limit
        assert not set(optimized(exported.path)) & {"CumSum", "Split"}
    assert sizes[1] < 0.75 * sizes[0]


def test_half_stores_unquantized_weights_in_fp16(tmp_path: Path) -> None:
    model, x = residual(width=16)
    full = export_onnx(model, (x[:2],), tmp_path / "full.onnx", opset=13)
    half = export_onnx(model, (x[:2],), tmp_path / "half.onnx", opset=13, half=True)
    assert half.size_bytes < 0.6 * full.size_bytes
    assert difference(model, half.path, x) < 2e-3


def test_unpacking_gives_plain_weights_and_the_same_outputs(tmp_path: Path) -> None:
    for a_bits in (None, 8):
        model, x = residual(a_bits, Quantize(3))
        exported = export_onnx(model, (x[:2],), tmp_path / "m.onnx", opset=13)
        size = unpack_onnx(exported.path, tmp_path / "plain.onnx")
        assert size > exported.size_bytes
        kinds = {node.op_type for node in onnx.load(tmp_path / "plain.onnx").graph.node}
        assert not kinds & {"Mod", "Div", "Cast"}
        assert torch.equal(run_onnx(exported.path, [(x,)])[0], run_onnx(tmp_path / "plain.onnx", [(x,)])[0])


def test_the_predicted_size_is_the_size_of_the_file(tmp_path: Path) -> None:
    dense, x = residual(width=16)
    overhead = graph_overhead_bytes(
        export_onnx(dense, (x[:2],), tmp_path / "dense.onnx", opset=17), payload_of(dense).now
    )
    for a_bits, w_bits in ((None, 4), (None, 3), (8, 8), (8, 5), (16, 8)):
        model, _ = residual(a_bits, Quantize(w_bits), width=16)
        exported = export_onnx(model, (x[:2],), tmp_path / "m.onnx", opset=17)
        predicted = payload_of(model).now + overhead
        assert abs(predicted - exported.size_bytes) <= 0.03 * exported.size_bytes, (a_bits, w_bits)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_zeros_that_training_moves_are_told_as_they_will_be_stored(bits: int) -> None:
    model, _ = residual(width=48)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(torch.rand_like(layer.weight) > 0.8)
    quantize_weights(model, Quantize(bits))
    told = payload_of(model)
    assert told.now < 0.9 * told.filled
    with torch.no_grad():
        for layer in layers:
            plain = layer.parametrizations.weight.original
            step = layer.parametrizations.weight[0].scale.detach().view(-1, 1, 1, 1)
            plain.copy_(torch.where(layer.weight == 0.0, -step, plain))
    moved = payload_of(model)
    assert moved.now == moved.filled == pytest.approx(told.filled, abs=8)


def test_a_layer_costs_few_bytes_beside_its_weights(tmp_path: Path) -> None:
    model, x = residual(None, Quantize(4))
    exported = export_onnx(model, (x[:2],), tmp_path / "m.onnx", opset=13)
    bits = sum(stored.values.numel() * 4 for stored in fold_batchnorm(model).weights.values())
    assert exported.size_bytes - bits // 8 < 6 * 470


class Towers(nn.Module):
    """Five small and five large linear layers, each five one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = (nn.Sequential(*[nn.Linear(width, width) for _ in range(5)]) for width in (12, 300))

    def forward(self, one: Tensor, two: Tensor) -> list[Tensor]:
        return [self.small(one), self.large(two)]


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_small_weights_are_unpacked_as_one_and_large_ones_alone(scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 12), torch.randn(3, 300)
    model = lift(Towers(), *inputs)
    for layer in (layer for layer in model.modules() if isinstance(layer, nn.Linear)):
        with torch.no_grad():
            layer.weight.add_(0.01 * torch.randn(len(layer.weight), 1))
        quantize = WeightQuantizer(layer.weight, Quantize(2, scheme=scheme), 0)
        parametrize.register_parametrization(layer, "weight", quantize)
    exported = export_onnx(model, inputs, tmp_path / "m.onnx", opset=13)
    kinds = Counter(node.op_type for node in onnx.load(exported.path).graph.node)
    # The five of 144 weights as one, those of 90,000 one by one.
    assert kinds["Mod"] == 6
    found, wanted = run_onnx(exported.path, [inputs]), model(*inputs)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()


class Sequence(nn.Module):
    """Embedding, transformer-like mixing, a linear layer on sequences used twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.q = ActivationQuantizer(8)
        self.mix = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.mix(self.q(self.embedding(tokens)))
        x = aten.softmax.int(aten.matmul.default(x, aten.transpose.int(x, 1, 2)), -1)
        x = self.mix(aten.matmul.default(x, self.embedding(tokens)))
        x = aten.layer_norm.default(x, [16], self.norm.weight, self.norm.bias)
        return self.head(aten.mean.dim(x, [1]))


@pytest.mark.parametrize("bits", [None, 3, 8])
def test_embeddings_and_linear_layers_on_sequences(bits: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (4, 7))
    model = lift(Sequence(), tokens)
    if bits:
        quantize_weights(model, Quantize(bits))
    calibrate(model, tokens)
    exported = export_onnx(model, (tokens,), tmp_path / "m.onnx", opset=17)
    assert exported.input_names == ("tokens",)
    assert difference(model, exported.path, torch.randint(0, 50, (3, 7))) < 0.02


class Decoder(nn.Module):
    """One-dimensional and transposed convolutions with norms, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3)
        self.norm = _norm(nn.BatchNorm1d(6))
        self.up = nn.ConvTranspose2d(6, 5, 2, 2)
        self.norm2 = _norm(nn.BatchNorm2d(5))
        self.flat = nn.Linear(6, 6)
        self.norm3 = _norm(nn.BatchNorm1d(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.conv(x))
        image = self.norm2(self.up(aten.unsqueeze.default(x, -1)))
        return image, self.norm3(self.flat(aten.mean.dim(x, [2])))


@pytest.mark.parametrize("bits", [None, 5])
def test_other_layers_and_several_outputs(bits: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 4, 9)
    model = lift(Decoder(), x)
    if bits:
        quantize_weights(model, Quantize(bits))
    folded = fold_batchnorm(model)
    assert not any(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in folded.module.modules())
    exported = export_onnx(model, (x,), tmp_path / "m.onnx", opset=17)
    assert exported.output_names == ("output_0", "output_1")
    with torch.no_grad():
        for got, wanted in zip(run_onnx(exported.path, [(x,)]), model(x), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_an_integer_layer_read_twice_keeps_its_float_form(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.q = ActivationQuantizer(8)
            self.q2 = ActivationQuantizer(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(self.q(x))
            return aten.add.Tensor(self.q2(x), x)

    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    model = lift(Twice(), x)
    quantize_weights(model, Quantize(8))
    calibrate(model, x)
    assert fold_batchnorm(model).weights["conv"].input_scale is None
    exported = export_onnx(model, (x,), tmp_path / "m.onnx", opset=17)
    assert difference(model, exported.path, x) < 0.02


def test_trained_integer_linear_layers_and_equal_tensors_export(tmp_path: Path) -> None:
    """Biases that require gradients, and two layers with the same weights stored in different bits."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model[2].load_state_dict(model[0].state_dict())
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    traced = trace_model(model, (x[:2],))
    plan = Plan(layers=(("0", (Quantize(4, 8),)), ("2", (Quantize(8, 8),)), ("4", (Quantize(8, 8),))))
    module = compress(traced, plan).module
    calibrate_compressed(module, (x,), {}, traced.coupling, frozenset())
    assert all(parameter.requires_grad for parameter in module.parameters())
    exported = export_onnx(module, (x[:2],), tmp_path / "m.onnx", opset=13)
    found = verify(exported.path, module, [(x,)])
    assert found.passed, found.reason


@pytest.mark.parametrize("w_bits", [2, 4, 8])
def test_a_model_with_settled_biases_computes_what_its_integer_file_does(w_bits: int, tmp_path: Path) -> None:
    model, x = residual(8, Quantize(w_bits, granularity="channel"))
    path = tmp_path / "model.onnx"

    def mean_error() -> float:
        with torch.no_grad():
            return float((run_onnx(path, [(x,)])[0] - model(x)).abs().mean())

    export_onnx(model, (x[:2],), path, opset=17)
    before = mean_error()
    settle_biases(model)
    settled = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, (x[:2],), path, opset=17)
    assert mean_error() < before / 3
    settle_biases(model)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, settled[name], rtol=1e-5, atol=1e-6)


def test_settling_changes_nothing_where_no_integer_kernel_runs() -> None:
    model, x = residual(None, Quantize(4))
    with torch.no_grad():
        before = model(x)
        settle_biases(model)
        assert torch.equal(model(x), before)


class Padded(nn.Module):
    """Convolutions on 8-bit tensors with a border of `value` between them."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
        self.q_in, self.q_mid, self.q_out = (ActivationQuantizer(8) for _ in range(3))
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        y = self.q_mid(self.first(self.q_in(x)))
        return self.q_out(self.second(aten.constant_pad_nd.default(y, [1, 1, 1, 1], self.value)))


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_a_border_has_the_value_it_was_given(value: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    model = lift(Padded(value), x)
    quantize_weights(model, Quantize(8, granularity="channel"))
    calibrate(model, x)
    settle_biases(model)
    export_onnx(model, (x,), tmp_path / "model.onnx", opset=17)
    assert difference(model, tmp_path / "model.onnx", x) < 0.01
