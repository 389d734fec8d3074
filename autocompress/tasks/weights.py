"""Reads weights without running what is in the file."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autocompress.core.user_code import first_line
from autocompress.errors import InputError


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in a `.safetensors` file or a PyTorch checkpoint, on the CPU.

    Nothing in the file is executed. A checkpoint may hold the weights under `state_dict` or `model`; the prefix
    `module.` that DataParallel writes is taken off.

    Raises:
        InputError: the file is missing or unreadable, holds pickled objects, or is not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path} do not exist; check the path")
    content = _read(path)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"weights {path}: the file holds a {type(content).__name__}; save model.state_dict()")
    strange = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        got = type(content[strange[0]]).__name__
        raise InputError(f"weights {path}: {strange[0]!r} is a {got}, not a tensor; save model.state_dict()")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch remarks on the pickle protocol before it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"weights {path}: the file is damaged or holds pickled objects, which are never executed; "
            "save model.state_dict() instead"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise InputError(f"weights {path}: the file cannot be read: {first_line(error)}") from None
