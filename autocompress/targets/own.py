"""A user's own target: a folder with a profile whose laws were fitted again, and the table of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.core.files import write_whole
from autocompress.core.strict_yaml import read_yaml
from autocompress.errors import InputError
from autocompress.targets import calibrate
from autocompress.targets.importers.read import read_profile_of
from autocompress.targets.law import Law
from autocompress.targets.parse import law_to_dict, with_law
from autocompress.targets.profile import Target, load_target, profile_path
from autocompress.targets.table import Table, read_table, write_table

TABLE = "latency.csv"


def own_folder(target: Target, folder: Path | None) -> Path:
    """Where what is measured on a target is kept: the cache for this machine, else a folder named like the target.

    Raises:
        InputError: the target is one setup of a device, or the folder holds something else.
    """
    if target.profile.measured:
        return calibrate.table_folder()
    device, _, setup = target.profile.name.partition(":")
    if setup:
        raise InputError(
            f"target {target.profile.name} is one setup of {device}, which has no table of its own; name {device}"
        )
    place = folder or Path(device)
    if place.is_dir() and any(place.iterdir()) and not (place / "profile.yaml").is_file():
        raise InputError(f"{place} holds something else than a target; name another folder with --output")
    return place


def known_table(folder: Path, target: Target) -> Table:
    """What was measured before: in the folder, else what the target came with."""
    path = folder / TABLE
    return read_table(path) if path.is_file() else target.table


def keep_table(folder: Path, table: Table) -> None:
    """Writes the table, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / TABLE, table)


def keep_laws(folder: Path, source: str, target: Target, laws: Mapping[str, Law]) -> None:
    """Writes the profile that `source` names with other laws; those of this machine go to the cache.

    What the old laws reached on rows held out is not true of the new ones, and is left out.
    """
    if target.profile.measured:
        calibrate.keep(laws)
        return
    path = profile_path(source)
    data, _ = read_yaml(path)
    section = data["law"]
    section["dtypes"] = {dtype: law_to_dict(law) for dtype, law in {**target.laws, **laws}.items()}
    section["setups"], section["validation"] = {}, []
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "profile.yaml", with_law(path, section))


def begin_target(folder: Path, source: str, target: Target) -> None:
    """Writes the profile that `source` names where a folder has none: a table without a profile is no target."""
    if not target.profile.measured and not (folder / "profile.yaml").is_file():
        keep_laws(folder, source, target, target.laws)


def import_profile(
    source: str, file: Path, kind: str | None, companion: Path | None, folder: Path | None
) -> dict[str, Any]:
    """Takes the kernels of a profile by another tool into a target's table.

    Raises:
        InputError: no such target or file, a file that is not such a profile, or one without any usable kernel.
    """
    target = load_target(source)
    imported = read_profile_of(file, kind, companion)
    new = imported.table()
    if not new.rows:
        first = next((layer.unmapped for layer in imported.unmapped()), "it holds whole models")
        raise InputError(f"{file}: no kernel of it can stand in a table: {first}")
    place = own_folder(target, folder)
    keep_table(place, known_table(place, target).merged(new))
    begin_target(place, source, target)
    return {
        "target": source if target.profile.measured else str(place),
        "taken": len(new.rows),
        "mapped_share": imported.mapped_share,
        "unmapped": [{"name": layer.name, "why": layer.unmapped} for layer in imported.unmapped()],
    }
