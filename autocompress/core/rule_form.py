"""The form of space rules: what may be done to which part of a model, as data, and how it is read from a mapping.

`search_spaces/joint.yaml` shows the form with comments; `core/rules.py` loads files and applies the rules to a model.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocompress.core.plan import OPS, Op
from autocompress.core.strict_yaml import Place
from autocompress.errors import InputError, PlanError, nearest

ANY_NAME = ".*"
RULE_OPS = (*OPS, "drop")
KEYS = ("name", "rules", "resolution", "student", "distill")
RULE_KEYS = ("op", "name", "except", "optional")
# The type of every term of an op, for messages that come before the op itself is built.
TERM_TYPES: dict[str, tuple[type, ...]] = {
    "sparsity": (float,),
    "criterion": (str,),
    "round_to": (int,),
    "rank_ratio": (float,),
    "method": (str, type(None)),
    "pattern": (str,),
    "w_bits": (int,),
    "a_bits": (int, type(None)),
    "granularity": (str,),
    "scheme": (str,),
    "range": (str,),
}
_WORDS = {float: "a number", int: "an integer", str: "a string", bool: "true or false", type(None): "null"}

Value = str | int | float | bool


@dataclass(frozen=True)
class Rule:
    """One rule: an op that may be applied to the groups, layers or blocks whose names match.

    Attributes:
        op: `prune`, `lowrank`, `sparsify`, `quantize` or `drop`.
        name: Regular expression that must match the whole name.
        exceptions: Regular expressions of names that the rule leaves to earlier rules.
        options: What may be chosen; empty for `drop`.
        optional: True if leaving the target alone is an option too.
        where: Where the rule stands, for error messages.
    """

    op: str
    name: str = ANY_NAME
    exceptions: tuple[str, ...] = ()
    options: tuple[Op, ...] = ()
    optional: bool = True
    where: str = field(default="rules", compare=False)

    def matches(self, target: str) -> bool:
        """True if the rule speaks of `target`, or of the layer whose channels it is a part of."""
        names = {target, base_of_group(target)}
        return any(re.fullmatch(self.name, name) for name in names) and not any(
            re.fullmatch(exception, name) for exception in self.exceptions for name in names
        )


def base_of_group(name: str) -> str:
    """The layer that a group of channels is named after: `conv` of `conv#2`, the second of the groups it writes."""
    return name.partition("#")[0]


@dataclass(frozen=True)
class SpaceRules:
    """The rules of a space, before a model is known.

    Attributes:
        rules: For one op and one target only the last rule that matches counts.
        resolutions: Shares of the input side, largest first.
        student: Values per choice of the student builder; "all" for everything it offers; None to leave it alone.
        where: Where the rules come from, for error messages.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    resolutions: tuple[float, ...] = (1.0,)
    student: str | tuple[tuple[str, tuple[Value, ...]], ...] | None = None
    distill_temperature: float = 4.0
    distill_weight: float = 0.7
    where: str = field(default="space", compare=False)

    @staticmethod
    def from_dict(data: Mapping[str, Any], place: Place | None = None) -> SpaceRules:
        """Reads the form of `search_spaces/joint.yaml`.

        Args:
            data: The mapping of the file.
            place: Where its keys stand, for error messages.

        Raises:
            InputError: an unknown key, op or term, a value of the wrong type, or an expression that is not valid.
        """
        place = place or Place("space rules")
        _refuse_unknown(data, KEYS, place, "")
        rules = _typed_list(data.get("rules", []), (dict,), place, "rules")
        temperature, weight = _distill(data.get("distill", {}), place)
        return SpaceRules(
            name=_typed(data.get("name", Path(place.file).stem), (str,), place, "name"),
            rules=tuple(_rule(entry, place, f"rules[{number}]") for number, entry in enumerate(rules)),
            resolutions=_resolutions(data.get("resolution", 1.0), place),
            student=_student(data.get("student"), place),
            distill_temperature=temperature,
            distill_weight=weight,
            where=place.file,
        )


def _rule(entry: Mapping[str, Any], place: Place, path: str) -> Rule:
    if "op" not in entry:
        raise InputError(f"{place.at(path)} has no key 'op'; allowed: {', '.join(RULE_OPS)}")
    op = _typed(entry["op"], (str,), place, f"{path}.op")
    if op not in RULE_OPS:
        raise InputError(f"{place.at(f'{path}.op')}: unknown op {op!r}; {nearest(op, RULE_OPS)}")
    terms = [term.name for term in dataclasses.fields(OPS[op])] if op in OPS else []
    _refuse_unknown(entry, (*RULE_KEYS, *terms), place, path)
    return Rule(
        op=op,
        name=_expression(entry.get("name", ANY_NAME), place, f"{path}.name"),
        exceptions=tuple(
            _expression(item, place, f"{path}.except")
            for item in _typed_list(entry.get("except", []), (str,), place, f"{path}.except")
        ),
        options=_op_options(op, entry, place, path) if op in OPS else (),
        optional=_typed(entry.get("optional", True), (bool,), place, f"{path}.optional"),
        where=place.at(path),
    )


