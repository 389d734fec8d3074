"""Rounding, zeros and factors against their definitions."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compress.apply import compress
from autocompress.compress.calibrate import batch_statistics, calibrate
from autocompress.compress.lowrank import _spatial, _tucker
from autocompress.compress.quantize import activation_quantizers
from autocompress.compress.quantizer import ActivationQuantizer, HalfWeight, WeightQuantizer, calibrate_activation
from autocompress.compress.sparsify import magnitude_mask
from autocompress.core.plan import GRANULARITIES, RANGES, SCHEMES, LowRank, Plan, Prune, Quantize, Sparsify
from autocompress.core.ranks import factor_ranks
from autocompress.graph.info import Traced, trace_model
from tests.graph.published import ALL, batch_like
from tests.graph.traced import traced


def single(layer: nn.Module, *shape: int) -> Traced:
    """A model of one layer, called `0`, and an activation, so that its output is not the model's."""
    return trace_model(nn.Sequential(layer, nn.ReLU()).eval(), (torch.randn(1, *shape),))


def product(module: nn.Module, paths: tuple[str, ...], layer: nn.Module) -> Tensor:
    """The weight that a chain of factors stands for: its answer to every unit input."""
    inputs = layer.weight.shape[1]
    if isinstance(layer, nn.Linear):
        x = torch.eye(inputs)
    else:
        rank = layer.weight.dim() - 2
        size = layer.weight.shape[2:]
        # One pixel in the middle of an image just large enough to see the whole kernel.
        x = torch.zeros(inputs, inputs, *[2 * s - 1 for s in size])
        for channel in range(inputs):
            x[(channel, channel, *[s - 1 for s in size])] = 1.0
    with torch.no_grad():
        for path in paths:
            x = module.get_submodule(path)(x)
    if isinstance(layer, nn.Linear):
        return x.t()
    return x.transpose(0, 1).flip(*range(2, 2 + rank))


