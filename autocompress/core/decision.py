"""One choice of a space, its options and their order: from the least to the most compression."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autocompress.core.plan import LowRank, Prune, Quantize, Sparsify
from autocompress.errors import PlanError, nearest

Option = Prune | LowRank | Sparsify | Quantize | None | bool | float | str | int
Vector = tuple[int, ...]

# What the options of each kind of decision may be, in the order in which the kinds stand in a space.
KINDS: dict[str, tuple[type, ...]] = {
    "resolution": (float,),
    "student": (str, int, float, bool),
    "drop": (bool,),
    "prune": (Prune, type(None)),
    "shape": (LowRank, Sparsify, type(None)),
    "quantize": (Quantize, type(None)),
}


@dataclass(frozen=True)
class Decision:
    """One choice.

    Attributes:
        kind: A key of `KINDS`. `shape` holds low-rank and sparse options together, because a layer may have only one.
        target: Group (`prune`), layer (`shape`, `quantize`), block (`drop`), choice (`student`), or "" (`resolution`).
        options: What can be chosen, from least to most compression.
        layers: How many layers it changes at once; more than one for channels that blocks share.
    """

    kind: str
    target: str
    options: tuple[Option, ...]
    layers: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(f"decision kind is {self.kind!r}; {nearest(self.kind, KINDS)}")
        if not self.options:
            raise PlanError(f"decision {self.name!r} has no options; give it at least one")
        for position, option in enumerate(self.options):
            if not isinstance(option, KINDS[self.kind]):
                allowed = ", ".join(kind.__name__ for kind in KINDS[self.kind])
                raise PlanError(f"decision {self.name!r} has the option {option!r}; allowed: {allowed}")
            if option in self.options[:position]:
                raise PlanError(f"decision {self.name!r} has the option {option!r} twice; keep one")

    @property
    def name(self) -> str:
        """`kind:target`, e.g. `prune:layer1.0.conv1`; for `resolution` the kind alone."""
        return f"{self.kind}:{self.target}" if self.target else self.kind


def strength(option: Option) -> float:
    """How much an op compresses, comparable among ops of one class; 0 for anything that is not an op."""
    if isinstance(option, Prune | Sparsify):
        return option.sparsity
    if isinstance(option, LowRank):
        return 1.0 - option.rank_ratio
    if isinstance(option, Quantize):
        return 1.0 - option.w_bits / 32.0
    return 0.0


def ordered(options: Iterable[Option]) -> tuple[Option, ...]:
    """The ops from least to most compression, each once; equally strong ones stay in the order given."""
    return tuple(sorted(dict.fromkeys(options), key=lambda option: (strength(option), -_a_bits(option))))


def describe(option: Option) -> str:
    """A short name for an op: `w4a8`, `prune 0.25`, `rank 0.5`, `sparse 2:4`; then any term that is unusual."""
    if isinstance(option, Prune):
        extra = [option.criterion] * (option.criterion != "l2") + [f"to {option.round_to}"] * (option.round_to > 1)
        return " ".join([f"prune {option.sparsity:.3g}", *extra])
    if isinstance(option, LowRank):
        return " ".join([f"rank {option.rank_ratio:.3g}", *([option.method] if option.method else [])])
    if isinstance(option, Sparsify):
        return f"sparse {option.sparsity:.3g}" if option.pattern == "unstructured" else f"sparse {option.pattern}"
    if isinstance(option, Quantize):
        usual = Quantize()
        terms = ("granularity", "scheme", "range")
        extra = [getattr(option, term) for term in terms if getattr(option, term) != getattr(usual, term)]
        return " ".join([f"w{option.w_bits}" + (f"a{option.a_bits}" if option.a_bits else ""), *extra])
    return str(option)


def _a_bits(option: Option) -> int:
    return option.a_bits or 32 if isinstance(option, Quantize) else 0
