"""The networks behind published latency rows, expanded to the kernels a graph compiler would launch."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autocompress.core.kernel import Kernel


@dataclass(frozen=True)
class Row:
    """One measured network: where it is from, its kernels (fp32) and the measured milliseconds."""

    family: str
    name: str
    kernels: tuple[Kernel, ...]
    ms: float
    widths: tuple[int, ...] = ()
    side: int = 0


@dataclass
class Net:
    """Writes a network down layer by layer; the state is the current map `(channels, side, side)`."""

    channels: int
    side: int
    kernels: list[Kernel] = field(default_factory=list)

    def conv(
        self, out: int, k: int = 3, stride: int = 1, pad: int | None = None, groups: int = 1, add: bool = False
    ) -> Net:
        """A convolution with everything fused; `add` fuses a residual sum as well."""
        pad = k // 2 if pad is None else pad
        before, side = (self.channels, self.side, self.side), (self.side + 2 * pad - k) // stride + 1
        after = (out, side, side)
        weight = (out, self.channels // groups, k, k)
        macs = weight[1] * k * k * out * side * side
        shapes = (before, after) if add else (before,)
        self.kernels.append(
            Kernel("conv2d", "", "fp32", shapes, after, weight, (stride, stride), (1, 1), groups, ("relu",), macs)
        )
        self.channels, self.side = out, side
        return self

    def depthwise(self, k: int = 3, stride: int = 1, pad: int | None = None) -> Net:
        """A depthwise convolution."""
        return self.conv(self.channels, k, stride, pad, groups=self.channels)

    def pool(self, k: int, stride: int, pad: int = 0, ceil: bool = False) -> Net:
        """A pooling window."""
        before = (self.channels, self.side, self.side)
        span = self.side + 2 * pad - k
        self.side = (-(-span // stride) if ceil else span // stride) + 1
        after = (self.channels, self.side, self.side)
        self.kernels.append(Kernel("pool", "", "fp32", (before,), after))
        return self

    def global_pool(self) -> Net:
        """The mean over the whole map."""
        before = (self.channels, self.side, self.side)
        self.side = 1
        self.kernels.append(Kernel("global_pool", "", "fp32", (before,), (self.channels, 1, 1)))
        return self

    def elementwise(self, inputs: int = 1) -> Net:
        """A stand-alone activation, scale or sum."""
        shape = (self.channels, self.side, self.side)
        self.kernels.append(Kernel("elementwise", "", "fp32", (shape,) * inputs, shape))
        return self

    def linear(self, out: int) -> Net:
        """A fully connected layer that reads the whole map."""
        read = self.channels * self.side * self.side
        self.kernels.append(Kernel("linear", "", "fp32", ((read,),), (out,), (out, read), macs=read * out))
        self.channels, self.side = out, 1
        return self

    def at(self, channels: int, side: int) -> Net:
        """Moves on from another map: after a branch or a concatenation that is written in place."""
        self.channels, self.side = channels, side
        return self


def synthetic(row: dict[str, str]) -> tuple[Kernel, ...]:
    """`L` convolutions of `F` filters on a `W` x `W` image, then one fully connected layer."""
    depth, width, k1, k2, side = (int(row[key]) for key in ("L", "F", "K1", "K2", "W"))
    net, odd = Net(3, side), False
    for index in range(depth):
        k = k2 if row["kind"] == "mixed" and index % 2 else k1
        odd = odd or k % 2 == 1
        if row["kind"] == "mixed":
            net.conv(width, k, pad=1 if odd else 2)
        elif row["kind"] == "dws":
            net.depthwise(k, pad=1 if k == 3 else 2).conv(width, 1)
        else:
            net.conv(width, k, pad=1 if k in (1, 3) else 2)
    return tuple(net.linear(10).kernels)


def nas_bench_201(arch: str, fused: bool) -> tuple[Kernel, ...]:
    """A NAS-Bench-201 network on CIFAR-10, with the edges that no path from input to output uses left out.

    `fused` is what TensorRT does; a runtime that does not fuse pays for every activation and every convolution.
    """
    edges = live_edges(arch)
    net = Net(3, 32).conv(16)
    for width in (16, 32, 64):
        if width > 16:
            _reduce(net, width)
        for _ in range(5):
            _cell(net, edges, fused)
    return tuple(net.elementwise().global_pool().linear(10).kernels)


def live_edges(arch: str) -> list[tuple[int, int, str]]:
    """`(from, to, op)` of every edge that lies on a path from node 0 to node 3."""
    edges = []
    for target, node in enumerate(arch.split("+"), start=1):
        for text in node.strip("|").split("|"):
            op, number = text.split("~")
            if op != "none":
                edges.append((int(number), target, op))
    fed, used = {0}, {3}
    for source, target, _ in sorted(edges, key=lambda edge: edge[1]):
        if source in fed:
            fed.add(target)
    for source, target, _ in sorted(edges, key=lambda edge: -edge[1]):
        if target in used:
            used.add(source)
    return [edge for edge in edges if edge[0] in fed and edge[1] in used]


def _cell(net: Net, edges: list[tuple[int, int, str]], fused: bool) -> None:
    width, side = net.channels, net.side
    convs = [(source, op) for source, _, op in edges if "conv" in op]
    # TensorRT computes convolutions of one size that read one tensor as a single wider convolution.
    for source, op in sorted(set(convs)) if fused else convs:
        if not fused:
            net.elementwise()
        net.conv(width * (convs.count((source, op)) if fused else 1), 3 if "3x3" in op else 1).at(width, side)
    for target in (1, 2, 3):
        ops = [op for _, to, op in edges if to == target]
        for _ in range(ops.count("avg_pool_3x3")):
            net.pool(3, 1, 1)
        for _ in range(len(ops) - 1):
            net.elementwise(2)


def _reduce(net: Net, width: int) -> None:
    before, side = net.channels, net.side
    net.conv(width, 3, 2).conv(width, 3)
    net.at(before, side).pool(2, 2).conv(width, 1).elementwise(2)


def alexnet() -> Net:
    """AlexNet, 224 x 224."""
    net = Net(3, 224).conv(64, 11, 4, 2).pool(3, 2).conv(192, 5).pool(3, 2).conv(384).conv(256).conv(256).pool(3, 2)
    return net.linear(4096).linear(4096).linear(1000)


def vgg16() -> Net:
    """VGG-16, 224 x 224."""
    net = Net(3, 224)
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            net.conv(width)
        net.pool(2, 2)
    return net.linear(4096).linear(4096).linear(1000)


def squeezenet1_1() -> Net:
    """SqueezeNet 1.1, 224 x 224."""
    net = Net(3, 224).conv(64, 3, 2, 0).pool(3, 2, ceil=True)
    for index, (squeeze, expand) in enumerate(((16, 64),) * 2 + ((32, 128),) * 2 + ((48, 192),) * 2 + ((64, 256),) * 2):
        net.conv(squeeze, 1).conv(expand, 1).at(squeeze, net.side).conv(expand, 3).at(2 * expand, net.side)
        if index in (1, 3):
            net.pool(3, 2, ceil=True)
    return net.conv(1000, 1).global_pool()


def resnet(blocks: tuple[int, ...], bottleneck: bool) -> Net:
    """A torchvision ResNet, 224 x 224."""
    net = Net(3, 224).conv(64, 7, 2).pool(3, 2, 1)
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for index in range(count):
            stride = 2 if stage and index == 0 else 1
            before, side, out = net.channels, net.side, width * (4 if bottleneck else 1)
            if before != out:
                net.conv(out, 1, stride).at(before, side)
            if bottleneck:
                net.conv(width, 1).conv(width, 3, stride).conv(out, 1, add=True)
            else:
                net.conv(width, 3, stride).conv(width, 3, add=True)
    return net.global_pool().linear(1000)


def densenet121() -> Net:
    """DenseNet-121, 224 x 224; concatenations are written in place, each norm before a convolution stands alone."""
    net = Net(3, 224).conv(64, 7, 2).pool(3, 2, 1)
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            before = net.channels
            net.elementwise().conv(128, 1).conv(32, 3).at(before + 32, net.side)
        net.elementwise()
        if stage < 3:
            net.conv(net.channels // 2, 1).pool(2, 2)
    return net.global_pool().linear(1000)


def mobilenet_v2(side: int) -> Net:
    """MobileNetV2 with its ReLU6 clipped inside the convolutions."""
    net = Net(3, side).conv(32, 3, 2).depthwise().conv(16, 1)
    for expand, out, count, first in (
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(count):
            before = net.channels
            net.conv(before * expand, 1).depthwise(3, first if index == 0 else 1).conv(out, 1, add=index > 0)
    return net.conv(1280, 1).global_pool().linear(1000)


WHOLE_NETS: dict[str, Callable[[], Net]] = {
    "alexnet": alexnet,
    "squeezenet1_1": squeezenet1_1,
    "resnet18": lambda: resnet((2, 2, 2, 2), False),
    "resnet50": lambda: resnet((3, 4, 6, 3), True),
    "densenet121": densenet121,
    "vgg16": vgg16,
}


def read_rows(folder: Path) -> dict[str, list[Row]]:
    """Every usable Jetson Nano row by family, in file order."""
    rows: dict[str, list[Row]] = {"synthetic": [], "nas201_fp32": [], "nas201_fp16": [], "torch2trt": [], "nvidia": []}
    for line in _lines(folder / "jetson_nano_trt_fp32_convnets.csv"):
        ms = (float(line["latency_ms_100runs"]) + float(line["latency_ms_60s"])) / 2
        rows["synthetic"].append(
            Row(line["kind"], line["name"], synthetic(line), ms, (int(line["F"]),), int(line["W"]))
        )
    for line in _lines(folder / "nas_bench_201_devices.csv"):
        if live_edges(line["arch_str"]):
            for dtype in ("fp32", "fp16"):
                kernels = nas_bench_201(line["arch_str"], fused=dtype == "fp16")
                ms = float(line[f"jetson_nano_{dtype}_ms"])
                rows[f"nas201_{dtype}"].append(Row("nas201", line["arch_idx"], kernels, ms))
    for line in _lines(folder / "jetson_trt_fp16_models.csv"):
        if line["device"] == "jetson_nano" and line["model"] in WHOLE_NETS:
            kernels = tuple(WHOLE_NETS[line["model"]]().kernels)
            rows["torch2trt"].append(Row("torch2trt", line["model"], kernels, float(line["ms_trt"])))
    for line in _lines(folder / "jetson_nano_nvidia_fps.csv"):
        rows["nvidia"].append(Row("nvidia", line["model"], tuple(mobilenet_v2(300).kernels), float(line["ms"])))
    return rows


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))
