"""A target: a device profile together with the law that predicts the time of kernels on it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autocompress.core.digest import short_digest
from autocompress.core.fusion import Step
from autocompress.core.fusion_rules import Fusion
from autocompress.core.kernel import DTYPES, Kernel
from autocompress.core.shipped import shipped_dir
from autocompress.core.target import KernelEstimate, LatencyEstimate, Profile
from autocompress.errors import InputError, nearest
from autocompress.graph.kernels import kernels
from autocompress.graph.trace import record_shapes, trace
from autocompress.targets.interpolate import NOISE_SPREAD, Neighbours, interpolate, neighbours
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.law import Law, Spread, family_of, is_converted, kind_of, sizes_of
from autocompress.targets.parse import Setup, Validation, read_profile
from autocompress.targets.table import Table, read_table

# Nothing was ever measured of such a kernel: its interval is at least this wide.
UNSEEN = Spread(0.5, 2.0)
OUT_OF_RANGE_FACTOR = 2.0

# Everything of a kernel but where it stands and what was asked of it: the same is estimated once.
_WHAT_COUNTS = attrgetter(*(each.name for each in fields(Kernel) if each.name not in ("layer", "dtype")))

_MOST_ESTIMATES = 1 << 14
_Known = tuple[float, float, float, str, str | None]


class _Estimates(dict[tuple[int, str], tuple[KernelEstimate, bool]]):
    """Estimates by the identity of a kernel and its dtype; a copy, whose kernels are others, begins with none."""

    def __reduce__(self) -> tuple[type[_Estimates], tuple[()]]:
        return _Estimates, ()


@dataclass(frozen=True)
class Target:
    """A device with its runtime and its laws, by dtype.

    Attributes:
        laws: One per dtype that computes natively; empty for a device that is measured on the spot.
        setups: The same device as others ran it, by name; see `at`.
        validation: How the laws did on rows that were held out.
        table: Kernels that were measured on the device itself.
    """

    profile: Profile
    laws: Mapping[str, Law]
    setups: Mapping[str, Setup] = field(default_factory=dict)
    validation: tuple[Validation, ...] = ()
    table: Table = field(default_factory=Table)
    _known: dict[tuple[Any, ...], _Known] = field(default_factory=dict, init=False, repr=False, compare=False)
    _estimates: _Estimates = field(default_factory=_Estimates, init=False, repr=False, compare=False)

    @staticmethod
    def load(name_or_path: str | Path) -> Target:
        """Reads a shipped target by name, or any by path; see `load_target`."""
        return load_target(name_or_path)

    @property
    def fusion(self) -> Fusion:
        """What the runtime runs as one kernel, and what it does not run."""
        return self.profile.fusion

    def at(self, setup: str) -> Target:
        """The target as others ran it: `raspberry-pi-5` at `litert`, `jetson-nano` at `synthetic_cnns`.

        Raises:
            InputError: the profile has no such setup.
        """
        if setup not in self.setups:
            raise InputError(f"target {self.profile.name!r} has no setup {setup!r}; {nearest(setup, self.setups)}")
        other = self.setups[setup]
        profile = replace(
            self.profile,
            name=f"{self.profile.name}:{setup}",
            title=f"{self.profile.title}, {other.title}",
            runtime=other.runtime,
            fusion=other.fusion,
        )
        return replace(self, profile=profile, laws=other.laws, table=Table())

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
            module = model
            shapes = [node.meta.get("shape") for node in model.graph.find_nodes(op="placeholder")]
            if shapes != [(2, *x.shape[1:]) for x in example_inputs]:
                module = copy.deepcopy(model)
                record_shapes(module, tuple(torch.cat([x[:1], x[:1]]) for x in example_inputs))
        else:
            module = trace(model, example_inputs)
        return self.estimate_kernels(kernels(module, self.fusion), precision or self.profile.default_precision)

    @property
    def digest(self) -> str:
        """Of what latencies are predicted by: the laws and the measured kernels, 16 hex digits."""
        rows = sorted(map(repr, self.table.rows.items()))
        return short_digest((self.profile.name, sorted(self.laws.items()), rows))

    def calibrated(self) -> Target:
        """The same with its laws: those of this machine are read from the cache or measured now."""
        if self.laws or not self.profile.measured:
            return self
        from autocompress.targets.calibrate import local_laws

        return replace(self, laws=local_laws())

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

    def estimate_steps(self, steps: Sequence[Step], precision: str) -> LatencyEstimate:
        """Predicts one pass of what `fuse` gave; see `estimate_kernels`."""
        return self.estimate_kernels([step.kernel for step in steps if step.kernel is not None], precision)

    def estimate_kernels(self, kernels: Sequence[Kernel], precision: str) -> LatencyEstimate:
        """Predicts one pass at batch 1.

        Args:
            kernels: What the runtime would launch, each with the dtype that the plan asks for.
            precision: What kernels asked for in fp32 run in, as the engine was built.

        Raises:
            InputError: an unknown dtype.
        """
        asked = {precision, *[kernel.dtype for kernel in kernels]}
        for dtype in asked:
            if dtype not in DTYPES:
                raise InputError(f"precision is {dtype!r}; {nearest(dtype, DTYPES)}")
        runs_as = {dtype: self.profile.runs_in(dtype, precision) for dtype in asked}
        found = [self._estimate(kernel, runs_as[kernel.dtype]) for kernel in kernels]
        summed = self._summed([estimate for estimate, _ in found], precision)
        if any(converted for _, converted in found):
            # An engine that may use fp16 need not: of both it has the faster.
            whole = self._summed([self._estimate(kernel, "fp32")[0] for kernel in kernels], precision)
            summed = min(summed, whole, key=attrgetter("ms"))
        return summed

    def _summed(self, layers: Sequence[KernelEstimate], precision: str) -> LatencyEstimate:
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
            layers=tuple(layers),
            precision=precision,
        )

    def dtype_of(self, kernel: Kernel, precision: str) -> str:
        """What a kernel really computes in; kernels that nobody quantized run in `precision`."""
        return self.profile.runs_in(kernel.dtype, precision)

    def _estimate(self, kernel: Kernel, dtype: str) -> tuple[KernelEstimate, bool]:
        """The estimate of a kernel, and whether it is converted to another dtype; plans share most kernels."""
        which = (id(kernel), dtype)
        found = self._estimates.get(which)
        if found is None:
            what = (dtype, _WHAT_COUNTS(kernel))
            if what not in self._known:
                key = KernelKey.of(kernel, dtype)
                self._known[what] = self._read(kernel, key) or _predict(self.law_of(dtype), kernel, dtype)
            if len(self._estimates) >= _MOST_ESTIMATES:
                self._estimates.clear()
            # The estimate holds the kernel, so that no other can have its identity.
            estimate = KernelEstimate(kernel, *self._known[what])
            found = estimate, is_converted(kernel, dtype, self.law_of(dtype).tiling)
            self._estimates[which] = found
        return found

    def _read(self, kernel: Kernel, key: KernelKey) -> _Known | None:
        """What the table says of a kernel: measured, or between measured ones; None where it is too far from them."""
        if not self.table.rows:
            return None
        near = interpolate(self._neighbours, kernel, key.dtype)
        found = self.table.lookup(key)
        if found is not None:
            spread = near.spread if near is not None else NOISE_SPREAD
            return found.p50_ms, found.p50_ms * spread.low, found.p50_ms * spread.high, "table", None
        if near is None:
            return None
        return near.ms, near.ms * near.spread.low, near.ms * near.spread.high, "interpolated", None

    @cached_property
    def _neighbours(self) -> Neighbours:
        return neighbours(self.table, self.calibrated().laws)


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
    """Reads a shipped target by name, or any by the path of its folder or `profile.yaml`; `name:setup` picks a setup.

    A `latency.csv` beside the profile is read as well.

    Raises:
        InputError: no such target, or its profile or table is not valid.
    """
    name, colon, setup = str(name_or_path).rpartition(":")
    if colon and name and not Path(name_or_path).exists():
        return load_target(name).at(setup)
    path = profile_path(name_or_path)
    parsed = read_profile(path)
    table = (_local_tables() if parsed.profile.measured else path.parent) / "latency.csv"
    measured = read_table(table) if table.is_file() else Table()
    return Target(parsed.profile, parsed.laws, parsed.setups, parsed.validation, measured)


def _local_tables() -> Path:
    from autocompress.targets.calibrate import table_folder

    return table_folder()


def profile_path(name_or_path: str | Path) -> Path:
    """The `profile.yaml` of a shipped target, or of a folder or file that is named.

    Raises:
        InputError: there is none.
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
    return path


def target_names() -> list[str]:
    """The names of the shipped targets."""
    return sorted(path.parent.name for path in shipped_dir("hardware_profiles").glob("*/profile.yaml"))


def list_targets() -> list[Profile]:
    """The profiles of the shipped targets, by name."""
    return [load_target(name).profile for name in target_names()]
