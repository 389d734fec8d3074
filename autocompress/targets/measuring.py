"""Measures kernels one by one on a real machine, the most important first, and keeps what is done whatever happens."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from autocompress.core.kernel import Kernel
from autocompress.errors import InputError, UnsupportedError
from autocompress.targets.channel import Channel, ChannelClosed
from autocompress.targets.job import Refused, Timed, time_networks
from autocompress.targets.kernel_key import KernelKey
from autocompress.targets.micro import MicroNetwork, empty_network, micro_network, yardstick
from autocompress.targets.remote import Where, connected, lost, machine_facts

# How often a kernel may break the connection before it is left out.
ATTEMPTS = 2
# A machine slows down for seconds at a time; a kernel that met such a time is measured again a little later.
UNDISTURBED = 1.1
TRIES = 6
PAUSE_S = 0.3
# The cost of a call is the fastest of several, one every so many kernels.
_CALL_EVERY = 20
# What moving one element costs, in multiply-accumulates: only the order needs it.
_MACS_PER_ELEMENT = 10

# Where a yardstick beside each kernel tells how fast the machine is just then.
_ON_CPU = ("onnxruntime", "openvino")

Wanted = tuple[Kernel, str]


@dataclass(frozen=True)
class MeasuredKernel:
    """The time of one kernel at batch 1, without what a session's call costs.

    Attributes:
        kernel: As it was asked for; `layer` is that of its first place.
        dtype: What it was built in.
        p50_ms: The median.
        p90_ms: The median times 90 % quantile / median of the network that it was timed in.
        n: Samples of that network.
        disturbed: How many others were taken while something else ran.
        slowed: How much slower than at its best the machine was meanwhile, by a network that is timed beside all.
    """

    kernel: Kernel
    dtype: str
    p50_ms: float
    p90_ms: float
    n: int
    disturbed: int
    slowed: float


@dataclass(frozen=True)
class NotMeasured:
    """A kernel that has no time, and why."""

    kernel: Kernel
    dtype: str
    reason: str


Outcome = MeasuredKernel | NotMeasured


@dataclass(frozen=True)
class Measuring:
    """What came of measuring.

    Attributes:
        machine: What the machine says of itself: CPU, clocks, runtime and its version, threads.
        call_ms: What a call of a session costs before any kernel runs; None where nothing was measured.
        measured: Kernels with their times, the most important first.
        not_measured: Kernels without, and why.
        interrupted: True if the user stopped it; the rest is neither measured nor refused.
    """

    machine: tuple[tuple[str, str], ...]
    call_ms: float | None
    measured: tuple[MeasuredKernel, ...]
    not_measured: tuple[NotMeasured, ...]
    interrupted: bool

    @property
    def source(self) -> str:
        """Where the times come from, in one line for a table."""
        facts = dict(self.machine)
        board, runtime = facts.get("board") or facts.get("cpu", "an unknown CPU"), facts.get("runtime", "?")
        clock = f", governor {facts['governor']}" if "governor" in facts else ""
        return f"measured: {board}, {runtime} {facts.get('version', '?')}, {facts.get('threads', '?')} thread(s){clock}"


@dataclass
class _Bench:
    """What is asked, of which machine, and what has come of it so far."""

    where: Where
    runtime: str
    opset: int
    threads: int
    repeats: int
    on_done: Callable[[Outcome, int], None]
    outcomes: dict[KernelKey, Outcome] = field(default_factory=dict)
    # The yardstick's time beside each kernel, and the fastest of each dtype.
    beside_ms: dict[KernelKey, float] = field(default_factory=dict)
    fastest_ms: dict[str, float] = field(default_factory=dict)
    call_ms: float = math.inf
    machine: tuple[tuple[str, str], ...] = ()

    def slowed(self, wanted: Wanted) -> float:
        """How much slower than at its best the machine was beside a kernel; 1 where that is not known."""
        beside_ms = self.beside_ms.get(KernelKey.of(*wanted))
        return 1.0 if beside_ms is None else beside_ms / self.fastest_ms[wanted[1]]

    def result(self, interrupted: bool) -> Measuring:
        """Everything so far, with `slowed` by what is known now."""
        done = [
            replace(one, slowed=self.slowed((one.kernel, one.dtype))) if isinstance(one, MeasuredKernel) else one
            for one in self.outcomes.values()
        ]
        measured = tuple(one for one in done if isinstance(one, MeasuredKernel))
        refused = tuple(one for one in done if isinstance(one, NotMeasured))
        call_ms = self.call_ms if math.isfinite(self.call_ms) else None
        return Measuring(self.machine, call_ms, measured, refused, interrupted)


def measure_kernels(
    wanted: Sequence[Wanted],
    where: Where,
    *,
    runtime: str,
    opset: int,
    threads: int = 1,
    repeats: int = 30,
    on_done: Callable[[Outcome, int], None] = lambda outcome, left: None,
) -> Measuring:
    """Measures every different kernel once, and again at the end those that met a slow time of the machine.

    A broken connection is opened again and loses the kernel in flight only; a kernel that breaks it twice is left out.
    Ctrl-C ends the work early and returns what is done.

    Args:
        wanted: Kernels, each with the dtype that the device runs it in; how often one occurs decides what comes first.
        where: This machine or another.
        runtime: `onnxruntime`, `openvino` or `tensorrt`.
        opset: The newest ONNX opset that the runtime reads.
        threads: Threads within one operator.
        repeats: Samples of each network.
        on_done: Called after each kernel with what came of it and how many are left; a later call for the same kernel
            replaces the earlier one.

    Raises:
        InputError: the machine cannot be reached, or lacks something, or `threads` or `repeats` is below 1.
        RunError: the runner does not start, or what comes back is no answer.
    """
    for name, value in (("repeats", repeats), ("threads", threads)):
        if value < 1:
            raise InputError(f"{name} is {value}; allowed: 1 or more")
    bench = _Bench(where, runtime, opset, threads, repeats, on_done)
    ordered = in_order(wanted)
    try:
        _measure(bench, ordered)
        # How fast the machine can be is known only now.
        _measure(bench, [one for one in ordered if bench.slowed(one) > UNDISTURBED])
    except KeyboardInterrupt:
        return bench.result(interrupted=True)
    return bench.result(interrupted=False)


def in_order(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Each different kernel once, those that most of the time is likely to go to first."""
    counts = Counter(KernelKey.of(*one) for one in wanted)
    first = {KernelKey.of(*one): one for one in reversed(wanted)}

    def weight(key: KernelKey) -> int:
        kernel = first[key][0]
        elements = kernel.in_elements + kernel.out_elements + kernel.weight_elements
        return counts[key] * (kernel.macs + _MACS_PER_ELEMENT * elements)

    return [first[key] for key in sorted(counts, key=weight, reverse=True)]


