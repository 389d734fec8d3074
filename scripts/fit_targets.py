"""Fits the laws of the shipped targets on published measurements and rewrites the law sections of their profiles.

python scripts/fit_targets.py --data /path/to/latency [--target jetson-nano]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fit_nano import fit_nano
from fitting import (
    ARITHMETIC,
    Bounds,
    Coefficients,
    Device,
    Net,
    Part,
    bounds_of,
    cell_law,
    check,
    fit,
    kernels_of,
    laws_to_dict,
    nets_of,
    predicted,
    prior_of,
    rewrite,
    times,
)
from scipy.optimize import brentq

from autocompress.core.fusion import launched
from autocompress.core.fusion_rules import FUSIONS, Fusion
from autocompress.targets.fit import ranges_of, spread_of
from autocompress.targets.law import FAMILIES, Law, Spread, Tiling
from autocompress.targets.parse import fusion_of
from autocompress.targets.profile import UNSEEN
from autocompress.targets.published.rows import Row, read_source, sources_of
from autocompress.targets.published.whole import WHOLE

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ROOT / "hardware_profiles"
Rows = Mapping[str, Sequence[Row]]
CELLS = "NAS-Bench-201 cells, random ones held out"


def scaled(law: Law, faster: float) -> Law:
    """A law for a dtype that nothing was measured in: arithmetic so many times faster, every kernel flagged."""
    wide = {name: Spread(min(UNSEEN.low, one.low), max(UNSEEN.high, one.high)) for name, one in law.spreads.items()}
    slow = {"depthwise3x3", "depthwise", *ARITHMETIC}
    found = {t: float(f"{v / faster:.5g}") if t in slow else v for t, v in law.coefficients.items()}
    return Law(found, law.tiling, {}, wide)


def _section(laws: Mapping[str, Law], setups: Mapping[str, Any], validation: Sequence[Any]) -> dict[str, Any]:
    return {"unit": "ms", **laws_to_dict(laws), "setups": dict(setups), "validation": list(validation)}


def _fusion(target: str) -> Fusion:
    """What a person wrote in the profile."""
    return fusion_of(PROFILES / target / "profile.yaml")


def _cells(rows: Rows, target: str, device: Device, dtype: str = "fp32") -> tuple[Law, Any]:
    return cell_law(rows["NAS-Bench-201"], _fusion(target), dtype, bounds_of(prior_of(device)), CELLS, "")


def fit_tx2(rows: Rows) -> dict[str, Any]:
    """fp32 from NAS-Bench-201; fp16 has twice the peak."""
    law, checked = _cells(rows, "jetson-tx2", Device(333, 59.7, 0.02))
    return _section({"fp32": law, "fp16": scaled(law, 2.0)}, {}, [checked])


def fit_xavier(rows: Rows) -> dict[str, Any]:
    """fp16 from nine whole networks; fp32 and int8 so that ResNet-50 at 256 x 256 takes the 9.9 and 3.0 ms known."""
    nets, bounds = nets_of(rows["whole networks"], FUSIONS["tensorrt"]), bounds_of(prior_of(Device(1400, 137, 0.01)))
    left_out = [_whole([one for one in nets if one is not net], bounds) for net in nets]
    ms = np.array([_ms(found, net, "fp16") for found, net in zip(left_out, nets, strict=True)])
    spreads = dict.fromkeys(FAMILIES, spread_of(times(nets) / ms))
    law = Law(_whole(nets, bounds), Tiling(), ranges_of(kernels_of(nets)), spreads)
    kernels = launched(WHOLE["resnet50"](side=256), FUSIONS["tensorrt"])
    known = Net("resnet50 at 256", kernels, 0.0, {})

    def matched(dtype: str, wanted_ms: float) -> Law:
        def gap(log_faster: float) -> float:
            return float(predicted(scaled(law, float(np.exp(log_faster))), [known], dtype)[0] - wanted_ms)

        return scaled(law, float(np.exp(brentq(gap, -4.0, 4.0))))

    laws = {"fp32": matched("fp32", 9.9), "fp16": law, "int8": matched("int8", 3.0)}
    name = "whole networks, each left out of the coefficients but not of the interval"
    return _section(laws, {}, [check(name, "", law, nets, "fp16", ms)])


def _whole(nets: Sequence[Net], bounds: Bounds) -> Coefficients:
    return fit([Part(nets, float(len(nets)))], "fp16", Tiling(), bounds, pull=0.05)[0]


def _ms(found: Coefficients, net: Net, dtype: str) -> float:
    return float(predicted(Law(found, Tiling(), {}, {}), [net], dtype)[0])


def fit_pi4(rows: Rows) -> dict[str, Any]:
    """fp32 from NAS-Bench-201; int8 as much faster as ncnn's networks are (four of them, geometric mean)."""
    law, checked = _cells(rows, "raspberry-pi-4", Device(24, 4, 0.01))
    return _section({"fp32": law, "int8": scaled(law, 1.42)}, {}, [checked])


