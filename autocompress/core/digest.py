"""Short digests by which runs and tables recognise what they were made for."""

from __future__ import annotations

import hashlib


def short_digest(value: object) -> str:
    """16 hex digits of the SHA-256 of a value's `repr`, which must tell all that counts and nothing else."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
