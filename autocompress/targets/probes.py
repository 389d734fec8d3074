"""Small networks whose kernels are known, to learn from what a machine makes of whole files.

They were drawn at random from well-known families and exported as every artifact is (`scripts/make_probes.py`), in
floats, in 8 bits and in both, and are kept without their weights, which no time depends on.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from autocompress.core.kernel import Kernel
from autocompress.core.shipped import shipped_dir

# Weights of more elements are not kept, but filled anew; biases, scales and zero points are.
_KEPT = 256
# Values repeat after this many.
_PATTERN = 4093
_DATA = ("raw_data", "float_data", "int32_data", "int64_data")
_LIMITS: dict[int, tuple[Any, int, int, int]] = {
    TensorProto.INT8: (np.int8, -127, 127, 0),
    TensorProto.UINT8: (np.uint8, 0, 255, 128),
}


@dataclass(frozen=True)
class Probe:
    """A network as a file: its kernels, each with the dtype it computes in, and its ONNX without large tensors."""

    name: str
    kernels: tuple[Kernel, ...]
    model: bytes

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return sum(kernel.macs for kernel in self.kernels)


def probes_path() -> Path:
    """Where the networks are shipped."""
    return shipped_dir("hardware_profiles") / "local" / "networks.tar.xz"


def write_probes(path: Path, probes: Sequence[Probe]) -> None:
    """Writes networks in one archive, the same bytes for the same networks."""
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for probe in probes:
            _add(archive, f"{probe.name}.json", json.dumps([_plain(kernel) for kernel in probe.kernels]).encode())
            _add(archive, f"{probe.name}.onnx", probe.model)


def read_probes(path: Path) -> list[Probe]:
    """The networks of an archive that `write_probes` wrote; nothing is unpacked to the disk."""
    with tarfile.open(path, "r:xz") as archive:
        found = {member.name: _content(archive, member) for member in archive.getmembers()}
    names = [name.removesuffix(".onnx") for name in found if name.endswith(".onnx")]
    return [
        Probe(name, tuple(_kernel(one) for one in json.loads(found[f"{name}.json"])), found[f"{name}.onnx"])
        for name in names
    ]


def emptied(model: onnx.ModelProto) -> bytes:
    """An ONNX file without the values of its weights, whose shapes and types stay; packed codes are kept."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    decoded = {name for node in found.graph.node if node.op_type == "Cast" for name in node.input}
    for tensor in found.graph.initializer:
        if _is_large(tensor) and tensor.name not in decoded:
            for name in _DATA:
                tensor.ClearField(name)
    return bytes(found.SerializeToString())


def filled(model: bytes) -> bytes:
    """A file whose weights have values again: those of a network before its training, or codes of such."""
    found = onnx.load_from_string(model)
    pattern = np.random.default_rng(0).standard_normal(_PATTERN)
    for tensor in found.graph.initializer:
        if _is_large(tensor) and not any(getattr(tensor, name) for name in _DATA):
            tensor.CopyFrom(numpy_helper.from_array(_values(tensor, pattern), tensor.name))
    return bytes(found.SerializeToString())


def _is_large(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) > 1 and math.prod(tensor.dims) > _KEPT


def _values(tensor: onnx.TensorProto, pattern: NDArray[np.float64]) -> NDArray[Any]:
    shape = tuple(tensor.dims)
    values = np.resize(pattern, shape)
    if tensor.data_type in _LIMITS:
        kind, low, high, middle = _LIMITS[tensor.data_type]
        return np.clip(values * 40.0 + middle, low, high).astype(kind)
    # Neither do values grow from layer to layer, nor do they shrink until processors take longer for them.
    return (values * math.sqrt(2.0 * shape[0] / math.prod(shape))).astype(np.float32)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file is not None else b""


def _plain(kernel: Kernel) -> dict[str, Any]:
    """A kernel's fields that are not as usual, as plain data; where it stands in its network is left out."""
    return {
        name: value
        for name, value in asdict(kernel).items()
        if name not in ("layer", "branch_reads", "mixed_reads") and value not in ((), None, 0, "")
    }


def _kernel(data: dict[str, Any]) -> Kernel:
    known = {field.name for field in fields(Kernel)}
    return Kernel(**{"layer": "", **{name: _tuples(value) for name, value in data.items() if name in known}})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
