"""Writes tests/golden/artifact-1 anew: `python tests/emit/regenerate_golden_artifact.py`.

Only a new format gets a new golden folder; this one must stay readable for ever. All numbers are multiples of powers
of two, so that sums are exact and the expected outputs are the same on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autocompress.compress.apply import compress
from autocompress.compress.quantize import activation_quantizers, weight_quantizer
from autocompress.core.metric import Metric
from autocompress.core.plan import Plan, Quantize, Sparsify
from autocompress.emit.artifact import PROGRAM_FILE, write_artifact, write_manifest
from autocompress.emit.verify import verify
from autocompress.graph.info import trace_model
from autocompress.targets.profile import load_target

FOLDER = Path(__file__).parents[1] / "golden" / "artifact-1"


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4, eps=0.0)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.words = nn.Embedding(8, 4)
        self.shift = nn.Parameter(torch.zeros(4))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        y = self.up(F.relu(self.norm(self.conv(x)))) * 0.5
        return self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1) + self.words(tokens).sum(1) + self.shift)


def _power_of_two(value: Tensor) -> Tensor:
    return torch.exp2(torch.log2(value).round())


def main() -> None:
    torch.manual_seed(0)
    model = Tiny().eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randint(-32, 33, value.shape) / 16)
        model.norm.running_var.fill_(4.0)
    inputs = (torch.randint(-16, 17, (3, 2, 4, 4)) / 8, torch.randint(0, 8, (3, 5)))
    plan = Plan(
        layers=(
            ("conv", (Quantize(4, 8, scheme="symmetric"),)),
            ("up", (Sparsify(0.75), Quantize(3, 8))),
            ("words", (Quantize(2, granularity="tensor"),)),
            ("fc", (Quantize(16),)),
        )
    )
    module = compress(trace_model(model, inputs), plan).module
    for quantizer in activation_quantizers(module):
        quantizer.observe()
    with torch.no_grad():
        module(*inputs)
    for quantizer in activation_quantizers(module):
        quantizer.freeze()
    rounding: list[Any] = [*activation_quantizers(module), *filter(None, map(weight_quantizer, module.modules()))]
    with torch.no_grad():
        for quantizer in rounding:
            quantizer.scale.copy_(_power_of_two(quantizer.scale))
        outputs = module(*inputs)
    write_artifact(FOLDER, module, plan, inputs, opset=13, half=False)
    (FOLDER / PROGRAM_FILE).unlink()
    found = verify(FOLDER / "model.onnx", module, [inputs])
    assert found.passed, found.reason
    expected = {"inputs": [x.tolist() for x in inputs], "outputs": outputs.tolist()}
    expected["weights"] = {name: module.get_submodule(name).weight.tolist() for name in ("conv", "up", "words", "fc")}
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n")
    size = {"size_bytes": Metric.exact((FOLDER / "model.onnx").stat().st_size, "bytes")}
    write_manifest(
        FOLDER,
        dense_metrics=size,
        metrics=size,
        agreement=found.agreement,
        target=load_target("jetson-nano").profile,
        runtime_version="1.31",
        opset=13,
        layers=[],
        extra={},
    )
    for path in sorted(FOLDER.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
