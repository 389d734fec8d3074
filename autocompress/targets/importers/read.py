"""Profiles of other tools by kind, or by what their content looks like."""

from __future__ import annotations

import re
from pathlib import Path

from autocompress.errors import InputError, nearest
from autocompress.targets.importers.content import read_text
from autocompress.targets.importers.ncnn import looks_like_ncnn, read_ncnn
from autocompress.targets.importers.onnxruntime import read_onnxruntime
from autocompress.targets.importers.result import Imported
from autocompress.targets.importers.trtexec import read_trtexec

KINDS = ("trtexec", "onnxruntime", "ncnn")
_LOOKED_AT = 1 << 16


def read_profile_of(path: Path, kind: str | None = None, companion: Path | None = None) -> Imported:
    """Reads what another tool measured.

    Args:
        path: The profile.
        kind: One of `KINDS`; None looks at the content.
        companion: What says the shapes and strides that the profile leaves out: of `trtexec` the layer info
            (`--exportLayerInfo`), of `onnxruntime` the optimised model (`SessionOptions.optimized_model_filepath`).

    Raises:
        InputError: an unknown kind, or one of the files is not what the tool writes.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"kind of profile is {kind!r}; {nearest(kind, KINDS)}")
    text = read_text(path)
    kind = kind or kind_of(path, text)
    if kind == "trtexec":
        return read_trtexec(path, text, companion)
    if kind == "onnxruntime":
        return read_onnxruntime(path, text, companion)
    if companion is not None:
        raise InputError(f"{companion}: times of whole models take no second file; leave it out")
    return read_ncnn(path, text)


def kind_of(path: Path, text: str) -> str:
    """Which tool wrote a file, from its first lines.

    Raises:
        InputError: none that is known.
    """
    start = text[:_LOOKED_AT]
    if re.match(r'\s*\[\s*\{\s*"count"\s*:', start):
        return "trtexec"
    if re.match(r"\s*\[\s*\{", start) and re.search(r'"cat"\s*:', start):
        return "onnxruntime"
    if looks_like_ncnn(start):
        return "ncnn"
    raise InputError(f"{path}: looks like no profile of {', '.join(KINDS)}; say which kind it is if it is one")
