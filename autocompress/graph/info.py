"""The traced model with all that is known of it, and its plain-data summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from autocompress.core.model_info import BlockInfo, ChannelGroup, LayerInfo, ModelInfo
from autocompress.graph.blocks import Residual, residual_blocks
from autocompress.graph.couple import Coupling, couple
from autocompress.graph.layers import CONVOLUTIONS, aten_name, batch_of, call_macs, is_layer, layer_macs, layer_op
from autocompress.graph.trace import record_shapes, trace

_READS_WEIGHTS = (
    *CONVOLUTIONS,
    *("bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu", "linear", "embedding", "embedding_bag"),
    *("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "_weight_norm"),
)


@dataclass(frozen=True)
class Traced:
    """A lifted model, its coupled channels and its droppable blocks.

    Attributes:
        module: Never changed; copy before compressing.
        inputs: Example inputs with a batch of two.
    """

    module: fx.GraphModule
    inputs: tuple[Tensor, ...]
    coupling: Coupling
    blocks: tuple[Residual, ...]
    info: ModelInfo


def trace_model(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    resolutions: Sequence[float] = (1.0,),
    student_choices: Mapping[str, Sequence[str | int | float | bool]] | None = None,
    resolution: float = 1.0,
) -> Traced:
    """Traces a model and finds everything a space may decide on.

    Args:
        model: Left alone.
        example_inputs: Batch first.
        resolutions: Shares of the input side that are known to run; see `runnable_resolutions`.
        student_choices: Options of the user's student builder.
        resolution: The share of the input side the model works at; below 1 the graph begins with a resize, so that
            the compressed model takes the same inputs as the dense one.

    Raises:
        InputError: the forward fails on the example inputs.
        UnsupportedError: the model cannot be lifted.
    """
    module = trace(model, example_inputs) if resolution == 1.0 else _trace_resized(model, example_inputs, resolution)
    inputs = tuple(torch.cat([x[:1], x[:1]]) for x in example_inputs)
    coupling = couple(module)
    blocks = residual_blocks(module)
    layers = layer_infos(module)
    real = {layer.name for layer in layers}
    groups = tuple(
        ChannelGroup(
            group.name,
            len(group.roots),
            tuple(n for n in group.layers if n in real),
            tuple(n for n in group.readers if n in real),
            group.blocked_by,
        )
        for group in coupling.groups
        if group.name in real or group.name.split("#")[0] in real
    )
    info = ModelInfo(
        layers=layers,
        groups=groups,
        blocks=tuple(BlockInfo(block.name, block.layers) for block in blocks),
        params=sum(p.numel() for p in module.parameters()),
        macs=total_macs(module),
        resolutions=tuple(resolutions),
        student_choices=tuple((name, tuple(options)) for name, options in (student_choices or {}).items()),
    )
    return Traced(module, inputs, coupling, blocks, info)


def _trace_resized(model: nn.Module, example_inputs: tuple[Tensor, ...], share: float) -> fx.GraphModule:
    """Traces at a smaller side and puts the resize in front."""
    (image,) = example_inputs
    size = [resize_side(side, share) for side in image.shape[-2:]]
    module = trace(model, (nn.functional.interpolate(image, size=size, mode="bilinear"),))
    entry = module.graph.find_nodes(op="placeholder")[0]
    with module.graph.inserting_after(entry):
        smaller = module.graph.call_function(torch.ops.aten.upsample_bilinear2d.vec, (entry, size, False, None))
    entry.replace_all_uses_with(smaller, delete_user_cb=lambda user: user is not smaller)
    module.recompile()
    record_shapes(module, (torch.cat([image[:1], image[:1]]),))
    return module


def layer_infos(module: fx.GraphModule) -> tuple[LayerInfo, ...]:
    """Every layer in graph order, the ones that no op may touch with the reason."""
    result: dict[str, LayerInfo] = {}
    batch = batch_of(module)
    for node in module.graph.nodes:
        if not is_layer(module, node):
            continue
        name = str(node.target)
        macs = layer_macs(module, node)
        if name in result:
            seen = result[name]
            result[name] = LayerInfo(**{**vars(seen), "macs": seen.macs + macs, "calls": seen.calls + 1})
            continue
        layer: Any = module.get_submodule(name)
        source: Any = node.args[0]
        result[name] = LayerInfo(
            name=name,
            op=str(layer_op(layer)),
            weight_shape=tuple(layer.weight.shape),
            in_shape=_per_sample(source.meta["shape"], batch),
            out_shape=_per_sample(node.meta["shape"], batch),
            stride=tuple(getattr(layer, "stride", ())),
            groups=int(getattr(layer, "groups", 1)),
            macs=macs,
            params=sum(p.numel() for p in layer.parameters(recurse=False)),
            has_bias=getattr(layer, "bias", None) is not None,
        )
    for node in module.graph.nodes:
        for name, info in _bare_weights(module, node):
            result.setdefault(name, info)
    return tuple(result.values())


def _bare_weights(module: fx.GraphModule, node: fx.Node) -> list[tuple[str, LayerInfo]]:
    """Matrices that an operator reads directly: named, and left alone."""
    if node.op != "call_function":
        return []
    found = []
    for arg in node.all_input_nodes:
        if arg.op != "get_attr":
            continue
        value = _attribute(module, str(arg.target))
        if not isinstance(value, nn.Parameter) or value.dim() < 2 or min(value.shape[:2]) < 2:
            continue
        base = aten_name(node)
        name = str(arg.target).removesuffix(".weight")
        if base in _READS_WEIGHTS:
            shared = sum(1 for user in arg.users) > 1
            why = "its weights are shared with another layer" if shared else f"{base} is not a supported layer form"
            info = LayerInfo(name, base, tuple(value.shape), (), (), (), 1, 0, value.numel(), False, 1, why)
            found.append((name, info))
    return found


def _attribute(module: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _per_sample(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    return tuple(shape[1:]) if shape and shape[0] == batch else tuple(shape)


def total_macs(module: fx.GraphModule) -> int:
    """Multiply-accumulates of one sample: layers, those that could not be lifted too, and products of activations."""
    batch = batch_of(module)
    return sum(
        layer_macs(module, node) if is_layer(module, node) else call_macs(node, batch) for node in module.graph.nodes
    )


def resize_side(side: int, share: float) -> int:
    """The input side at a share of the resolution, a multiple of 2 where the full side is one."""
    step = 2 if side % 2 == 0 else 1
    return max(step, round(side * share / step) * step)


def runnable_resolutions(model: nn.Module, inputs: tuple[Tensor, ...], shares: Sequence[float]) -> tuple[float, ...]:
    """The shares of the input side at which the model runs and still returns outputs of the same shape.

    Only models with one image input (`[batch, channels, height, width]`) can be resized; others get `(1.0,)`.
    """
    if len(inputs) != 1 or inputs[0].dim() != 4 or not inputs[0].is_floating_point():
        return (1.0,)
    image = inputs[0][:1]
    was_training = model.training
    model.eval()
    result = []
    try:
        with torch.no_grad():
            expected = _shape_of(model(image))
            for share in shares:
                height, width = (resize_side(side, share) for side in image.shape[-2:])
                try:
                    smaller = nn.functional.interpolate(image, size=(height, width), mode="bilinear")
                    runs = _shape_of(model(smaller)) == expected
                except (RuntimeError, ValueError):
                    runs = False
                if runs or share == 1.0:
                    result.append(share)
    finally:
        model.train(was_training)
    return tuple(result)


def _shape_of(output: Any) -> Any:
    """Shapes of a tensor or of a tuple of tensors; anything else is refused by `trace`, in words."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    return tuple(tuple(o.shape) for o in output if isinstance(o, Tensor)) if isinstance(output, tuple | list) else None
