"""What a search is decided by, as an object, as the section of a run file and as a command line."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from autocompress.core.constraint import parse_budget, parse_constraint
from autocompress.core.metric import OBJECTIVES
from autocompress.errors import InputError, nearest
from autocompress.run.executors import Workers, best_workers
from autocompress.run.folder import CONFIG, Run
from autocompress.run.lease import HOLDER, LOCK
from autocompress.run.places import check_place
from autocompress.run.storage import shown_url
from autocompress.search.controllers import CONTROLLERS, DEFAULT_CONTROLLER

DEFAULT_OBJECTIVES = ("accuracy", "size_bytes", "latency_ms")


@dataclass(frozen=True)
class SearchConfig:
    """Everything a search is decided by; what `run.yaml` holds under `search`.

    Attributes:
        task: A built-in name, `file.py:function` or `package.module:function`.
        target: A shipped name or the path of a profile.
        space: A shipped name or the path of a YAML or Python file.
        budget: Trials (`50`) or time (`30m`, `2h`).
        objectives: Metrics to improve.
        constraints: E.g. `latency<=20ms`, `size<=30%`, `accuracy>=-1.0`.
        precision: What unquantized layers run in; None takes the target's own.
        short_steps: Optimiser steps of a trial; None takes an epoch, but at least 32 and at most 40.
        final_epochs: Epochs of training for each point of the front at most; 0 exports the trials as they are.
        final_minutes: What all these trainings may take together, by what a step took in the trials; 0 for any time.
        final_points: How many points of the front are trained to the end and exported.
        validation_samples: Samples a trial is judged on; None takes all.
        device: `cpu`, `cuda`, or `auto`.
        storage: Any URL that Optuna takes; None keeps a journal in the run folder.
        checkpoints: URL of where weights are kept, in a folder of the run's own; None keeps them in the run folder.
        workers: Processes that work side by side; None takes one for each core, up to 8, or one for a GPU.
        ray_address: Of a Ray cluster that they work on: `auto`, `host:port`, `ray://host:port`; None for this machine.
        cpus_per_trial: Threads and processors of each worker; None shares out this machine's, and is one on a cluster.
        gpus_per_trial: GPUs of each worker, also a part of one.
    """

    task: str = "digits"
    target: str = "jetson-nano"
    space: str = "joint"
    budget: str = "50"
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    constraints: tuple[str, ...] = ()
    controller: str = DEFAULT_CONTROLLER
    seed: int = 0
    precision: str | None = None
    short_steps: int | None = None
    final_epochs: float = 2.0
    final_minutes: float = 15.0
    final_points: int = 7
    calibration_samples: int = 512
    validation_samples: int | None = None
    device: str = "auto"
    storage: str | None = None
    checkpoints: str | None = None
    workers: int | None = None
    ray_address: str | None = None
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None

    def __post_init__(self) -> None:
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise InputError(f"unknown objective {name!r}; {nearest(name, OBJECTIVES)}")
        if len(set(self.objectives)) < len(self.objectives) or not self.objectives:
            raise InputError(f"objectives are {', '.join(self.objectives) or 'empty'}; name each metric once")
        if self.controller not in CONTROLLERS:
            raise InputError(f"unknown controller {self.controller!r}; {nearest(self.controller, CONTROLLERS)}")
        if self.short_steps is not None and self.short_steps < 0:
            raise InputError(f"short_steps is {self.short_steps}; allowed: 0 or more")
        for name, least in (("final_epochs", 0), ("final_minutes", 0), ("final_points", 1), ("calibration_samples", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: {least} or more")
        for name in ("workers", "cpus_per_trial"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.ray_address is not None and self.workers is None:
            raise InputError("ray_address needs workers: how many trials run side by side on the cluster")
        if self.gpus_per_trial is not None and not (self.gpus_per_trial > 0 and self.device != "cpu"):
            raise InputError(
                f"gpus_per_trial is {self.gpus_per_trial} with device {self.device!r}; allowed: more than 0, with cuda"
            )
        if self.validation_samples is not None and self.validation_samples < 1:
            raise InputError(f"validation_samples is {self.validation_samples}; allowed: 1 or more")
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device is {self.device!r}; {nearest(self.device, ('auto', 'cpu', 'cuda'))}")
        if self.device == "cuda" and self.ray_address is None and not torch.cuda.is_available():
            raise InputError("device is 'cuda', but no CUDA device is there; use --device cpu")
        if self.checkpoints is not None:
            check_place(self.checkpoints)
        parse_budget(self.budget)
        for text in self.constraints:
            parse_constraint(text)

    @property
    def resolved_device(self) -> str:
        """`cpu` or `cuda`."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    @property
    def resolved_workers(self) -> int:
        """How many processes work side by side."""
        return self.workers or best_workers(torch.get_num_threads(), self.resolved_device)

    @property
    def threads(self) -> int:
        """Threads of each worker: on this machine they have together as many as there are."""
        if self.cpus_per_trial is not None:
            return self.cpus_per_trial
        return max(1, torch.get_num_threads() // self.resolved_workers) if self.ray_address is None else 1

    @property
    def worker_pool(self) -> Workers:
        """The processes that work."""
        asked_for = self.workers is not None
        return Workers(self.resolved_workers, self.threads, asked_for, self.ray_address, self.gpus_per_trial)


def new_folder(output: str | Path | None, config: SearchConfig) -> Path:
    """The folder of a new run; it is not made yet.

    Raises:
        InputError: it holds another run, is not a folder, or cannot be made.
    """
    if output is None:
        name = Path(config.task.split(":")[0]).stem.strip("<>").replace(" ", "-").lower()
        stamp = time.strftime("%Y%m%d-%H%M%S")
        output = Path("runs") / f"{name}-{Path(config.target).name}-{stamp}"
    folder = Path(output)
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"output {folder}: {place} is a file; name a folder")
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"output {folder} cannot be written: {there} is read-only here; name another folder")
    check_new(folder)
    return folder


