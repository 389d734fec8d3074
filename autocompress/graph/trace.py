"""A user's model as a lifted graph: an `fx.GraphModule` of layer modules and aten operators, free of the user's code.

`torch.export` gives the graph; layers with weights become ordinary modules under their original paths, everything
else stays an aten call. All that follows (cutting channels, quantizers, export, reloading) works on this form.
"""

from __future__ import annotations

import operator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from autocompress.errors import InputError, UnsupportedError
from autocompress.graph.attention import decompose_attention
from autocompress.graph.lift import LAYER_LIFTERS, attach

_ASSERTIONS = (
    "aten._assert_scalar.default",
    "aten._assert_async.msg",
    "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range_for_size.default",
    "aten.sym_constrain_range.default",
)
# How export writes the end of a slice that has none.
_ENDLESS = 2**62
_ALLOWED_PYTHON = {operator.add, operator.sub, operator.mul, operator.floordiv, operator.getitem}


def trace(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """Lifts a model into a graph of layers and aten operators; the model itself is left alone.

    Args:
        model: Any module whose forward `torch.export` can follow; traced in evaluation mode. One on the device `meta`
            has shapes and no weights, and so has what comes back; that it computes the same is then not checked.
        example_inputs: Inputs with the batch as the first dimension of each.

    Returns:
        A graph module in evaluation mode that computes the same, with `meta["shape"]` on every tensor node.

    Raises:
        InputError: the forward fails on the example inputs.
        UnsupportedError: the model cannot be exported, or does something the lifted form has no word for.
    """
    abstract = any(parameter.is_meta for parameter in model.parameters())
    with torch.device("meta") if abstract else nullcontext():
        pair = tuple(torch.cat([x[:1], x[:1]]).to("meta" if abstract else x.device) for x in example_inputs)
        _check_precision(model)
        was_training = model.training
        model.eval()
        try:
            expected = _check_forward(model, pair)
            program = _export(model, pair)
        finally:
            model.train(was_training)
        lifted = _lift(program)
        record_shapes(lifted, pair)
        changes = (decompose_attention, _free_the_layout, _free_the_batch, _drop_whole_slices)
        changed = [change(lifted) for change in changes]
        if any(changed):
            tidy(lifted)
            record_shapes(lifted, pair)
    if not abstract:
        _check_agreement(lifted, pair, expected)
    return lifted


def _check_precision(model: nn.Module) -> None:
    wrong = next((n for n, p in model.named_parameters() if p.is_floating_point() and p.dtype != torch.float32), None)
    if wrong is not None:
        dtype = str(dict(model.named_parameters())[wrong].dtype).removeprefix("torch.")
        raise InputError(f"parameter {wrong!r} is {dtype}; only float32 models can be compressed: call model.float()")


def _check_forward(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    try:
        with torch.no_grad():
            return model(*(x.clone() for x in inputs))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError) as error:
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the model's forward fails on the example inputs ({shapes}): {first}") from error


def _check_agreement(lifted: fx.GraphModule, inputs: tuple[Tensor, ...], expected: Any) -> None:
    """Refuses what would be lifted wrongly: changes in place that are seen through a view, random numbers."""
    with torch.no_grad():
        found = lifted(*inputs)
    pairs = [(found, expected)] if isinstance(expected, Tensor) else zip(found, expected, strict=True)
    for ours, theirs in pairs:
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise UnsupportedError(
                "the lifted graph does not compute what the model does; supported: forwards that give the same outputs "
                "every time and change no tensor in place through a view of it"
            )


def _export(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Exports with a free batch dimension; a model that export refuses is first traced with fx."""
    shapes = tuple({0: Dim.DYNAMIC} if x.dim() else None for x in inputs)
    problems: list[str] = []
    for how in ("export", "fx"):
        try:
            source = model if how == "export" else fx.symbolic_trace(model)
            return torch.export.export(source, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # noqa: BLE001  # torch.export raises anything the user's forward may raise
            text = str(error).strip().splitlines()
            problems.append(f"{how}: {type(error).__name__}: {text[0] if text else ''}")
    raise UnsupportedError(
        "the model cannot be turned into a graph with a free batch size (" + "; ".join(problems) + ")"
    )


def _lift(program: ExportedProgram) -> fx.GraphModule:
    lifter = _Lifter(program)
    for node in program.graph.nodes:
        lifter.visit(node)
    module = fx.GraphModule(lifter.root, lifter.graph, class_name="LiftedModel")
    module.eval()
    tidy(module)
    return module


def _free_the_layout(module: fx.GraphModule) -> bool:
    """Writes `view` as `reshape`, which computes the same and also works where images lie channels last."""
    names = ("aten.view.default", "aten._unsafe_view.default")
    views = [node for node in module.graph.nodes if str(node.target) in names]
    for node in views:
        node.target = torch.ops.aten.reshape.default
    return bool(views)


def _free_the_batch(module: fx.GraphModule) -> bool:
    """Writes `reshape(x, [batch, 64])` as `reshape(x, [-1, 64])`, which asks for no size at run time."""
    changed = False
    for node in module.graph.nodes:
        if str(node.target) != "aten.reshape.default":
            continue
        sizes = list(node.args[1])
        symbolic = [i for i, size in enumerate(sizes) if isinstance(size, fx.Node)]
        if len(symbolic) == 1:
            fixed = node.meta["shape"]
            sizes = [fixed[i] if size == -1 else size for i, size in enumerate(sizes)]
            sizes[symbolic[0]] = -1
            node.args = (node.args[0], sizes)
            changed = True
    return changed


def _drop_whole_slices(module: fx.GraphModule) -> bool:
    """Removes `x[:]`: of `x[:, :, ::2]` export makes three slices, two of which take everything."""
    whole = []
    for node in module.graph.nodes:
        if str(node.target) == "aten.slice.Tensor":
            given: list[Any] = list(node.args[2:])
            start, stop, step = given + [None, None, 1][len(given) :]
            endless = stop is None or (isinstance(stop, int) and stop >= _ENDLESS)
            if start in (None, 0) and endless and step == 1:
                whole.append(node)
    for node in whole:
        node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)
    return bool(whole)


def tidy(module: fx.GraphModule) -> None:
    """Removes what no output needs, nodes and modules alike, and rebuilds the code of the graph."""
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()


class _Lifter:
    """Copies an exported graph node by node, turning layer calls into modules."""

    def __init__(self, program: ExportedProgram) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.env: dict[fx.Node, fx.Node] = {}
        self.state: dict[str, tuple[str, Tensor, bool]] = {}
        self.calls: dict[str, tuple[Any, ...]] = {}
        self.program = program
        specs = program.graph_signature.input_specs
        values: dict[str, Any] = {**program.state_dict, **program.constants}
        for spec in specs:
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                target = str(spec.target)
                trainable = spec.kind == InputKind.PARAMETER
                self.state[spec.arg.name] = (target, values[target].detach().clone(), trainable)
        self.readers = dict.fromkeys(self.state, 0)
        for node in program.graph.nodes:
            for used in node.all_input_nodes:
                if used.name in self.readers:
                    self.readers[used.name] += 1

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if node.name not in self.state:
                self.env[node] = self.graph.placeholder(node.name)
            return
        if node.op == "output":
            self.graph.output(self._outputs(node))
            return
        target = str(node.target)
        if target in _ASSERTIONS:
            return
        lifted = self._lift_layer(node)
        if lifted is None:
            lifted = self._copy(node)
        self.env[node] = lifted
        if target.startswith("aten.") and target.split(".")[1].endswith("_") and not target.startswith("aten.__"):
            changed: Any = node.args[0]
            if changed.name in self.state:
                path = self.state[changed.name][0]
                raise UnsupportedError(f"the forward changes the buffer {path!r} in evaluation mode; not supported")
            # An in-place call changes its first argument: whoever reads that one later reads the result.
            self.env[changed] = lifted

    def _outputs(self, node: fx.Node) -> Any:
        flat = [self._value(arg) for arg in node.args[0]]  # type: ignore[union-attr]
        spec = self.program.call_spec.out_spec
        if spec is None or spec.is_leaf():
            return flat[0]
        if spec.type in (tuple, list) and all(child.is_leaf() for child in spec.children()):
            return tuple(flat)
        kind = getattr(spec.type, "__name__", spec.type)
        raise UnsupportedError(f"the model returns a {kind}; supported: a tensor or a tuple of tensors")

    def _value(self, arg: Any) -> Any:
        return fx.node.map_arg(arg, self._node)

    def _node(self, node: fx.Node) -> fx.Node:
        if node in self.env:
            return self.env[node]
        path, tensor, trainable = self.state[node.name]
        attach(self.root, path, nn.Parameter(tensor) if trainable and tensor.is_floating_point() else tensor)
        self.env[node] = self.graph.get_attr(path)
        return self.env[node]

    def _lift_layer(self, node: fx.Node) -> fx.Node | None:
        lifter = LAYER_LIFTERS.get(str(node.target))
        if lifter is None:
            return None
        built = lifter(node, self.state)
        if built is None:
            return None
        path, module, key = built
        shared_elsewhere = any(
            self.readers[used.name] > 1 and self.state[used.name][2] and self._tied(used, node)
            for used in node.all_input_nodes
            if used.name in self.state
        )
        if shared_elsewhere:
            return None
        path = path or f"layers.{node.name}"
        if path in self.calls and self.calls[path] != key:
            return None
        if path not in self.calls:
            attach(self.root, path, module)
            self.calls[path] = key
        # An embedding is called as (weights, indices), every other layer as (input, weights, ...).
        inputs = node.args[1] if key[0] == "embedding" else node.args[0]
        return self.graph.call_module(path, (self._value(inputs),))

    def _tied(self, weight: fx.Node, call: fx.Node) -> bool:
        """True if the weight is also read by something that is not the same call of the same layer."""
        return any(user.target is not call.target or user.args[1:] != call.args[1:] for user in weight.users)

    def _copy(self, node: fx.Node) -> fx.Node:
        target: Any = node.target
        name = str(target)
        if node.op != "call_function":
            raise UnsupportedError(f"operator {node.op} {name} at {node.name} has no place in a lifted graph")
        if name == "aten.sym_size.int":
            return self.graph.call_method("size", (self._value(node.args[0]), node.args[1]))
        if name.startswith("aten."):
            target = _functional(target, name)
        elif target not in _ALLOWED_PYTHON and not isinstance(target, torch._ops.OpOverload):
            raise UnsupportedError(f"operator {name} at {node.name} is not supported in a lifted graph")
        return self.graph.call_function(target, self._value(node.args), self._value(node.kwargs))


def _functional(target: Any, name: str) -> Any:
    """The operator that returns instead of changing in place."""
    _, base, overload = name.split(".", 2)
    if not base.endswith("_") or base.startswith("__"):
        return target
    packet = getattr(torch.ops.aten, base.rstrip("_"), None)
    if packet is None or overload not in packet.overloads():
        raise UnsupportedError(f"the in-place operator {name} is not supported; use its out-of-place form")
    return getattr(packet, overload)


class _ShapeRecorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
            n.meta["dtype"] = result.dtype
        elif isinstance(result, (tuple, list)) and all(isinstance(r, Tensor) for r in result):
            n.meta["shapes"] = tuple(tuple(r.shape) for r in result)
        elif isinstance(result, int):
            n.meta["int"] = result
        return result


def record_shapes(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """Runs the graph once and writes `meta["shape"]` (with the batch of `inputs`) on every tensor node."""
    with torch.no_grad():
        _ShapeRecorder(module).run(*inputs)
