"""Codes of 1 to 8 bits as bytes, and what a tensor of them costs to store.

The layout is made for a decoder that has only integer division and remainder (an ONNX graph with `Div` and `Mod`):

1. `bits` is split into powers of two, largest first: 7 = 4 + 2 + 1, 6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1; 1, 2, 4 and 8
   are one part (`bit_parts`).
2. The first part, of k bits, holds the k LOWEST bits of every code: `code % 2**k`. The next part holds the lowest bits
   of what is left, `code // 2**k`, and so on: 7 bits give bits 0-3, then bits 4-5, then bit 6.
3. Every part is packed by itself. With `per = 8 // k`, byte j holds elements `j * per` to `j * per + per - 1`, element
   `j * per` in the lowest bits: element i of a part is `packed[i // per] // 2**(k * (i % per)) % 2**k`.
4. The last byte of every part is filled up with zeros, and the parts follow one another in the order of 1.

Codes are taken in C order (the last axis runs fastest); the shape is not stored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

PACKED_BITS = (1, 2, 3, 4, 5, 6, 7, 8)
# Widths that have a size without being packed: fp16 and fp32.
STORED_BITS = (*PACKED_BITS, 16, 32)
SCALE_BYTES = 4
ZERO_POINT_BYTES = 1


def bit_parts(bits: int) -> tuple[int, ...]:
    """The powers of two that `bits` is split into, largest first; the first part holds the lowest bits of a code.

    Raises:
        ValueError: `bits` is not in 1-8.
    """
    if bits not in PACKED_BITS:
        raise ValueError(f"bits is {bits!r}; allowed: 1 to 8")
    return tuple(part for part in (8, 4, 2, 1) if bits & part)


def pack_bits(codes: Bytes, bits: int) -> Bytes:
    """Packs `codes` of any shape into `[packed_bytes(codes.size, bits)]` bytes in the layout of this module.

    Raises:
        ValueError: `bits` is not in 1-8, or a code does not fit in that many bits.
        TypeError: `codes` is not uint8.
    """
    if codes.dtype != np.uint8:
        raise TypeError(f"codes are {codes.dtype}; only uint8 codes can be packed")
    rest: Bytes = codes.reshape(-1)
    parts = bit_parts(bits)
    if rest.size and int(rest.max()) >= 2**bits:
        raise ValueError(f"a code is {int(rest.max())}; {bits} bits hold 0 to {2**bits - 1}")
    packed = []
    for part in parts:
        per = 8 // part
        rows = np.zeros(-(-rest.size // per) * per, dtype=np.uint8)
        rows[: rest.size] = rest & np.uint8(2**part - 1)
        rest = rest // np.uint8(2**part) if part < 8 else rest
        shifts = (np.arange(per) * part).astype(np.uint8)
        packed.append(np.bitwise_or.reduce(rows.reshape(-1, per) << shifts, axis=1).astype(np.uint8))
    return np.concatenate(packed)


def unpack_bits(packed: Bytes, bits: int, count: int) -> Bytes:
    """The `[count]` codes that `pack_bits` packed.

    Raises:
        ValueError: `packed` does not have the length that `count` codes of `bits` bits take.
    """
    parts = bit_parts(bits)
    if packed.size != packed_bytes(count, bits):
        raise ValueError(
            f"{packed.size} bytes were given for {count} codes of {bits} bits; they take {packed_bytes(count, bits)}"
        )
    codes = np.zeros(count, dtype=np.uint8)
    start = shift = 0
    for part in parts:
        per = 8 // part
        length = -(-count // per)
        shifts = (np.arange(per) * part).astype(np.uint8)
        elements = packed[start : start + length].reshape(-1, 1) >> shifts & np.uint8(2**part - 1)
        codes |= elements.reshape(-1)[:count] << np.uint8(shift)
        start += length
        shift += part
    return codes


def pack_bitmask(nonzero: NDArray[np.bool_]) -> Bytes:
    """One bit per element of `nonzero`, any shape, element 0 in the lowest bit of byte 0: `[ceil(size / 8)]`."""
    return np.packbits(nonzero.reshape(-1), bitorder="little")


def unpack_bitmask(packed: Bytes, count: int) -> NDArray[np.bool_]:
    """The `[count]` flags that `pack_bitmask` packed.

    Raises:
        ValueError: `packed` does not hold `ceil(count / 8)` bytes.
    """
    if packed.size != -(-count // 8):
        raise ValueError(f"{packed.size} bytes were given for a mask of {count}; it takes {-(-count // 8)}")
    return np.unpackbits(packed, count=count, bitorder="little").astype(np.bool_)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` values of `bits` bits: 1-8 in the layout of this module, 16 and 32 as floats.

    Raises:
        ValueError: `count` is negative or `bits` has no stored form.
    """
    if count < 0:
        raise ValueError(f"count is {count}; it must be 0 or more")
    if bits not in STORED_BITS:
        raise ValueError(f"bits is {bits!r}; allowed: {', '.join(map(str, STORED_BITS))}")
    if bits > 8:
        return count * (bits // 8)
    return sum(-(-count * part // 8) for part in bit_parts(bits))


def bitmask_bytes(count: int, nonzero: int, bits: int) -> int:
    """Bytes of `count` values of which only `nonzero` are stored, with one bit per value that says which.

    Raises:
        ValueError: `nonzero` is not in 0 to `count`.
    """
    if not 0 <= nonzero <= count:
        raise ValueError(f"nonzero is {nonzero}; allowed: 0 to {count}, the number of values")
    return -(-count // 8) + packed_bytes(nonzero, bits)


def stored_bytes(count: int, nonzero: int, bits: int, scales: int, zero_points_stored: bool) -> int:
    """Bytes of one tensor in the cheaper of the dense and the bitmask form, with its scales.

    Args:
        count: Number of values.
        nonzero: How many of them are not zero.
        bits: Bits per value.
        scales: Number of fp32 scales: one per channel, 1 per tensor, 0 for floats.
        zero_points_stored: True for an affine scheme, which keeps a byte beside every scale.
    """
    values = min(packed_bytes(count, bits), bitmask_bytes(count, nonzero, bits))
    return values + scales * (SCALE_BYTES + (ZERO_POINT_BYTES if zero_points_stored else 0))
