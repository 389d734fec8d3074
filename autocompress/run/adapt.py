"""A space adapted to a device: what its runtime could not read or would not compute is not tried."""

from __future__ import annotations

from dataclasses import replace

from autocompress.core.plan import Quantize
from autocompress.core.rules import Rule, SpaceRules
from autocompress.core.target import Profile


def adapt_rules(rules: SpaceRules, profile: Profile) -> tuple[SpaceRules, tuple[str, ...]]:
    """Drops 8-bit activations on a device without integer arithmetic, and says so.

    There they would cost accuracy and buy nothing, and the runtime refuses files with integer kernels. So does TensorRT
    where zero points are not zero (NVIDIA/TensorRT issue 2774).
    """
    if not any(_has_activations(rule) for rule in rules.rules):
        return rules, ()
    if profile.runs_as("int8") != "int8":
        note = (
            f"{profile.title} has no int8 arithmetic: weights are stored in few bits (smaller, not faster) and "
            f"activations stay in {profile.runs_in('int8', profile.default_precision)}"
        )
    elif profile.runtime.startswith("tensorrt"):
        note = (
            f"{profile.title}: TensorRT reads 8-bit activations only with a zero point of 0, which files do not have "
            f"yet: weights are stored in few bits and activations stay in {profile.default_precision}"
        )
    else:
        return rules, ()
    return replace(rules, rules=tuple(_without_activations(rule) for rule in rules.rules)), (note,)


def _has_activations(rule: Rule) -> bool:
    return any(isinstance(op, Quantize) and op.a_bits == 8 for op in rule.options)


def _without_activations(rule: Rule) -> Rule:
    options = tuple(
        replace(op, a_bits=None) if isinstance(op, Quantize) and op.a_bits == 8 else op for op in rule.options
    )
    return replace(rule, options=tuple(dict.fromkeys(options)))
