"""Networks that are written down from their names, against the same networks in PyTorch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autocompress.core.fusion import fuse
from autocompress.core.fusion_rules import FUSIONS, RUNTIMES
from autocompress.core.kernel import Kernel
from autocompress.core.network import Network
from autocompress.errors import InputError
from autocompress.graph.kernels import network_of
from autocompress.graph.trace import trace
from autocompress.targets.published.cells import cell_edges, convnet, nas_bench_201
from autocompress.targets.published.rows import SOURCES, Source, read_source, sources_of
from autocompress.targets.published.whole import WHOLE

CELLS = (
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|",
    "|none~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_1x1~2|",
    "|skip_connect~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|none~0|none~1|nor_conv_1x1~2|",
)


def conv_norm(inputs: int, out: int, k: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, out, k, stride, k // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(out))


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


def cell_op(name: str, width: int) -> nn.Module:
    if name == "none":
        return Zero()
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return conv_norm(width, width, 3 if "3x3" in name else 1)


class Cell(nn.Module):
    def __init__(self, text: str, width: int) -> None:
        super().__init__()
        self.edges = cell_edges(text)
        self.ops = nn.ModuleList(cell_op(name, width) for _, _, name in self.edges)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            read = [op(nodes[edge[0]]) for op, edge in zip(self.ops, self.edges, strict=True) if edge[1] == target]
            total = read[0]
            for one in read[1:]:
                total = total + one
            nodes.append(total)
        return nodes[-1]


class Reduction(nn.Module):
    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.first, self.second = conv_norm(inputs, out, 3, 2), conv_norm(out, out, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(inputs, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.shortcut(x)


def nas_bench_201_in_torch(text: str) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
    for before, width in ((16, 16), (16, 32), (32, 64)):
        layers += [Reduction(before, width)] * (before != width)
        layers += [Cell(text, width) for _ in range(5)]
    head = [nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *head).eval()


def signature(network: Network, runtime: str) -> Counter[tuple[object, ...]]:
    def told(kernel: Kernel) -> tuple[object, ...]:
        sizes = (kernel.in_shapes, kernel.out_shape, kernel.weight_shape, kernel.groups, kernel.macs)
        fused = tuple("clamp" if name in ("hardtanh", "relu6") else name for name in kernel.fused)
        return (kernel.op, kernel.aten, fused, *sizes, kernel.branch_reads)

    return Counter(told(step.kernel) for step in fuse(network, FUSIONS[runtime]) if step.kernel is not None)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("text", CELLS)
def test_cells_become_the_kernels_of_the_same_network_in_torch(text: str, runtime: str) -> None:
    traced = network_of(trace(nas_bench_201_in_torch(text), (torch.randn(1, 3, 32, 32),)))
    assert signature(nas_bench_201(text), runtime) == signature(traced, runtime)


def test_a_resnet_becomes_the_kernels_of_the_same_network_in_torch() -> None:
    class Block(nn.Module):
        def __init__(self, inputs: int, out: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
            self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
            plain = stride == 1 and inputs == out
            self.down = (
                nn.Identity()
                if plain
                else nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.down(x))

    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks = [Block(*sizes) for sizes in (*widths, (512, 512, 1))]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)).eval()
    traced = network_of(trace(model, (torch.randn(1, 3, 224, 224),)))
    for runtime in RUNTIMES:
        assert signature(WHOLE["resnet18"](), runtime) == signature(traced, runtime)


# Millions of parameters (norms and biases left out) and of multiply-accumulates at 224 x 224, as torchvision has them.
STATED = {
    "alexnet": (61.1, 714),
    "vgg16": (138.4, 15470),
    "resnet18": (11.7, 1814),
    "resnet50": (25.6, 4089),
    "resnet152": (60.2, 11514),
    "squeezenet1_1": (1.24, 349),
    "densenet121": (7.98, 2834),
    "densenet161": (28.7, 7728),
    "mobilenet_v2": (3.50, 301),
    "mnasnet1_0": (4.38, 314),
    "shufflenet_v2_x1_0": (2.28, 145),
    "resnext50_32x4d": (25.0, 4230),
    "wide_resnet50_2": (68.9, 11398),
}


@pytest.mark.parametrize("name", STATED)
def test_whole_networks_have_the_size_that_is_stated(name: str) -> None:
    network = WHOLE[name]()
    weights = sum(torch.Size(one.weight_shape).numel() for one in network if one.weight_shape)
    params, macs = STATED[name]
    assert weights / 1e6 == pytest.approx(params, rel=0.02)
    assert sum(one.macs for one in network) / 1e6 == pytest.approx(macs, rel=0.01)


def test_a_synthetic_network_by_hand() -> None:
    network = convnet("mixed", 3, 8, 2, 3, 10)
    convs = [one for one in network if one.op == "conv2d"]
    # Padding 2 until the first odd window, 1 from then on: 10 -> 13 -> 13 -> 14.
    assert [one.out_shape for one in convs] == [(8, 13, 13), (8, 13, 13), (8, 14, 14)]
    assert [one.macs for one in convs] == [3 * 4 * 8 * 169, 8 * 9 * 8 * 169, 8 * 4 * 8 * 196]
    depthwise = [one for one in convnet("dws", 2, 8, 5, 0, 10) if one.op == "conv2d"]
    assert [(one.groups, one.out_shape[0]) for one in depthwise] == [(3, 3), (1, 8), (8, 8), (1, 8)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 nodes|reads ''"),
        ("|none~0|+|none~0|none~1|", "2 nodes, 3 wanted"),
        ("|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1 reads"),
        ("|nor_conv_3x4~0|+|none~0|none~1|+|none~0|none~1|none~2|", "did you mean 'nor_conv_3x3'"),
    ],
)
def test_what_is_no_cell_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nas_bench_201(text)


NANO = next(source for source in SOURCES if source.file == "jetson_trt_fp16_models.csv")
HEADER = "device,model,input,ms_trt"


def read(folder: Path, *lines: str, source: Source = NANO) -> list[tuple[str, float]]:
    (folder / source.file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [(row.name, row.ms) for row in read_source(folder, source)]


def test_rows_of_another_device_and_failed_ones_are_left_out(tmp_path: Path) -> None:
    lines = ("jetson_nano,resnet18,1x3x224x224,11.5", "jetson_xavier,resnet18,1x3x224x224,1.6")
    assert read(tmp_path, HEADER, *lines) == [("resnet18 at 224", 11.5)]
    cells = sources_of("edge-tpu")[0]
    row = f"{CELLS[0]},-1.0"
    assert read(tmp_path, f"arch_idx,arch_str,{cells.columns[0]}", f"1,{row}", source=cells) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "holds no rows"),
        ((HEADER,), "holds no rows"),
        ((HEADER, "jetson_nano,resnet18,1x3x224x224"), "line 2: has 3 fields; the header has 4"),
        ((HEADER, "jetson_nano,resnet18,1x3x224x224,-3"), "line 2: ms_trt is '-3'"),
        ((HEADER, "jetson_nano,resnet18,1x3x224x224,nan"), "line 2: ms_trt is 'nan'"),
        ((HEADER, "jetson_nano,resnet18,1x3x224x224,inf"), "line 2: ms_trt is 'inf'"),
        ((HEADER, "jetson_nano,resnet18,1x3x224x224,11 ms"), "line 2: ms_trt is '11 ms'"),
        ((HEADER, "jetson_nano,resnet81,1x3x224x224,11"), "model 'resnet81' is unknown; did you mean 'resnet18'"),
        ((HEADER, "jetson_nano,resnet18,huge,11"), "input is 'huge'"),
        ((HEADER, *["jetson_nano,resnet18,1x3x224x224,11"] * 2), "line 3: network .* stands in .*line 2 already"),
        (("device,model,input,ms", "jetson_nano,resnet18,1x3x224x224,11"), "no column 'ms_trt'"),
        (("device,device,input,ms_trt", "a,b,c,1"), "line 1: column 'device' stands twice"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, *lines)
    assert NANO.file in str(caught.value)
