"""An artifact: the files of one compressed model in one folder, and the manifest that vouches for them.

`weights.safetensors` holds the model itself (`serialize`), with `format` and `graph` (as JSON) in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, fx, nn
from torch.export import Dim

from autocompress.compress.quantizer import ActivationQuantizer
from autocompress.core.files import MANIFEST_FILE, whole_folder, write_whole
from autocompress.core.metric import Metrics
from autocompress.core.plan import Plan
from autocompress.core.target import Profile
from autocompress.emit.onnx_export import export_onnx
from autocompress.emit.serialize import graph_from_dict, graph_to_dict
from autocompress.emit.verify import Agreement, check_digest, file_digest
from autocompress.errors import InputError, UnsupportedError

FORMAT = "autocompress-1"
MODEL_FILE = "weights.safetensors"
ONNX_FILE = "model.onnx"
PROGRAM_FILE = "model.pt2"
PLAN_FILE = "plan.yaml"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_PLAN_HEADER = "# What was done to the model: blocks dropped, channel groups pruned, ops of every layer.\n"
_EXPORT_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Written:
    """The files of an artifact, by name with their sizes in bytes, and what its ONNX file takes and gives."""

    files: Mapping[str, int]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


class _Rounding(nn.Module):
    """One activation quantizer in operators that `torch.export` knows; rounds the very same way."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.scale, zero_point = float(quantizer.scale), int(quantizer.zero_point)
        self.low, self.high = -zero_point, quantizer.levels - zero_point

    def forward(self, x: Tensor) -> Tensor:
        return ((x.float() / self.scale).round().clamp(self.low, self.high) * self.scale).type_as(x)


