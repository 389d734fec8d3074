import pytest
import torch
from torch import Tensor, nn

from autocompress.core.rules import build_space, load_rules
from autocompress.graph.couple import Channels
from autocompress.graph.info import trace_model
from tests.graph.published import ALL, net
from tests.graph.traced import group, traced


def table(name: str) -> dict[str, tuple[int, str | None]]:
    return {g.name: (len(g.roots), g.blocked_by) for g in traced(name).coupling.groups}


def test_resnet20_splits_its_stream_where_zeros_were_padded() -> None:
    groups = traced("resnet20").coupling.groups
    assert len(groups) == 13
    # One stream of 64 channels: 16 from the start, 16 more behind the first padding, 32 more behind the second.
    assert [(g.name, len(g.roots)) for g in groups if "layer3.2.conv2" in g.layers] == [
        ("conv1", 16),
        ("layer2.0.conv2", 16),
        ("layer3.0.conv2", 32),
    ]
    assert [g.name for g in groups if g.blocked_by] == ["linear"]
    assert {layer for g in groups for layer in g.layers if "conv" in layer} == {
        layer.name for layer in traced("resnet20").info.layers if layer.op == "conv2d"
    }


def test_depthwise_layers_go_with_the_layer_before() -> None:
    found = group("mobilenet", "2.expand.0")
    assert (len(found.roots), found.layers) == (32, ("2.expand.0", "2.expand.1", "2.depthwise.0", "2.depthwise.1"))
    assert found.readers == ("2.depthwise.0", "2.project.0")


def test_concatenated_channels_are_decided_one_by_one() -> None:
    assert table("densenet")["0.1.conv"] == (8, None)
    assert group("densenet", "0.1.conv").readers == ("0.2.conv", "0.3.conv", "1.0")
    assert all(reason is None for name, (_, reason) in table("densenet").items() if name != "4.fc")


def test_skip_connections_and_upsampling() -> None:
    found = group("unet", "down2.0.0")
    assert set(found.readers) == {"middle.0.0", "merge2.0.0"}
    assert table("transposed_unet")["up1"] == (4, None), "a transposed convolution in two groups is cut alike in both"


@pytest.mark.parametrize(
    ("name", "layer", "heads"),
    [
        ("text_encoder", "encoder.layers.0.self_attn.in_proj", 4),
        ("attention", "blocks.1.qkv", 4),
        ("timm_transformer", "attention.qkv", 3),
        ("separate_attention", "query", 4),
        ("sequence_first", "attention.in_proj", 4),
    ],
)
def test_attention_is_cut_by_whole_heads(name: str, layer: str, heads: int) -> None:
    assert table(name)[layer] == (heads, None)


def test_query_key_and_value_go_together() -> None:
    assert group("separate_attention", "query").layers == ("query", "key", "value")


def test_shuffled_channels() -> None:
    # Three groups shuffled into three groups of eight: the permutation links every channel to every other.
    assert table("shufflenet")["2.reduce.0"] == (1, "the channels of layer 2.reduce.0 stand or fall together")
    assert table("shufflenet")["0.0"] == (8, None)
    # Halves that are interleaved: each stays a decision of its own.
    assert [n for name, (n, _) in table("shufflenet_v2").items() if name.startswith("stem")] == [4, 4, 8]


def test_gates_multiply_the_channels_they_belong_to() -> None:
    assert group("senet", "0.0").layers == ("0.0", "0.1", "2.conv.0", "2.conv.1", "2.excite")
    assert table("senet")["2.squeeze"] == (4, None)


def test_grouped_layers_are_cut_alike_in_every_group() -> None:
    assert table("resnext")["2.conv1.0"] == (4, None)
    assert table("bare_weights")["first"] == (4, None), "three groups that read the image"


def test_group_norm_keeps_its_groups_whole() -> None:
    assert (table("groupnorm")["0"], table("groupnorm")["4"]) == ((4, None), (8, None))
    assert table("instance_norm")["second"] == (16, None), "as many groups as channels"


