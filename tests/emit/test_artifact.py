from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import fx

from autocompress.core.metric import Metric
from autocompress.core.plan import Plan, Prune, Quantize
from autocompress.core.strict_yaml import read_yaml
from autocompress.emit.artifact import (
    FORMAT,
    check_artifact_id,
    check_manifest,
    load,
    load_model,
    read_manifest,
    save_model,
    update_metrics,
    write_artifact,
    write_manifest,
)
from autocompress.emit.verify import Agreement, run_onnx
from autocompress.errors import InputError, UnsupportedError
from autocompress.targets.profile import load_target
from autocompress.tasks.builtin.resnet import resnet20
from tests.emit.test_serialize import PLANS, compressed
from tests.nets import build

torch.set_num_threads(1)
GOLDEN = Path(__file__).parents[1] / "golden" / "artifact-1"
FILES = ["model.onnx", "model.pt2", "plan.yaml", "weights.safetensors"]


@pytest.fixture(scope="module")
def resnet() -> tuple[fx.GraphModule, tuple[torch.Tensor, ...], Plan]:
    torch.manual_seed(1)
    return compressed(resnet20().eval(), (torch.randn(1, 3, 32, 32),), Quantize(4, 8), prune=Prune(0.5))


@pytest.fixture(scope="module")
def written(
    resnet: tuple[fx.GraphModule, tuple[torch.Tensor, ...], Plan], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    module, inputs, plan = resnet
    folder = tmp_path_factory.mktemp("artifacts") / "trial-7"
    found = write_artifact(folder, module, plan, inputs, opset=13, half=False)
    assert found.files == {path.name: path.stat().st_size for path in folder.iterdir()}
    assert (found.input_names, found.output_names) == (("x",), ("output",))
    manifest(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = build("lenet")
    module, inputs, plan = compressed(net.model, net.example_inputs, Quantize(4, 8))
    folder = tmp_path_factory.mktemp("artifacts") / "small"
    write_artifact(folder, module, plan, inputs, opset=13, half=False)
    manifest(folder)
    return folder


@pytest.fixture
def artifact(small: Path, tmp_path: Path) -> Path:
    """A small artifact that a test may damage."""
    return shutil.copytree(small, tmp_path / "small")


def manifest(folder: Path) -> dict[str, object]:
    metrics = {"accuracy": Metric.exact(91.5, "percent")}
    return write_manifest(
        folder,
        dense_metrics=metrics,
        metrics=metrics,
        agreement=Agreement(1e-3, 0.9999, None, 1e-4),
        target=load_target("jetson-nano").profile,
        runtime_version="8.2.1",
        opset=13,
        layers=[{"name": "fc", "w_bits": 4}],
        extra={"trial": 7},
    )


def test_all_files_hold_the_same_model(
    resnet: tuple[fx.GraphModule, tuple[torch.Tensor, ...], Plan], written: Path
) -> None:
    module, inputs, plan = resnet
    with torch.no_grad():
        wanted = module(*inputs)
        assert torch.equal(load(written)(*inputs), wanted)
        assert torch.equal(torch.export.load(written / "model.pt2").module()(*inputs), wanted)
    assert (run_onnx(written / "model.onnx", [inputs])[0] - wanted).abs().max() < 0.1 * wanted.abs().max()
    assert Plan.from_dict(read_yaml(written / "plan.yaml")[0]) == plan
    assert sorted(path.name for path in written.iterdir()) == sorted([*FILES, "manifest.json"])
    check_manifest(written)


def test_the_program_takes_any_batch(written: Path) -> None:
    program = torch.export.load(written / "model.pt2").module()
    module = load(written)
    for batch in (1, 3, 9):
        x = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(program(x), module(x))


def test_no_data_of_the_user_and_no_path_reach_the_files(written: Path) -> None:
    for name in FILES:
        content = (written / name).read_bytes()
        assert os.fsencode(Path(__file__).parents[2]) not in content
        assert os.fsencode(written.parent) not in content


@pytest.mark.parametrize("name", ["text_encoder", "unet", "attention"])
def test_other_nets_are_written_and_read(name: str, tmp_path: Path) -> None:
    net = build(name)
    module, inputs, plan = compressed(net.model, net.example_inputs, Quantize(4))
    write_artifact(tmp_path / name, module, plan, inputs, opset=14, half=True)
    program = torch.export.load(tmp_path / name / "model.pt2").module()
    with torch.no_grad():
        assert torch.equal(load(tmp_path / name)(*inputs), module(*inputs))
        torch.testing.assert_close(program(*inputs), module(*inputs))


def test_a_16_bit_activation_rounds_alike_in_the_program(tmp_path: Path) -> None:
    net = build("lenet")
    module, inputs, plan = compressed(net.model, net.example_inputs, Quantize(8, 16))
    write_artifact(tmp_path / "a", module, plan, inputs, opset=13, half=False)
    with torch.no_grad():
        assert torch.equal(torch.export.load(tmp_path / "a" / "model.pt2").module()(*inputs), module(*inputs))


def test_a_process_without_the_users_code_can_load(
    resnet: tuple[fx.GraphModule, tuple[torch.Tensor, ...], Plan], written: Path, tmp_path: Path
) -> None:
    module, inputs, _ = resnet
    safetensors.torch.save_file({"x": inputs[0]}, tmp_path / "inputs.safetensors")
    code = (
        "import sys, safetensors.torch as s\n"
        "from autocompress.emit.artifact import load\n"
        "y = load(sys.argv[1])(s.load_file('inputs.safetensors')['x']).detach()\n"
        "assert not any('resnet' in name or name.startswith('tests') for name in sys.modules)\n"
        "s.save_file({'y': y}, 'outputs.safetensors')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, written], cwd=tmp_path, env=environment, check=True)
    with torch.no_grad():
        assert torch.equal(safetensors.torch.load_file(tmp_path / "outputs.safetensors")["y"], module(*inputs))


@pytest.mark.parametrize("name", PLANS)
def test_the_same_model_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    ops, prune = PLANS[name]
    net = build("lenet")
    module, _, _ = compressed(net.model, net.example_inputs, *ops, prune=prune)
    data = save_model(module)
    # The library orders metadata anew for every file that it writes.
    assert all(save_model(module) == data for _ in range(4))
    assert save_model(load_model(data)) == save_model(load_model(data))
    (tmp_path / "weights.safetensors").write_bytes(data)
    with safetensors.safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert file.metadata()["format"] == FORMAT


def test_a_folder_is_replaced_whole(artifact: Path) -> None:
    (artifact / "stale.txt").write_text("old")
    net = build("lenet")
    module, inputs, plan = compressed(net.model, net.example_inputs)
    write_artifact(artifact, module, plan, inputs, opset=13, half=False)
    assert sorted(path.name for path in artifact.iterdir()) == FILES
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def test_nothing_is_left_of_a_write_that_failed(artifact: Path) -> None:
    net = build("lenet")
    module, inputs, plan = compressed(net.model, net.example_inputs)
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    with pytest.raises(UnsupportedError, match="opset"):
        write_artifact(artifact, module, plan, inputs, opset=99, half=False)
    with pytest.raises(InputError, match="artifact name"):
        write_artifact(artifact.parent / "a b", module, plan, inputs, opset=13, half=False)
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "a\n", "../x"])
def test_names_that_are_not_allowed(name: str) -> None:
    with pytest.raises(InputError, match="artifact name"):
        check_artifact_id(name)
    assert check_artifact_id("trial-7_a.1") == "trial-7_a.1"


def test_the_manifest_holds_what_was_given(artifact: Path) -> None:
    found = read_manifest(artifact)
    assert found == json.loads((artifact / "manifest.json").read_text()) == manifest(artifact)
    assert sorted(found["files"]) == FILES
    assert found["metrics"]["accuracy"]["value"] == 91.5
    assert found["agreement"]["top1_agreement"] is None
    assert (found["target"], found["runtime"], found["opset"]) == ("jetson-nano", "tensorrt", 13)
    assert found["layers"] == [{"name": "fc", "w_bits": 4}]
    assert found["extra"] == {"trial": 7}


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_noticed(name: str, artifact: Path) -> None:
    path = artifact / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: SHA-256"):
        check_manifest(artifact)
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=f"{name}: it has"):
        check_manifest(artifact)
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: the manifest names"):
        check_manifest(artifact)


