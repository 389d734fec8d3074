"""Networks timed as they would have been when the laws of this machine were learnt.

Others on a machine slow it down for minutes, longer than the rounds last in which a few networks come up: sixteen plans
of one model once all took half as long again, and taught what was worse than nothing. So some of the networks that the
laws were learnt from run in the same rounds; where they take longer than they are known to, all is measured again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from autocompress.targets.inside import Network, measured
from autocompress.targets.law import Law
from autocompress.targets.learning import told_ms
from autocompress.targets.probes import Probe, probes_path, read_probes

# The median of so many networks is told within 2 to 4 % on a machine that nothing disturbs; within this it is not slow.
REFERENCES, UNDISTURBED = 12, 1.1
_ATTEMPTS, _PAUSE_S = 4, 5.0


class _Attempt(NamedTuple):
    """Networks as they were timed once, and how much longer than known the references took meanwhile."""

    slowdown: float
    networks: Sequence[Network]


def measured_steadily(laws: Mapping[str, Law], probes: Sequence[Probe], rounds: int) -> list[Network]:
    """Networks as `inside.measured` times them, on a machine as fast as its laws say.

    If it stays slow, what the references lost is taken off the times.

    Args:
        laws: Of this machine, by dtype.
        probes: The networks.
        rounds: In which they come up in an attempt; of all attempts the one that was disturbed least counts.
    """
    known = read_probes(probes_path())
    references = known[:: len(known) // REFERENCES][:REFERENCES]
    best = _attempt(laws, probes, references, rounds)
    for _ in range(_ATTEMPTS - 1):
        if best.slowdown <= UNDISTURBED:
            return list(best.networks)
        time.sleep(_PAUSE_S)
        best = min(best, _attempt(laws, probes, references, rounds), key=lambda one: one.slowdown)
    if best.slowdown <= UNDISTURBED:
        return list(best.networks)
    return [_faster(network, best.slowdown) for network in best.networks]


def _attempt(laws: Mapping[str, Law], probes: Sequence[Probe], references: Sequence[Probe], rounds: int) -> _Attempt:
    found = measured([*probes, *references], rounds).networks
    own, beside = found[: len(probes)], found[len(probes) :]
    slowdowns = [one.whole_ms / told_ms(laws, one.kernels) for one in beside]
    return _Attempt(float(np.median(slowdowns)), own)


def _faster(network: Network, factor: float) -> Network:
    kernels_ms = tuple(ms / factor for ms in network.kernels_ms)
    return replace(network, kernels_ms=kernels_ms, whole_ms=network.whole_ms / factor)
