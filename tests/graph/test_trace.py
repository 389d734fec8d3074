import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.errors import InputError, UnsupportedError
from autocompress.graph.info import layer_infos, runnable_resolutions, trace_model
from autocompress.graph.kernels import network_of
from autocompress.graph.trace import trace
from tests.graph.published import ALL, batch_like, net
from tests.graph.traced import traced


@pytest.mark.parametrize("name", ALL)
def test_lifted_graph_computes_the_same_at_every_batch(name: str) -> None:
    model, inputs = net(name)
    lifted = traced(name).module
    for count in (1, 3):
        batch = batch_like(inputs, count)
        with torch.no_grad():
            torch.testing.assert_close(lifted(*batch), model(*batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "text_encoder", "channels_last"])
def test_lifted_graph_has_the_parameters_under_their_paths(name: str) -> None:
    model, _ = net(name)
    lifted = dict(traced(name).module.named_parameters())
    renamed = {key.replace(".in_proj_", ".in_proj."): value for key, value in model.named_parameters()}
    assert set(lifted) == set(renamed)
    for key, value in renamed.items():
        assert torch.equal(lifted[key], value), key


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_alone(training: bool) -> None:
    model, inputs = net("mobilenet")
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    lifted = trace_model(model, inputs).module
    with torch.no_grad():
        for parameter in lifted.parameters():
            parameter.zero_()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training == training for module in model.modules())
    assert not lifted.training


class Viewed(nn.Module):
    """As many write it: planes seen as one row by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.head(x.view(x.size(0), -1))


def test_a_lifted_graph_runs_on_images_that_lie_channels_last() -> None:
    model, images = Viewed().eval(), torch.randn(3, 3, 6, 6)
    lifted = trace(model, (images,))
    with torch.no_grad():
        torch.testing.assert_close(lifted(images.to(memory_format=torch.channels_last)), model(images))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = F.relu_(y)
        z += self.second(z)
        z.mul_(0.5).add_(1.0)
        # `y` and `z` are one tensor by now.
        return y + z


def test_in_place_operators_change_what_is_read_later() -> None:
    model = InPlace().eval()
    x = torch.randn(3, 3, 8, 8)
    lifted = trace(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(lifted(x), model(x))
    assert not any(
        str(node.target).split(".")[1].endswith("_") for node in lifted.graph.nodes if node.op == "call_function"
    )


def test_a_layer_called_twice_is_one_layer() -> None:
    layers = {layer.name: layer for layer in traced("shared").info.layers}
    assert layers["shared"].calls == 2
    assert layers["shared"].macs == 2 * 16 * 16 * 9 * 16 * 16
    assert layers["shared"].frozen_reason is None


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.middle = nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.middle(self.words(x)), self.words.weight)


def test_tied_weights_are_named_and_left_alone() -> None:
    model, x = Tied().eval(), torch.randint(0, 20, (2, 5))
    result = trace_model(model, (x,))
    frozen = {layer.name: layer.frozen_reason for layer in result.info.layers if layer.frozen_reason}
    assert frozen == {"words": "its weights are shared with another layer"}
    with torch.no_grad():
        torch.testing.assert_close(result.module(x), model(x))


def test_weights_without_a_layer_are_named() -> None:
    frozen = {layer.name: layer.frozen_reason for layer in traced("bare_weights").info.layers if layer.frozen_reason}
    assert frozen == {"weight": "matmul is not a supported layer form"}


def test_a_forward_that_fails_says_so() -> None:
    with pytest.raises(InputError, match=r"forward fails on the example inputs \(\[2, 5, 8, 8\]\).*channels"):
        trace(nn.Conv2d(3, 8, 3), (torch.randn(1, 5, 8, 8),))


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return x + self.seen


class Mapped(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x * 2}


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


class ThroughAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0] += 1
        return y


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Buffered(), "buffer 'seen'"),
        (Mapped(), "returns a dict"),
        (Deciding(), "free batch size"),
        (ThroughAView(), "in place through a view"),
        (Noisy(), "same outputs every time"),
    ],
)
def test_what_cannot_be_lifted_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        trace(model, (torch.randn(2, 4),))


def test_fx_is_tried_when_export_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), torch.randn(3, 4)
    export = torch.export.export

    def only_graphs(source: nn.Module, *args: object, **kwargs: object) -> object:
        if not isinstance(source, torch.fx.GraphModule):
            raise RuntimeError("cannot follow this forward")
        return export(source, *args, **kwargs)

    monkeypatch.setattr(torch.export, "export", only_graphs)
    lifted = trace(model, (x,))
    with torch.no_grad():
        torch.testing.assert_close(lifted(x), model(x))
    assert [layer.name for layer in layer_infos(lifted)] == ["0", "2"]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = F.relu(self.body(x + y))
        return self.left(z), self.right(z)


def test_several_inputs_and_outputs() -> None:
    model = TwoHeads().eval()
    x, y = torch.randn(5, 4), torch.randn(5, 4)
    result = trace_model(model, (x, y))
    with torch.no_grad():
        for ours, theirs in zip(result.module(x, y), model(x, y), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert {g.name: g.blocked_by for g in result.coupling.groups} == {
        "body": None,
        "left": "model output",
        "right": "model output",
    }


def test_layers_are_described_in_full() -> None:
    layer = traced("resnet20").info.layer("layer2.0.conv1")
    assert (layer.op, layer.weight_shape, layer.stride) == ("conv2d", (32, 16, 3, 3), (2, 2))
    assert (layer.in_shape, layer.out_shape) == ((16, 32, 32), (32, 16, 16))
    assert (layer.macs, layer.params, layer.has_bias) == (32 * 16 * 9 * 256, 32 * 16 * 9, False)


def test_resolutions_that_run_are_found() -> None:
    model, inputs = net("resnet20")
    assert runnable_resolutions(model, inputs, (1.0, 0.75, 0.5)) == (1.0, 0.75, 0.5)
    flat, example = net("lenet")
    assert runnable_resolutions(flat, example, (1.0, 0.75)) == (1.0,)
    words, tokens = net("text_encoder")
    assert runnable_resolutions(words, tokens, (1.0, 0.5)) == (1.0,)


def test_a_smaller_resolution_takes_the_same_inputs() -> None:
    model, inputs = net("mobilenet")
    half = trace_model(model, inputs, resolution=0.5)
    batch = batch_like(inputs, 3)
    smaller = F.interpolate(batch[0], size=(16, 16), mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(half.module(*batch), model(smaller), rtol=1e-5, atol=1e-5)
    assert half.info.macs < traced("mobilenet").info.macs / 3


@pytest.mark.parametrize("name", ["resnet20", "mobilenet", "unet", "text_encoder"])
def test_a_model_without_weights_has_the_same_operators(name: str) -> None:
    model, inputs = net(name)
    lifted = trace(copy.deepcopy(model).to("meta"), inputs)
    assert all(parameter.is_meta for parameter in lifted.parameters())
    assert network_of(lifted) == network_of(traced(name).module)


def test_an_average_over_all_batches_still_follows_training() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None)).eval()
    module = trace_model(model, (torch.randn(2, 3, 4, 4),)).module
    norm = next(part for part in module.modules() if isinstance(part, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    module.train()
    module(torch.randn(8, 3, 4, 4) + 3.0)
    assert not torch.allclose(norm.running_mean, before)
