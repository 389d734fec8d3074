"""Calibrates the law of this machine on small models and keeps the result in the user's cache folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from autocompress.core.kernel import Kernel
from autocompress.core.shipped import cache_folder
from autocompress.core.strict_yaml import Place
from autocompress.errors import InputError
from autocompress.targets import quiet
from autocompress.targets.fit import TERM_NAMES, Array, design, left_out, ranges_of, solve, spread_of
from autocompress.targets.law import FAMILIES, TERMS, Law, Tiling
from autocompress.targets.measure import time_sessions, undisturbed
from autocompress.targets.parse import Node, law_from_node, law_to_dict
from autocompress.targets.probes import build, probes
from autocompress.targets.session import open_session

# Raised whenever the probes or the form of the law change, so that older caches are measured again.
VERSION = 5
DTYPES = ("fp32", "int8")
# ONNX Runtime's blocked kernels compute 16 output channels at a time; those for int8 need multiples of 4.
TILINGS = {
    "fp32": Tiling(channels=16, narrow_channels=16),
    "int8": Tiling(channels=16, narrow_channels=16, aligned=4, least_channels=16),
}
REPEATS = 20
FOLDS = 4
# Milliseconds per unit on an ordinary core: 30 GMAC/s, 10 GB/s, 1 ns per pooled output, 20 ns per pixel
# off the fast path, 2 us per kernel; that a tensor lies in a branch costs a processor nothing.
PRIOR = {
    name: 1 / 30 if unit == "million MACs" else 1 / 10 if unit == "million bytes" else 2e-3
    for name, unit in TERMS.items()
} | {"pool": 1.0, "gather": 0.1, "unaligned": 20.0, "branch_reads": 1e-6}
PULL = 0.005


@functools.cache
def local_laws() -> Mapping[str, Law]:
    """The laws of this machine by dtype, from the cache or measured now (about 20 seconds)."""
    try:
        return _read(cache_path())
    except (OSError, ValueError, InputError):
        return keep(measure_laws())


def keep(laws: Mapping[str, Law]) -> Mapping[str, Law]:
    """Writes the laws of this machine to the cache, for later runs, and returns them."""
    path = cache_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({dtype: law_to_dict(law) for dtype, law in laws.items()}, indent=1), encoding="utf-8")
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


def measure_laws() -> dict[str, Law]:
    """Times the probes of every dtype and fits one law each."""
    laws = {}
    for dtype in DTYPES:
        built = [build(probe) for probe in probes(dtype)]
        sessions = [open_session(one.model) for one in built]
        with quiet.measuring():
            samples = time_sessions(sessions, [one.feeds for one in built], REPEATS)
        laws[dtype] = fit_law(
            [one.kernels for one in built], np.array([float(np.median(undisturbed(times))) for times in samples]), dtype
        )
    return laws


def fit_law(networks: Sequence[Sequence[Kernel]], measured_ms: Array, dtype: str) -> Law:
    """One dtype's law; its spread comes from networks that were left out of the fit in turn."""
    matrix = design(networks, dtype, TILINGS[dtype])
    spread = spread_of(measured_ms / left_out(matrix, measured_ms, FOLDS, _coefficients))
    found = dict(zip(TERM_NAMES, map(float, _coefficients(matrix, measured_ms)), strict=True))
    return Law(found, TILINGS[dtype], ranges_of(networks), dict.fromkeys(FAMILIES, spread))


def _coefficients(matrix: Array, measured_ms: Array) -> Array:
    prior = np.array([PRIOR[term] for term in TERM_NAMES])
    rows, columns = matrix.shape
    pull = np.full(columns, PULL)
    return solve(matrix, measured_ms, prior, prior * 1e-3, prior * np.inf, np.ones(rows), pull, tolerance=0.5)


def _read(path: Path) -> dict[str, Law]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds {type(data).__name__}; allowed: a mapping; delete the file")
    root = Node(Place(str(path)), "", data)
    return {dtype: law_from_node(root.node(dtype), TILINGS[dtype]) for dtype in DTYPES}
