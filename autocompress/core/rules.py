"""Loads space rules and applies them to a model: rules and a model in, a space out."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from autocompress.core.decision import Decision, Option, ordered
from autocompress.core.model_info import LayerInfo, ModelInfo
from autocompress.core.plan import LowRank, Prune, Quantize, Sparsify
from autocompress.core.ranks import factor_ranks, factor_weights, method_for
from autocompress.core.rule_form import ANY_NAME, Rule, SpaceRules, base_of_group
from autocompress.core.shipped import shipped_dir
from autocompress.core.space import Space
from autocompress.core.strict_yaml import Place, read_yaml
from autocompress.core.user_code import USER_CODE_ERRORS, first_line, place
from autocompress.errors import InputError, nearest

__all__ = ["Rule", "SpaceRules", "build_space", "load_rules", "lowrank_shrinks"]

SUFFIXES = (".yaml", ".yml", ".py")
TARGETS = {"prune": "channel group", "lowrank": "layer", "sparsify": "layer", "quantize": "layer", "drop": "block"}

# The options that a rule leaves for one target, or none and the reason.
Offer = tuple[tuple[Option, ...], str]


def load_rules(path_or_name: str) -> SpaceRules:
    """Reads a space from a file, or by name: first `<name>.yaml` or `.py` where the command runs, then a shipped one.

    A Python file is the user's code and runs as such; it defines `rules()`, which returns a dict or `SpaceRules`.

    Raises:
        InputError: there is no such file or name, or its content cannot be used.
    """
    path = _find(path_or_name)
    if path.suffix == ".py":
        return _load_python(path)
    data, place = read_yaml(path)
    return SpaceRules.from_dict(data, place)


def _find(path_or_name: str) -> Path:
    path = Path(path_or_name)
    if path.suffix in SUFFIXES or len(path.parts) != 1:
        if not path.is_file():
            raise InputError(f"space file {path_or_name!r} does not exist; write a path or the name of a shipped space")
        if path.suffix not in SUFFIXES:
            raise InputError(f"space file {path_or_name!r} ends in {path.suffix!r}; allowed: {', '.join(SUFFIXES)}")
        return path
    shipped = shipped_dir("search_spaces")
    for folder, suffix in itertools.product((Path(), shipped), SUFFIXES):
        file = folder / f"{path_or_name}{suffix}"
        if file.is_file():
            return file
    names = [file.stem for file in shipped.iterdir() if file.suffix in SUFFIXES]
    raise InputError(f"there is no space {path_or_name!r}; {nearest(path_or_name, names)}; or write the path of a file")


def _load_python(path: Path) -> SpaceRules:
    spec = importlib.util.spec_from_file_location(f"autocompress_space_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = getattr(module, "rules", None)
        if not callable(function):
            raise InputError(f"{path} defines no function rules(); let it return a dict in the form of a space file")
        result = function()
    except SyntaxError as error:
        raise InputError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from None
    except USER_CODE_ERRORS as error:
        raise InputError(f"{path.parent / place(error, str(path))}: {first_line(error)}") from error
    if isinstance(result, SpaceRules):
        return dataclasses.replace(result, where=str(path))
    if not isinstance(result, Mapping):
        raise InputError(f"{path}: rules() returned a {type(result).__name__}; it must be a dict or SpaceRules")
    return SpaceRules.from_dict(result, Place(str(path)))


def build_space(rules: SpaceRules, model: ModelInfo) -> Space:
    """Every decision that the rules allow and the model has room for, in the order of `Space`.

    Raises:
        InputError: a rule names something the model does not have or that cannot be changed, the rules contradict one
            another, or nothing at all can be decided.
    """
    for rule in rules.rules:
        _check(rule, model)
    chosen = {(rule.op, name): rule for rule in rules.rules for name in _names(rule.op, model) if rule.matches(name)}

    def decide(kind: str, target: str, ops: tuple[str, ...], unchanged: Option) -> Iterable[Decision]:
        matching = [chosen[op, target] for op in ops if (op, target) in chosen]
        offers = [(rule, _offer(rule, target, model)[0]) for rule in matching]
        return _decision(kind, target, offers, unchanged, layers_of.get(target, 1) if kind == "prune" else 1)

    layers_of = {group.name: len(group.layers) for group in model.groups}
    groups_of: dict[str, list[str]] = {}
    for name in layers_of:
        groups_of.setdefault(base_of_group(name), []).append(name)
    decisions = [*_resolution(rules, model), *_student(rules, model)]
    for block in model.blocks:
        decisions += decide("drop", block.name, ("drop",), False)
    for layer in model.layers:
        for group in groups_of.get(layer.name, ()):
            decisions += decide("prune", group, ("prune",), None)
        decisions += decide("shape", layer.name, ("lowrank", "sparsify"), None)
        decisions += decide("quantize", layer.name, ("quantize",), None)
    if not decisions:
        raise InputError(
            f"space {rules.name!r} ({rules.where}) leaves nothing to decide for this model; "
            "add a rule whose targets the model has, or take another space"
        )
    return Space(rules.name, tuple(decisions), rules.distill_temperature, rules.distill_weight)


def lowrank_shrinks(layer: LayerInfo, op: LowRank) -> bool:
    """True if `op` applies to the layer and its factors hold fewer weights than the layer (`core/ranks.py`).

    Only linear layers and ungrouped 2-d convolutions can be factorised. A method that the layer would not get, such as
    Tucker-2 on a linear layer, is not offered: it would be a second name for the same model.
    """
    if layer.op not in ("linear", "conv2d") or layer.groups != 1:
        return False
    method = method_for(layer.op, layer.weight_shape, op.method)
    if op.method not in (None, method):
        return False
    ranks = factor_ranks(layer.weight_shape, op.rank_ratio, method)
    return factor_weights(layer.weight_shape, ranks, method) < math.prod(layer.weight_shape)


def _names(op: str, model: ModelInfo) -> list[str]:
    if op == "prune":
        return [group.name for group in model.groups]
    if op == "drop":
        return [block.name for block in model.blocks]
    return [layer.name for layer in model.layers]


def _check(rule: Rule, model: ModelInfo) -> None:
    """Refuses a rule that was aimed at something and misses it; a general rule may find nothing."""
    paths = [path for op in ("prune", "quantize", "drop") for path in _names(op, model)]
    for exception in rule.exceptions:
        if not any(re.fullmatch(exception, path) for path in paths):
            raise InputError(f"{rule.where}: except {exception!r} matches nothing; {_nearest_path(exception, paths)}")
    if rule.name == ANY_NAME:
        return
    what, names = TARGETS[rule.op], _names(rule.op, model)
    if not any(re.fullmatch(rule.name, name) for name in names):
        cut_with = [g.name for g in model.groups if any(re.fullmatch(rule.name, layer) for layer in g.layers)]
        hint = (
            f"its channels are cut with group {cut_with[0]!r}; write that name"
            if rule.op == "prune" and cut_with
            else _nearest_path(rule.name, names)
        )
        raise InputError(f"{rule.where}: name {rule.name!r} matches no {what} that can be changed by {rule.op}; {hint}")
    offers = {name: _offer(rule, name, model) for name in names if rule.matches(name)}
    if offers and not any(options for options, _ in offers.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, (_, reason) in itertools.islice(offers.items(), 3))
        raise InputError(f"{rule.where}: name {rule.name!r} matches no {what} that {rule.op} can change: {reasons}")


def _nearest_path(expression: str, paths: Iterable[str]) -> str:
    return nearest(expression.replace("\\", ""), paths)


def _offer(rule: Rule, target: str, model: ModelInfo) -> Offer:
    """What the rule leaves to choose for a target that it matches, or nothing and why."""
    if rule.op == "drop":
        return (True,), ""
    if rule.op == "prune":
        group = next(group for group in model.groups if group.name == target)
        if group.blocked_by is not None:
            return (), f"blocked by {group.blocked_by}"
        kept: dict[tuple[int, str], Option] = {}
        for op in ordered(rule.options):
            if isinstance(op, Prune) and op.kept(group.channels) < group.channels:
                kept.setdefault((op.kept(group.channels), op.criterion), op)
        return tuple(kept.values()), f"no option removes one of its {group.channels} channels"
    layer = model.layer(target)
    if layer.frozen_reason is not None:
        return (), layer.frozen_reason
    options = tuple(dict.fromkeys(_fitted(op, layer) for op in rule.options if _fits(op, layer)))
    return options, f"no option fits {layer.op} with weights {list(layer.weight_shape)} and groups {layer.groups}"


def _fits(op: Option, layer: LayerInfo) -> bool:
    if isinstance(op, LowRank):
        return lowrank_shrinks(layer, op)
    if isinstance(op, Sparsify) and op.pattern == "2:4":
        return layer.weight_shape[1] % 4 == 0
    return True


def _fitted(op: Option, layer: LayerInfo) -> Option:
    # What enters an embedding is indices; there are no activations to round.
    return dataclasses.replace(op, a_bits=None) if isinstance(op, Quantize) and layer.op == "embedding" else op


def _decision(
    kind: str, target: str, offers: list[tuple[Rule, tuple[Option, ...]]], unchanged: Option, layers: int
) -> list[Decision]:
    offers = [(rule, options) for rule, options in offers if options]
    required = [(rule, options) for rule, options in offers if not rule.optional]
    if len(required) > 1:
        first, second = required[0][0], required[1][0]
        raise InputError(
            f"{second.where}: {target!r} must have {second.op}, and by {first.where} it must have {first.op} too, "
            "but a layer takes only one of them; make one optional or except the layer"
        )
    options = ordered(option for _, offered in required or offers for option in offered)
    if not options:
        return []
    return [Decision(kind, target, options if required else (unchanged, *options), layers)]


def _resolution(rules: SpaceRules, model: ModelInfo) -> list[Decision]:
    accepted = tuple(share for share in rules.resolutions if share in model.resolutions)
    if not accepted:
        allowed = ", ".join(map(str, model.resolutions))
        raise InputError(f"{rules.where}: resolution is {list(rules.resolutions)}; the model accepts: {allowed}")
    return [Decision("resolution", "", accepted)] if accepted != (1.0,) else []


def _student(rules: SpaceRules, model: ModelInfo) -> list[Decision]:
    offered = dict(model.student_choices)
    if rules.student is None:
        return []
    if isinstance(rules.student, str):
        return [Decision("student", name, values) for name, values in offered.items()]
    decisions = []
    for name, values in rules.student:
        if name not in offered:
            raise InputError(f"{rules.where}: student has no choice {name!r}; {nearest(name, offered)}")
        for value in values:
            if value not in offered[name]:
                allowed = ", ".join(map(repr, offered[name]))
                raise InputError(f"{rules.where}: student.{name} is {value!r}; the builder allows: {allowed}")
        # The builder's own value, so that 8.0 in a file is the 8 that the builder knows.
        decisions.append(Decision("student", name, tuple(offered[name][offered[name].index(v)] for v in values)))
    return decisions
