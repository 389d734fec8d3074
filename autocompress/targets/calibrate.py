"""Keeps the laws of this machine in the user's cache folder, and has them learnt where there are none."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime

from autocompress.core.shipped import cache_folder
from autocompress.core.strict_yaml import Place
from autocompress.errors import InputError
from autocompress.targets.correction import Correction, Likeness
from autocompress.targets.law import Law
from autocompress.targets.learning import DTYPES, TILINGS, measure_laws
from autocompress.targets.parse import Node, law_from_node, law_to_dict

# Raised whenever the probes or the form of the law change, so that older caches are measured again.
VERSION = 5


@functools.cache
def local_laws() -> Mapping[str, Law]:
    """The laws of this machine by dtype, from the cache or measured now (about two minutes)."""
    try:
        return _read(cache_path())
    except (OSError, ValueError, InputError):
        return keep(measure_laws())


def keep(laws: Mapping[str, Law]) -> Mapping[str, Law]:
    """Writes the laws of this machine to the cache, for later runs, and returns them."""
    path = cache_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(_plain(laws)), encoding="utf-8")
    partial.replace(path)
    local_laws.cache_clear()
    return laws


def cache_path() -> Path:
    """Where the laws are kept: one file per CPU model and ONNX Runtime version in the cache folder."""
    return cache_folder() / f"latency-{_identity()}.json"


def table_folder() -> Path:
    """Where the table of kernels measured on this machine is kept, as `latency.csv`."""
    return cache_folder() / f"latency-{_identity()}"


def _identity() -> str:
    what = f"{cpu_model()}|{onnxruntime.__version__}|{VERSION}"
    return hashlib.sha256(what.encode()).hexdigest()[:12]


def cpu_model() -> str:
    """The processor's name with its family, model and stepping, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "cpu family", "model", "stepping", "Hardware", "CPU part")
    pairs = (
        line.split(":", 1) for line in info.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if ":" in line
    )
    return " ".join(value.strip() for key, value in pairs if key.strip() in wanted)


def _plain(laws: Mapping[str, Law]) -> dict[str, Any]:
    """Laws as plain data; what was learnt beside the terms is common to all of them."""
    (correction,) = {id(law.correction): law.correction for law in laws.values()}.values()
    found: dict[str, Any] = {dtype: law_to_dict(law) for dtype, law in laws.items()}
    if isinstance(correction, Correction):
        found["known"] = [[*one.names, *one.place] for one in correction.known]
        found["weights"] = list(correction.weights)
    return found


def _read(path: Path) -> dict[str, Law]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds {type(data).__name__}; allowed: a mapping; delete the file")
    root = Node(Place(str(path)), "", data)
    known = [Likeness((row[0], row[1], row[2], row[3], row[4]), tuple(row[5:])) for row in root.get("known", list)]
    correction = Correction(tuple(known), tuple(root.get("weights", list)))
    return {dtype: replace(law_from_node(root.node(dtype), TILINGS[dtype]), correction=correction) for dtype in DTYPES}