def test_load_notices_changed_weights(artifact: Path) -> None:
    path = artifact / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="the file was changed"):
        load(artifact)
    (artifact / "manifest.json").unlink()
    assert isinstance(load(artifact), fx.GraphModule)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no manifest"),
        ('{"format": "autocompress-9"}', "no manifest"),
        ('{"format": "autocompress-1", "files": 3}', "must be a mapping"),
        ('{"format": "autocompress-1", "files": {"../secret": {}}}', "artifact name"),
        ('{"format": "autocompress-1", "files": {"a": 1}}', "lacks size_bytes"),
        ('{"format": "autocompress-1", "files": {}}', "does not name"),
    ],
)
def test_damaged_manifests(content: str, message: str, artifact: Path) -> None:
    (artifact / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load(artifact)


def test_a_number_that_is_not_finite_is_refused(artifact: Path) -> None:
    with pytest.raises(InputError, match="cannot be written as JSON"):
        write_manifest(
            artifact,
            dense_metrics={},
            metrics={},
            agreement=Agreement(float("nan"), 1.0, None, 0.0),
            target=load_target("jetson-nano").profile,
            runtime_version="8.2.1",
            opset=13,
            layers=[],
            extra={},
        )


def test_metrics_that_were_measured_later_replace_the_old_ones(artifact: Path) -> None:
    before = read_manifest(artifact)
    slow, fast = (Metric(ms, 0.9 * ms, 1.1 * ms, "measured", "ms") for ms in (8.0, 2.0))
    update_metrics(artifact, dense_metrics={"latency_ms": slow}, metrics={"latency_ms": fast})
    after = read_manifest(artifact)
    assert after["metrics"] == {"latency_ms": fast.to_dict()}
    assert after["dense_metrics"] == {"latency_ms": slow.to_dict()}
    assert {**after, "metrics": 0, "dense_metrics": 0} == {**before, "metrics": 0, "dense_metrics": 0}
    check_manifest(artifact)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot be read"):
        check_manifest(tmp_path)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "short": lambda data: data[:5],
    "half a header": lambda data: data[:100],
    "half the tensors": lambda data: data[:-100],
    "no safetensors": lambda data: b"PK\x03\x04" + data,
    "huge header": lambda data: (2**62).to_bytes(8, "little") + data[8:],
    "no metadata": lambda data: safetensors.torch.save({"a": torch.zeros(1)}),
    "other format": lambda data: safetensors.torch.save({}, {"format": "autocompress-9", "graph": "{}"}),
    "no graph": lambda data: safetensors.torch.save({}, {"format": FORMAT}),
    "graph is text": lambda data: safetensors.torch.save({}, {"format": FORMAT, "graph": "pickle"}),
    "graph is a list": lambda data: safetensors.torch.save({}, {"format": FORMAT, "graph": "[]"}),
    "graph is deep": lambda data: safetensors.torch.save({}, {"format": FORMAT, "graph": "[" * 100_000}),
    "graph is empty": lambda data: safetensors.torch.save({}, {"format": FORMAT, "graph": "{}"}),
    "graph has a huge number": lambda data: safetensors.torch.save({}, {"format": FORMAT, "graph": "9" * 9_999}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_weights_are_an_input_error(name: str, artifact: Path) -> None:
    (artifact / "manifest.json").unlink()
    path = artifact / "weights.safetensors"
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load(artifact)


def test_a_golden_artifact_reads_for_ever() -> None:
    check_manifest(GOLDEN)
    expected = json.loads((GOLDEN / "expected.json").read_text())
    module = load(GOLDEN)
    with torch.no_grad():
        outputs = module(*(torch.tensor(x) for x in expected["inputs"]))
    assert torch.equal(outputs, torch.tensor(expected["outputs"]))
    for name, weight in expected["weights"].items():
        assert torch.equal(module.get_submodule(name).weight, torch.tensor(weight))
    assert Plan.from_dict(read_yaml(GOLDEN / "plan.yaml")[0]).quantize_of("conv") == Quantize(4, 8, scheme="symmetric")
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 30_000
