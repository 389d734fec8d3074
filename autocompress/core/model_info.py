"""What the traced model is, as plain data: layers, coupled channel groups, blocks that may be dropped."""

from __future__ import annotations

from dataclasses import dataclass

PRUNABLE_OPS = ("conv1d", "conv2d", "conv_transpose2d", "linear")


@dataclass(frozen=True)
class LayerInfo:
    """One layer with weights.

    Attributes:
        name: Module path, e.g. `layer1.0.conv1`.
        op: `conv1d`, `conv2d`, `conv_transpose2d`, `linear` or `embedding`.
        weight_shape: `[out, in / groups, kh, kw]` or `[out, in]`.
        in_shape: Input shape without the batch.
        out_shape: Output shape without the batch.
        macs: Multiply-accumulates for one sample.
        params: Number of weights and biases.
        calls: How often the forward pass uses these weights.
        frozen_reason: Why no op may touch it, or None.
    """

    name: str
    op: str
    weight_shape: tuple[int, ...]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    macs: int
    params: int
    has_bias: bool
    calls: int = 1
    frozen_reason: str | None = None


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that stand or fall together.

    Attributes:
        name: The first layer whose output channels belong to it.
        channels: How many can be chosen one by one.
        layers: Every layer whose output channels are cut with it.
        readers: Every layer whose input channels are cut with it.
        blocked_by: The operator that forbids cutting, with its place, or None if it may be cut.
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    readers: tuple[str, ...]
    blocked_by: str | None = None


@dataclass(frozen=True)
class BlockInfo:
    """A residual block that may be left out: its branch is removed and the shortcut stays."""

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class ModelInfo:
    """Everything a space needs to know of a model.

    Attributes:
        resolutions: Shares of the input side that the model accepts; always holds 1.0.
        student_choices: Names and options of the user's student builder; empty without one.
    """

    layers: tuple[LayerInfo, ...]
    groups: tuple[ChannelGroup, ...]
    blocks: tuple[BlockInfo, ...]
    params: int
    macs: int
    resolutions: tuple[float, ...] = (1.0,)
    student_choices: tuple[tuple[str, tuple[str | int | float | bool, ...]], ...] = ()

    def layer(self, name: str) -> LayerInfo:
        """The layer of that name.

        Raises:
            KeyError: there is none.
        """
        return next(layer for layer in self.layers if layer.name == name)
