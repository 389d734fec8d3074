from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.fx import symbolic_trace

from autocompress.emit.onnx_export import export_onnx
from autocompress.emit.verify import agreement, check_digest, file_digest, measure_file, run_onnx, verify
from autocompress.errors import InputError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return symbolic_trace(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)))


@pytest.fixture
def path(model: nn.Module, tmp_path: Path) -> Path:
    return export_onnx(model, (torch.randn(2, 6),), tmp_path / "model.onnx", opset=17).path


def batches(count: int = 3) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 6, generator=generator),) for _ in range(count)]


def test_an_export_agrees_with_its_model(path: Path, model: nn.Module) -> None:
    result = verify(path, model, batches())
    assert result.passed
    assert result.reason == ""
    assert result.agreement.cosine > 0.9999
    assert result.agreement.top1_agreement == 1.0


def test_another_model_is_noticed(path: Path, model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    result = verify(path, model, batches())
    assert not result.passed
    assert "cosine" in result.reason


def test_a_changed_class_is_noticed_even_at_a_high_cosine() -> None:
    reference = torch.tensor([[10.0, 9.0, 0.0]] * 10)
    outputs = reference.clone()
    outputs[0] = torch.tensor([9.4, 9.6, 0.0])
    found = agreement((reference,), (outputs,))
    assert found.cosine > 0.999
    assert found.top1_agreement == 0.9
    assert found.max_abs_error == pytest.approx(0.6)


def test_ties_are_no_disagreement_and_other_outputs_have_no_top1() -> None:
    reference = torch.tensor([[1.0, 1.0 - 1e-6, 0.0]])
    assert agreement((reference,), (reference.flip(1)[:, [1, 2, 0]],)).top1_agreement == 1.0
    assert agreement((torch.randn(2, 3, 4),), (torch.randn(2, 3, 4),)).top1_agreement is None
    assert agreement((torch.zeros(2, 1),), (torch.zeros(2, 1),)).cosine == 1.0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        agreement((torch.zeros(2, 3),), (torch.zeros(2, 4),))


def test_outputs_that_are_not_finite_fail(tmp_path: Path) -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.aten.log.default(x)

    x = torch.full((2, 3), -1.0)
    path = export_onnx(symbolic_trace(Log()), (x,), tmp_path / "m.onnx", opset=17).path
    assert verify(path, symbolic_trace(Log()), [(x,)]).reason == "the file's outputs are not finite"


def test_the_metric_is_called_once_on_everything(path: Path) -> None:
    calls = []

    def metric(outputs: Tensor, targets: Tensor) -> float:
        calls.append((outputs.shape, targets.shape))
        return float((outputs.argmax(1) == targets).float().mean())

    split = [(batch, torch.zeros(8, dtype=torch.long)) for batch in batches(5)]
    value = measure_file(path, split, metric)
    assert calls == [((40, 4), (40,))]
    assert value == float((run_onnx(path, batches(5))[0].argmax(1) == 0).float().mean())


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07" * 100])
def test_a_corrupt_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.onnx: ONNX Runtime \S+ cannot open it"):
        run_onnx(path, batches())


def test_a_truncated_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot open"):
        run_onnx(path, batches())


def test_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Evil", ["a"], ["b"], domain="evil")], "g", value[:1], value[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "evil.onnx")
    with pytest.raises(InputError, match="cannot open"):
        run_onnx(tmp_path / "evil.onnx", [(torch.zeros(1),)])


def test_missing_files_wrong_inputs_and_no_batches_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        run_onnx(tmp_path / "none.onnx", batches())
    with pytest.raises(InputError, match="a batch has 2 inputs; the model takes 1: input"):
        run_onnx(path, [(torch.zeros(1, 6), torch.zeros(1))])
    with pytest.raises(InputError, match="cannot run it"):
        run_onnx(path, [(torch.zeros(1, 7),)])
    with pytest.raises(InputError, match="no batches"):
        run_onnx(path, [])


def test_one_changed_byte_is_noticed(path: Path) -> None:
    digest = file_digest(path)
    check_digest(path, digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="the file was changed"):
        check_digest(path, digest)
    with pytest.raises(InputError, match="cannot be read"):
        file_digest(path.parent / "none.onnx")


def test_every_output_must_agree() -> None:
    boxes, scores = torch.linspace(0, 640, 40).view(10, 4), torch.eye(10)
    found = agreement((boxes, scores), (boxes, scores.flip(0)))
    assert found.cosine == 0.0
    assert found.relative_error == 1.0
    assert agreement((boxes, scores), (boxes, scores)).cosine == pytest.approx(1.0)
