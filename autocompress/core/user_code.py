"""What the user's own code may raise, and how it is shown on one line."""

from __future__ import annotations

import traceback
from pathlib import Path

# Everything that ordinary code raises; interrupts, exhausted memory and this package's own errors pass through.
USER_CODE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def place(error: BaseException, file: str | None) -> str:
    """`file:line` of the deepest frame in `file`, or of the deepest frame of all where none is in it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if frame.filename == file] or list(frames)
    return f"{Path(inside[-1].filename).name}:{inside[-1].lineno}"
