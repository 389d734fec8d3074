"""The network that a plan gives, from the plan alone: without the compressed model, a hundred times as fast.

Shapes follow from counts of labels, bits from marks on tensors, both prepared once for a traced model. Everything here
repeats in numbers what `apply.compress` does to a module; a test compares the two on every net there is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import fx

from autocompress.compress.apply import for_student, silent_channels
from autocompress.compress.axes import Axes
from autocompress.compress.factor_shapes import LayerShape, factor_shapes
from autocompress.compress.lowrank import FACTORISED_OPS
from autocompress.compress.rounding import Rounding
from autocompress.compress.silence import Silence
from autocompress.compress.sized import shape_of, sized
from autocompress.compress.wiring import PADS, Node, Wiring, nodes_of, wire
from autocompress.core.network import Network, Operator, weight_dtype
from autocompress.core.plan import LowRank, Plan, Quantize
from autocompress.graph.blocks import drop_blocks
from autocompress.graph.info import Traced
from autocompress.graph.kernels import Operators, per_sample
from autocompress.graph.layers import batch_of

_Shape = tuple[int, ...]
_WIRINGS = 1024
# Plans have most operators in common: one is found faster than made, and what it gives is found by which it is.
_OPERATORS = 1 << 15


class _Ends(NamedTuple):
    """What an operator reads and writes in one plan; shapes are those of one sample."""

    reads: tuple[str, ...]
    in_shapes: tuple[_Shape, ...]
    out_shape: _Shape
    rounded_reads: tuple[bool, ...]
    is_rounded: bool


class PlannedNetworks:
    """The networks of a traced model under any plan of it."""

    def __init__(self, traced: Traced) -> None:
        self._traced, self._batch = traced, batch_of(traced.module)
        self._axes = Axes(traced.coupling)
        self._nodes = nodes_of(traced.module)
        coupling, operators = traced.coupling, Operators(traced.module)
        fx_nodes = list(traced.module.graph.nodes)
        self._shape_of = {
            place: shape_of(node, coupling, self._axes) for place, node in enumerate(fx_nodes) if "shape" in node.meta
        }
        self._sized = {
            place: sized(node, operators, coupling, self._axes)
            for place, node in enumerate(fx_nodes)
            if self._nodes[place].runs
        }
        self._pads = tuple(place for place, node in enumerate(fx_nodes) if _may_vanish(self._nodes[place], node))
        self._silence = Silence(traced, self._nodes, self._axes)
        self._candidates = lru_cache(_WIRINGS)(lambda drop: self._silence.candidates(self._wiring(drop)))
        self._is_silent = lru_cache(_WIRINGS)(self._computes_the_same)
        places = {node.name: place for place, node in enumerate(self._nodes)}
        self._blocks = {block.name: (places[block.addition], places[block.shortcut]) for block in traced.blocks}
        self._groups = {name: place for place, (name, _) in enumerate(self._axes.groups)}
        self._known_groups = {group.name for group in traced.info.groups if group.blocked_by is None}
        self._layers = {layer.name: layer.op for layer in traced.info.layers if layer.frozen_reason is None}
        self._wiring = lru_cache(_WIRINGS)(self._wire)
        self._plain = lru_cache(_OPERATORS)(self._new_plain)
        self._layer = lru_cache(_OPERATORS)(self._new_layer)
        self._sample = lru_cache(_OPERATORS)(lambda shape: per_sample(shape, self._batch))

    def network(self, plan: Plan) -> Network | None:
        """The network of `compress(traced, plan, weights=False)`; None where only that can tell.

        That is so for a plan that names what the model does not have, that cuts a tensor along several dimensions at
        once, that leaves a parameter with some of the channels of a dropped block, or leaves nothing of a tensor.
        The last factor of a layer writes the layer's tensor, the others write `<its name>.<factor>`.
        """
        plan = for_student(self._traced, plan)[0] if plan.student.choices else plan
        if not self._knows(plan):
            return None
        wiring = self._wiring(plan.student.drop)
        kept = self._kept(plan, wiring)
        if kept is None:
            return None
        cut = [group for group, (_, count) in enumerate(self._axes.groups) if kept[group] < count]
        if self._axes.unfollowed.intersection(cut):
            return None
        sizes = self._axes.sizes(kept)
        shapes = self._axes.shapes(sizes)
        if 0 in sizes and any(0 in shapes[self._shape_of[p]] for p in wiring.places if p in self._shape_of):
            return None
        if cut:
            vanished = frozenset(place for place in self._pads if self._adds_nothing(place, shapes))
            wiring = self._wiring(plan.student.drop, vanished) if vanished else wiring
        samples = list(map(self._sample, shapes))
        return self._network(plan, wiring, sizes, shapes, samples)

    def _knows(self, plan: Plan) -> bool:
        return (
            all(name in self._blocks for name in plan.student.drop)
            and all(name in self._known_groups for name, _ in plan.groups)
            and all(
                name in self._layers
                and (self._layers[name] in FACTORISED_OPS or not any(isinstance(op, LowRank) for op in ops))
                for name, ops in plan.layers
            )
        )

    def _wire(self, drop: tuple[str, ...], vanished: frozenset[int] = frozenset()) -> Wiring:
        return wire(self._nodes, dict(self._blocks[name] for name in drop), vanished)

    # --- channels --------------------------------------------------------------------------------------------------

    def _kept(self, plan: Plan, wiring: Wiring) -> list[int] | None:
        """How many classes of every group are left; None where it is not known."""
        kept = [count for _, count in self._axes.groups]
        for name, op in plan.groups:
            kept[self._groups[name]] = op.kept(kept[self._groups[name]])
        if not plan.student.drop:
            return kept
        silent = self._candidates(plan.student.drop)
        if silent is None:
            return None
        if self._silence.is_certain(wiring, silent) or self._is_silent(
            plan.student.drop, tuple((group, kept[group]) for group in silent)
        ):
            for group in silent:
                kept[group] = 0
        return kept

    def _computes_the_same(self, drop: tuple[str, ...], silent: tuple[tuple[int, int], ...]) -> bool:
        """Whether a model without blocks is the same without the first classes of some groups, by running it."""
        module = copy.deepcopy(self._traced.module)
        drop_blocks(module, [block for block in self._traced.blocks if block.name in drop])
        kept = dict(silent)
        standing = self._axes.standing.items()
        removed = {root for root, (group, rank) in standing if group in kept and rank >= kept[group]}
        return bool(silent_channels(self._traced, module, removed))

    def _adds_nothing(self, place: int, shapes: Sequence[_Shape]) -> bool:
        (source,) = self._nodes[place].sources
        return shapes[self._shape_of[place]] == shapes[self._shape_of[source]]

    # --- operators -------------------------------------------------------------------------------------------------

    def _network(
        self, plan: Plan, wiring: Wiring, sizes: Sequence[int], shapes: Sequence[_Shape], samples: Sequence[_Shape]
    ) -> Network:
        quantized = {name: op for name, ops in plan.layers for op in ops if isinstance(op, Quantize)}
        factorised = {name: op for name, ops in plan.layers for op in ops if isinstance(op, LowRank)}
        rounding = Rounding(self._nodes, wiring, quantized)
        operators: list[Operator] = []
        for place, stored, sources in wiring.operators:
            one, read = self._sized[place], [self._shape_of[source] for source in sources]
            io = _Ends(
                stored,
                tuple([samples[shape] for shape in read]),
                samples[one.out],
                rounding.are_rounded(sources),
                rounding.is_rounded(place),
            )
            if one.weight:
                weight, groups = tuple([sizes[axis] for axis in one.weight]), sizes[one.groups]
                quantize, low_rank = quantized.get(one.dense.layer), factorised.get(one.dense.layer)
                dtype, rounds = "fp32", False
                if quantize is not None:
                    dtype, rounds = weight_dtype(quantize.w_bits), quantize.a_bits == 8
                batches = shapes[read[0]], shapes[one.out]
                operators += self._layer(place, io, weight, groups, batches, dtype, rounds, low_rank)
            else:
                more = sum([math.prod(shapes[shape]) for shape in one.more]) // self._batch if one.more else 0
                macs = one.dense.macs
                if one.inner is not None:
                    macs = math.prod(shapes[one.out]) // self._batch * sizes[one.inner]
                operators.append(self._plain(place, io, macs, more))
        inputs = [place for place in wiring.places if self._nodes[place].op == "placeholder"]
        return Network(
            tuple(operators),
            {self._nodes[place].name: samples[self._shape_of[place]] for place in inputs},
            wiring.outputs,
            tuple(self._nodes[place].name for place in inputs if rounding.is_rounded(place)),
        )

    def _new_plain(self, place: int, io: _Ends, macs: int, more: int) -> Operator:
        """An operator without weights."""
        dense = self._sized[place].dense
        return Operator(
            name=dense.name,
            op=dense.op,
            aten=dense.aten,
            reads=io.reads,
            in_shapes=io.in_shapes,
            out_shape=io.out_shape,
            layer=dense.layer,
            stride=dense.stride,
            # What is neither a layer nor a product of activations keeps its channels.
            macs=macs,
            rounded_reads=io.rounded_reads,
            is_rounded=io.is_rounded,
            more_elements=more,
            window=dense.window,
            is_zero=dense.is_zero,
            settings=dense.settings,
        )

    def _new_layer(
        self,
        place: int,
        io: _Ends,
        weight: _Shape,
        groups: int,
        batches: tuple[_Shape, _Shape],
        dtype: str,
        rounds: bool,
        low_rank: LowRank | None,
    ) -> tuple[Operator, ...]:
        """A layer, or the factors that stand for it.

        Args:
            place: Of the layer.
            io: Of what stands for it.
            weight: The shape of its weight.
            groups: Of its weight.
            batches: What it reads and writes, with the batch.
            dtype: As `Operator.weight_dtype`.
            rounds: What its factors hand on is rounded to 8 bits.
            low_rank: How it is factorised.
        """
        dense = self._sized[place].dense
        whole = LayerShape(dense.op, weight, dense.stride, dense.dilation, groups, *batches)
        parts = (factor_shapes(whole, low_rank) if low_rank is not None else ()) or (whole,)
        reads, in_shapes, rounded = io.reads, io.in_shapes, io.rounded_reads
        operators: list[Operator] = []
        for part in parts:
            is_last = part is parts[-1]
            name = dense.name if is_last else f"{dense.name}.{part.factor}"
            out_shape = io.out_shape if is_last else per_sample(part.out_shape, self._batch)
            operators.append(
                Operator(
                    name=name,
                    op=dense.op,
                    aten=dense.aten,
                    reads=reads,
                    in_shapes=in_shapes,
                    out_shape=out_shape,
                    layer=f"{dense.layer}.{part.factor}" if part.factor else dense.layer,
                    weight_shape=part.weight_shape,
                    stride=part.stride,
                    dilation=part.dilation,
                    groups=part.groups,
                    macs=part.macs(self._batch),
                    weight_dtype=dtype,
                    rounded_reads=rounded,
                    is_rounded=io.is_rounded if is_last else rounds,
                )
            )
            reads, in_shapes, rounded = (name,), (out_shape,), (rounds,)
        return tuple(operators)


def _may_vanish(node: Node, fx_node: fx.Node) -> bool:
    """True for padding of which a cut may leave nothing."""
    if node.base not in PADS:
        return False
    amounts: Any = fx_node.args[1]
    return all(amount >= 0 for amount in amounts)
