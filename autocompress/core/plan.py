"""A plan: every op of every layer and the student architecture, as data.

The order of ops on one layer is fixed (`OP_ORDER`) and illegal combinations are refused when the plan is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autocompress.errors import PlanError, nearest

CRITERIA = ("l1", "l2", "taylor", "random")
PATTERNS = ("unstructured", "2:4")
GRANULARITIES = ("channel", "tensor")
SCHEMES = ("auto", "symmetric", "affine")
RANGES = ("minmax", "percentile", "mse")
FACTORISATIONS = ("svd", "tucker", "spatial", "cp")
WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8, 16)
ACTIVATION_BITS = (8, 16)


def _require(ok: bool, what: str, value: object, allowed: object) -> None:
    if not ok:
        raise PlanError(f"{what} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True)
class Prune:
    """Removes a share of the channels of one coupled group; the result is physically smaller.

    `round_to` rounds the number of kept channels up to a multiple (never above the original number).
    """

    sparsity: float
    criterion: str = "l2"
    round_to: int = 1

    def __post_init__(self) -> None:
        _require(0.0 < self.sparsity < 1.0, "Prune.sparsity", self.sparsity, "0 < sparsity < 1")
        _require(self.criterion in CRITERIA, "Prune.criterion", self.criterion, ", ".join(CRITERIA))
        _require(
            type(self.round_to) is int and self.round_to >= 1,
            "Prune.round_to",
            self.round_to,
            "an integer of 1 or more",
        )

    def kept(self, channels: int) -> int:
        """How many of `channels` stay; at least one."""
        wanted = max(1, round(channels * (1.0 - self.sparsity)))
        return min(channels, -(-wanted // self.round_to) * self.round_to)


@dataclass(frozen=True)
class LowRank:
    """Replaces a layer by a product of smaller ones: SVD for linear and 1 x 1, three kinds for convolutions.

    `rank_ratio` is the share of the full rank that is kept; `method` None takes the usual one for the layer.
    """

    rank_ratio: float
    method: str | None = None

    def __post_init__(self) -> None:
        _require(0.0 < self.rank_ratio < 1.0, "LowRank.rank_ratio", self.rank_ratio, "0 < rank_ratio < 1")
        _require(
            self.method is None or self.method in FACTORISATIONS,
            "LowRank.method",
            self.method,
            ", ".join(FACTORISATIONS),
        )


@dataclass(frozen=True)
class Sparsify:
    """Zeroes single weights of one layer, anywhere (`unstructured`) or two of every four (`2:4`)."""

    sparsity: float = 0.5
    pattern: str = "unstructured"

    def __post_init__(self) -> None:
        _require(0.0 < self.sparsity < 1.0, "Sparsify.sparsity", self.sparsity, "0 < sparsity < 1")
        _require(self.pattern in PATTERNS, "Sparsify.pattern", self.pattern, ", ".join(PATTERNS))
        if self.pattern == "2:4":
            _require(self.sparsity == 0.5, "Sparsify.sparsity with pattern 2:4", self.sparsity, 0.5)


@dataclass(frozen=True)
class Quantize:
    """Stores the weights of one layer in `w_bits` bits and, unless `a_bits` is None, its activations in `a_bits` bits.

    `w_bits` 16 is fp16 storage; 2-8 are integers with one scale per output channel or per tensor. The scheme `auto` is
    symmetric at 8 bits, where integer kernels want it, and affine below, where a level more matters.
    `a_bits` quantizes the tensors that enter and leave the fused kernel of the layer.
    """

    w_bits: int = 8
    a_bits: int | None = None
    granularity: str = "channel"
    scheme: str = "auto"
    range: str = "mse"

    def __post_init__(self) -> None:
        _require(self.w_bits in WEIGHT_BITS, "Quantize.w_bits", self.w_bits, WEIGHT_BITS)
        _require(self.a_bits is None or self.a_bits in ACTIVATION_BITS, "Quantize.a_bits", self.a_bits, "8, 16 or null")
        _require(self.granularity in GRANULARITIES, "Quantize.granularity", self.granularity, ", ".join(GRANULARITIES))
        _require(self.scheme in SCHEMES, "Quantize.scheme", self.scheme, ", ".join(SCHEMES))
        _require(self.range in RANGES, "Quantize.range", self.range, ", ".join(RANGES))
        _require(type(self.w_bits) is int, "Quantize.w_bits", self.w_bits, "an integer")
        _require(self.w_bits != 16 or self.a_bits is None, "Quantize.a_bits with w_bits 16", self.a_bits, "null")

    @property
    def is_symmetric(self) -> bool:
        """True if zero lies in the middle of the levels."""
        return self.scheme == "symmetric" or (self.scheme == "auto" and self.w_bits == 8)


Op = Prune | LowRank | Sparsify | Quantize
LayerOp = LowRank | Sparsify | Quantize

OPS: dict[str, type[Any]] = {"prune": Prune, "lowrank": LowRank, "sparsify": Sparsify, "quantize": Quantize}
OP_NAMES: dict[type[Any], str] = {cls: name for name, cls in OPS.items()}
# Student choices come first, then structure (channels, rank), then values (zeros, bits).
OP_ORDER = ("prune", "lowrank", "sparsify", "quantize")
# Pairs that may not meet on one layer, and why.
ILLEGAL_PAIRS: dict[frozenset[str], str] = {
    frozenset({"lowrank", "sparsify"}): "the factors of a low-rank layer are dense; choose one of the two",
}


@dataclass(frozen=True)
class Student:
    """The architecture choices: residual blocks left out, input resolution as a share, choices of a user's builder."""

    drop: tuple[str, ...] = ()
    resolution: float = 1.0
    choices: tuple[tuple[str, str | int | float | bool], ...] = ()

    def __post_init__(self) -> None:
        _require(0.0 < self.resolution <= 1.0, "Student.resolution", self.resolution, "0 < resolution <= 1")
        object.__setattr__(self, "drop", tuple(sorted(set(self.drop))))
        object.__setattr__(self, "choices", tuple(sorted(self.choices, key=lambda item: item[0])))


