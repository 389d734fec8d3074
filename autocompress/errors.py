"""The errors a user may see: each says what, where, the value got, the values allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutoCompressError(Exception):
    """Base of every error raised on purpose; the command line prints it on one line."""

    exit_code = 1


class InputError(AutoCompressError):
    """The user's input cannot be used (exit code 2)."""

    exit_code = 2


class PlanError(InputError):
    """A plan, op or space is not legal."""


class UnsupportedError(AutoCompressError):
    """A model, operator or format is outside what is supported; nothing is done half."""

    exit_code = 2


class RunError(AutoCompressError):
    """A run failed after it had started (exit code 1)."""


def nearest(value: str, allowed: Iterable[str], count: int = 3) -> str:
    """Formats the allowed values, closest to `value` first, for the end of an error message.

    Args:
        value: What the user wrote.
        allowed: Every name that would have been accepted.
        count: How many close names to print when any is close.

    Returns:
        `did you mean 'a', 'b'?` or `allowed: a, b, c`.
    """
    names = sorted(set(allowed))
    close = difflib.get_close_matches(value, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + ", ".join(repr(name) for name in close) + "?"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"allowed: {shown or '(none)'}"