def _measure(bench: _Bench, wanted: Sequence[Wanted]) -> None:
    """Measures one kernel after the other, over as many connections as that takes."""
    left, breaks = list(wanted), Counter[KernelKey]()
    while left:
        with connected(bench.where, bench.runtime, bench.threads) as (channel, hello):
            bench.machine = machine_facts(hello)
            try:
                _measure_connected(bench, channel, left)
            except ChannelClosed as closed:
                key = KernelKey.of(*left[0])
                breaks[key] += 1
                if breaks[key] == ATTEMPTS:
                    lost_here = NotMeasured(*left[0], lost(bench.where, closed))
                    _keep(bench, left, bench.outcomes.get(key, lost_here))


def _measure_connected(bench: _Bench, channel: Channel, left: list[Wanted]) -> None:
    while left:
        (call,) = time_networks(
            channel, bench.where, bench.runtime, [empty_network(bench.opset)], repeats=bench.repeats, precision="fp32"
        )
        bench.call_ms = min(bench.call_ms, call.p50_ms)
        for _ in range(min(_CALL_EVERY, len(left))):
            _keep(bench, left, _outcome(bench, channel, *left[0]))


def _keep(bench: _Bench, left: list[Wanted], outcome: Outcome) -> None:
    wanted = left.pop(0)
    bench.outcomes[KernelKey.of(*wanted)] = outcome
    bench.on_done(outcome, len(left))


def _outcome(bench: _Bench, channel: Channel, kernel: Kernel, dtype: str) -> Outcome:
    if bench.runtime in _ON_CPU and dtype == "fp16":
        return NotMeasured(kernel, dtype, f"{bench.runtime} computes exported files in fp32 where they ask for fp16")
    try:
        network = micro_network(kernel, dtype, bench.opset)
        full, base, beside_ms = _timed(bench, channel, network, dtype)
    except (UnsupportedError, Refused) as error:
        return NotMeasured(kernel, dtype, str(error))
    key = KernelKey.of(kernel, dtype)
    if beside_ms is not None:
        if beside_ms >= bench.beside_ms.get(key, math.inf):
            return bench.outcomes[key]
        bench.beside_ms[key] = beside_ms
    ms = (full.p50_ms - base.p50_ms) / network.copies
    if ms <= 0.0:
        return NotMeasured(kernel, dtype, "it takes no time that can be told from what surrounds it")
    p90_ms = ms * max(1.0, full.p90_ms / full.p50_ms)
    return MeasuredKernel(kernel, dtype, ms, p90_ms, full.n, full.disturbed, bench.slowed((kernel, dtype)))


def _timed(bench: _Bench, channel: Channel, network: MicroNetwork, dtype: str) -> tuple[Timed, Timed, float | None]:
    """The times of the full network, its base and the yardstick, of the try in which the machine was fastest."""
    networks = [network.full, network.base]
    if bench.runtime in _ON_CPU:
        networks.append(yardstick(dtype, bench.opset))
    tries: list[tuple[float, Timed, Timed]] = []
    while not tries or (len(tries) < TRIES and min(one[0] for one in tries) > UNDISTURBED * bench.fastest_ms[dtype]):
        if tries:
            time.sleep(PAUSE_S)
        full, base, *beside = time_networks(
            channel, bench.where, bench.runtime, networks, repeats=bench.repeats, precision=dtype
        )
        if not beside:
            return full, base, None
        beside_ms = beside[0].p50_ms
        bench.fastest_ms[dtype] = min(beside_ms, bench.fastest_ms.get(dtype, math.inf))
        tries.append((beside_ms, full, base))
    beside_ms, full, base = min(tries, key=lambda one: one[0])
    return full, base, beside_ms
