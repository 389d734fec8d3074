"""Trained weights in the run folder, so that nothing is trained twice."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from autocompress.core.digest import short_digest
from autocompress.core.files import write_whole
from autocompress.core.plan import Plan
from autocompress.proxy.evaluate import Evaluation
from autocompress.run.disk import writing

LOG = logging.getLogger("autocompress")
_PLAN = "plan"


def checkpoint_path(folder: Path, number: int) -> Path:
    """Where the trained weights of a trial are kept."""
    return folder / f"trial-{number:04d}.safetensors"


def point_path(folder: Path, number: int, steps: int) -> Path:
    """Where the weights of a trial are kept that was trained for so many steps more."""
    return folder / f"point-{number:04d}-{steps}.safetensors"


def save_weights(path: Path, result: Evaluation) -> None:
    """Writes the weights of an evaluation, complete or not at all.

    Raises:
        DiskError: there is no room or no permission.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in result.module.state_dict().items()}
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        write_whole(path, safetensors.torch.save(tensors, {_PLAN: _digest(result.plan)}))


def load_weights(path: Path, plan: Plan) -> dict[str, Tensor] | None:
    """The weights that `save_weights` wrote, or None where there are none, or none of this plan.

    A run whose study was cut off by a crash gives the numbers of lost trials to other plans.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            # Files of older versions do not say what they are of.
            if (file.metadata() or {}).get(_PLAN, _digest(plan)) != _digest(plan):
                LOG.warning("%s holds the weights of another plan, which are not used", path)
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except SafetensorError as error:
        LOG.warning("%s is damaged and not used: %s", path, error)
        return None


def _digest(plan: Plan) -> str:
    return short_digest(json.dumps(plan.to_dict(), sort_keys=True))
