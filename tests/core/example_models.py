"""Models as plain data, for tests that need one."""

from __future__ import annotations

from autocompress.core.model_info import BlockInfo, ChannelGroup, LayerInfo, ModelInfo


def make_layer(
    name: str,
    op: str = "conv2d",
    weight: tuple[int, ...] = (16, 16, 3, 3),
    groups: int = 1,
    frozen: str | None = None,
) -> LayerInfo:
    count = 1
    for size in weight:
        count *= size
    return LayerInfo(name, op, weight, (1,), (1,), (1, 1), groups, count, count, False, 1, frozen)


# A small residual net, as the graph package would describe it.
RESNET = ModelInfo(
    layers=(
        make_layer("conv1", weight=(16, 3, 3, 3)),
        make_layer("layer1.0.conv1"),
        make_layer("layer1.0.conv2"),
        make_layer("layer1.1.conv1"),
        make_layer("layer1.1.conv2"),
        make_layer("layer2.down", weight=(32, 16, 1, 1)),
        make_layer("linear", "linear", (10, 32)),
    ),
    groups=(
        ChannelGroup("conv1", 16, ("conv1", "layer1.0.conv2", "layer1.1.conv2"), ("layer1.0.conv1",)),
        ChannelGroup("layer1.0.conv1", 16, ("layer1.0.conv1",), ("layer1.0.conv2",)),
        ChannelGroup("layer1.1.conv1", 16, ("layer1.1.conv1",), ("layer1.1.conv2",)),
        ChannelGroup("layer2.down", 32, ("layer2.down",), ("linear",)),
        ChannelGroup("linear", 10, ("linear",), (), "the model's output"),
    ),
    blocks=(
        BlockInfo("layer1.0", ("layer1.0.conv1", "layer1.0.conv2")),
        BlockInfo("layer1.1", ("layer1.1.conv1", "layer1.1.conv2")),
    ),
    params=10_000,
    macs=100_000,
    resolutions=(1.0, 0.75, 0.5),
    student_choices=(("width", (16, 8, 4)), ("act", ("silu", "relu"))),
)


# No blocks, one resolution, no student builder.
LENET = ModelInfo(
    layers=(make_layer("conv", weight=(6, 1, 5, 5)), make_layer("fc", "linear", (10, 120))),
    groups=(ChannelGroup("conv", 6, ("conv",), ("fc",)), ChannelGroup("fc", 10, ("fc",), (), "the model's output")),
    blocks=(),
    params=1_000,
    macs=10_000,
)
