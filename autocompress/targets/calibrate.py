"""Keeps the laws of this machine in the user's cache folder, and has them learnt where there are none."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime

from autocompress.core.shipped import cache_folder
from autocompress.core.strict_yaml import Place
from autocompress.errors import InputError
from autocompress.targets.correction import WAYS, Correction, Likeness
from autocompress.targets.law import Law, Spread
from autocompress.targets.learning import DTYPES, TILINGS, measure_laws
from autocompress.targets.parse import Node, law_from_node, law_to_dict
from autocompress.targets.probes import probes_path
from autocompress.targets.refined import Refinement

# Raised whenever the probes or the form of the law change, so that older caches are measured again.
VERSION = 8


@functools.cache
def local_laws() -> Mapping[str, Law]:
    """The laws of this machine by dtype, from the cache or measured now (two or three minutes)."""
    try:
        return _read(cache_path())
    except (OSError, ValueError, RecursionError, InputError):
        return keep(measure_laws())


def keep(laws: Mapping[str, Law]) -> Mapping[str, Law]:
    """Writes the laws of this machine to the cache, for later runs, and returns them."""
    _write(cache_path(), _plain(laws))
    local_laws.cache_clear()
    return laws


def kept_refinement(key: str, measure: Callable[[], Refinement | None], again: bool = False) -> Refinement | None:
    """What a model's own networks taught of this machine, from the cache or measured now; None is not kept.

    Args:
        key: Of the laws, and of the model and what is tried of it.
        measure: Measures it.
        again: Whatever is kept.
    """
    path = cache_folder() / f"latency-{_identity(key)}.json"
    if not again:
        try:
            return _read_refinement(path)
        except (OSError, ValueError, RecursionError, InputError):
            pass
    found = measure()
    if found is not None:
        rows = _plain_correction(found.correction)
        told = {"errors": [found.error_before, found.error_after], "spread": [found.spread.low, found.spread.high]}
        _write(path, {**rows, **told})
    return found


def _read_refinement(path: Path) -> Refinement:
    root = _root(path)
    correction = _correction(root)
    spread, errors = (root.get(name, list) for name in ("spread", "errors"))
    if not all(len(pair) == 2 and all(map(_is_finite, pair)) for pair in (spread, errors)):
        raise root.fail("spread", "and errors hold two finite numbers each; delete the file")
    before, after = errors
    return Refinement(correction, Spread(*spread), before, after, len(correction.known))


def cache_path() -> Path:
    """Where the laws are kept: a file for each processor, ONNX Runtime version and set of networks to learn from."""
    return cache_folder() / f"latency-{_identity(_learnt_from())}.json"


def table_folder() -> Path:
    """Where the table of kernels measured on this machine is kept, as `latency.csv`."""
    return cache_folder() / f"latency-{_identity('table')}"


def _identity(what: str) -> str:
    return hashlib.sha256(f"{cpu_model()}|{onnxruntime.__version__}|{what}".encode()).hexdigest()[:12]


@functools.cache
def _learnt_from() -> str:
    return f"{VERSION}|{hashlib.sha256(probes_path().read_bytes()).hexdigest()}"


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
    if not isinstance(correction, Correction):
        raise ValueError("laws of this machine have a correction")
    return {**{dtype: law_to_dict(law) for dtype, law in laws.items()}, **_plain_correction(correction)}


def _plain_correction(correction: Correction) -> dict[str, Any]:
    return {
        "known": [[*one.names, *one.place] for one in correction.known],
        "weights": list(correction.weights),
    }


def _write(path: Path, data: Mapping[str, Any]) -> None:
    """Complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(data), encoding="utf-8")
    partial.replace(path)


def _root(path: Path) -> Node:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds {type(data).__name__}; allowed: a mapping; delete the file")
    return Node(Place(str(path)), "", data)


def _read(path: Path) -> dict[str, Law]:
    root = _root(path)
    correction = _correction(root)
    return {dtype: replace(law_from_node(root.node(dtype), TILINGS[dtype]), correction=correction) for dtype in DTYPES}


def _correction(root: Node) -> Correction:
    rows, weights = root.get("known", list), root.get("weights", list)
    if len(rows) != len(weights) or not all(map(_is_finite, weights)):
        raise root.fail("weights", f"does not hold a finite number for each of {len(rows)} kernels; delete the file")
    return Correction(tuple(_likeness(root, row) for row in rows), tuple(weights))


def _likeness(root: Node, row: Any) -> Likeness:
    if isinstance(row, list) and len(row) == 2 * len(WAYS):
        names, place = row[: len(WAYS)], row[len(WAYS) :]
        if all(isinstance(name, str) for name in names) and all(map(_is_finite, place)):
            return Likeness(tuple(names), tuple(map(float, place)))
    raise root.fail("known", f"holds {row!r}; allowed: {len(WAYS)} names and as many finite numbers; delete the file")


def _is_finite(value: Any) -> bool:
    # Not by `math.isfinite`, to which an integer may be too large.
    return type(value) in (int, float) and abs(value) < math.inf
