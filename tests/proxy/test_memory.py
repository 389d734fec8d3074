"""Peak memory against counting, before every kernel, what was made and is still to be read."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from autocompress.compress.apply import compress
from autocompress.core.fusion import fuse
from autocompress.core.fusion_rules import FUSIONS
from autocompress.core.plan import Plan, Quantize
from autocompress.graph.info import trace_model
from autocompress.graph.kernels import base_name, is_quantizer, network_of
from autocompress.proxy.memory import peak_activation_bytes
from tests.graph.traced import traced


def peak(module: fx.GraphModule, precision: str) -> int:
    network = network_of(module)
    return peak_activation_bytes(network, fuse(network, FUSIONS["onnxruntime"]), precision)


def counted(module: fx.GraphModule, element_bytes: dict[fx.Node, int], default: int) -> int:
    """The peak by brute force: at every kernel, all tensors that this or a later kernel reaches through views."""
    order = fuse(network_of(module), FUSIONS["onnxruntime"])
    by_name = {node.name: node for node in module.graph.nodes}
    stored = [node for node in module.graph.nodes if node.op == "placeholder"]
    stored += [by_name[name] for step in order for name in step.writes]
    covered = {by_name[one.name]: index for index, step in enumerate(order) for one in step.operators}

    def last_use(tensor: fx.Node) -> int:
        uses, stack = [-1], list(tensor.users)
        while stack:
            user = stack.pop()
            if user.op == "output":
                uses.append(len(order))
            elif user in covered:
                uses.append(covered[user])
            else:
                stack.extend(user.users)
        return max(uses)

    born = {node: -1 if node.op == "placeholder" else covered[node] for node in stored}
    size = {n: math.prod(n.meta["shape"]) // 2 * element_bytes.get(n, default) for n in stored}
    peaks = [sum(size[n] for n in stored if born[n] <= now <= max(last_use(n), born[n])) for now in range(len(order))]
    return max(peaks)


MOVED = [
    "slice",
    "pad",
    "permute",
    "transpose",
    "view",
    "reshape",
    "unflatten",
    "unsqueeze",
    "squeeze",
    "select",
    "unbind",
    "expand",
    "contiguous",
]
MOVED += ["getitem", "flatten", "clone"]
NETS = [
    "mobilenet",
    "densenet",
    "unet",
    "attention",
    "resnet20",
    "shufflenet_v2",
    "inception",
    "text_cnn",
    "separate_attention",
]


@pytest.mark.parametrize("name", NETS)
def test_peak_agrees_with_brute_force(name: str) -> None:
    module = traced(name).module
    assert peak(module, "fp32") == counted(module, {}, 4)
    assert peak(module, "fp16") == counted(module, {}, 2)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        return self.second(y).flatten(1)


def test_a_chain_holds_two_tensors_at_a_time() -> None:
    module = trace_model(Chain().eval(), (torch.randn(1, 1, 8, 8),)).module
    # The activation is fused; at the second layer its input (4 x 64) and its output (2 x 64) live.
    assert peak(module, "fp32") == (4 + 2) * 64 * 4


def test_a_skip_connection_lives_until_it_is_read() -> None:
    module = traced("unet").module
    plain = 3 * 32 * 32 + 8 * 32 * 32
    assert peak(module, "fp32") > plain * 4


@pytest.mark.parametrize("name", ["mobilenet", "resnet20", "attention"])
def test_rounded_activations_take_one_byte(name: str) -> None:
    result = traced(name)
    plan = Plan(layers=tuple((layer.name, (Quantize(8, 8, range="minmax"),)) for layer in result.info.layers))
    module = compress(result, plan, weights=False).module
    rounded: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        # What only moves values, or looks at them in another shape, keeps them rounded.
        moved = node.op == "call_function" and base_name(node) in MOVED and node.all_input_nodes[0] in rounded
        if moved or is_quantizer(module, node) or (node.users and all(is_quantizer(module, u) for u in node.users)):
            rounded[node] = 1
    assert peak(module, "fp32") == counted(module, rounded, 4)
    assert peak(module, "fp32") < peak(result.module, "fp32")
