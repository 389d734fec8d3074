"""Peak activation memory by a schedule of buffers: a tensor lives from its kernel to its last reader."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autocompress.core.fusion import Step
from autocompress.core.kernel import BYTES_PER_ELEMENT
from autocompress.core.network import Network, Operator


def peak_activation_bytes(network: Network, order: Sequence[Step], precision: str) -> int:
    """The largest sum of live activations over the kernels of one sample, in bytes.

    Args:
        network: What runs.
        order: Its kernels, in the order they run.
        precision: What tensors that are not rounded to 8 bits are held in.
    """
    stored = {operator.name: _bytes(operator, precision) for operator in network.operators}
    last = {name: index for index, step in enumerate(order) for name in step.reads}
    last |= dict.fromkeys(network.outputs, len(order))
    sizes = {name: 1 if name in network.rounded_inputs else BYTES_PER_ELEMENT[precision] for name in network.inputs}
    live = {name: math.prod(shape) * sizes[name] for name, shape in network.inputs.items()}
    peak = sum(live.values())
    for index, step in enumerate(order):
        live |= {name: stored[name] for name in step.writes}
        peak = max(peak, sum(live.values()))
        live = {name: size for name, size in live.items() if last.get(name, -1) > index}
    return peak


def _bytes(operator: Operator, precision: str) -> int:
    if operator.is_rounded and not operator.more_elements:
        return math.prod(operator.out_shape)
    return (math.prod(operator.out_shape) + operator.more_elements) * BYTES_PER_ELEMENT[precision]