def test_linear_layers_over_tokens_leave_the_channels_alone() -> None:
    assert table("mlp_mixer")["enter"] == (24, None)
    assert table("mlp_mixer")["tokens1"] == (40, None)


@pytest.mark.parametrize(
    ("name", "layer", "words"),
    [
        ("resnet20", "linear", "model output"),
        ("text_encoder", "embedding", "layer_norm (layer_norm_default) normalises over it"),
        ("pixel_shuffle", "second", "pixel_shuffle (pixel_shuffle_default)"),
        ("attend", "first", "mean (mean_dim_1)"),
        ("attend", "map", "mul (mul_tensor_1) repeats its only channel"),
        ("conv_mixer", "enter", "layer first slides over it"),
        ("mlp_mixer", "tokens2", "add (add_tensor) meets a tensor of fixed size"),
    ],
)
def test_what_is_blocked_names_the_operator(name: str, layer: str, words: str) -> None:
    assert table(name)[layer][1] == words


class Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sort(self.body(x), dim=-1)[0])


def test_an_operator_without_a_rule_blocks_by_name() -> None:
    groups = trace_model(Sorting().eval(), (torch.randn(2, 6),)).coupling.groups
    assert {g.name: g.blocked_by for g in groups} == {"body": "sort (sort_default)", "head": "model output"}


@pytest.mark.parametrize("name", ALL)
def test_groups_hold_every_layer_and_no_channel_twice(name: str) -> None:
    result = traced(name)
    groups: tuple[Channels, ...] = result.coupling.groups
    roots = [root for g in groups for root in g.roots]
    assert len(roots) == len(set(roots))
    assert len({g.name for g in groups}) == len(groups)
    made = {layer for g in groups for layer in g.layers}
    assert made >= {layer.name for layer in result.info.layers if layer.frozen_reason is None}
    assert all(g.blocked_by is not None or len(g.roots) > 1 for g in groups)


TORCH_PRUNING = (
    "mobilenet",
    "densenet",
    "senet",
    "unet",
    "lenet",
    "bottleneck_resnet",
    "vgg",
    "mobilenet_v3",
    "inception",
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TORCH_PRUNING)
def test_the_same_layers_go_together_as_in_torch_pruning(name: str) -> None:
    pruning = pytest.importorskip("torch_pruning")
    model, inputs = net(name)
    paths = {module: path for path, module in model.named_modules()}
    graph = pruning.DependencyGraph().build_dependency(model, inputs)
    for found in traced(name).coupling.groups:
        if found.blocked_by is not None:
            continue
        root = model.get_submodule(found.layers[0])
        theirs = graph.get_pruning_group(
            root,
            pruning.prune_conv_out_channels
            if isinstance(root, nn.Conv2d)
            else graph.get_pruner_of_module(root).prune_out_channels,
            idxs=[0],
        )
        outputs, readers = set(), set()
        for dependency, _ in theirs:
            path = paths.get(dependency.target.module)
            if path is None:
                continue
            is_output = graph.is_out_channel_pruning_fn(dependency.handler)
            (outputs if is_output else readers).add(path)
        depthwise = {p for p in outputs if getattr(model.get_submodule(p), "groups", 1) > 1}
        assert outputs == set(found.layers), found.name
        assert readers | depthwise == set(found.readers), found.name


JOINT = load_rules("joint")


@pytest.mark.parametrize("name", ALL)
def test_the_default_space_offers_every_group_that_is_free(name: str) -> None:
    info = traced(name).info
    offered = {decision.target for decision in build_space(JOINT, info).decisions if decision.kind == "prune"}
    free = {group.name: group.channels for group in info.groups if group.blocked_by is None}
    assert offered <= set(free)
    assert {name for name, channels in free.items() if channels >= 8} <= offered
