"""Where the package finds its files: shipped ones in the wheel or the checkout, cached ones in the user's folder."""

from __future__ import annotations

import os
from pathlib import Path

from autocompress.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_dir(name: str) -> Path:
    """The folder `search_spaces` or `hardware_profiles` as it was installed, else the one of the checkout.

    Raises:
        InputError: there is neither.
    """
    places = (_PACKAGE / name, _PACKAGE.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise InputError(
        f"the folder {name!r} is missing; looked in {places[0]} and {places[1]}; install autocompress again"
    )


def cache_folder() -> Path:
    """Where trained models and measured laws are kept: `AUTOCOMPRESS_CACHE`, or `~/.cache/autocompress`."""
    named = os.environ.get("AUTOCOMPRESS_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "autocompress"
