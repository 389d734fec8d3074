"""A run on disk, as others read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.core.files import MANIFEST_FILE
from autocompress.core.strict_yaml import read_yaml
from autocompress.errors import InputError

CONFIG = "run.yaml"
# Of a run folder; runs that do not name theirs are of the first, which wrote each part of a result by itself.
FORMAT = 2
STUDY = "autocompress"
FRONT = "front.json"
REPORT = "report.html"
REPORT_DATA = "report.json"
ARTIFACTS = "artifacts"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
SENSITIVITY = "sensitivity.jsonl"


@dataclass(frozen=True)
class Names:
    """What a run is called where others are too, and where it came from.

    Attributes:
        study: In the storage.
        checkpoints: The URL of its weights; None for its folder.
        forked_from: The folder of the run that it has its first trials from.
    """

    study: str = STUDY
    checkpoints: str | None = None
    forked_from: str | None = None


@dataclass(frozen=True)
class Run:
    """One search on disk.

    Attributes:
        config: What `run.yaml` says, every default spelled out.
    """

    path: Path
    config: Mapping[str, Any]

    @staticmethod
    def open(path: str | Path) -> Run:
        """Opens a run folder.

        Raises:
            InputError: it is not one, its file was cut off, or a later version of this program wrote it.
        """
        folder = Path(path)
        file = folder / CONFIG
        if not file.is_file():
            raise InputError(f"{folder} is not a run: it has no {CONFIG}; name a folder that `search` wrote")
        config, _ = read_yaml(file)
        form = config.get("format", 1)
        if not isinstance(form, int) or not 1 <= form <= FORMAT:
            raise InputError(
                f"{file} is of format {form!r}, this version reads {FORMAT}; upgrade with `pip install -U autocompress`"
            )
        if not isinstance(config.get("search"), dict):
            raise InputError(f"{file} has no section 'search'; it is not the file that `search` wrote")
        for section in ("resolved", "digests"):
            if not isinstance(config.get(section, {}), dict):
                raise InputError(f"{file}: section {section!r} is no mapping; the file was cut off: restore it")
        return Run(folder, config)

    @property
    def storage(self) -> str | None:
        """The URL of the storage that holds its study; None for the journal in its folder."""
        storage = self.config["search"].get("storage")
        return None if storage is None else str(storage)

    @property
    def names(self) -> Names:
        """What it is called, in the storage among others."""
        resolved = self.config.get("resolved", {})
        names = (resolved.get("study", STUDY), resolved.get("checkpoints"), self.config.get("forked_from"))
        study, checkpoints, forked_from = (None if name is None else str(name) for name in names)
        return Names(study or STUDY, checkpoints, forked_from)

    @property
    def study(self) -> str:
        """The name of its study in the storage."""
        return self.names.study

    @property
    def front(self) -> Mapping[str, Any]:
        """The content of `front.json`.

        Raises:
            InputError: the search has not come that far, or the file was damaged.
        """
        file = self.path / FRONT
        if not file.is_file():
            raise InputError(f"{self.path} has no {FRONT} yet; finish it with `autocompress resume {self.path}`")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            data = None
        if not isinstance(data, dict) or not {"objectives", "baseline", "points"} <= set(data):
            raise InputError(f"{file} is damaged; `autocompress resume {self.path}` writes it again")
        return data

    @property
    def points(self) -> list[Mapping[str, Any]]:
        """The points of the final front."""
        return list(self.front["points"])

    def artifact(self, point_id: str) -> Path:
        """The folder of an artifact.

        Raises:
            InputError: the run has no such artifact.
        """
        names = [folder.name for folder in self.artifacts]
        if point_id not in names:
            raise InputError(f"run {self.path} has no artifact {point_id!r}; it has: {', '.join(names) or 'none'}")
        return self.path / ARTIFACTS / point_id

    @property
    def artifacts(self) -> list[Path]:
        """The folders of all artifacts, by name; not what a killed process left half written."""
        return [folder for folder in whole_folders(self.path / ARTIFACTS) if (folder / MANIFEST_FILE).is_file()]


def whole_folders(parent: Path) -> list[Path]:
    """The artifacts in a folder, by name; hidden folders are temporary ones."""
    children = parent.iterdir() if parent.is_dir() else ()
    return sorted(child for child in children if child.is_dir() and not child.name.startswith("."))
