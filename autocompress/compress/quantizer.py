"""Fake quantization with one set of scales for training, storage and export.

Rounding is trained through (straight-through estimator); the step of weights is learned, that of activations stays
where calibration put it.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", eq. 1 and 12; Esser et al. 2020, "Learned Step Size Quantization", eq. 1-3 and section 2.2. Deviation: the
gradient of an affine scheme's zero point is not learned; it stays where calibration put it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress.core.plan import Quantize

PERCENTILE = 0.9999
_MSE_STEPS = 40


class WeightQuantizer(nn.Module):
    """Rounds a weight to `2 ** bits` levels, registered as a parametrization of `weight`.

    Attributes:
        scale: Step per channel, `[channels]`, or `[1]` per tensor; positive.
        zero_point: Code of 0.0, same shape as `scale`, integers in `[0, 2 ** bits - 1]`.
        axis: The dimension of the weight that `scale` runs along.
    """

    scale: nn.Parameter
    zero_point: Tensor

    def __init__(self, weight: Tensor, op: Quantize, axis: int) -> None:
        super().__init__()
        self.bits = op.w_bits
        self.axis = axis
        self.per_channel = op.granularity == "channel"
        self.symmetric = op.is_symmetric
        scale, zero_point = calibrate_weight(weight.detach(), op, axis)
        self.scale = nn.Parameter(scale)
        self.register_buffer("zero_point", zero_point)

    @property
    def levels(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def _broadcast(self, vector: Tensor, rank: int) -> Tensor:
        shape = [1] * rank
        if self.per_channel:
            shape[self.axis] = -1
        return vector.view(shape)

    def _limits(self) -> tuple[int, int]:
        # Eight-bit symmetric weights leave out the lowest code, so that folding a negative factor stays in int8.
        return (1, self.levels) if self.symmetric and self.bits == 8 else (0, self.levels)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on the grid, same shape; gradients pass straight through the rounding."""
        low, high = self._limits()
        rank = weight.dim()
        scale = self._broadcast(self.scale, rank).clamp_min(1e-12)
        if self.training and torch.is_grad_enabled():
            share = 1.0 / float(max(1, weight.numel() // self.scale.numel()) * max(1, self.levels // 2)) ** 0.5
            scale = scale.detach() + (scale - scale.detach()) * share
        zero = self._broadcast(self.zero_point, rank)
        position = (weight / scale + zero).clamp(low, high)
        code = position + (position.round() - position).detach()
        return (code - zero) * scale

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is stored for `weight`: codes uint8, same shape; scale fp32 and zero point int64, `[channels]` or `[1]`.

        `(codes - zero_point) * scale` is what `forward` returns.
        """
        low, high = self._limits()
        scale = self._broadcast(self.scale.detach(), weight.dim()).clamp_min(1e-12)
        zero = self._broadcast(self.zero_point, weight.dim())
        codes = (weight.detach() / scale + zero).clamp(low, high).round().to(torch.uint8)
        return codes, self.scale.detach().clamp_min(1e-12).float(), self.zero_point.round().long()


class HalfWeight(nn.Module):
    """Rounds a weight to fp16, registered as a parametrization of `weight`."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as fp16 stores it, in its own dtype; gradients pass straight through."""
        rounded = weight.clamp(-65504.0, 65504.0).half().to(weight.dtype)
        return weight + (rounded - weight).detach()


class SparseMask(nn.Module):
    """Keeps the zeros of a sparsified weight at zero, registered as a parametrization of `weight`."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with the masked entries at exactly 0."""
        return weight * self.mask


def is_held(layer: nn.Module) -> bool:
    """True of a layer whose zeros training cannot move."""
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    return any(isinstance(one, SparseMask) for one in layer.parametrizations.weight)  # type: ignore[union-attr]


class ActivationQuantizer(nn.Module):
    """Rounds a tensor to unsigned `bits`-bit codes with one scale; the very scale that is exported.

    While `observing` it passes values through and keeps their range; `freeze` turns the range into a scale.

    Attributes:
        scale: `[1]`, positive.
        zero_point: `[1]`, an integer in `[0, 2 ** bits - 1]`.
        rectifies: Whether it stands for a ReLU before it as well, in training.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, range_method: str = "mse") -> None:
        super().__init__()
        self.bits = bits
        self.range_method = range_method
        self.observing = False
        self.rectifies = False
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1))
        self._samples: list[Tensor] = []

    @property
    def levels(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    def observe(self) -> None:
        """Starts collecting values."""
        self._samples = []
        self.observing = True

    def freeze(self) -> None:
        """Turns what was collected into scale and zero point."""
        self.observing = False
        if self._samples:
            values = torch.cat(self._samples)
            scale, zero_point = calibrate_activation(values, self.levels, self.range_method)
            with torch.no_grad():
                self.scale.fill_(scale)
                self.zero_point.fill_(zero_point)
        self._samples = []

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, same shape; gradients pass straight through the rounding."""
        if self.observing:
            flat = x.detach().float().flatten()
            # A fixed stride keeps memory bounded and the result the same on every run; the extremes are kept.
            step = max(1, flat.numel() // 16384)
            self._samples.append(torch.cat([flat[::step], flat.amin()[None], flat.amax()[None]]))
            return x
        scale, zero = float(self.scale), float(self.zero_point)
        if not (self.training and torch.is_grad_enabled()):
            return _on_grid(x.float(), scale, -zero, self.levels - zero).to(x.dtype)
        passing = (0.0 if self.rectifies else (-zero - 0.5) * scale), (self.levels - zero + 0.5) * scale
        rounded: Tensor = _RoundThrough.apply(x, scale, -zero, self.levels - zero, passing)  # type: ignore[no-untyped-call]
        return rounded


def _on_grid(x: Tensor, scale: float, low: float, high: float) -> Tensor:
    # As QuantizeLinear rounds; four passes in place take a fifth of the time of torch.fake_quantize_per_tensor_affine.
    return (x / scale).round_().clamp_(low, high).mul_(scale)


class _RoundThrough(torch.autograd.Function):
    """Rounds to a grid in as few passes over memory as possible; gradients pass between two limits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: float, high: float, passing: tuple[float, float]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.passing = passing
        return _on_grid(x, scale, low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        # One pass, where comparisons and a product take eleven times as long in bf16; laid out as the input, since
        # BatchNorm takes five times as long for a gradient in another layout.
        passed = torch.empty_like(x)
        torch.ops.aten.hardtanh_backward.grad_input(gradients[0], x, *ctx.passing, grad_input=passed)
        return passed, None, None, None, None


def calibrate_weight(weight: Tensor, op: Quantize, axis: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a weight, `[channels]` or `[1]` each.

    `minmax` covers every value, `percentile` all but one in 10,000, `mse` shrinks the range to the least squared error.
    """
    rows = weight.movedim(axis, 0).reshape(weight.shape[axis], -1).float()
    if op.granularity == "tensor":
        rows = rows.reshape(1, -1)
    levels = 2**op.w_bits - 1
    if op.range == "percentile":
        low, high = _quantile(rows, 1 - PERCENTILE), _quantile(rows, PERCENTILE)
    else:
        low, high = rows.amin(1), rows.amax(1)
    symmetric = op.is_symmetric
    best_scale, best_zero = _grid(low, high, levels, symmetric)
    if op.range != "mse":
        return best_scale, best_zero
    best_error = _error(rows, best_scale, best_zero, levels)
    for step in range(1, _MSE_STEPS):
        share = 1.0 - 0.8 * step / _MSE_STEPS
        scale, zero = _grid(low * share, high * share, levels, symmetric)
        error = _error(rows, scale, zero, levels)
        better = error < best_error
        best_scale = torch.where(better, scale, best_scale)
        best_zero = torch.where(better, zero, best_zero)
        best_error = torch.where(better, error, best_error)
    return best_scale, best_zero


def calibrate_activation(values: Tensor, levels: int, method: str) -> tuple[float, float]:
    """Scale and zero point for values of an activation, `[n]`; the range always holds zero."""
    rows = values.reshape(1, -1)
    if method == "percentile":
        low, high = _quantile(rows, 1 - PERCENTILE), _quantile(rows, PERCENTILE)
    else:
        low, high = rows.amin(1), rows.amax(1)
    scale, zero = _grid(low, high, levels, symmetric=False)
    if method == "mse":
        best = _error(rows, scale, zero, levels)
        for step in range(1, _MSE_STEPS):
            share = 1.0 - 0.8 * step / _MSE_STEPS
            trial_scale, trial_zero = _grid(low * share, high * share, levels, symmetric=False)
            error = _error(rows, trial_scale, trial_zero, levels)
            if bool(error < best):
                scale, zero, best = trial_scale, trial_zero, error
    return float(scale), float(zero)


def _quantile(rows: Tensor, q: float) -> Tensor:
    index = min(rows.shape[1], max(1, round(q * rows.shape[1])))
    return rows.kthvalue(index, dim=1).values


def _grid(low: Tensor, high: Tensor, levels: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    if symmetric:
        largest = torch.maximum(low.abs(), high.abs())
        half = (levels + 1) // 2
        # The positive side has one level less; scale to it so that the largest weight is not clipped.
        return (largest / max(1, half - 1)).clamp_min(1e-12), torch.full_like(largest, float(half))
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    scale = ((high - low) / levels).clamp_min(1e-12)
    return scale, (-low / scale).round().clamp(0, levels)


def _error(rows: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    scale, zero = scale[:, None], zero[:, None]
    rounded = ((rows / scale + zero).round().clamp(0, levels) - zero) * scale
    return (rounded - rows).square().sum(1)
