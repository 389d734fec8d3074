from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from autocompress.compress.apply import compress
from autocompress.compress.quantize import activation_quantizers
from autocompress.compress.rectified import rectified
from autocompress.core.plan import Plan, Quantize
from tests.graph.published import batch_like
from tests.graph.traced import traced
from tests.nets import NETS


def quantized(name: str) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    model = traced(name)
    layers = tuple((layer.name, (Quantize(4, 8),)) for layer in model.info.layers if layer.frozen_reason is None)
    module = compress(model, Plan(layers=layers)).module
    inputs = batch_like(model.inputs, 8, seed=2)
    quantizers = activation_quantizers(module)
    for quantizer in quantizers:
        quantizer.observe()
    with torch.no_grad():
        module(*inputs)
    for quantizer in quantizers:
        quantizer.freeze()
    return module, inputs


def relus(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "call_function" and "relu" in str(node.target)]


def step(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Outputs and gradients of one pass in training mode."""
    torch.manual_seed(0)
    module.train()
    outputs = module(*inputs)
    outputs.square().sum().backward()
    return outputs.detach(), {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("name", ["resnet20", *NETS])
def test_values_and_gradients_are_the_same(name: str) -> None:
    module, inputs = quantized(name)
    plain, plain_gradients = step(copy.deepcopy(module), inputs)
    names = list(module.state_dict())
    with rectified(module) as fused:
        outputs, _ = step(fused, inputs)
    assert torch.equal(outputs, plain)
    for path, parameter in module.named_parameters():
        expected = plain_gradients[path]
        assert (parameter.grad is None) == (expected is None)
        if expected is not None:
            assert torch.equal(parameter.grad, expected)
    assert list(module.state_dict()) == names
    assert not any(quantizer.rectifies for quantizer in activation_quantizers(module))


def test_relus_before_a_quantizer_are_taken_over() -> None:
    module, _ = quantized("resnet20")
    with rectified(module) as fused:
        left = relus(fused)
        taken = [quantizer for quantizer in activation_quantizers(module) if quantizer.rectifies]
    assert len(taken) == len(relus(module)) - len(left) > 0
    assert not left


def test_a_model_that_fails_is_left_as_it_was() -> None:
    module, _ = quantized("resnet20")
    with pytest.raises(RuntimeError), rectified(module):
        raise RuntimeError
    assert not any(quantizer.rectifies for quantizer in activation_quantizers(module))
