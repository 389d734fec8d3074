"""One row of a latency table: a kernel that was measured, as data and as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autocompress.core.kernel import DTYPES, OPS
from autocompress.errors import InputError, nearest
from autocompress.targets.kernel_key import KernelKey

COLUMNS = (
    *("op", "aten", "dtype", "in_shapes", "out_shape", "weight_shape", "window", "stride", "dilation"),
    *("groups", "fused", "batch", "p50_ms", "p90_ms", "n", "source"),
)
# A picosecond, and eleven days.
LEAST_MS, MOST_MS = 1e-9, 1e9
MAX_SOURCE = 200
MAX_SHOWN = 50
_SIZE = "[1-9][0-9]{0,9}"
_WHOLE = re.compile(_SIZE)
_SHAPE = re.compile(f"{_SIZE}(x{_SIZE}){{0,7}}")
_NAMES = re.compile(r"\w+(\+\w+)*", re.ASCII)
# A tensor without dimensions; an empty field means that there is no tensor.
_SCALAR = "scalar"
_WEIGHT_RANKS = {"conv1d": 3, "conv2d": 4, "conv_transpose2d": 4, "linear": 2, "embedding": 2}


@dataclass(frozen=True)
class Measurement:
    """How long one call took.

    Attributes:
        p50_ms: The median of `n` calls.
        p90_ms: Nine of ten calls took no longer; None where the tool that measured does not say.
        source: Who measured it and how, on one line.

    Raises:
        InputError: a time is not within `LEAST_MS` and `MOST_MS`, `p90_ms` is below `p50_ms`, `n` is below 1, or the
            source is not one printable line.
    """

    p50_ms: float
    p90_ms: float | None
    n: int
    source: str

    def __post_init__(self) -> None:
        for name, value in (("p50_ms", self.p50_ms), ("p90_ms", self.p90_ms)):
            if value is not None and not LEAST_MS <= value <= MOST_MS:
                raise InputError(f"{name} is {value}; allowed: {LEAST_MS:g} to {MOST_MS:g}")
        if self.p90_ms is not None and self.p90_ms < self.p50_ms:
            raise InputError(f"p90_ms is {self.p90_ms}; allowed: p50_ms ({self.p50_ms}) or more")
        if self.n < 1:
            raise InputError(f"n is {self.n}; allowed: 1 or more")
        if not (0 < len(self.source) <= MAX_SOURCE and self.source.isprintable()):
            raise InputError(f"source is {_cut(self.source)}; allowed: one line of 1 to {MAX_SOURCE} characters")


Row = tuple[KernelKey, Measurement]


def row_from_text(text: Mapping[str, str]) -> Row:
    """Reads the fields of one row, by column.

    Raises:
        InputError: a field is not valid; the message names it.
    """
    op, dtype = _one_of(text, "op", OPS), _one_of(text, "dtype", DTYPES)
    aten, fused = _names(text, "aten"), _names(text, "fused")
    if len(aten) > 1:
        raise InputError(f"aten is {_cut(text['aten'])}; allowed: one operator or nothing")
    inputs = text["in_shapes"].split("+") if text["in_shapes"] else []
    key = KernelKey(
        op=op,
        aten="".join(aten),
        dtype=dtype,
        in_shapes=tuple(_shape("in_shapes", one) for one in inputs),
        out_shape=_shape("out_shape", text["out_shape"]),
        weight_shape=_shape("weight_shape", text["weight_shape"]) if text["weight_shape"] else None,
        window=_shape("window", text["window"]) if text["window"] else (),
        stride=_shape("stride", text["stride"]) if text["stride"] else (),
        dilation=_shape("dilation", text["dilation"]) if text["dilation"] else (),
        groups=_whole(text, "groups"),
        fused=fused,
        batch=_whole(text, "batch"),
    )
    _check_shapes(key)
    p90_ms = _number(text, "p90_ms") if text["p90_ms"] else None
    return key, Measurement(_number(text, "p50_ms"), p90_ms, _whole(text, "n"), text["source"])


def row_to_text(row: Row) -> dict[str, str]:
    """The fields of one row, by column; they read back as what they were.

    Raises:
        InputError: they would not, because the row is not valid.
    """
    key, measurement = row
    text = {
        "op": key.op,
        "aten": key.aten,
        "dtype": key.dtype,
        "in_shapes": "+".join(_text(shape) for shape in key.in_shapes),
        "out_shape": _text(key.out_shape),
        "weight_shape": "" if key.weight_shape is None else _text(key.weight_shape),
        "window": _text(key.window) if key.window else "",
        "stride": _text(key.stride) if key.stride else "",
        "dilation": _text(key.dilation) if key.dilation else "",
        "groups": str(key.groups),
        "fused": "+".join(key.fused),
        "batch": str(key.batch),
        "p50_ms": repr(measurement.p50_ms),
        "p90_ms": "" if measurement.p90_ms is None else repr(measurement.p90_ms),
        "n": str(measurement.n),
        "source": measurement.source,
    }
    if row_from_text(text) != row:
        raise InputError(f"{key} cannot be written as text")
    return text


def _check_shapes(key: KernelKey) -> None:
    """Refuses shapes that no kernel of this op can have."""
    rank, weight = _WEIGHT_RANKS.get(key.op, 0), key.weight_shape or ()
    if len(weight) != rank:
        raise InputError(f"weight_shape has {len(weight)} sizes; a {key.op} has {rank}")
    if key.op == "matmul" and not (key.in_shapes and key.in_shapes[0]):
        raise InputError("in_shapes is empty; a matmul reads tensors")
    if rank == 0 or key.op == "embedding":
        return
    if not key.in_shapes:
        raise InputError(f"in_shapes is empty; a {key.op} reads a tensor")
    source, target, channel = key.in_shapes[0], key.out_shape, 0
    outputs, inputs = weight[0], weight[1] * key.groups
    if key.op == "conv_transpose2d":
        inputs, outputs = outputs, inputs
    if key.op == "linear":
        channel = -1
    elif {len(source), len(target)} != {rank - 1}:
        raise InputError(
            f"in_shapes and out_shape have {len(source)} and {len(target)} sizes; a {key.op} has {rank - 1}"
        )
    if (source[channel:][:1], target[channel:][:1]) != ((inputs,), (outputs,)):
        shapes = f"in_shapes and out_shape are {_text(source)} and {_text(target)}"
        raise InputError(f"weight_shape takes {inputs} channels to {outputs}; {shapes}")


def _one_of(text: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    if text[name] not in allowed:
        raise InputError(f"{name} is {_cut(text[name])}; {nearest(text[name][:MAX_SHOWN], allowed)}")
    return text[name]


def _names(text: Mapping[str, str], name: str) -> tuple[str, ...]:
    if text[name] and not _NAMES.fullmatch(text[name]):
        raise InputError(f"{name} is {_cut(text[name])}; allowed: names joined by +, such as add+relu, or nothing")
    return tuple(text[name].split("+")) if text[name] else ()


def _shape(name: str, text: str) -> tuple[int, ...]:
    if text == _SCALAR:
        return ()
    if not _SHAPE.fullmatch(text):
        raise InputError(f"{name} has {_cut(text)}; allowed: sizes joined by x, such as 16x32x32, or {_SCALAR}")
    return tuple(int(size) for size in text.split("x"))


def _whole(text: Mapping[str, str], name: str) -> int:
    if not _WHOLE.fullmatch(text[name]):
        raise InputError(f"{name} is {_cut(text[name])}; allowed: a whole number of 1 or more")
    return int(text[name])


def _number(text: Mapping[str, str], name: str) -> float:
    try:
        return float(text[name])
    except ValueError:
        raise InputError(f"{name} is {_cut(text[name])}; allowed: a number") from None


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or _SCALAR


def _cut(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")
