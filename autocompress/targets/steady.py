"""Networks timed as they would have been when the laws of this machine were learnt.

Others on a machine slow it down for minutes, longer than the rounds last in which a few networks come up: sixteen plans
of one model once all took half as long again, and taught what was worse than nothing. So some of the networks that the
laws were learnt from run in the same rounds; where they take longer than they are known to, all is measured again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from autocompress.targets.inside import Network, measured
from autocompress.targets.law import Law
from autocompress.targets.learning import told_ms
from autocompress.targets.probes import Probe, probes_path, read_probes

# The median of so many networks is told within 4 % on a machine that nothing disturbs.
REFERENCES = 12
# Within this nothing disturbed it; beyond the other it is slow.
UNDISTURBED, SLOW = 1.05, 1.1
_ATTEMPTS, _PAUSE_S = 4, 5.0


def measured_steadily(laws: Mapping[str, Law], probes: Sequence[Probe], rounds: int) -> list[Network]:
    """Networks as `inside.measured` times them, on a machine as fast as its laws say.

    What disturbs a network only ever slows it down, so of several attempts the fastest counts. If the machine stays
    slow, what the references lost is taken off the times.

    Args:
        laws: Of this machine, by dtype.
        probes: The networks.
        rounds: In which they come up in an attempt.
    """
    known = read_probes(probes_path())
    all_of_them = [*probes, *known[:: len(known) // REFERENCES][:REFERENCES]]
    best = measured(all_of_them, rounds).networks
    for _ in range(_ATTEMPTS - 1):
        if _slowdown(laws, best[len(probes) :]) <= UNDISTURBED:
            break
        time.sleep(_PAUSE_S)
        again = measured(all_of_them, rounds).networks
        best = tuple(min(pair, key=lambda one: one.whole_ms) for pair in zip(best, again, strict=True))
    slowdown = _slowdown(laws, best[len(probes) :])
    return [_faster(one, slowdown if slowdown > SLOW else 1.0) for one in best[: len(probes)]]


def _slowdown(laws: Mapping[str, Law], references: Sequence[Network]) -> float:
    """How many times as long as the laws say the references take."""
    return float(np.median([one.whole_ms / told_ms(laws, one.kernels) for one in references]))


def _faster(network: Network, factor: float) -> Network:
    kernels_ms = tuple(ms / factor for ms in network.kernels_ms)
    return replace(network, kernels_ms=kernels_ms, whole_ms=network.whole_ms / factor)
