"""Writes networks down operator by operator, without weights: for measurements that name a network and no file."""

from __future__ import annotations

from dataclasses import dataclass, field

from autocompress.core.network import Network, Operator


@dataclass(frozen=True)
class Map:
    """A tensor of square maps, or of one pixel: its name, channels and side."""

    name: str
    channels: int
    side: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """`[channels, side, side]`."""
        return self.channels, self.side, self.side


@dataclass
class Writer:
    """Collects operators; every method takes maps, adds one operator (or a usual group) and returns what it writes."""

    operators: list[Operator] = field(default_factory=list)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def image(self, side: int, channels: int = 3) -> Map:
        """The input."""
        self.inputs["x"] = (channels, side, side)
        return Map("x", channels, side)

    def network(self, *outputs: Map) -> Network:
        """What was written, without what no output needs."""
        return Network(tuple(self.operators), self.inputs, tuple(one.name for one in outputs)).used()

    def conv(self, x: Map, out: int, k: int = 3, stride: int = 1, pad: int | None = None, groups: int = 1) -> Map:
        """A square convolution; it pads to keep the side unless told otherwise."""
        side = (x.side + 2 * (k // 2 if pad is None else pad) - k) // stride + 1
        weight = (out, x.channels // groups, k, k)
        macs = weight[1] * k * k * out * side * side
        y = self._map(out, side)
        reads, shapes, strides = (x.name,), (x.shape,), (stride, stride)
        self.operators.append(
            Operator(y.name, "conv2d", "conv2d", reads, shapes, y.shape, "", weight, strides, (1, 1), groups, macs)
        )
        return y

    def conv_norm(self, x: Map, out: int, k: int = 3, stride: int = 1, pad: int | None = None, groups: int = 1) -> Map:
        """A convolution and its batch norm."""
        return self.norm(self.conv(x, out, k, stride, pad, groups))

    def conv_norm_relu(
        self, x: Map, out: int, k: int = 3, stride: int = 1, pad: int | None = None, groups: int = 1
    ) -> Map:
        """A convolution, its batch norm and an activation."""
        return self.relu(self.conv_norm(x, out, k, stride, pad, groups))

    def linear(self, x: Map, out: int) -> Map:
        """A fully connected layer that reads the whole map."""
        size = x.channels * x.side * x.side
        y = self._map(out, 1)
        self.operators.append(
            Operator(y.name, "linear", "linear", (x.name,), ((size,),), (out,), "", (out, size), macs=size * out)
        )
        return y

    def pool(self, x: Map, k: int, stride: int, pad: int = 0, ceil: bool = False, kind: str = "max_pool2d") -> Map:
        """A pooling window."""
        span = x.side + 2 * pad - k
        side = (-(-span // stride) if ceil else span // stride) + 1
        return self._plain("pool", kind, x, side=side, window=(k, k), stride=(stride, stride))

    def global_pool(self, x: Map) -> Map:
        """The mean over the whole map."""
        return self._plain("global_pool", "adaptive_avg_pool2d", x, side=1)

    def norm(self, x: Map) -> Map:
        """A batch norm."""
        return self._plain("norm", "batch_norm", x)

    def relu(self, x: Map, name: str = "relu") -> Map:
        """An activation."""
        return self._plain("elementwise", name, x)

    def identity(self, x: Map) -> Map:
        """The same again."""
        return self._plain("copy", "identity", x)

    def zeros(self, x: Map) -> Map:
        """A map multiplied by zero."""
        return self._plain("elementwise", "mul", x, is_zero=True)

    def subsample(self, x: Map) -> Map:
        """Every other pixel."""
        return self._plain("copy", "slice", x, side=-(-x.side // 2))

    def add(self, x: Map, y: Map) -> Map:
        """The sum of two maps."""
        out = self._map(x.channels, x.side)
        self.operators.append(Operator(out.name, "elementwise", "add", (x.name, y.name), (x.shape, y.shape), out.shape))
        return out

    def cat(self, *maps: Map) -> Map:
        """Maps one after another along their channels."""
        out = self._map(sum(one.channels for one in maps), maps[0].side)
        names, shapes = tuple(one.name for one in maps), tuple(one.shape for one in maps)
        self.operators.append(Operator(out.name, "copy", "cat", names, shapes, out.shape))
        return out

    def shuffle(self, x: Map) -> Map:
        """Channels in another order."""
        return self._plain("copy", "transpose", x)

    def half(self, x: Map) -> Map:
        """A view of half of the channels."""
        return Map(x.name, x.channels // 2, x.side)

    def _plain(
        self,
        op: str,
        aten: str,
        x: Map,
        side: int | None = None,
        window: tuple[int, ...] = (),
        stride: tuple[int, ...] = (),
        is_zero: bool = False,
    ) -> Map:
        y = self._map(x.channels, x.side if side is None else side)
        reads, shapes = (x.name,), (x.shape,)
        self.operators.append(
            Operator(y.name, op, aten, reads, shapes, y.shape, stride=stride, window=window, is_zero=is_zero)
        )
        return y

    def _map(self, channels: int, side: int) -> Map:
        return Map(f"t{len(self.operators)}", channels, side)