def check_artifact_id(name: str) -> str:
    """The name, if an artifact may be called so.

    Raises:
        InputError: it is empty, `.` or `..`, or holds anything but letters, digits, `.`, `_` and `-`.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or name in (".", ".."):
        raise InputError(f"artifact name is {name!r}; allowed: letters, digits, '.', '_' and '-', but not '.' or '..'")
    return name


def write_artifact(
    folder: Path, module: fx.GraphModule, plan: Plan, example_inputs: tuple[Tensor, ...], *, opset: int, half: bool
) -> Written:
    """Writes model.onnx, model.pt2, weights.safetensors and plan.yaml; the folder appears complete or not at all.

    A folder that is there already is replaced. `weights.safetensors` and `model.pt2` hold exactly the values that
    `module` computes with; `half` concerns the ONNX file alone.

    Args:
        folder: Its last part is the artifact's name.
        module: The compressed model; it is not changed.
        plan: What made it.
        example_inputs: Batch first; only shapes and types of them reach the files.
        opset: ONNX opset, 13 to 20.
        half: True stores unquantized weights of the ONNX file in fp16.

    Raises:
        InputError: the folder's name is not allowed.
        UnsupportedError: the model cannot be written in one of the formats.
    """
    check_artifact_id(folder.name)
    with whole_folder(folder) as new:
        exported = export_onnx(module, example_inputs, new / ONNX_FILE, opset=opset, half=half)
        stored = save_model(module)
        (new / MODEL_FILE).write_bytes(stored)
        # Exported from what was stored: the two files hold one model.
        _write_program(load_model(stored), example_inputs, new / PROGRAM_FILE)
        text = yaml.safe_dump(plan.to_dict(), sort_keys=False, allow_unicode=True)
        (new / PLAN_FILE).write_text(_PLAN_HEADER + text, encoding="utf-8")
        sizes = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
    return Written(sizes, exported.input_names, exported.output_names)


def save_model(module: fx.GraphModule) -> bytes:
    """A compressed model as the bytes of a safetensors file; the same model gives the same bytes.

    Raises:
        UnsupportedError: the graph holds what has no stored form.
    """
    graph, tensors = graph_to_dict(module)
    text = json.dumps(graph, separators=(",", ":"), allow_nan=False)
    data = safetensors.torch.save(tensors, {"format": FORMAT, "graph": text})
    # The library writes metadata in a random order.
    header, payload = _split(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + payload


def load_model(data: bytes) -> fx.GraphModule:
    """Reads what `save_model` wrote, without the user's code and without running anything in the file.

    Raises:
        InputError: the bytes are damaged, or no model of this format.
    """
    try:
        tensors = safetensors.torch.load(data)
        metadata = _split(data)[0].get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise InputError(f"its format is {metadata.get('format')!r}; this version reads {FORMAT!r}")
        graph = json.loads(metadata.get("graph", ""))
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise InputError(f"it is damaged, or no safetensors file with a graph: {_first_line(error)}") from None
    if not isinstance(graph, dict):
        raise InputError(f"its graph is a {type(graph).__name__}; it must be a mapping")
    return graph_from_dict(graph, tensors)


def load(folder: str | Path) -> fx.GraphModule:
    """Reads the compressed model of an artifact, ready to run; the user's code is not needed.

    Raises:
        InputError: the file is missing or damaged, or is not the one that the manifest names.
    """
    path = Path(folder) / MODEL_FILE
    data = _read(path)
    if (Path(folder) / MANIFEST_FILE).exists():
        entry = _files(Path(folder)).get(MODEL_FILE)
        if entry is None:
            raise InputError(
                f"{Path(folder) / MANIFEST_FILE}: it does not name {MODEL_FILE}; the artifact is not whole"
            )
        found = hashlib.sha256(data).hexdigest()
        if found != entry["sha256"]:
            raise InputError(f"{path}: SHA-256 is {found}, the manifest says {entry['sha256']}; the file was changed")
    try:
        return load_model(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_manifest(
    folder: Path,
    *,
    dense_metrics: Metrics,
    metrics: Metrics,
    agreement: Agreement,
    target: Profile,
    runtime_version: str,
    opset: int,
    layers: list[dict[str, Any]],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes manifest.json over every file of the folder, and returns what it holds.

    Args:
        folder: An artifact; every plain file in it is listed with its size and SHA-256.
        dense_metrics: Of the dense model.
        metrics: Of this one, measured on the exported file.
        agreement: Of the exported file with the PyTorch model.
        target: What it was made for.
        runtime_version: Of the runtime that the file was verified in.
        opset: Of the ONNX file.
        layers: What was done to every layer, one row each.
        extra: Further facts, under the key `extra`.

    Raises:
        InputError: a number is not finite, or a file has a name that an artifact cannot have.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST_FILE)
    manifest = {
        "format": FORMAT,
        "files": {
            check_artifact_id(path.name): {"size_bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in paths
        },
        "dense_metrics": {name: metric.to_dict() for name, metric in dense_metrics.items()},
        "metrics": {name: metric.to_dict() for name, metric in metrics.items()},
        "agreement": asdict(agreement),
        "target": target.name,
        "runtime": target.runtime,
        "runtime_version": runtime_version,
        "opset": opset,
        "layers": layers,
        "extra": dict(extra),
    }
    _write_json(folder, manifest)
    return manifest


def update_metrics(folder: Path, *, dense_metrics: Metrics, metrics: Metrics) -> None:
    """Replaces the metrics in the manifest of an artifact, completely or not at all."""
    manifest = read_manifest(folder)
    manifest["dense_metrics"] = {name: metric.to_dict() for name, metric in dense_metrics.items()}
    manifest["metrics"] = {name: metric.to_dict() for name, metric in metrics.items()}
    _write_json(folder, manifest)


def _write_json(folder: Path, manifest: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the manifest of {folder} cannot be written as JSON: {error}") from None
    write_whole(folder / MANIFEST_FILE, text)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What manifest.json holds.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: it is no JSON: {_first_line(error)}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path}: it is no manifest of the format {FORMAT!r}")
    return manifest


def check_manifest(folder: Path) -> None:
    """Checks every file that the manifest names.

    Raises:
        InputError: a file is missing, or its size or SHA-256 differs; the first one in order of name is named.
    """
    for name, entry in sorted(_files(folder).items()):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: the manifest names this file, but it is missing")
        size = path.stat().st_size
        if size != entry["size_bytes"]:
            raise InputError(
                f"{path}: it has {size} bytes, the manifest says {entry['size_bytes']}; the file was changed"
            )
        check_digest(path, entry["sha256"])


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    files = read_manifest(folder).get("files")
    where = folder / MANIFEST_FILE
    if not isinstance(files, dict):
        raise InputError(f"{where}: files is {type(files).__name__}; it must be a mapping")
    for name, entry in files.items():
        try:
            check_artifact_id(name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not isinstance(entry, dict) or not {"size_bytes", "sha256"} <= set(entry):
            raise InputError(f"{where}: files.{name} lacks size_bytes or sha256")
    return files


def _write_program(module: fx.GraphModule, example_inputs: tuple[Tensor, ...], path: Path) -> None:
    # Two samples of zeros: a batch of one would become a constant, and no data of the user reach the file.
    inputs = tuple(torch.zeros((2, *x.shape[1:]) if x.dim() else (), dtype=x.dtype) for x in example_inputs)
    shapes = tuple({0: Dim.DYNAMIC} if x.dim() else None for x in inputs)
    for name, child in list(module.named_modules()):
        if isinstance(child, ActivationQuantizer):
            module.set_submodule(name, _Rounding(child))
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
        for node in program.graph.nodes:
            # Stack traces would carry the paths of the machine that exported.
            node.meta.pop("stack_trace", None)
        stored = BytesIO()
        torch.export.save(program, stored)
    except _EXPORT_ERRORS as error:
        raise UnsupportedError(f"the model cannot be written as {path.name}: {_first_line(error)}") from error
    # Writing a file itself, PyTorch ends the whole process where the disk is full.
    path.write_bytes(stored.getvalue())


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a safetensors file."""
    start = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:start])
    return header, data[start:]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