def fit_pi5(rows: Rows) -> dict[str, Any]:
    """fp32 from NAS-Bench-201 under ONNX Runtime and LiteRT; int8 as much faster as ncnn's networks are."""
    bounds = bounds_of(prior_of(Device(38, 8, 0.005)))
    # LiteRT's converter runs what is written twice once, as other converters of its rows did not.
    litert = replace(FUSIONS["litert"], repeated=True)
    onnx, onnx_check = cell_law(
        rows["NAS-Bench-201, ONNX Runtime"], _fusion("raspberry-pi-5"), "fp32", bounds, CELLS, ""
    )
    lite, lite_check = cell_law(rows["NAS-Bench-201, LiteRT"], litert, "fp32", bounds, CELLS, "litert")
    laws = [{"fp32": law, "int8": scaled(law, 1.09)} for law in (onnx, lite)]
    setup = {"title": "LiteRT", "runtime": "litert", "fusion": {"repeated": True}, **laws_to_dict(laws[1])}
    return _section(laws[0], {"litert": setup}, [onnx_check, lite_check])


def fit_a76(rows: Rows) -> dict[str, Any]:
    """fp32 and int8 from NAS-Bench-201, the latter from the processor of a Snapdragon 855."""
    bounds, fusion = bounds_of(prior_of(Device(38, 8, 0.005))), _fusion("cortex-a76")
    laws, checks = {}, []
    for dtype in ("fp32", "int8"):
        laws[dtype], checked = cell_law(rows[f"NAS-Bench-201, {dtype}"], fusion, dtype, bounds, CELLS, "")
        checks.append(checked)
    return _section(laws, {}, checks)


def fit_adreno(rows: Rows) -> dict[str, Any]:
    """fp32 from NAS-Bench-201."""
    law, checked = _cells(rows, "adreno-640", Device(450, 34, 0.02))
    return _section({"fp32": law}, {}, [checked])


def fit_edge_tpu(rows: Rows) -> dict[str, Any]:
    """int8 from NAS-Bench-201."""
    law, checked = _cells(rows, "edge-tpu", Device(2000, 4, 0.01), "int8")
    return _section({"int8": law}, {}, [checked])


FITS: dict[str, Callable[[Rows], dict[str, Any]]] = {
    "jetson-nano": fit_nano,
    "jetson-tx2": fit_tx2,
    "jetson-xavier": fit_xavier,
    "raspberry-pi-4": fit_pi4,
    "raspberry-pi-5": fit_pi5,
    "cortex-a76": fit_a76,
    "adreno-640": fit_adreno,
    "edge-tpu": fit_edge_tpu,
}


def law_of(target: str, data: Path) -> dict[str, Any]:
    """The law section of a target, from the folder of published measurements."""
    return FITS[target]({source.name: read_source(data, source) for source in sources_of(target)})


def main() -> None:
    """Fits, rewrites the profiles and prints the validation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the published measurements")
    parser.add_argument("--target", action="append", choices=FITS, help="only these; may be repeated")
    arguments = parser.parse_args()
    for target in arguments.target or FITS:
        law = law_of(target, arguments.data)
        rewrite(PROFILES / target / "profile.yaml", law)
        for entry in law["validation"]:
            print(target, entry)


if __name__ == "__main__":
    main()
