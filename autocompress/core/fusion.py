"""What runtimes make of a network: which operators they run as one kernel, and which they do not run at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autocompress.core.chains import Chains, dtype_of, sibling_key
from autocompress.core.fusion_rules import ACTIVATIONS, Fusion
from autocompress.core.kernel import Kernel
from autocompress.core.network import Network, Operator
from autocompress.core.rewrites import without_identities, without_repetitions, without_zeros

# The plans of one model have most operators in common: what runs as one kernel is found by which operators it is.
_MOST_LAUNCHES = 1 << 14
_launches: dict[tuple[int, ...], _Launch] = {}


@dataclass(frozen=True)
class Step:
    """One kernel, or None where nothing is launched, with the operators it covers.

    Attributes:
        writes: The tensors it stores.
        reads: The stored tensors it needs.
    """

    kernel: Kernel | None
    operators: tuple[Operator, ...]
    writes: tuple[str, ...]
    reads: tuple[str, ...]


def fuse(network: Network, fusion: Fusion) -> tuple[Step, ...]:
    """The kernels a runtime launches for a network, in order, at batch 1."""
    network = without_identities(network)
    if fusion.zeros != "run":
        network = without_zeros(network, through=fusion.zeros == "dropped")
    if fusion.repeated:
        network = without_repetitions(network)
    chains = Chains(network, fusion)
    launches = [_launch_of(chain) for chain in chains.found()]
    if chains.siblings:
        launches = _merged(launches)
    # A kernel that takes an addition along runs when the other operand is there; siblings run with the first of them.
    launches.sort(key=lambda launch: min([chains.place[name] for name in launch.writes]))
    counts = zip(_branch_reads(network, launches), _mixed_reads(launches), strict=True)
    sources: dict[str, tuple[str, ...]] = dict.fromkeys(network.inputs, ("input",))
    steps = []
    for launch, (inside, mixed) in zip(launches, counts, strict=True):
        read_from = _sources(launch, sources)
        step = launch.step(fusion, inside, mixed, read_from)
        written = _source(step.kernel) or read_from
        for name in step.writes:
            sources[name] = written
        steps.append(step)
    return tuple(steps)


def launched(network: Network, fusion: Fusion) -> tuple[Kernel, ...]:
    """The kernels alone of what `fuse` gives."""
    return tuple([step.kernel for step in fuse(network, fusion) if step.kernel is not None])


@dataclass(frozen=True, eq=False)
class _Launch:
    """What runs as one kernel: an operator with what it takes along, and siblings that do the same beside it.

    Attributes:
        rounded: For every stored tensor that is read, and the shape it is read in, whether it is rounded to 8 bits.
        writes: The tensors it stores.
        reads: The stored tensors that are read.
        window: Of a convolution.
        steps: What was made of it so far.
    """

    chains: tuple[Sequence[Operator], ...]
    rounded: Mapping[tuple[str, tuple[int, ...]], bool]
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    window: tuple[int, ...] | None
    steps: dict[tuple[object, ...], Step]

    @property
    def head(self) -> Operator:
        return self.chains[0][0]

    def step(self, fusion: Fusion, branch_reads: int, mixed_reads: int, sources: tuple[str, ...]) -> Step:
        """The step that it is among others; one that was made before is found."""
        among = (fusion.concat_in_place, branch_reads, mixed_reads, sources)
        step = self.steps.get(among)
        if step is None:
            step = self.steps[among] = _step(self, fusion, branch_reads, mixed_reads, sources)
        return step


def _launch_of(chain: Sequence[Operator]) -> _Launch:
    """A chain with what it reads from outside; that of the same operators is found again.

    What is kept holds its operators, so that no other can have their identities.
    """
    key = tuple(map(id, chain))
    launch = _launches.get(key)
    if launch is None:
        if len(_launches) >= _MOST_LAUNCHES:
            _launches.clear()
        launch = _launches[key] = _new_launch(chain)
    return launch


def _new_launch(chain: Sequence[Operator]) -> _Launch:
    found: dict[tuple[str, tuple[int, ...]], bool] = {}
    before = ""
    for operator in chain:
        if operator.reads != (before,):
            rounded = operator.rounded_reads or (False,) * len(operator.reads)
            for name, shape, is_rounded in zip(operator.reads, operator.in_shapes, rounded, strict=True):
                if name != before:
                    found.setdefault((name, shape), is_rounded)
        before = operator.name
    head = chain[0]
    window = head.weight_shape[2:] if head.op == "conv2d" and head.weight_shape is not None else None
    return _Launch((tuple(chain),), found, (chain[-1].name,), tuple(dict.fromkeys([n for n, _ in found])), window, {})


def _branch_reads(network: Network, launches: Sequence[_Launch]) -> list[int]:
    """Counts for every kernel what it reads inside a branch: tensors that another path to the output passes by.

    What a sum reads, and what an activation wrote, was read when it was made.
    """
    last = {name: index for index, launch in enumerate(launches) for name, _ in launch.rounded}
    last |= dict.fromkeys(network.outputs, len(launches))
    read_last: list[list[str]] = [[] for _ in range(len(launches) + 1)]
    for name, index in last.items():
        read_last[index].append(name)
    live = {name for name in network.inputs if name in last}
    inside: set[str] = set()
    counts = []
    for index, launch in enumerate(launches):
        head = launch.head
        counts.append(sum([name in inside for name in head.reads]) if inside and head.aten != "add" else 0)
        live.difference_update(read_last[index])
        if (live or len(launch.writes) > 1) and head.aten not in ACTIVATIONS:
            inside.update(launch.writes)
        live.update([name for name in launch.writes if last.get(name, 0) > index])
    return counts


def _mixed_reads(launches: Sequence[_Launch]) -> list[int]:
    """Counts for every convolution whether one of another window reads the same tensor before it.

    Runtimes choose a layout for each, so that such a tensor is there in two.
    """
    first: dict[str, tuple[int, ...]] = {}
    return [
        0 if launch.window is None else int(first.setdefault(launch.head.reads[0], launch.window) != launch.window)
        for launch in launches
    ]


def _step(launch: _Launch, fusion: Fusion, branch_reads: int, mixed_reads: int, sources: tuple[str, ...]) -> Step:
    """The kernel of a launch; siblings are one that writes all their channels."""
    chain, chains = launch.chains[0], launch.chains
    operators = tuple(chain) if len(chains) == 1 else tuple(one for each in chains for one in each)
    head, out_shape, weight_shape = chain[0], chain[-1].out_shape, chain[0].weight_shape
    if head.aten == "cat" and fusion.concat_in_place:
        return Step(None, operators, launch.writes, launch.reads)
    layer = head.layer or head.name
    if len(chains) > 1 and weight_shape is not None:
        layer = "+".join(each[0].layer or each[0].name for each in chains)
        outputs = sum(each[-1].out_shape[0] for each in chains)
        out_shape, weight_shape = (outputs, *out_shape[1:]), (outputs, *weight_shape[1:])
    kernel = Kernel(
        op=head.op,
        layer=layer,
        dtype=dtype_of(head, tuple(launch.rounded.values()), any(operator.is_rounded for operator in operators)),
        in_shapes=tuple([shape for _, shape in launch.rounded]),
        out_shape=out_shape,
        weight_shape=weight_shape,
        stride=head.stride,
        dilation=head.dilation,
        groups=head.groups,
        fused=tuple([operator.aten for operator in chain[1:]]),
        macs=sum([operator.macs for operator in operators]),
        aten=head.aten,
        window=head.window,
        branch_reads=branch_reads,
        mixed_reads=mixed_reads,
        sources=sources,
    )
    return Step(kernel, operators, launch.writes, launch.reads)


def _source(kernel: Kernel | None) -> tuple[str, ...]:
    """How a kernel is named as a source: what is asked to run in 16 bits may run in 32, so neither is said."""
    if kernel is None:
        return ()
    return (f"{kernel.op} int8" if kernel.dtype == "int8" else kernel.op,)


def _sources(launch: _Launch, sources: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What wrote what a kernel reads, each once, in order of their names."""
    if len(launch.reads) == 1:
        return sources.get(launch.reads[0], ())
    return tuple(sorted({source for name in launch.reads for source in sources.get(name, ())}))


def _merged(launches: Sequence[_Launch]) -> list[_Launch]:
    """Siblings that take the same along, together."""
    groups: dict[object, list[_Launch]] = {}
    for launch in launches:
        (chain,) = launch.chains
        key = sibling_key(chain[0]) if len(launch.reads) == 1 else None
        taken = (key, tuple([operator.aten for operator in chain[1:]])) if key else launch.writes
        groups.setdefault(taken, []).append(launch)
    return [group[0] if len(group) == 1 else _side_by_side(group) for group in groups.values()]


def _side_by_side(group: Sequence[_Launch]) -> _Launch:
    return replace(
        group[0],
        chains=tuple(chain for launch in group for chain in launch.chains),
        writes=tuple(name for launch in group for name in launch.writes),
        steps={},
    )
