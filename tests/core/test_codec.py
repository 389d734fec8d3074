from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from autocompress.core.codec import (
    PACKED_BITS,
    bit_parts,
    bitmask_bytes,
    pack_bitmask,
    pack_bits,
    packed_bytes,
    stored_bytes,
    unpack_bitmask,
    unpack_bits,
)

SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)


def decode_by_division(packed: list[int], bits: int, count: int) -> list[int]:
    """The documented layout, with integer division and remainder only, as a graph would do it."""
    codes, start, weight = [0] * count, 0, 1
    for part in bit_parts(bits):
        per = 8 // part
        for i in range(count):
            codes[i] += packed[start + i // per] // 2 ** (part * (i % per)) % 2**part * weight
        start += math.ceil(count / per)
        weight *= 2**part
    assert start == len(packed)
    return codes


@given(st.data(), st.sampled_from(PACKED_BITS))
def test_packed_codes_come_back_and_follow_the_documented_layout(data: st.DataObject, bits: int) -> None:
    codes = data.draw(npst.arrays(np.uint8, SHAPES, elements=st.integers(0, 2**bits - 1)))
    packed = pack_bits(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (packed_bytes(codes.size, bits),)
    np.testing.assert_array_equal(unpack_bits(packed, bits, codes.size), codes.reshape(-1))
    assert decode_by_division(packed.tolist(), bits, codes.size) == codes.reshape(-1).tolist()


def test_layout_by_hand() -> None:
    assert bit_parts(7) == (4, 2, 1)
    assert bit_parts(5) == (4, 1)
    # 0b101, 0b010, 0b111: low two bits 01, 10, 11 -> 0b00_11_10_01; high bits 1, 0, 1 -> 0b101.
    assert pack_bits(np.array([5, 2, 7], np.uint8), 3).tolist() == [0b00111001, 0b101]
    assert pack_bits(np.array([[0xA, 0x3], [0xF, 0x0]], np.uint8), 4).tolist() == [0x3A, 0x0F]
    assert pack_bits(np.array([200], np.uint8), 8).tolist() == [200]


def test_codes_are_taken_in_c_order_whatever_the_strides() -> None:
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(unpack_bits(pack_bits(codes.T, 4), 4, 12), codes.T.reshape(-1))


def test_packing_leaves_its_input_alone() -> None:
    codes = np.array([7, 6, 5], np.uint8)
    pack_bits(codes, 3)
    assert codes.tolist() == [7, 6, 5]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="a code is 8; 3 bits hold 0 to 7"):
        pack_bits(np.array([8], np.uint8), 3)
    with pytest.raises(TypeError, match="int64"):
        pack_bits(np.array([1]), 3)  # type: ignore[arg-type]
    for bits in (0, 9, 16):
        with pytest.raises(ValueError, match="allowed: 1 to 8"):
            pack_bits(np.array([0], np.uint8), bits)
    with pytest.raises(ValueError, match="they take 2"):
        unpack_bits(np.zeros(3, np.uint8), 4, 4)
    with pytest.raises(ValueError, match="it takes 2"):
        unpack_bitmask(np.zeros(3, np.uint8), 9)


@given(npst.arrays(np.bool_, SHAPES))
def test_bitmasks_come_back(mask: np.ndarray) -> None:
    packed = pack_bitmask(mask)
    assert packed.size == math.ceil(mask.size / 8)
    np.testing.assert_array_equal(unpack_bitmask(packed, mask.size), mask.reshape(-1))
    for i, flag in enumerate(mask.reshape(-1)):
        assert packed[i // 8] >> (i % 8) & 1 == flag


@given(st.integers(0, 10_000), st.sampled_from(PACKED_BITS))
def test_packed_size_is_within_a_byte_per_part_of_the_bits(count: int, bits: int) -> None:
    assert count * bits <= packed_bytes(count, bits) * 8 < count * bits + 8 * len(bit_parts(bits)) or count == 0


@pytest.mark.parametrize(
    ("count", "nonzero", "bits", "scales", "affine", "expected"),
    [
        (100, 100, 8, 0, False, 100),
        (100, 10, 8, 0, False, 13 + 10),
        (100, 100, 4, 10, False, 50 + 40),
        (100, 100, 4, 10, True, 50 + 50),
        (100, 99, 1, 1, False, 13 + 4),
        (10, 10, 16, 0, False, 20),
        (10, 2, 32, 0, False, 2 + 8),
        (0, 0, 5, 0, False, 0),
    ],
)
def test_stored_bytes(count: int, nonzero: int, bits: int, scales: int, affine: bool, expected: int) -> None:
    assert stored_bytes(count, nonzero, bits, scales, affine) == expected


def test_sizes_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="nonzero is 5; allowed: 0 to 4"):
        bitmask_bytes(4, 5, 8)
    with pytest.raises(ValueError, match="bits is 12"):
        packed_bytes(4, 12)
    with pytest.raises(ValueError, match="count is -1"):
        packed_bytes(-1, 8)
