"""What is the CRC of two byte strings joined, given only theirs? Knows no S3 and no bytes.

A CRC is the remainder of a polynomial over GF(2), so appending n bytes multiplies the first remainder by x^(8n).
All CRCs here are reflected and begin and end with all ones, which makes the rule exactly
crc(A + B) = crc(A)·x^(8·|B|) xor crc(B). Source: Mark Adler, zlib's `crc32_combine` (the arithmetic, in own words).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_SHIFTS_CACHED: Final = 256  # the parts of one upload have one size, and a last one


def combine_crc(width: int, polynomial: int, first: int, second: int, second_size: int) -> int:
    """Return the CRC of A + B from the CRCs of A and B and the size of B in bytes.

    `polynomial` is reflected (lowest bit = highest power), without its leading term, `width` bits.
    """
    return _multiplied(width, polynomial, first, _shift(width, polynomial, second_size)) ^ second


@lru_cache(_SHIFTS_CACHED)
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
        b = (b >> 1) ^ polynomial if b & 1 else b >> 1
    return product
