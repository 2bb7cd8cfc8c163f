"""What is the CRC of two byte strings joined, given only theirs? Knows no S3 and no bytes.

A CRC is the remainder of a polynomial over GF(2), so appending n bytes multiplies the first remainder by x^(8n).
All CRCs here are reflected and begin and end with all ones, which makes the rule exactly
crc(A + B) = crc(A)·x^(8·|B|) xor crc(B). Multiplying by one power is linear, so it is a look-up for each byte in a
table that is made once: an object of 10,000 parts of one size takes milliseconds.
Source: Mark Adler, zlib's `crc32_combine` (the arithmetic, in own words).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_SHIFTS_CACHED: Final = 8  # the parts of one upload have one size, and a last one; a table takes up to 128 KiB

_Table = tuple[tuple[int, ...], ...]


def combine_crc(width: int, polynomial: int, first: int, second: int, second_size: int) -> int:
    """Return the CRC of A + B from the CRCs of A and B and the size of B in bytes.

    `polynomial` is reflected (lowest bit = highest power), without its leading term, `width` bits.
    """
    for row in _shift_table(width, polynomial, second_size):
        second ^= row[first & 0xFF]
        first >>= 8
    return second


@lru_cache(_SHIFTS_CACHED)
def _shift_table(width: int, polynomial: int, size: int) -> _Table:
    """Return for each byte of a remainder, lowest first, what its values become times x^(8·size)."""
    products = [_shift(width, polynomial, size)]  # of x^0, x^1, ...: reflected, so those of the bits from the top
    for _ in range(width - 1):
        products.append(_times_x(polynomial, products[-1]))
    products.reverse()
    rows = []
    for at in range(0, width, 8):
        row = [0] * 256
        for value in range(1, 256):
            low = value & -value
            row[value] = row[value ^ low] ^ products[at + low.bit_length() - 1]
        rows.append(tuple(row))
    return tuple(rows)


def _shift(width: int, polynomial: int, size: int) -> int:
    """Return x^(8·size) modulo the polynomial, by repeated squaring: about 2·log2(size) products."""
    power = 1 << (width - 1)  # x^0: reflected, so the highest bit is the lowest power
    square = 1 << (width - 9)  # x^8
    while size:
        if size & 1:
            power = _multiplied(width, polynomial, square, power)
        square = _multiplied(width, polynomial, square, square)
        size >>= 1
    return power


def _multiplied(width: int, polynomial: int, a: int, b: int) -> int:
    product = 0
    bit = 1 << (width - 1)
    while a:
        if a & bit:
            product ^= b
            a ^= bit
        bit >>= 1
        b = _times_x(polynomial, b)
    return product


def _times_x(polynomial: int, value: int) -> int:
    return (value >> 1) ^ polynomial if value & 1 else value >> 1
