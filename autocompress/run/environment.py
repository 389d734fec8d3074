"""What this installation runs on: versions, machine, devices, folders."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autocompress import __version__
from autocompress.core.shipped import cache_folder
from autocompress.proxy.teacher import in_bf16

PACKAGES = ("torch", "optuna", "onnx", "onnxruntime", "numpy")


def versions() -> dict[str, str]:
    """What this runs on: packages, Python, the machine and the git revision of the package where there is one."""
    found = {"autocompress": __version__, "python": platform.python_version(), "machine": platform.platform()}
    found.update({name: version(name) for name in PACKAGES})
    revision = _git_revision()
    return {**found, **({"git": revision} if revision else {})}


def _git_revision() -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def doctor() -> dict[str, Any]:
    """What this installation has."""
    return {
        **versions(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "training in bf16 on this processor": in_bf16(torch.device("cpu")),
        "AUTOCOMPRESS_DATA": os.environ.get("AUTOCOMPRESS_DATA", "not set"),
        "cache": str(cache_folder()),
    }
