"""Reads `profile.yaml`: every error names the file, the key, the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from autocompress.core.fusion_rules import FUSIONS, RUNTIMES, ZEROS, Fusion
from autocompress.core.kernel import DTYPES
from autocompress.core.strict_yaml import Place, read_yaml
from autocompress.core.target import Precision, Profile
from autocompress.errors import InputError, nearest
from autocompress.targets.law import FAMILIES, KINDS, TERMS, Law, Range, Spread, Tiling

LAW_UNIT = "ms"
# What a profile may say of its runtime's fusion, where that was found to be otherwise.
_FUSION_KEYS = ("norms", "sum_activations", "pointwise", "siblings", "concat_in_place", "repeated")


@dataclass(frozen=True)
class Validation:
    """How a law did on held-out rows of one source; shares are between 0 and 1.

    Attributes:
        setup: Whose law it is; empty for the target as it is.
    """

    source: str
    setup: str
    dtype: str
    rows: int
    spearman: float
    within_10_percent: float
    mean_error: float
    interval_coverage: float


@dataclass(frozen=True)
class Setup:
    """The same device as somebody else ran it: another runtime, another host program, laws of its own."""

    title: str
    runtime: str
    fusion: Fusion
    laws: Mapping[str, Law]


@dataclass(frozen=True)
class Parsed:
    """What one profile file holds."""

    profile: Profile
    laws: Mapping[str, Law]
    setups: Mapping[str, Setup]
    validation: tuple[Validation, ...]


@dataclass(frozen=True)
class Node:
    """A mapping inside the file that knows its own path, so that errors can name it."""

    place: Place
    key: str
    data: Mapping[str, Any]

    def fail(self, key: str, problem: str) -> InputError:
        """The error for one key of this mapping."""
        return InputError(f"{self.place.at(self.key + key)}: {problem}")

    def get(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value under `key`, which must be of that kind."""
        if key not in self.data:
            raise self.fail(key, "is missing; add it")
        value = self.data[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = kind.__name__ if isinstance(kind, type) else " or ".join(one.__name__ for one in kind)
            raise self.fail(key, f"is {value!r}; allowed: {wanted}")
        return value

    def node(self, key: str) -> Node:
        """The mapping under `key`."""
        return Node(self.place, f"{self.key}{key}.", self.get(key, dict))

    def number(self, key: str, low: float = 0.0) -> float:
        """A finite number of at least `low`."""
        value = float(self.get(key, (int, float)))
        if not math.isfinite(value) or value < low:
            raise self.fail(key, f"is {value}; allowed: a finite number of {low:g} or more")
        return value

    def name(self, key: str, allowed: tuple[str, ...]) -> str:
        """A string out of `allowed`."""
        value = str(self.get(key, str))
        if value not in allowed:
            raise self.fail(key, f"is {value!r}; {nearest(value, allowed)}")
        return value

    def names(self, allowed: tuple[str, ...], complete: bool = False) -> tuple[str, ...]:
        """The keys of this mapping, which must be out of `allowed`, all of them if `complete`."""
        for key in self.data:
            if key not in allowed:
                raise self.fail(str(key), f"is unknown; {nearest(str(key), allowed)}")
        for key in allowed if complete else ():
            if key not in self.data:
                raise self.fail(key, "is missing; add it")
        return tuple(self.data)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self.get(key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.fail(key, f"is {values!r}; allowed: a list of strings")
        return tuple(values)

    def pair(self, key: str) -> tuple[int, int]:
        """A list of two positive integers, the lower one first."""
        values = self.get(key, list)
        if len(values) != 2 or not all(type(value) is int and value >= 1 for value in values):
            raise self.fail(key, f"is {values!r}; allowed: [lowest, highest], both 1 or more")
        return values[0], values[1]


def read_profile(path: Path) -> Parsed:
    """Reads and checks one profile file.

    Raises:
        InputError: it is not YAML, or a key is missing or wrong.
    """
    data, place = read_yaml(path)
    root = Node(place, "", data)
    profile = _profile(root)
    if profile.measured:
        return Parsed(profile, {}, {}, ())
    law = root.node("law")
    law.name("unit", (LAW_UNIT,))
    laws = _laws(law)
    for precision in profile.precisions:
        if precision.runs_as not in laws:
            raise law.node("dtypes").fail(precision.runs_as, "is missing; a dtype that something runs as needs a law")
    named = law.node("setups")
    setups = {name: _setup(named.node(name)) for name in named.data}
    validation = tuple(_validation(place, index, entry) for index, entry in enumerate(law.get("validation", list)))
    for index, one in enumerate(validation):
        if one.setup and one.setup not in setups:
            where = place.at(f"law.validation[{index}].setup")
            raise InputError(f"{where}: is {one.setup!r}; {nearest(one.setup, setups)}")
    return Parsed(profile, laws, setups, validation)


def fusion_of(path: Path) -> Fusion:
    """The fusion rules of a profile alone; its law may be missing.

    Raises:
        InputError: it is not YAML, or its runtime or fusion is wrong.
    """
    data, place = read_yaml(path)
    root = Node(place, "", data)
    return _fusion(root, root.name("runtime", RUNTIMES))


def _laws(node: Node) -> dict[str, Law]:
    tiling, dtypes = _tiling(node.node("tiling")), node.node("dtypes")
    return {dtype: law_from_node(dtypes.node(dtype), tiling) for dtype in dtypes.names(DTYPES)}


def _setup(node: Node) -> Setup:
    runtime = node.name("runtime", RUNTIMES)
    return Setup(node.get("title", str), runtime, _fusion(node, runtime), _laws(node))


def _fusion(node: Node, runtime: str) -> Fusion:
    """The rules of the runtime, with what the profile says otherwise under `fusion`."""
    if "fusion" not in node.data:
        return FUSIONS[runtime]
    said = node.node("fusion")
    keys = said.names((*_FUSION_KEYS, "zeros"))
    fusion = replace(FUSIONS[runtime], **{key: said.get(key, bool) for key in keys if key != "zeros"})
    return replace(fusion, zeros=said.name("zeros", ZEROS)) if "zeros" in keys else fusion


def _profile(root: Node) -> Profile:
    precisions = root.node("precisions")
    sources = root.node("sources")
    opset = root.get("opset", int)
    if opset < 7:
        raise root.fail("opset", f"is {opset}; allowed: 7 or more")
    runtime = root.name("runtime", RUNTIMES)
    found = {dtype: _precision(dtype, precisions.node(dtype)) for dtype in precisions.names(DTYPES, True)}
    for dtype, precision in found.items():
        if not found[precision.runs_as].native:
            raise precisions.node(dtype).fail("runs_as", f"is {precision.runs_as!r}, which is not native itself")
    unknown_memory = "memory_bytes" in root.data and root.data["memory_bytes"] is None
    return Profile(
        name=root.get("name", str),
        title=root.get("title", str),
        runtime=runtime,
        fusion=_fusion(root, runtime),
        runtime_version=root.get("runtime_version", str),
        opset=opset,
        default_precision=root.name("default_precision", DTYPES),
        precisions=tuple(found.values()),
        memory_bytes=None if unknown_memory else int(root.number("memory_bytes", 1)),
        measured=root.get("measured", bool),
        how_to_run=root.texts("how_to_run"),
        sources=tuple((name, sources.get(name, str)) for name in sources.data),
        notes=root.texts("notes"),
    )


def _precision(dtype: str, node: Node) -> Precision:
    native, runs_as = node.get("native", bool), node.name("runs_as", DTYPES)
    if native != (runs_as == dtype):
        raise node.fail("runs_as", f"is {runs_as!r} while native is {native}; a native dtype runs as itself")
    return Precision(dtype, native, runs_as, node.get("source", str))


def _tiling(node: Node) -> Tiling:
    names = ("channels", "narrow_channels", "pixels", "aligned", "least_channels")
    channels, narrow, pixels, aligned, least = (int(node.number(key, 1)) for key in names)
    converted = node.texts("converted") if "converted" in node.data else ()
    for kind in converted:
        if kind not in KINDS:
            raise node.fail("converted", f"holds {kind!r}; {nearest(kind, KINDS)}")
    return Tiling(channels, narrow, pixels, node.pair("winograd"), aligned, least, converted=converted)


def law_from_node(node: Node, tiling: Tiling) -> Law:
    """Reads what `law_to_dict` wrote.

    Raises:
        InputError: a key is missing or wrong.
    """
    coefficients, ranges, spreads = node.node("coefficients"), node.node("ranges"), node.node("spreads")
    return Law(
        coefficients={term: coefficients.number(term) for term in coefficients.names(tuple(TERMS), True)},
        tiling=tiling,
        ranges={kind: _range(ranges.node(kind)) for kind in ranges.names(KINDS)},
        spreads={family: _spread(spreads, family) for family in spreads.names(FAMILIES, True)},
    )


def with_law(profile: Path, law: Mapping[str, Any]) -> str:
    """The text of a profile with another section `law:`; what a person wrote above it stays."""
    written = profile.read_text(encoding="utf-8").split("\nlaw:")[0].rstrip("\n")
    text = yaml.safe_dump({"law": law}, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    return f"{written}\n{text}"


def law_to_dict(law: Law) -> dict[str, Any]:
    """One dtype's law as plain data, without its tiling."""
    return {
        "coefficients": dict(law.coefficients),
        "ranges": {
            kind: {key: list(span) for key, span in asdict(known).items()} for kind, known in law.ranges.items()
        },
        "spreads": {family: [spread.low, spread.high] for family, spread in law.spreads.items()},
    }


def _range(node: Node) -> Range:
    return Range(node.pair("in_channels"), node.pair("out_channels"), node.pair("pixels"))


def _spread(node: Node, family: str) -> Spread:
    values = node.get(family, list)
    if len(values) != 2 or not all(isinstance(value, float) and math.isfinite(value) for value in values):
        raise node.fail(family, f"is {values!r}; allowed: [low, high], two numbers")
    if not 0.0 < values[0] <= 1.0 <= values[1]:
        raise node.fail(family, f"is {values!r}; allowed: 0 < low <= 1 <= high")
    return Spread(*values)


def _validation(place: Place, index: int, entry: object) -> Validation:
    if not isinstance(entry, dict):
        raise InputError(f"{place.at(f'law.validation[{index}]')}: is {entry!r}; allowed: a mapping")
    node = Node(place, f"law.validation[{index}].", entry)
    return Validation(
        source=node.get("source", str),
        setup=node.get("setup", str),
        dtype=node.name("dtype", DTYPES),
        rows=int(node.number("rows", 1)),
        spearman=node.number("spearman", -1.0),
        within_10_percent=node.number("within_10_percent"),
        mean_error=node.number("mean_error"),
        interval_coverage=node.number("interval_coverage"),
    )
