"""Which tensors a plan rounds, without the quantizers that do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autocompress.compress.wiring import Kept, Node, Wiring
from autocompress.core.plan import Quantize


class Rounding:
    """The bits of every tensor of a wiring, as `quantize.insert_activation_quantizers` would round it."""

    def __init__(self, nodes: Sequence[Node], wiring: Wiring, quantized: Mapping[str, Quantize]) -> None:
        self._marked: dict[int, int] = {}
        self._trails: Mapping[int, tuple[int, ...]] = {}
        if any(op.a_bits is not None for op in quantized.values()):
            self._trails = wiring.flow.trails
            self._mark_layers(nodes, wiring.flow.layers, quantized)
            self._close(wiring.flow.movers)

    def _mark_layers(self, nodes: Sequence[Node], layers: Sequence[Kept], quantized: Mapping[str, Quantize]) -> None:
        for layer in layers:
            op = quantized.get(nodes[layer.place].path)
            if op is not None and op.a_bits is not None:
                source = layer.sources[0]
                self._mark(source if nodes[source].is_real else None, op.a_bits)
                self._mark(layer.stores, op.a_bits)

    def _mark(self, place: int | None, bits: int) -> None:
        if place is not None:
            self._marked[place] = min(self._marked.get(place, bits), bits)

    def _close(self, movers: Sequence[Kept]) -> None:
        """Marks the results of additions, averages and joins whose inputs are all rounded."""
        moved: dict[int, int] = {}
        for mover in movers:
            origins = [moved.get(source, source) for source in mover.sources]
            if not self._marked.keys() >= set(origins):
                continue
            if mover.moves:
                moved[mover.place] = origins[0]
            elif mover.stores is not None:
                self._marked.setdefault(mover.stores, self._marked[origins[0]])

    def is_rounded(self, place: int) -> bool:
        """Whether the values of a node were rounded to 8 bits, there or before they were moved."""
        if self._marked:
            for step in self._trails[place]:
                if step in self._marked:
                    return self._marked[step] == 8
        return False

    def are_rounded(self, places: Sequence[int]) -> tuple[bool, ...]:
        """The same for what an operator reads."""
        if not self._marked:
            return (False,) * len(places)
        return tuple([self.is_rounded(place) for place in places])
