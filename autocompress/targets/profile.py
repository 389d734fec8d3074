"""A target: a device profile together with the law that predicts the time of kernels on it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autocompress.core.kernel import DTYPES, Kernel
from autocompress.core.shipped import shipped_dir
from autocompress.core.target import KernelEstimate, LatencyEstimate, Profile
from autocompress.errors import InputError, nearest
from autocompress.graph.kernels import kernels
from autocompress.graph.trace import record_shapes, trace
from autocompress.targets.law import Law, Spread, family_of, kind_of, sizes_of
from autocompress.targets.parse import Validation, read_profile

# Nothing was ever measured of such a kernel: its interval is at least this wide.
UNSEEN = Spread(0.5, 2.0)
OUT_OF_RANGE_FACTOR = 2.0

_Known = tuple[float, float, float, str, str | None]


@dataclass(frozen=True)
class Target:
    """A device with its runtime and its laws, by dtype.

    Attributes:
        laws: One per dtype that computes natively; empty for a device that is measured on the spot.
        host_ms: What the hosts of published measurements added to every network, by source.
        validation: How the law did on rows that were held out.
    """

    profile: Profile
    laws: Mapping[str, Law]
    host_ms: Mapping[str, float] = field(default_factory=dict)
    validation: tuple[Validation, ...] = ()
    _known: dict[tuple[Any, ...], _Known] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def load(name_or_path: str | Path) -> Target:
        """Reads a shipped target by name, or any by path; see `load_target`."""
        return load_target(name_or_path)

    def estimate(
        self, model: nn.Module, example_inputs: tuple[Tensor, ...], precision: str | None = None
    ) -> LatencyEstimate:
        """Predicts the latency of a model at batch 1, kernel by kernel.

        Args:
            model: Any module that can be traced; a compressed one from `apply` too.
            example_inputs: Batch first.
            precision: What unquantized layers run in; None takes the target's own.

        Raises:
            InputError: the forward fails on the example inputs, or an unknown precision.
        """
        if isinstance(model, GraphModule):
            module = copy.deepcopy(model)
            record_shapes(module, tuple(torch.cat([x[:1], x[:1]]) for x in example_inputs))
        else:
            module = trace(model, example_inputs)
        return self.estimate_kernels(kernels(module), precision or self.profile.default_precision)

    def calibrated(self) -> Target:
        """The same with its laws: those of this machine are read from the cache or measured now."""
        if self.laws or not self.profile.measured:
            return self
        from autocompress.targets.calibrate import local_laws

        return replace(self, laws=local_laws(), _known={})

    def law_of(self, dtype: str) -> Law:
        """The law of kernels that compute in `dtype`; a local target is calibrated on first use.

        Raises:
            InputError: the target has no law for it.
        """
        if not self.laws and self.profile.measured:
            return self.calibrated().laws[dtype]
        if dtype not in self.laws:
            raise InputError(f"target {self.profile.name!r} has no law for {dtype!r}; {nearest(dtype, self.laws)}")
        return self.laws[dtype]

    def estimate_kernels(self, kernels: Sequence[Kernel], precision: str) -> LatencyEstimate:
        """Predicts one pass at batch 1.

        Args:
            kernels: What the runtime would launch, each with the dtype that the plan asks for.
            precision: What kernels asked for in fp32 run in, as the engine was built.

        Raises:
            InputError: an unknown dtype.
        """
        for dtype in {precision, *(kernel.dtype for kernel in kernels)}:
            if dtype not in DTYPES:
                raise InputError(f"precision is {dtype!r}; {nearest(dtype, DTYPES)}")
        layers = tuple(self._estimate(kernel, precision) for kernel in kernels)
        law = self.law_of(self.profile.runs_as(precision))
        base, spread = law.coefficients["network"], law.spreads["small"]
        ms = base + sum(layer.ms for layer in layers)
        coverage: dict[str, float] = {"interpolated": base / ms}
        for layer in layers:
            coverage[layer.origin] = coverage.get(layer.origin, 0.0) + layer.ms / ms
        return LatencyEstimate(
            ms=ms,
            low_ms=base * spread.low + sum(layer.low_ms for layer in layers),
            high_ms=base * spread.high + sum(layer.high_ms for layer in layers),
            coverage=coverage,
            layers=layers,
            precision=precision,
        )

    def _estimate(self, kernel: Kernel, precision: str) -> KernelEstimate:
        dtype = self.profile.runs_as(precision if kernel.dtype == "fp32" else kernel.dtype)
        shapes = (kernel.in_shapes, kernel.out_shape, kernel.weight_shape)
        key = (dtype, kernel.op, shapes, kernel.stride, kernel.dilation, kernel.groups, kernel.macs)
        if key not in self._known:
            self._known[key] = _predict(self.law_of(dtype), kernel, dtype)
        return KernelEstimate(kernel, *self._known[key])


def _predict(law: Law, kernel: Kernel, dtype: str) -> _Known:
    ms = law.kernel_ms(kernel, dtype)
    spread, kind = law.spreads[family_of(kernel)], kind_of(kernel)
    origin, flag = "interpolated", None
    if kind not in law.ranges:
        what = f"operator {kernel.aten or kernel.op!r}" if kind == "other" else f"{kind} in {dtype}"
        origin, flag = "analytic", f"{what} was never measured here: assumed from memory bandwidth and peak"
        spread = Spread(min(UNSEEN.low, spread.low), max(UNSEEN.high, spread.high))
    else:
        outside = law.ranges[kind].outside(sizes_of(kernel))
        if outside is not None:
            origin, flag, spread = "analytic", f"extrapolated: {outside}", spread.widened(OUT_OF_RANGE_FACTOR)
    return ms, ms * spread.low, ms * spread.high, origin, flag


def load_target(name_or_path: str | Path) -> Target:
    """Reads a shipped target by name, or any by the path of its folder or `profile.yaml`.

    Raises:
        InputError: no such target, or its profile is not valid.
    """
    path = Path(name_or_path)
    if path.is_dir() and (path / "profile.yaml").is_file():
        path = path / "profile.yaml"
    if not path.is_file():
        path = shipped_dir("hardware_profiles") / str(name_or_path) / "profile.yaml"
    if not path.is_file():
        raise InputError(
            f"target {str(name_or_path)!r} is neither shipped nor a path to a profile.yaml; "
            f"{nearest(str(name_or_path), target_names())}"
        )
    parsed = read_profile(path)
    return Target(parsed.profile, parsed.laws, parsed.host_ms, parsed.validation)


def target_names() -> list[str]:
    """The names of the shipped targets."""
    return sorted(path.parent.name for path in shipped_dir("hardware_profiles").glob("*/profile.yaml"))


def list_targets() -> list[Profile]:
    """The profiles of the shipped targets, by name."""
    return [load_target(name).profile for name in target_names()]
