"""What runtimes make of a network: which operators they run as one kernel, and which they do not run at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from autocompress.core.kernel import Kernel
from autocompress.core.network import Network, Operator
from autocompress.core.rewrites import without_identities, without_repetitions, without_zeros

_ACTIVATIONS = (
    *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "gelu", "silu", "sigmoid", "tanh", "hardswish"),
    *("hardsigmoid", "leaky_relu", "elu", "mish"),
)


@dataclass(frozen=True)
class Fusion:
    """The rules of one runtime.

    Attributes:
        norms: Batch norms are folded into the layer before them.
        activations: What a layer takes along.
        additions: The dtypes in which a layer takes along one addition.
        sum_activations: An addition takes along its activation.
        pointwise: Elementwise operators in a row are one kernel.
        siblings: Convolutions of one window that read one tensor are one wider convolution.
        concat_in_place: What is concatenated is written to its place at once.
        repeated: An operator that is written twice runs once.
        zeros: `run` like anything else; `skipped`: a sum leaves them out; `dropped`: what only zeros flow through
            does not run either.
    """

    norms: bool = False
    activations: tuple[str, ...] = ()
    additions: tuple[str, ...] = ()
    sum_activations: bool = False
    pointwise: bool = False
    siblings: bool = False
    concat_in_place: bool = False
    repeated: bool = False
    zeros: str = "run"


# Sources: TensorRT developer guide ("Types of fusions": convolution and activation, pointwise, scale; horizontal
# merges and elimination of concatenations in "TensorRT: programmable inference accelerator"); ONNX Runtime's graph
# optimizations (ConvBN, ConvActivation, ConvAddActivation in fp32, CommonSubexpressionElimination; quantized sums are
# QLinearAdd, with clipping inside); OpenVINO's CPU plugin (convolutions with simple layers and sums, chains of
# element-wise ones; concatenations cost nothing); LiteRT's fused_activation_function of convolutions and sums.
FUSIONS: Mapping[str, Fusion] = {
    "tensorrt": Fusion(
        norms=True,
        activations=_ACTIVATIONS,
        additions=("fp32", "fp16", "int8"),
        sum_activations=True,
        pointwise=True,
        siblings=True,
        concat_in_place=True,
        repeated=True,
        zeros="dropped",
    ),
    "tensorrt-vertical": Fusion(
        norms=True,
        activations=_ACTIVATIONS,
        additions=("fp32", "fp16", "int8"),
        sum_activations=True,
        concat_in_place=True,
        zeros="skipped",
    ),
    "onnxruntime": Fusion(
        norms=True, activations=_ACTIVATIONS, additions=("fp32", "fp16"), sum_activations=True, repeated=True
    ),
    "openvino": Fusion(
        norms=True,
        activations=_ACTIVATIONS,
        additions=("fp32", "int8"),
        sum_activations=True,
        pointwise=True,
        concat_in_place=True,
        repeated=True,
    ),
    "litert": Fusion(
        norms=True,
        activations=("relu", "relu6", "hardtanh", "clamp", "clamp_min"),
        sum_activations=True,
    ),
    "eager": Fusion(),
}
RUNTIMES = tuple(FUSIONS)
# The plans of one model have most operators in common: what runs as one kernel is found by which operators it is.
_MOST_LAUNCHES = 1 << 14
_launches: dict[tuple[int, ...], _Launch] = {}
ZEROS = ("run", "skipped", "dropped")


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
    chains = _Chains(network, fusion)
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
        if (live or len(launch.writes) > 1) and head.aten not in _ACTIVATIONS:
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
        dtype=_dtype_of(head, tuple(launch.rounded.values()), any(operator.is_rounded for operator in operators)),
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


class _Chains:
    """Finds the operators that run as one kernel: a head and what it takes along, one after another."""

    def __init__(self, network: Network, fusion: Fusion) -> None:
        self.operators, self.users, self.fusion = network.operators, network.users, fusion
        self.place = {operator.name: place for place, operator in enumerate(network.operators)}
        self.done: set[int] = set()
        alike: dict[object, list[str]] = {}
        for operator in network.operators if fusion.siblings else ():
            if operator.op == "conv2d" and not (operator.reads and len(self.users[operator.reads[0]]) == 1):
                alike.setdefault(_sibling_key(operator), []).append(operator.name)
        self.siblings = {name for key, names in alike.items() if key and len(names) > 1 for name in names}

    @cached_property
    def needs(self) -> Sequence[int]:
        """Bit n of an entry: the operator depends on operator n."""
        needs: list[int] = []
        for place, operator in enumerate(self.operators):
            bits = 1 << place
            for name in operator.reads:
                if name in self.place:
                    bits |= needs[self.place[name]]
            needs.append(bits)
        return needs

    def found(self) -> list[list[Operator]]:
        """The operators of every kernel."""
        chains = []
        for place in range(len(self.operators)):
            if place not in self.done:
                chain = self._chain(place)
                self.done.update(chain)
                chains.append([self.operators[each] for each in chain])
        return chains

    def _chain(self, head: int) -> list[int]:
        chain, added = [head], False
        while True:
            users = self.users.get(self.operators[chain[-1]].name, ())
            if len(users) != 1 or users[0] >= len(self.operators) or users[0] in self.done:
                return chain
            user = self.operators[users[0]]
            is_add = user.aten == "add"
            if not self._takes(self.operators[head], chain, user, added):
                return chain
            added = added or is_add
            chain.append(users[0])

    def _takes(self, head: Operator, chain: list[int], user: Operator, added: bool) -> bool:
        last = self.operators[chain[-1]]
        if head.is_layer:
            if last.aten in self.fusion.activations:
                return False
            if user.aten == "batch_norm":
                return self.fusion.norms and len(chain) == 1
            if user.aten in self.fusion.activations:
                return True
            fits = user.aten == "add" and not added and head.name not in self.siblings
            return fits and _dtype(head) in self.fusion.additions and self._is_ready(user, chain)
        if self.fusion.pointwise and _is_pointwise(head) and _is_pointwise(user):
            return user.out_shape == last.out_shape and self._is_ready(user, chain)
        return self.fusion.sum_activations and last.aten == "add" and user.aten in self.fusion.activations

    def _is_ready(self, user: Operator, chain: list[int]) -> bool:
        """True if what else it reads has the same shape and does not wait for the kernel itself."""
        last = self.operators[chain[-1]]
        for name, shape in zip(user.reads, user.in_shapes, strict=True):
            if shape != last.out_shape or (name != last.name and self._waits_for(name, chain)):
                return False
        return True

    def _waits_for(self, name: str, chain: list[int]) -> bool:
        """True if a tensor depends on an operator of a kernel; what is written before it does not."""
        place = self.place.get(name, -1)
        return place > chain[0] and bool(self.needs[place] & sum(1 << each for each in chain))


def _is_pointwise(operator: Operator) -> bool:
    return operator.op == "elementwise" or operator.aten == "batch_norm"


def _dtype(operator: Operator) -> str:
    return _dtype_of(operator, operator.rounded_reads, True)


def _dtype_of(head: Operator, rounded_reads: Sequence[bool], writes_rounded: bool) -> str:
    """`int8` where every activation is rounded to 8 bits and the weight is stored in 8 bits or less.

    As files are written: of convolutions only those that write 8 bits, and none that is transposed.
    """
    rounded = bool(rounded_reads) and all(rounded_reads)
    if head.weight_shape is None:
        return "int8" if rounded else "fp32"
    is_float = head.op == "conv_transpose2d" or (head.op.startswith("conv") and not writes_rounded)
    if head.weight_dtype == "int8":
        return "int8" if rounded and not is_float else "fp32"
    return head.weight_dtype


def _sibling_key(operator: Operator) -> tuple[object, ...] | None:
    if operator.op != "conv2d" or operator.groups != 1:
        return None
    sizes = ((operator.weight_shape or ())[2:], operator.stride, operator.dilation, operator.out_shape[1:])
    return (operator.reads, *sizes, operator.weight_dtype, operator.rounded_reads)


def _merged(launches: Sequence[_Launch]) -> list[_Launch]:
    """Siblings that take the same along, together."""
    groups: dict[object, list[_Launch]] = {}
    for launch in launches:
        (chain,) = launch.chains
        key = _sibling_key(chain[0]) if len(launch.reads) == 1 else None
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
