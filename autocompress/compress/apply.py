"""A plan applied to a traced model, in the one defined order: blocks, channels, factors, zeros, bits."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from autocompress.compress.importance import Gradients, class_scores
from autocompress.compress.lowrank import FACTORISED_OPS, factorise
from autocompress.compress.quantize import insert_activation_quantizers, quantize_weight
from autocompress.compress.repair import Reference, repair
from autocompress.compress.sparsify import sparsify
from autocompress.core.plan import LowRank, Plan, Quantize, Sparsify, Student
from autocompress.errors import PlanError, UnsupportedError, nearest
from autocompress.graph.blocks import drop_blocks
from autocompress.graph.couple import NORM_MODULES, Channels
from autocompress.graph.cut import cut
from autocompress.graph.info import Traced, trace_model
from autocompress.graph.trace import record_shapes, tidy
from autocompress.tasks.tree import leaves


@dataclass(frozen=True)
class Compressed:
    """A plan made real.

    Attributes:
        module: The smaller model, in evaluation mode, not yet calibrated or trained.
        removed: Representatives of the channel classes that were cut.
        factors: Paths of the factors of every factorised layer.
        notes: What the plan asked for and did not get, with the reason.
    """

    module: fx.GraphModule
    plan: Plan
    inputs: tuple[Tensor, ...]
    removed: frozenset[int]
    factors: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


def apply(model: nn.Module, plan: Plan, example_inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """Compresses a model by a plan, without calibration or training.

    Args:
        model: Left alone.
        plan: Names layers and groups of this model.
        example_inputs: Batch first.

    Raises:
        PlanError: the plan names what the model does not have.
    """
    return compress(trace_model(model, example_inputs, resolution=plan.student.resolution), plan).module


def compress(
    traced: Traced,
    plan: Plan,
    *,
    weights: bool = True,
    gradients: Gradients | None = None,
    reference: Reference | None = None,
    seed: int = 0,
) -> Compressed:
    """Applies every op of a plan to a copy of a traced model.

    Args:
        traced: The model at the resolution and student choices of the plan.
        plan: Names layers, groups and blocks of this model.
        weights: False skips what costs time and changes no shape (decompositions, ranges): for cost tables.
        gradients: Loss gradients by parameter path, for the criterion `taylor`.
        reference: Outputs of the dense model to which what is left is fitted; None leaves the weights as they are.
        seed: For the criterion `random`.
    """
    shaped = reshape(traced, plan, weights=weights, gradients=gradients, reference=reference, seed=seed)
    return with_values(traced, shaped, plan, weights=weights)


def reshape(
    traced: Traced,
    plan: Plan,
    *,
    weights: bool = True,
    gradients: Gradients | None = None,
    reference: Reference | None = None,
    seed: int = 0,
) -> Compressed:
    """What `compress` does before zeros and bits: the same for all plans that share their `structure`."""
    asked = plan
    plan, notes = for_student(traced, plan) if plan.student.choices else (plan, [])
    _check_names(traced, plan)
    module = copy.deepcopy(traced.module)
    if plan.student.drop:
        drop_blocks(module, [block for block in traced.blocks if block.name in plan.student.drop])
    removed = choose_channels(traced, module, plan, gradients, seed if weights else 0, exact=weights)
    if plan.student.drop:
        removed |= silent_channels(traced, module, removed)
    if removed:
        cut(module, traced.coupling, removed, traced.inputs)
    factors, refused = _factorise(module, plan, weights)
    if factors or plan.student.drop:
        tidy(module)
        record_shapes(module, traced.inputs)
    module.recompile()
    module.eval()
    if reference is not None and (removed or factors or plan.student.drop):
        repair(module, reference, traced.coupling, frozenset(removed), factors)
    return Compressed(module, asked, traced.inputs, frozenset(removed), factors, (*notes, *refused))


def with_values(traced: Traced, shaped: Compressed, plan: Plan, *, weights: bool = True) -> Compressed:
    """Zeros and bits of a plan in the module that `reshape` made of its structure, in place."""
    fitting, notes = for_student(traced, plan) if plan.student.choices else (plan, [])
    _check_names(traced, fitting)
    _values(shaped.module, fitting, shaped.factors, weights)
    shaped.module.recompile()
    shaped.module.eval()
    return replace(shaped, plan=plan, notes=tuple(dict.fromkeys((*notes, *shaped.notes))))


def choose_channels(
    traced: Traced, module: fx.GraphModule, plan: Plan, gradients: Gradients | None, seed: int, exact: bool = True
) -> set[int]:
    """Representatives of the channel classes that the plan cuts, the least important of every group."""
    groups: dict[str, Channels] = {group.name: group for group in traced.coupling.groups}
    removed: set[int] = set()
    for name, op in plan.groups:
        group = groups[name]
        count = len(group.roots) - op.kept(len(group.roots))
        if not exact:
            removed.update(group.roots[len(group.roots) - count :])
            continue
        scores = class_scores(
            module, traced.coupling, group, op.criterion, gradients, seed=seed ^ zlib.crc32(name.encode())
        )
        order = scores.argsort(stable=True)[:count].tolist()
        removed.update(group.roots[index] for index in order)
    return removed


def silent_channels(traced: Traced, module: fx.GraphModule, removed: set[int]) -> set[int]:
    """Channels that only dropped blocks computed: what is left of them is the zeros that shortcuts are padded with.

    They are found by their labels (no layer, parameter or constant that is left carries them) and believed only if the
    model computes the same without them.
    """
    coupling = traced.coupling
    used = {str(node.target) for node in module.graph.nodes if node.op in ("call_module", "get_attr")}
    carried: set[int] = set()
    for path, labels in coupling.layers.items():
        if path in used and not isinstance(module.get_submodule(path), NORM_MODULES):
            carried.update(coupling.coupler.find(labels.out).tolist())
    for path, blocks in coupling.tensors.items():
        if path in used:
            carried.update(root for block in blocks for root in coupling.coupler.find(block.ids).ravel().tolist())
    free = [group for group in coupling.groups if group.blocked_by is None]
    silent = {root for group in free for root in group.roots if root not in carried and root not in removed}
    if not silent:
        return set()
    trial = copy.deepcopy(module)
    try:
        cut(trial, coupling, silent, traced.inputs)
    except UnsupportedError:
        return set()
    with torch.no_grad():
        before, after = (torch.cat([leaf.flatten() for leaf in leaves(m(*traced.inputs))]) for m in (module, trial))
    return silent if torch.allclose(before, after, rtol=1e-4, atol=1e-5) else set()


def for_student(traced: Traced, plan: Plan) -> tuple[Plan, list[str]]:
    """The part of a plan that fits the architecture its choices built; a space is made for the dense model's names."""
    info = traced.info
    blocks = {block.name for block in info.blocks}
    groups = {group.name for group in info.groups if group.blocked_by is None}
    layers = {layer.name for layer in info.layers if layer.frozen_reason is None}
    drop = tuple(name for name in plan.student.drop if name in blocks)
    fitting = Plan(
        Student(drop, plan.student.resolution, plan.student.choices),
        tuple(entry for entry in plan.groups if entry[0] in groups),
        tuple(entry for entry in plan.layers if entry[0] in layers),
    )
    asked = {*plan.student.drop, *dict(plan.groups), *dict(plan.layers)}
    missing = sorted(asked - {*drop, *dict(fitting.groups), *dict(fitting.layers)})
    return fitting, [f"{name}: not in the student that was built" for name in missing]


