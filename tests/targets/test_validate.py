"""Predictions against measurements: figures that can be counted by hand, and files that are refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from autocompress.core.fusion import fuse
from autocompress.errors import InputError
from autocompress.targets.plot import agreement_svg
from autocompress.targets.profile import load_target
from autocompress.targets.published.whole import WHOLE
from autocompress.targets.validate import shortfalls, validate

NANO = load_target("jetson-nano")
HEADER = "model,input,ms,precision"


def predicted(name: str, precision: str = "fp16") -> float:
    return NANO.estimate_steps(fuse(WHOLE[name](), NANO.fusion), precision).ms


def saved(folder: Path, *lines: str) -> Path:
    path = folder / "mine.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_figures_by_hand(tmp_path: Path) -> None:
    # Off by 0, 8, 15 and 100 % of what is measured.
    factors = {"resnet18": 1.0, "resnet50": 1 / 1.08, "vgg16": 1 / 1.15, "alexnet": 0.5}
    rows = [f"{name},1x3x224x224,{predicted(name) * factor},fp16" for name, factor in factors.items()]
    (found,) = validate(NANO, saved(tmp_path, HEADER, *rows))
    assert [point.name for point in found.points] == list(factors)
    assert (found.within_5_percent, found.within_10_percent, found.within_20_percent) == (0.25, 0.5, 0.75)
    assert found.mean_error == pytest.approx((0.08 + 0.15 + 1.0) / 4)
    inside = [point.low_ms <= point.measured_ms <= point.high_ms for point in found.points]
    assert found.interval_coverage == sum(inside) / 4
    assert inside[0]
    # Half of AlexNet's time is less than ResNet-18's: two neighbours of four have changed places.
    assert found.spearman == pytest.approx(0.8)


def test_precisions_are_told_apart_and_a_model_of_the_users_is_traced(tmp_path: Path) -> None:
    model = "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())\n"
    (tmp_path / "mynet.py").write_text(model)
    rows = (f"{tmp_path / 'mynet.py'}:net,1x3x32x32,1.0,fp32", "resnet18,1x3x224x224,11,")
    found = validate(NANO, saved(tmp_path, HEADER, *rows))
    assert [(one.precision, len(one.points), one.spearman) for one in found] == [("fp32", 1, None), ("fp16", 1, None)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("model,input,us", "resnet18,1x3x224x224,11"), r"column 'us' has an unknown unit; allowed: ms or latency_ms"),
        (("model,input", "resnet18,1x3x224x224"), "line 2: columns are model, input"),
        (("model,ms", "resnet18,1"), "there is no column 'input'"),
        ((HEADER, "resnet18,1x3x224x224,-1,fp16"), "line 2: ms is '-1'"),
        ((HEADER, "resnet18,1x3x224x224,nan,fp16"), "line 2: ms is 'nan'"),
        ((HEADER, "resnet18,1x3x224x224,1,fp12"), "line 2: precision is 'fp12'; did you mean"),
        ((HEADER, "resnet18,224,1,fp16"), "line 2: input is '224'"),
        ((HEADER, "resnet18,1x1x224x224,1,fp16"), "line 2: input is '1x1x224x224'; resnet18 takes square images"),
        ((HEADER, *["resnet18,1x3x224x224,1,fp16"] * 2), "line 3: 'resnet18' .* stands in line 2 already"),
        ((HEADER, "resnet17,1x3x224x224,1,fp16"), "line 2: model 'resnet17' is unknown; did you mean 'resnet1"),
        ((HEADER, "nowhere.py:net,1x3x8x8,1,fp16"), "line 2: model file .*nowhere.py does not exist"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        validate(NANO, saved(tmp_path, *lines))
    assert "mine.csv" in str(caught.value)


def test_a_folder_without_files_of_the_target_names_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing measured on 'edge-tpu'; known files: nas_bench_201_devices\.csv"):
        validate(load_target("edge-tpu"), tmp_path)


def test_thresholds(tmp_path: Path) -> None:
    rows = [f"{name},1x3x224x224,{predicted(name) * 1.5},fp16" for name in ("resnet18", "resnet50", "vgg16")]
    found = validate(NANO, saved(tmp_path, HEADER, *rows))
    assert shortfalls(found, 0.99, None, 40.0, None) == []
    assert shortfalls(found, None, 50.0, 20.0, None) == [
        "mine.csv: within_10_percent is 0, at least 50 wanted",
        "mine.csv: mean_error is 33.33, at most 20 wanted",
    ]
    with pytest.raises(InputError, match="spearman is 2; allowed: 0 to 1"):
        shortfalls(found, 2.0, None, None, None)
    unknown = [replace(found[0], spearman=None)]
    assert shortfalls(unknown, 0.5, None, None, None) == ["mine.csv: spearman is unknown, at least 0.5 wanted"]


def test_the_drawing_holds_every_network(tmp_path: Path) -> None:
    rows = [f"{name},1x3x224x224,{predicted(name)},fp16" for name in ("resnet18", "resnet50", "vgg16")]
    drawing = ElementTree.fromstring(agreement_svg(validate(NANO, saved(tmp_path, HEADER, *rows))))
    space = "{http://www.w3.org/2000/svg}"
    circles = list(drawing.iter(f"{space}circle"))
    assert len(circles) == 3
    # Perfect predictions lie on the diagonal: as far from the left as from the bottom.
    assert all(float(one.attrib["cx"]) + float(one.attrib["cy"]) == pytest.approx(480, abs=0.2) for one in circles)


def test_published_rows_of_the_xavier() -> None:
    folder = os.environ.get("AUTOCOMPRESS_LATENCY")
    if not folder:
        pytest.skip("AUTOCOMPRESS_LATENCY does not name the folder of published measurements")
    (found,) = validate(load_target("jetson-xavier"), Path(folder))
    assert (found.source, found.precision, len(found.points)) == ("whole networks", "fp16", 9)
    # Seen in the fit, so this is no proof of the law; that the rows are read as they were fitted, it is.
    assert found.mean_error < 0.25


def test_what_benchncnn_printed_is_compared_too(tmp_path: Path) -> None:
    ms = predicted("resnet18")
    lines = (
        "loop_count = 8",
        f"  resnet18  min = {0.9 * ms:.6f}  max = {2 * ms:.6f}  avg = {ms:.6f}",
        "  resnet18_int8  min =  5.00  max =  7.02  avg =  6.81",
        "  shufflenet  min =  6.74  max =  7.02  avg =  6.81",
    )
    path = tmp_path / "bench.txt"
    path.write_text("\n".join(lines) + "\n")
    fp16, int8 = validate(load_target("jetson-nano"), path)
    assert (fp16.precision, int8.precision) == ("fp16", "int8")
    assert fp16.source == "bench.txt, 2 of 3 models known"
    (point,) = fp16.points
    assert point.measured_ms == pytest.approx(point.ms, rel=1e-4)
    path.write_text(lines[-1] + "\n")
    with pytest.raises(InputError, match=r"holds none of the models that are known: squeezenet, "):
        validate(load_target("jetson-nano"), path)
