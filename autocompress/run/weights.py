"""Trained weights in the run folder, or where all workers reach them, so that nothing is trained twice."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from autocompress import __version__
from autocompress.core.digest import short_digest
from autocompress.core.plan import Plan
from autocompress.proxy.evaluate import Evaluation
from autocompress.run.disk import writing
from autocompress.run.places import Place, as_file, write_place

LOG = logging.getLogger("autocompress")
_PLAN = "plan"


def checkpoint_path(folder: Place, number: int) -> Place:
    """Where the trained weights of a trial are kept."""
    return folder / f"trial-{number:04d}.safetensors"


def point_path(folder: Place, number: int, steps: int) -> Place:
    """Where the weights of a trial are kept that was trained for so many steps more."""
    return folder / f"point-{number:04d}-{steps}.safetensors"


@dataclass(frozen=True)
class KeptTraining:
    """The training of one plan under way, in a file of its own beside its weights, see `proxy.rungs`.

    Attributes:
        weights: Where its weights go in the end; every training has its own.
    """

    weights: Place
    plan: Plan

    @property
    def path(self) -> Place:
        """Where it is kept."""
        return self.weights.with_suffix(".rung")

    @property
    def _of(self) -> str:
        return f"{_digest(self.plan)} by autocompress {__version__}, torch {torch.__version__}"

    def load(self) -> Mapping[str, Any] | None:
        """The state that was kept; None where there is none, or none of this plan by these versions."""
        if not self.path.is_file():
            return None
        try:
            found: Mapping[str, Any] = torch.load(io.BytesIO(self.path.read_bytes()), weights_only=True)
            state: Mapping[str, Any] | None = found["state"] if found["of"] == self._of else None
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
            LOG.warning("%s is damaged and not used: %s", self.path, error)
            return None
        if state is not None:
            LOG.info("%s: its training goes on from step %d", self.weights.stem, state["done"])
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes it, complete or not at all.

        Raises:
            DiskError: there is no room or no permission.
        """
        content = io.BytesIO()
        torch.save({"of": self._of, "state": dict(state)}, content)
        with writing(self.path):
            write_place(self.path, content.getvalue())

    def drop(self) -> None:
        """Removes it: the training has ended."""
        with writing(self.path):
            self.path.unlink(missing_ok=True)


def collect(folder: Place, wanted: Collection[int], most: int) -> None:
    """Removes weights of trials, the oldest first, until so many files are left; those wanted stay.

    What is missed later is trained again, to the same numbers.
    """
    names = sorted(path.name for path in folder.glob("trial-*.safetensors"))
    stay = {checkpoint_path(folder, number).name for number in wanted}
    unwanted = [name for name in names if name not in stay]
    with writing(folder):
        for name in unwanted[: max(0, len(names) - most)]:
            (folder / name).unlink(missing_ok=True)


def drop_rungs(folder: Place) -> None:
    """Removes what is kept of trainings under way, when none is."""
    with writing(folder):
        for path in folder.glob("*.rung"):
            path.unlink(missing_ok=True)


def save_weights(path: Place, result: Evaluation) -> None:
    """Writes the weights of an evaluation, complete or not at all.

    Raises:
        DiskError: there is no room or no permission.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in result.module.state_dict().items()}
    with writing(path):
        write_place(path, safetensors.torch.save(tensors, {_PLAN: _digest(result.plan)}))


def load_weights(path: Place, plan: Plan) -> dict[str, Tensor] | None:
    """The weights that `save_weights` wrote, or None where there are none, or none of this plan.

    A run whose study was cut off by a crash gives the numbers of lost trials to other plans.
    """
    if not path.is_file():
        return None
    try:
        with as_file(path) as copy, safe_open(copy, framework="pt") as file:
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