def _op_options(op: str, entry: Mapping[str, Any], place: Place, path: str) -> tuple[Op, ...]:
    """Every combination of the listed terms, each once."""
    cls = OPS[op]
    listed: dict[str, list[Any]] = {}
    for term in dataclasses.fields(cls):
        if term.name in entry:
            where = f"{path}.{term.name}"
            listed[term.name] = _typed_list(entry[term.name], TERM_TYPES[term.name], place, where)
            if not listed[term.name]:
                raise InputError(f"{place.at(where)} is an empty list; give at least one value")
        elif term.default is dataclasses.MISSING:
            raise InputError(f"{place.at(path)}: {op} needs the term {term.name!r}, a value or a list of values")
    options: list[Op] = []
    for values in itertools.product(*listed.values()):
        terms = dict(zip(listed, values, strict=True))
        # A list beside another one may hold a value that only fits some of it; the plan's own rules decide.
        if terms.get("w_bits") == 16 and len(listed["w_bits"]) > 1:
            terms["a_bits"] = None
        if terms.get("pattern") == "2:4" and len(listed["pattern"]) > 1:
            terms["sparsity"] = 0.5
        try:
            options.append(cls(**terms))
        except PlanError as error:
            raise InputError(f"{place.at(path)}: {error}") from None
    return tuple(dict.fromkeys(options))


def _resolutions(value: object, place: Place) -> tuple[float, ...]:
    shares = _typed_list(value, (float,), place, "resolution")
    for share in shares:
        if not 0.0 < share <= 1.0:
            raise InputError(f"{place.at('resolution')} is {share!r}; allowed: 0 < resolution <= 1")
    if not shares:
        raise InputError(f"{place.at('resolution')} is an empty list; leave the key out for full resolution")
    return tuple(sorted(set(shares), reverse=True))


def _student(value: object, place: Place) -> str | tuple[tuple[str, tuple[Value, ...]], ...] | None:
    if value is None or value == "all":
        return "all" if value else None
    if not isinstance(value, Mapping):
        raise InputError(f"{place.at('student')} is {value!r}; write 'all' or a mapping of choices to lists of values")
    return tuple(
        (str(name), tuple(_typed_list(values, (str, int, float, bool), place, f"student.{name}")))
        for name, values in value.items()
    )


def _distill(value: object, place: Place) -> tuple[float, float]:
    terms = _typed(value, (dict,), place, "distill")
    _refuse_unknown(terms, ("temperature", "weight"), place, "distill")
    temperature = _typed(terms.get("temperature", 4.0), (float,), place, "distill.temperature")
    weight = _typed(terms.get("weight", 0.7), (float,), place, "distill.weight")
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"{place.at('distill.temperature')} is {temperature!r}; it must be a finite number above 0")
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"{place.at('distill.weight')} is {weight!r}; allowed: 0 to 1")
    return temperature, weight


def _refuse_unknown(data: Mapping[str, Any], allowed: Iterable[str], place: Place, path: str) -> None:
    known = list(allowed)
    for key in data:
        if key not in known:
            where = place.at(f"{path}.{key}" if path else str(key))
            raise InputError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")


def _expression(value: object, place: Place, path: str) -> str:
    text: str = _typed(value, (str,), place, path)
    try:
        re.compile(text)
    except re.error as error:
        raise InputError(f"{place.at(path)}: {text!r} is not a regular expression: {error}") from None
    return text


def _typed_list(value: object, types: tuple[type, ...], place: Place, path: str) -> list[Any]:
    if isinstance(value, list | tuple):
        return [_typed(item, types, place, f"{path}[{number}]") for number, item in enumerate(value)]
    return [_typed(value, types, place, path)]


def _typed(value: Any, types: tuple[type, ...], place: Place, path: str) -> Any:
    if float in types and isinstance(value, int) and not isinstance(value, bool) and int not in types:
        return float(value)
    # True is an int to Python, but not to whoever writes `w_bits: true`.
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        allowed = " or ".join(_WORDS.get(kind, "a mapping") for kind in types)
        raise InputError(f"{place.at(path)} is {value!r}; it must be {allowed}")
    return value
