"""Families of small networks that are named by a few numbers or a string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autocompress.core.network import Network
from autocompress.errors import InputError, nearest
from autocompress.targets.published.writer import Map, Writer

_Op = Callable[[Writer, Map], Map]
CELL_OPS: dict[str, _Op] = {
    "none": lambda net, x: net.zeros(x),
    "skip_connect": lambda net, x: net.identity(x),
    "nor_conv_1x1": lambda net, x: net.conv_norm(net.relu(x), x.channels, 1),
    "nor_conv_3x3": lambda net, x: net.conv_norm(net.relu(x), x.channels, 3),
    "avg_pool_3x3": lambda net, x: net.pool(x, 3, 1, 1, kind="avg_pool2d"),
}
WIDTHS, CELLS, SIDE = (16, 32, 64), 5, 32


def cell_edges(text: str) -> list[tuple[int, int, str]]:
    """`(from, to, operator)` of every edge of a NAS-Bench-201 cell: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.

    Raises:
        InputError: not such a string.
    """
    nodes = text.split("+")
    edges = []
    for target, node in enumerate(nodes, start=1):
        parts = node.strip("|").split("|")
        for source, part in enumerate(parts):
            name, _, number = part.partition("~")
            if number != str(source) or len(parts) != target:
                raise InputError(f"{text!r} is not a NAS-Bench-201 cell: node {target} reads {node!r}")
            if name not in CELL_OPS:
                raise InputError(f"{text!r}: operator {name!r} of a cell is unknown; {nearest(name, CELL_OPS)}")
            edges.append((source, target, name))
    if len(nodes) != 3:
        raise InputError(f"{text!r} is not a NAS-Bench-201 cell: {len(nodes)} nodes, 3 wanted")
    return edges


def nas_bench_201(text: str, classes: int = 10) -> Network:
    """A NAS-Bench-201 network on 32 x 32 images, every edge as its authors' code computes it.

    Source: Dong and Yang, NAS-Bench-201 (ICLR 2020), figure 1 and section 2.
    """
    edges, net = cell_edges(text), Writer()
    x = net.conv_norm(net.image(SIDE), WIDTHS[0])
    for width in WIDTHS:
        if width != x.channels:
            x = _reduction(net, x, width)
        for _ in range(CELLS):
            x = _cell(net, x, edges)
    x = net.global_pool(net.relu(net.norm(x)))
    return net.network(net.linear(x, classes))


def _cell(net: Writer, x: Map, edges: Sequence[tuple[int, int, str]]) -> Map:
    nodes = [x]
    for target in (1, 2, 3):
        read = [CELL_OPS[name](net, nodes[source]) for source, to, name in edges if to == target]
        total = read[0]
        for one in read[1:]:
            total = net.add(total, one)
        nodes.append(total)
    return nodes[-1]


def _reduction(net: Writer, x: Map, width: int) -> Map:
    inner = net.conv_norm(net.relu(x), width, 3, 2)
    inner = net.conv_norm(net.relu(inner), width, 3)
    return net.add(inner, net.conv(net.pool(x, 2, 2, kind="avg_pool2d"), width, 1))


def convnet(kind: str, depth: int, width: int, k1: int, k2: int, side: int) -> Network:
    """`depth` convolutions of `width` filters on a `side` x `side` image, then one layer to 10 classes.

    Source: the networks of github iCAS-Lab/NAS-Performance-Modeling; `plain`: windows of k1; `dws`: depthwise windows
    of k1, then 1 x 1; `mixed`: windows of k1 and k2 in turn. Paddings as their code sets them.
    """
    net, odd = Writer(), False
    x = net.image(side)
    for index in range(depth):
        k = k2 if kind == "mixed" and index % 2 else k1
        odd = odd or k % 2 == 1
        if kind == "mixed":
            x = net.relu(net.conv(x, width, k, pad=1 if odd else 2))
        elif kind == "dws":
            x = net.relu(net.conv(x, x.channels, k, pad=1 if k == 3 else 2, groups=x.channels))
            x = net.relu(net.conv(x, width, 1))
        else:
            x = net.relu(net.conv(x, width, k, pad=1 if k in (1, 3) else 2))
    return net.network(net.linear(x, 10))
