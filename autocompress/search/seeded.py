"""A controller that begins with the plans of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.core.space import Vector
from autocompress.search.controller import Controller
from autocompress.search.record import ASKED, Record


@dataclass(frozen=True)
class SeededController:
    """Another controller's plans first, then its own, which learn of the results of both.

    Attributes:
        first: Asks for the first plans.
        then: Asks for all others.
        count: How many are the first one's.
    """

    first: Controller
    then: Controller
    count: int

    def ask(self, history: Sequence[Record]) -> Vector:
        """The next plan; whose turn it is follows from how many were asked for."""
        asked = sum(record.label == ASKED for record in history)
        return (self.first if asked < self.count else self.then).ask(history)