# --- low rank ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [nn.Linear(24, 16, bias=False), nn.Conv2d(24, 16, 1, bias=False)], ids=["linear", "1x1"]
)
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5])
def test_svd_error_is_the_tail_of_the_spectrum(layer: nn.Module, ratio: float) -> None:
    model = single(layer, *((24,) if isinstance(layer, nn.Linear) else (24, 4, 4)))
    made = compress(model, Plan(layers=(("0", (LowRank(ratio),)),)))
    weight = layer.weight.detach()
    error = (product(made.module, made.factors["0"], layer) - weight).norm()
    tail = torch.linalg.svdvals(weight.flatten(1))[round(ratio * 16) :].norm()
    torch.testing.assert_close(error, tail, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "layer"),
    [
        (LowRank(0.5, "tucker"), nn.Conv2d(16, 16, 3, bias=False)),
        (LowRank(0.5, "tucker"), nn.Conv1d(16, 16, 5, bias=False)),
        (LowRank(0.25, "spatial"), nn.Conv2d(16, 16, 3, bias=False)),
        (LowRank(0.5, "cp"), nn.Conv2d(16, 16, 3, bias=False)),
        (LowRank(0.5, "svd"), nn.Linear(32, 16, bias=False)),
    ],
    ids=["tucker", "tucker1d", "spatial", "cp", "svd"],
)
def test_weights_of_low_rank_are_reproduced(op: LowRank, layer: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    rank = 2
    left, right = (torch.randn(n, rank, generator=generator) for n in layer.weight.shape[:2])
    with torch.no_grad():
        if layer.weight.dim() == 2:
            layer.weight.copy_(left @ right.t())
        else:
            sides = [torch.randn(n, rank, generator=generator) for n in layer.weight.shape[2:]]
            letters = "xy"[: len(sides)]
            terms = ",".join(f"{letter}r" for letter in letters)
            layer.weight.copy_(torch.einsum(f"or,ir,{terms}->oi{letters}", left, right, *sides))
    shape = (32,) if isinstance(layer, nn.Linear) else (16, 9) if isinstance(layer, nn.Conv1d) else (16, 9, 9)
    made = compress(single(layer, *shape), Plan(layers=(("0", (op,)),)))
    weight = layer.weight.detach()
    error = (product(made.module, made.factors["0"], layer) - weight).norm() / weight.norm()
    assert float(error) < 1e-3


def test_spatial_error_is_the_truncated_tail() -> None:
    layer = nn.Conv2d(12, 16, (3, 5), bias=False)
    made = compress(single(layer, 12, 9, 9), Plan(layers=(("0", (LowRank(0.3, "spatial"),)),)))
    weight = layer.weight.detach()
    error = (product(made.module, made.factors["0"], layer) - weight).norm()
    tail = torch.linalg.svdvals(weight.permute(1, 2, 3, 0).reshape(36, 80))[round(0.3 * 36) :].norm()
    torch.testing.assert_close(error, tail, rtol=1e-4, atol=1e-6)


def test_tucker_at_full_rank_reproduces() -> None:
    layer = nn.Conv2d(12, 10, 3, stride=2, padding=1)
    chain = nn.Sequential(*(factor for _, factor in _tucker(layer, (12, 10), weights=True)))
    x = torch.randn(2, 12, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(chain(x), layer(x), rtol=1e-4, atol=1e-5)


def test_spatial_at_full_rank_reproduces() -> None:
    layer = nn.Conv2d(4, 20, 3, stride=2, padding=1, padding_mode="reflect")
    chain = nn.Sequential(*(factor for _, factor in _spatial(layer, (12,), weights=True)))
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(chain(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["tucker", "spatial", "cp"])
@pytest.mark.parametrize(
    "place", [{"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"padding": "same"}], ids=str
)
def test_factors_keep_stride_padding_and_dilation(method: str, place: dict[str, object]) -> None:
    layer = nn.Conv2d(16, 16, (3, 5), **place)  # type: ignore[arg-type]
    model = single(layer, 16, 12, 12)
    made = compress(model, Plan(layers=(("0", (LowRank(0.25, method),)),)))
    with torch.no_grad():
        assert made.module(*model.inputs).shape == model.module(*model.inputs).shape


@given(st.integers(2, 40), st.integers(2, 40), st.floats(0.01, 0.99))
def test_ranks_stay_within_the_full_rank(outputs: int, inputs: int, ratio: float) -> None:
    (rank,) = factor_ranks((outputs, inputs), ratio, "svd")
    assert 1 <= rank <= min(outputs, inputs)
    (rank,) = factor_ranks((outputs, inputs, 3, 5), ratio, "spatial")
    assert 1 <= rank <= min(3 * inputs, 5 * outputs)
    rank_in, rank_out = factor_ranks((outputs, inputs, 3, 3), ratio, "tucker")
    assert 1 <= rank_in <= inputs
    assert 1 <= rank_out <= outputs


# --- bits ----------------------------------------------------------------------------------------------------------

OPS = st.builds(
    Quantize,
    w_bits=st.sampled_from([2, 3, 4, 5, 6, 7, 8]),
    granularity=st.sampled_from(GRANULARITIES),
    scheme=st.sampled_from(SCHEMES),
    range=st.sampled_from(RANGES),
)


def weights(seed: int, shape: tuple[int, ...], scale: float, shift: float) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale + shift


SHAPES = st.sampled_from([(6, 5), (4, 3, 3, 3), (5, 1, 3, 3), (1, 7)])


@given(OPS, st.integers(0, 99), SHAPES, st.sampled_from([1e-4, 1.0, 50.0]), st.sampled_from([0.0, 0.5, -3.0]))
def test_rounding_stays_within_half_a_step(
    op: Quantize, seed: int, shape: tuple[int, ...], scale: float, shift: float
) -> None:
    weight = weights(seed, shape, scale, shift)
    quantizer = WeightQuantizer(weight, op, 0)
    rounded = quantizer(weight)
    step = quantizer.scale.detach().reshape(-1, *[1] * (weight.dim() - 1))
    zero = quantizer.zero_point.reshape(step.shape)
    low = 1 if op.is_symmetric and op.w_bits == 8 else 0
    position = weight / step + zero
    inside = (position >= low) & (position <= 2**op.w_bits - 1)
    error = (rounded - weight).abs()
    assert bool((error <= step * 0.5001 + 1e-12)[inside].all())
    if op.range == "minmax":
        # The affine zero point is rounded too: the ends of the range may lie half a step outside.
        assert bool((error <= step * 1.0001).all())
    if op.range == "minmax" and op.is_symmetric and op.w_bits > 2:
        assert bool(((position >= low - 1e-3) & (position <= 2**op.w_bits - 1 + 1e-3)).all())


@given(OPS, st.integers(0, 99), SHAPES, st.sampled_from([1e-4, 1.0, 50.0]), st.sampled_from([0, 1]))
def test_codes_reproduce_the_weight_exactly(
    op: Quantize, seed: int, shape: tuple[int, ...], scale: float, axis: int
) -> None:
    weight = weights(seed, shape, scale, 0.1)
    quantizer = WeightQuantizer(weight, op, axis)
    codes, step, zero = quantizer.codes(weight)
    view = [1] * weight.dim()
    if op.granularity == "channel":
        view[axis] = -1
        assert step.shape == (weight.shape[axis],)
    else:
        assert step.shape == (1,)
    assert codes.dtype is torch.uint8
    assert int(codes.max()) <= 2**op.w_bits - 1
    again = (codes.long() - zero.view(view)) * step.view(view)
    assert torch.equal(again, quantizer(weight).detach())


@given(OPS, st.integers(0, 99))
def test_zero_stays_zero(op: Quantize, seed: int) -> None:
    weight = weights(seed, (6, 8), 1.0, 0.2)
    weight[:, ::2] = 0.0
    assert bool((WeightQuantizer(weight, op, 0)(weight)[:, ::2] == 0).all())


@given(st.sampled_from([2, 3, 4, 8]), st.integers(0, 99), st.sampled_from(SCHEMES), st.sampled_from(GRANULARITIES))
def test_mse_ranges_are_no_worse_than_minmax(bits: int, seed: int, scheme: str, granularity: str) -> None:
    weight = weights(seed, (8, 20), 1.0, 0.0)
    errors = []
    for method in ("mse", "minmax"):
        quantizer = WeightQuantizer(weight, Quantize(bits, None, granularity, scheme, method), 0)
        errors.append(float((quantizer(weight).detach() - weight).square().sum()))
    assert errors[0] <= errors[1] * 1.0001


def test_gradients_pass_straight_through_the_rounding() -> None:
    weight = weights(0, (4, 6), 1.0, 0.0).requires_grad_()
    quantizer = WeightQuantizer(weight, Quantize(4, None, "tensor", "symmetric", "minmax"), 0).train()
    with torch.no_grad():
        quantizer.scale.mul_(0.6)  # some values are clipped
    incoming = weights(1, (4, 6), 1.0, 0.0)
    (quantizer(weight) * incoming).sum().backward()
    step, zero = quantizer.scale.detach(), quantizer.zero_point
    position = weight.detach() / step + zero
    inside = (position >= 0) & (position <= 15)
    assert bool((~inside).any())
    assert bool(inside.any())
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.where(inside, incoming, 0.0))
    # Esser et al. 2020, eq. 3, with the gradient scale 1 / sqrt(weights * largest positive level).
    code = position.clamp(0, 15).round() - zero
    slope = torch.where(inside, code - weight.detach() / step, code)
    expected = (slope * incoming).sum() / (24 * 7) ** 0.5
    torch.testing.assert_close(quantizer.scale.grad, expected.reshape(1), rtol=1e-4, atol=1e-5)


def test_activation_gradients_and_both_forwards_agree() -> None:
    quantizer = ActivationQuantizer(8, "minmax")
    values = weights(2, (16, 10), 1.0, 0.3)
    quantizer.observe()
    quantizer(values)
    quantizer.freeze()
    outside = values * 1.3
    x = outside.clone().requires_grad_()
    quantizer.train()
    trained = quantizer(x)
    trained.sum().backward()
    quantizer.eval()
    scale = quantizer.scale.detach()
    torch.testing.assert_close(trained.detach(), quantizer(outside), rtol=1e-5, atol=float(scale) * 1e-3)
    inside = outside / scale + quantizer.zero_point
    expected = ((inside >= 0) & (inside <= 255)).float()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
    assert 0 < float(expected.mean()) < 1


def test_half_weights_are_those_that_fp16_stores() -> None:
    weight = torch.cat([weights(0, (50,), 1.0, 0.0), torch.tensor([1e6, -1e6, 1e-9])])
    assert torch.equal(HalfWeight()(weight), weight.clamp(-65504, 65504).half().float())


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40),
    st.sampled_from([8, 16]),
    st.sampled_from(RANGES),
)
def test_activation_ranges_hold_zero(values: list[float], bits: int, method: str) -> None:
    levels = 2**bits - 1
    tensor = torch.tensor(values)
    assume(float(tensor.abs().max()) > 1e-3)
    scale, zero = calibrate_activation(tensor, levels, method)
    assert scale > 0
    assert zero == round(zero)
    assert -zero * scale <= 0.0 <= (levels - zero) * scale
    if method == "minmax":
        assert (levels - zero) * scale >= float(tensor.max()) - scale
        assert -zero * scale <= float(tensor.min()) + scale


# --- zeros ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 99), SHAPES, st.floats(0.01, 0.99), st.booleans())
def test_unstructured_counts_are_exact(seed: int, shape: tuple[int, ...], share: float, ties: bool) -> None:
    weight = weights(seed, shape, 1.0, 0.0)
    weight = weight.round() if ties else weight
    mask = magnitude_mask(weight, Sparsify(share))
    gone = mask == 0
    assert int(gone.sum()) == round(weight.numel() * share)
    if bool(gone.any()) and not bool(gone.all()):
        assert float(weight.abs()[gone].max()) <= float(weight.abs()[~gone].min())


@given(st.integers(0, 99), st.sampled_from([(6, 8), (4, 4, 3, 3), (5, 9, 3, 3), (3, 7), (2, 3)]))
def test_two_of_every_four_inputs_are_kept(seed: int, shape: tuple[int, ...]) -> None:
    weight = weights(seed, shape, 1.0, 0.0)
    mask = magnitude_mask(weight, Sparsify(0.5, "2:4"))
    assert mask.shape == weight.shape
    # Sparse tensor cores take pairs out of four input channels that meet at one place of the window.
    rows, sizes = (x.movedim(1, -1).reshape(-1, x.shape[1]) for x in (mask, weight.abs()))
    whole = rows.shape[1] // 4 * 4
    fours, sizes = rows[:, :whole].reshape(-1, 4), sizes[:, :whole].reshape(-1, 4)
    assert bool((fours.sum(1) == 2).all())
    assert bool((rows[:, whole:] == 1).all())
    for four, size in zip(fours, sizes, strict=True):
        assert float(size[four == 0].max()) <= float(size[four == 1].min())


# --- calibration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_calibrating_the_dense_model_changes_nothing(name: str) -> None:
    model = traced(name)
    made = compress(model, Plan())
    inputs = batch_like(model.inputs, 8)
    calibrate(made.module, inputs, batch_statistics(model.module, inputs), model.coupling, made.removed)
    for key, value in model.module.state_dict().items():
        torch.testing.assert_close(made.module.state_dict()[key], value, rtol=1e-5, atol=1e-5)


def test_calibration_undoes_a_change_of_scale_and_shift() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    model = trace_model(layers, (torch.randn(1, 3, 8, 8),))
    inputs = batch_like(model.inputs, 16)
    mean, var = batch_statistics(model.module, inputs)["1"]
    norm = model.module.get_submodule("1")
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    made = compress(model, Plan())
    conv = made.module.get_submodule("0")
    with torch.no_grad():
        conv.weight.mul_(3.0)
        conv.bias.mul_(3.0).add_(0.7)
    calibrate(made.module, inputs, batch_statistics(model.module, inputs), model.coupling, made.removed)
    with torch.no_grad():
        torch.testing.assert_close(made.module(*inputs), model.module(*inputs), rtol=1e-3, atol=1e-4)


def test_calibration_moves_learned_statistics_by_the_difference() -> None:
    model = traced("resnet20")
    inputs = batch_like(model.inputs, 8)
    dense = batch_statistics(model.module, inputs)
    made = compress(model, Plan(groups=(("layer1.0.conv1", Prune(0.5)),)))
    before = {key: value.clone() for key, value in made.module.state_dict().items()}
    calibrate(made.module, inputs, dense, model.coupling, made.removed)
    after = batch_statistics(made.module, inputs)
    norm = made.module.get_submodule("layer1.0.bn2")
    (mean, var), (old_mean, old_var) = after["layer1.0.bn2"], dense["layer1.0.bn2"]
    moved = before["layer1.0.bn2.running_mean"] + mean - old_mean
    torch.testing.assert_close(norm.running_mean, moved, rtol=1e-4, atol=1e-5)
    ratio = (var + norm.eps) / (old_var + norm.eps)
    torch.testing.assert_close(norm.running_var, before["layer1.0.bn2.running_var"] * ratio, rtol=1e-4, atol=1e-5)
    assert float((mean - old_mean).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["mobilenet", "text_encoder", "unet", "resnet20"])
def test_calibrated_activations_keep_their_zero(name: str) -> None:
    model = traced(name)
    plan = Plan(layers=tuple((layer.name, (Quantize(8, 8),)) for layer in model.info.layers))
    made = compress(model, plan)
    inputs = batch_like(model.inputs, 8)
    calibrate(made.module, inputs, batch_statistics(model.module, inputs), model.coupling, made.removed)
    quantizers = activation_quantizers(made.module)
    assert quantizers
    for quantizer in quantizers:
        assert not quantizer.observing
        assert 0 <= float(quantizer.zero_point) <= quantizer.levels
        assert float(quantizer(torch.zeros(1))) == 0.0
        assert bool(quantizer.scale > 0)
    with torch.no_grad():
        dense = model.module(*inputs)
        error = made.module(*inputs) - dense
    assert float(error.norm() / dense.norm()) < 0.2
