"""Which bytes does a request ask for? Knows no object; callers pass its size."""

from __future__ import annotations

from typing import Final

from meshhold.s3.errors import S3Error

_DIGITS_MAX: Final = 18  # 10^18 is beyond every object, and int() of more digits costs time
_BEYOND: Final = 10**_DIGITS_MAX


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return `(first, last)`, both inclusive and inside the object, or None for the whole of it.

    A header that is malformed, of another unit, or of several ranges is ignored: S3 serves one range or everything.
    Errors: `InvalidRange` (416) with `Content-Range: bytes */size` where no byte would be served.
    Source: RFC 9110, section 14; GetObject's "Range".
    """
    parts = _split(header)
    if parts is None:
        return None
    first, last = parts
    if first is None:
        suffix = last or 0
        if suffix and size:
            return max(0, size - suffix), size - 1
        if suffix:
            return None  # the last bytes of an empty object are all of it
    elif last is not None and first > last:
        return None
    elif first < size:
        return first, size - 1 if last is None else min(last, size - 1)
    raise S3Error(
        "InvalidRange",
        "The requested range is not satisfiable",
        headers={"Content-Range": f"bytes */{size}"},
        fields={"RangeRequested": header or "", "ActualObjectSize": str(size)},
    )


def parse_copy_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return `(first, last)`, both inclusive, of `x-amz-copy-source-range`, or None if there is none.

    Errors: `InvalidArgument` unless it is `bytes=first-last`; `InvalidRange` unless that is inside the source: a part
    never silently gets shorter.
    """
    if header is None:
        return None
    first, last = _split(header) or (None, None)
    if first is None or last is None or first > last:
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
            fields={"ArgumentName": "x-amz-copy-source-range", "ArgumentValue": header},
        )
    if last >= size:
        raise S3Error(
            "InvalidRange",
            f"Range specified is not valid for source object of size: {size}",
            fields={"RangeRequested": header, "ActualObjectSize": str(size)},
        )
    return first, last


def _split(header: str | None) -> tuple[int | None, int | None] | None:
    """Return the two numbers of `bytes=a-b` (None for an absent one), or None for anything else."""
    if not header:
        return None
    unit, _, text = header.strip().partition("=")
    first, dash, last = text.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or not (first or last):
        return None
    for digits in (first, last):
        if digits and not (digits.isascii() and digits.isdigit()):
            return None
    return _number(first), _number(last)


def _number(digits: str) -> int | None:
    if not digits:
        return None
    significant = digits.lstrip("0")
    return _BEYOND if len(significant) > _DIGITS_MAX else int(significant or "0")
