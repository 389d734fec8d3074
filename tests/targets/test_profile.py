from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from autocompress.core.shipped import shipped_dir
from autocompress.errors import InputError
from autocompress.targets.describe import describe
from autocompress.targets.profile import list_targets, load_target, target_names

ROOT = Path(__file__).resolve().parents[2]
NANO = shipped_dir("hardware_profiles") / "jetson-nano" / "profile.yaml"


def test_shipped_targets() -> None:
    assert {"jetson-nano", "local"} <= set(target_names())
    profiles = {profile.name: profile for profile in list_targets()}
    nano, local = profiles["jetson-nano"], profiles["local"]
    assert (nano.runtime, nano.opset, nano.default_precision, nano.runs_as("int8")) == ("tensorrt", 13, "fp16", "fp16")
    assert (local.runtime, local.opset, local.measured, local.memory_bytes) == ("onnxruntime", 17, True, None)
    assert local.runs_as("fp16") == "fp32"
    assert all(precision.source for profile in profiles.values() for precision in profile.precisions)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"jetson-nan'.*'jetson-nano'"):
        load_target("jetson-nan")


def test_a_path_is_as_good_as_a_name(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(NANO.read_text())
    assert load_target(tmp_path) == load_target(tmp_path / "profile.yaml") == load_target("jetson-nano")


REMOVED = object()


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("runtime",), REMOVED, "runtime: is missing"),
        (("runtime",), "tensort", "'tensort'; did you mean 'tensorrt'"),
        (("opset",), "13", "opset: is '13'"),
        (("memory_bytes",), -1, "memory_bytes: is -1.0"),
        (("default_precision",), "fp8", "default_precision: is 'fp8'"),
        (("precisions", "int8"), REMOVED, r"precisions\.int8: is missing"),
        (("precisions", "int4"), {}, r"precisions\.int4: is unknown"),
        (("precisions", "int8", "native"), True, r"precisions\.int8\.runs_as"),
        (("law", "unit"), "s", r"law\.unit: is 's'; did you mean 'ms'\?"),
        (("law", "dtypes", "fp16"), REMOVED, r"law\.dtypes\.fp16: is missing"),
        (("law", "dtypes", "fp16", "coefficients", "launch"), REMOVED, r"fp16\.coefficients\.launch: is missing"),
        (("law", "dtypes", "fp16", "coefficients", "launch"), -0.1, r"fp16\.coefficients\.launch: is -0\.1"),
        (("law", "dtypes", "fp16", "coefficients", "launch"), float("nan"), r"fp16\.coefficients\.launch: is nan"),
        (("law", "dtypes", "fp16", "spreads", "small"), [1.1, 1.2], r"fp16\.spreads\.small: .*low <= 1"),
        (("law", "dtypes", "fp16", "ranges", "pool", "pixels"), [1], r"ranges\.pool\.pixels: is \[1\]"),
        (("law", "validation", 0), 3, r"law\.validation\[0\]: is 3"),
    ],
)
def test_a_corrupt_profile_names_file_and_key(tmp_path: Path, keys: tuple[Any, ...], value: Any, message: str) -> None:
    data = yaml.safe_load(NANO.read_text())
    place = data
    for key in keys[:-1]:
        place = place[key]
    if value is REMOVED:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=message) as caught:
        load_target(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "a: !!python/object:os.system {}"])
def test_what_is_no_profile_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"profile\.yaml"):
        load_target(path)


def test_validation_is_within_what_is_promised() -> None:
    target = load_target("jetson-nano")
    assert all(0.75 <= one.interval_coverage <= 0.90 for one in target.validation)
    by_source = {one.source.split(",")[0]: one for one in target.validation}
    synthetic, cells = by_source["synthetic CNNs"], by_source["NAS-Bench-201"]
    assert synthetic.spearman >= 0.995
    assert synthetic.within_10_percent > 0.8
    assert cells.within_10_percent >= 0.95


@pytest.mark.parametrize("name", target_names())
def test_the_page_is_current(name: str) -> None:
    page = ROOT / "docs" / "targets" / f"{name}.md"
    assert page.read_text(encoding="utf-8") == describe(load_target(name))


def test_the_law_can_be_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.environ.get("AUTOCOMPRESS_LATENCY")
    if not folder:
        pytest.skip("AUTOCOMPRESS_LATENCY does not name the folder of published measurements")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("fit_targets", ROOT / "scripts" / "fit_targets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fit_targets", module)
    spec.loader.exec_module(module)
    copy = tmp_path / "profile.yaml"
    copy.write_text(NANO.read_text(encoding="utf-8"), encoding="utf-8")
    module.rewrite(copy, module.fit_nano(module.read_rows(Path(folder))))
    assert copy.read_text(encoding="utf-8") == NANO.read_text(encoding="utf-8")
