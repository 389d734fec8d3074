from __future__ import annotations

import pytest

from autocompress.core.kernel import BYTES_PER_ELEMENT, DTYPES, Kernel


def test_elements_are_counted_over_all_inputs() -> None:
    add = Kernel("elementwise", "add", "fp32", ((16, 8, 8), (16, 8, 8)), (16, 8, 8))
    assert (add.in_elements, add.out_elements, add.weight_elements) == (2048, 1024, 0)
    conv = Kernel("conv2d", "conv", "int8", ((3, 8, 8),), (16, 8, 8), (16, 3, 3, 3))
    assert (conv.in_elements, conv.weight_elements) == (192, 432)
    assert Kernel("norm", "n", "fp32", ((),), ()).in_elements == 1


@pytest.mark.parametrize(
    ("op", "weight", "groups", "expected"),
    [
        ("conv2d", (16, 1, 3, 3), 16, True),
        ("conv1d", (16, 1, 3), 16, True),
        ("conv2d", (16, 1, 3, 3), 1, False),
        ("conv2d", (16, 4, 3, 3), 4, False),
        ("linear", (16, 1), 1, False),
        ("pool", None, 16, False),
    ],
)
def test_depthwise(op: str, weight: tuple[int, ...] | None, groups: int, expected: bool) -> None:
    assert Kernel(op, "l", "fp32", ((16, 8, 8),), (16, 8, 8), weight, groups=groups).is_depthwise is expected


def test_every_dtype_has_a_size() -> None:
    assert set(BYTES_PER_ELEMENT) == set(DTYPES)