def _check_names(traced: Traced, plan: Plan) -> None:
    info = traced.info
    blocks = [block.name for block in info.blocks]
    for name in plan.student.drop:
        if name not in blocks:
            raise PlanError(f"plan drops the block {name!r}, which the model does not have; {nearest(name, blocks)}")
    groups = {group.name: group for group in info.groups}
    for name, _ in plan.groups:
        if name not in groups:
            raise PlanError(f"plan prunes the group {name!r}, which the model does not have; {nearest(name, groups)}")
        if groups[name].blocked_by is not None:
            raise PlanError(f"group {name!r} cannot be pruned: {groups[name].blocked_by}")
    layers = {layer.name: layer for layer in info.layers}
    for name, ops in plan.layers:
        if name not in layers:
            raise PlanError(f"plan names the layer {name!r}, which the model does not have; {nearest(name, layers)}")
        if layers[name].frozen_reason is not None:
            raise PlanError(f"layer {name!r} cannot be compressed: {layers[name].frozen_reason}")
        if layers[name].op not in FACTORISED_OPS and any(isinstance(op, LowRank) for op in ops):
            raise PlanError(
                f"layer {name!r} is of kind {layers[name].op}, which lowrank does not factorise; "
                f"allowed: {', '.join(FACTORISED_OPS)}"
            )


def _present(module: nn.Module, plan: Plan) -> list[str]:
    """Layers of the plan that are left after blocks were dropped."""
    paths = {path for path, _ in module.named_modules()}
    return [name for name, _ in plan.layers if name in paths]


def _factorise(module: fx.GraphModule, plan: Plan, weights: bool) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    factors: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for name in _present(module, plan):
        for op in plan.layer_ops(name):
            if isinstance(op, LowRank):
                paths = factorise(module, name, op, weights)
                if paths:
                    factors[name] = paths
                else:
                    grouped = int(getattr(module.get_submodule(name), "groups", 1)) > 1
                    why = "its convolution has groups" if grouped else "the factors would not be smaller than the layer"
                    notes.append(f"{name}: not factorised, {why}")
    return factors, notes


def _values(module: fx.GraphModule, plan: Plan, factors: Mapping[str, tuple[str, ...]], weights: bool) -> None:
    """Zeros and bits: what changes values and no shape."""
    quantized: dict[str, Quantize] = {}
    for name in _present(module, plan):
        for op in plan.layer_ops(name):
            for path in factors.get(name, (name,)):
                if isinstance(op, Sparsify):
                    sparsify(module, path, op)
                elif isinstance(op, Quantize):
                    quantized[path] = op
                    quantize_weight(module, path, op if weights else _quick(op))
    if any(op.a_bits is not None for op in quantized.values()):
        insert_activation_quantizers(module, quantized)


def _quick(op: Quantize) -> Quantize:
    """The same storage with the cheapest range: for counting."""
    return Quantize(op.w_bits, op.a_bits, op.granularity, op.scheme, "minmax")