def check_new(folder: Path) -> None:
    """Refuses a folder with anything in it but what a search leaves that was ended before it began.

    Raises:
        InputError: it holds another run, or other files.
    """
    if (folder / CONFIG).exists():
        raise InputError(
            f"output {folder} holds another run; name a new folder, or go on with `autocompress resume {folder}`"
        )
    if folder.is_dir() and any(not _is_of_lease(child.name) for child in folder.iterdir()):
        raise InputError(f"output {folder} is not empty; name a new folder")


def clear(folder: Path) -> None:
    """Removes what was written of a run that did not begin, so that its folder is as good as new."""
    for child in folder.iterdir():
        if _is_of_lease(child.name):
            continue
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()


def _is_of_lease(name: str) -> bool:
    return name in (LOCK, HOLDER, f".{CONFIG}.part") or name.startswith((f".{HOLDER}.", f"..{HOLDER}."))


def read_config(run: Run) -> SearchConfig:
    """The configuration a run was started with.

    Raises:
        InputError: `run.yaml` was changed into something else, or the run was started from Python objects.
    """
    data = dict(run.config["search"])
    known = {field.name for field in fields(SearchConfig)}
    unknown = set(data) - known
    if unknown:
        raise InputError(
            f"{run.path / CONFIG}: unknown key {sorted(unknown)[0]!r}; {nearest(sorted(unknown)[0], known)}"
        )
    for name in ("task", "space"):
        if str(data.get(name, "")).startswith("<"):
            raise InputError(f"{run.path} was started from Python with a {name} object; resume it from Python")
    for name in ("objectives", "constraints"):
        if not isinstance(data.get(name, []), list):
            raise InputError(f"{run.path / CONFIG}: search.{name} is {data[name]!r}; it must be a list")
        data[name] = tuple(data.get(name, ()))
    try:
        return SearchConfig(**data)
    except (TypeError, AttributeError) as error:
        raise InputError(f"{run.path / CONFIG}: a value under 'search' is of the wrong kind: {error}") from None


def command_of(config: SearchConfig) -> str:
    """The command line that would start the same search; a password in it is left out."""
    words = ["autocompress search"]
    plain = SearchConfig()
    for field in fields(SearchConfig):
        value = getattr(config, field.name)
        if field.name == "storage" and value is not None:
            value = shown_url(value)
        if value == getattr(plain, field.name) and field.name not in ("budget", "target"):
            continue
        option = "--" + field.name.replace("_", "-")
        if field.name == "constraints":
            words += [f'--constraint "{text}"' for text in value]
        elif isinstance(value, tuple):
            words.append(f"{option} {','.join(value)}")
        else:
            words.append(f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}")
    return " ".join(words)
