"""Python's garbage collector, kept from looking again and again at what is about to go."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cycles are looked for inside: for a millisecond's work of thousands of objects that end with it.

    They are counted when they are made and discounted when they go, so that nothing is left for the collector to do; it
    doubles what such work takes, by looking at them after every 700 that are made.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def rest_set_aside() -> Iterator[None]:
    """What is there already is not looked at inside: for long work that keeps it all, as a search its model and data.

    With libraries loaded that is a million objects, a third of a second each time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
