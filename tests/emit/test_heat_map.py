from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from autocompress.emit.heat_map import sensitivity_svg

SVG = "{http://www.w3.org/2000/svg}"


def option(name: str, share: float | None) -> dict[str, Any]:
    return {"option": name, "loss_share": share, "saved": None if share is None else {"size_bytes": 0.25}}


def drawn(*rows: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(sensitivity_svg({"task": "a<b", "target": "local", "decisions": list(rows)}))


def test_every_option_is_a_cell_that_tells_what_it_loses_and_saves() -> None:
    cut = {"decision": "prune:a&b", "options": [option("prune 0.25", 0.0123), option("prune 0.5", 0.5)]}
    root = drawn(cut, {"decision": "drop:c", "options": [option("drop", None)]})
    titles = [each.text for each in root.iter(f"{SVG}title")]
    assert "prune:a&b, prune 0.25: loses 1.23%; saves size_bytes +25.0%" in titles
    assert "drop:c, drop: not possible" in titles
    assert len(list(root.iter(f"{SVG}g"))) == 3


def test_what_loses_more_is_darker() -> None:
    shares = [0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 7.0]
    root = drawn({"decision": "prune:a", "options": [option(str(share), share) for share in shares]})
    fills = [each.find(f"{SVG}rect").attrib["fill"] for each in root.iter(f"{SVG}g")]  # type: ignore[union-attr]
    light = [sum(map(int, fill.removeprefix("rgb(").removesuffix(")").split(","))) for fill in fills]
    assert light[0] == light[1]
    assert light[5] == light[6]
    assert light[1:6] == sorted(light[1:6], reverse=True)
    assert len(set(light)) == 5


@pytest.mark.parametrize("count", [0, 300])
def test_a_space_of_no_or_many_decisions_is_drawn(count: int) -> None:
    rows = [{"decision": f"prune:{n}", "options": [option("x" * 40, 0.1)]} for n in range(count)]
    assert len(list(drawn(*rows).iter(f"{SVG}g"))) == count
