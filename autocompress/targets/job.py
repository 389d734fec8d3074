"""One job for a runner: networks in, times out, and nothing of the answer believed unchecked."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from autocompress.errors import RunError
from autocompress.targets import quiet
from autocompress.targets.channel import Channel, printable
from autocompress.targets.micro import Network
from autocompress.targets.remote import Where, check_alive

# An engine of TensorRT takes minutes to build.
TIMEOUT_S = {"onnxruntime": 300.0, "openvino": 300.0, "tensorrt": 3600.0}


@dataclass(frozen=True)
class Timed:
    """Milliseconds of one run of a network: median of `n` samples, 90 % quantile with the `disturbed` ones."""

    p50_ms: float
    p90_ms: float
    n: int
    disturbed: int


class Refused(RunError):
    """The runtime does not run a network; others may run."""


def time_networks(
    channel: Channel, where: Where, runtime: str, networks: Sequence[Network], *, repeats: int, precision: str
) -> list[Timed]:
    """Times networks in the same rounds; on this machine while nothing else of ours works.

    Raises:
        Refused: the runtime cannot open or run one of them.
        ChannelClosed: the connection broke.
        InputError: the machine lacks something, room on its disk for one.
        RunError: the answer is none.
    """
    job = {
        "id": 1,
        "models": [_packed(network) for network in networks],
        "repeats": repeats,
        "precision": precision,
    }
    with quiet.measuring() if where.host is None else nullcontext():
        answer = channel.ask(job, TIMEOUT_S[runtime])
    check_alive(where, answer)
    if answer.get("id") != 1:
        raise RunError(
            f"{where}: the runner answered {str(answer)[:100]!r}; expected the times of {len(networks)} networks"
        )
    if "error" in answer:
        raise Refused(f"the runtime refuses it: {printable(str(answer['error']))[:300]}")
    columns = [_numbers(answer, name, len(networks), least) for name, least in _COLUMNS]
    return [Timed(p50, p90, int(n), int(gone)) for p50, p90, n, gone in zip(*columns, strict=True)]


_COLUMNS = (("p50_ms", 1e-9), ("p90_ms", 1e-9), ("n", 1), ("disturbed", 0))


def _packed(network: Network) -> list[object]:
    feeds = [[feed.name, feed.shape, feed.element, feed.below] for feed in network.feeds]
    return [base64.b64encode(zlib.compress(network.model)).decode(), feeds]


def _numbers(answer: Mapping[str, Any], name: str, count: int, least: float) -> list[float]:
    """One number for each network, from `least` to a billion."""
    found = answer.get(name)
    numbers = found if isinstance(found, list) else []
    good = [x for x in numbers if isinstance(x, int | float) and not isinstance(x, bool) and least <= x <= 1e9]
    if len(good) != count or len(numbers) != count:
        raise RunError(
            f"the runner's answer has {name} = {str(found)[:100]}; expected {count} numbers from {least:g} on"
        )
    return [float(x) for x in good]