@dataclass(frozen=True)
class Plan:
    """A complete compressed model as data.

    Attributes:
        student: Architecture choices.
        groups: `(group name, Prune)`, sorted by name; a group is all channels that must be cut together.
        layers: `(layer name, ops in OP_ORDER)`, sorted by name.
    """

    student: Student = field(default_factory=Student)
    groups: tuple[tuple[str, Prune], ...] = ()
    layers: tuple[tuple[str, tuple[LayerOp, ...]], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(sorted(self.groups, key=lambda item: item[0])))
        object.__setattr__(
            self,
            "layers",
            tuple((name, _ordered(name, ops)) for name, ops in sorted(self.layers, key=lambda item: item[0]) if ops),
        )
        for kind, names in (("group", [g for g, _ in self.groups]), ("layer", [n for n, _ in self.layers])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise PlanError(f"{kind} {twice[0]!r} stands twice in the plan; put all its ops in one entry")

    def group_op(self, name: str) -> Prune | None:
        """The pruning of one group, or None."""
        return dict(self.groups).get(name)

    def layer_ops(self, name: str) -> tuple[LayerOp, ...]:
        """The ops of one layer in the order they are applied; empty if it is left alone."""
        return dict(self.layers).get(name, ())

    def quantize_of(self, name: str) -> Quantize | None:
        """The quantization of one layer, or None."""
        return next((op for op in self.layer_ops(name) if isinstance(op, Quantize)), None)

    @property
    def is_dense(self) -> bool:
        """True for the plan that changes nothing."""
        return self == Plan()

    @property
    def structure(self) -> Plan:
        """The same plan without zeros and bits."""
        low = [(name, tuple(op for op in ops if isinstance(op, LowRank))) for name, ops in self.layers]
        return Plan(self.student, self.groups, tuple(low))

    @property
    def changes_shapes(self) -> bool:
        """True if blocks, channels or ranks go: layers then have other inputs than the dense model's."""
        return bool(self.student.drop or self.groups or self.structure.layers)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, ready for YAML or JSON; `from_dict` gives the same plan back."""
        return {
            "student": {
                "drop": list(self.student.drop),
                "resolution": self.student.resolution,
                "choices": dict(self.student.choices),
            },
            "groups": {name: _op_to_dict(op) for name, op in self.groups},
            "layers": {name: [_op_to_dict(op) for op in ops] for name, ops in self.layers},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Plan:
        """Reads what `to_dict` wrote.

        Raises:
            PlanError: an unknown key, op or value.
        """
        unknown = set(data) - {"student", "groups", "layers"}
        if unknown:
            raise PlanError(f"plan has the unknown key {sorted(unknown)[0]!r}; allowed: student, groups, layers")
        for key, kind in (("student", Mapping), ("groups", Mapping), ("layers", Mapping)):
            if data.get(key) is not None and not isinstance(data[key], kind):
                raise PlanError(f"plan.{key} is {data[key]!r}; it must be a mapping")
        student = data.get("student") or {}
        unknown = set(student) - {"drop", "resolution", "choices"}
        if unknown:
            raise PlanError(f"plan.student has the unknown key {sorted(unknown)[0]!r}")
        groups: list[tuple[str, Prune]] = []
        for name, entry in (data.get("groups") or {}).items():
            op = _op_from_dict(entry, f"plan.groups.{name}")
            if not isinstance(op, Prune):
                raise PlanError(f"plan.groups.{name} holds {OP_NAMES[type(op)]!r}; allowed: prune")
            groups.append((name, op))
        layers: list[tuple[str, tuple[LayerOp, ...]]] = []
        for name, entries in (data.get("layers") or {}).items():
            if not isinstance(entries, list):
                raise PlanError(f"plan.layers.{name} is {entries!r}; it must be a list of ops")
            ops = tuple(_op_from_dict(entry, f"plan.layers.{name}") for entry in entries)
            layers.append((name, ops))  # type: ignore[arg-type]  # Plan refuses a Prune here by name
        drop, resolution = student.get("drop", []), student.get("resolution", 1.0)
        if not isinstance(drop, list) or not all(isinstance(name, str) for name in drop):
            raise PlanError(f"plan.student.drop is {drop!r}; it must be a list of block names")
        if not isinstance(resolution, (int, float)):
            raise PlanError(f"plan.student.resolution is {resolution!r}; it must be a number")
        return Plan(
            student=Student(
                drop=tuple(drop),
                resolution=float(resolution),
                choices=tuple((student.get("choices") or {}).items()),
            ),
            groups=tuple(groups),
            layers=tuple(layers),
        )

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this plan."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _ordered(layer: str, ops: tuple[LayerOp, ...]) -> tuple[LayerOp, ...]:
    names = []
    for op in ops:
        if isinstance(op, Prune):
            raise PlanError(f"layer {layer!r}: prune belongs to a channel group, not to a layer; put it under groups")
        if type(op) not in OP_NAMES:
            raise PlanError(f"layer {layer!r}: {op!r} is not an op; allowed: {', '.join(OPS)}")
        names.append(OP_NAMES[type(op)])
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"layer {layer!r}: {name!r} stands twice; one of each op per layer")
    for pair, why in ILLEGAL_PAIRS.items():
        if pair <= set(names):
            raise PlanError(f"layer {layer!r}: {' and '.join(sorted(pair))} cannot be combined: {why}")
    return tuple(sorted(ops, key=lambda op: OP_ORDER.index(OP_NAMES[type(op)])))


def _op_to_dict(op: Op) -> dict[str, Any]:
    return {"op": OP_NAMES[type(op)], **asdict(op)}


def _op_from_dict(entry: Mapping[str, Any], where: str) -> Op:
    if not isinstance(entry, Mapping) or "op" not in entry:
        raise PlanError(f"{where}: {entry!r} is not an op; write {{op: prune, sparsity: 0.5}}")
    name = entry["op"]
    if name not in OPS:
        raise PlanError(f"{where}: unknown op {name!r}; {nearest(str(name), OPS)}")
    cls = OPS[name]
    fields = {key: value for key, value in entry.items() if key != "op"}
    unknown = set(fields) - set(cls.__dataclass_fields__)
    if unknown:
        first = sorted(unknown)[0]
        raise PlanError(f"{where}: {name} has no term {first!r}; {nearest(first, cls.__dataclass_fields__)}")
    try:
        op: Op = cls(**fields)
    except TypeError as error:
        raise PlanError(f"{where}: {name}: {error}") from None
    return op
