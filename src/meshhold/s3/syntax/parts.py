"""Which part of an object does a request ask for? Knows no object; callers pass its parts.

Source: GetObject's and HeadObject's `partNumber`; GetObjectAttributes' part markers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshhold.s3.errors import S3Error
from meshhold.sealing.content import PartRow

PART_NUMBER_MAX: Final = 10_000  # S3's own limit


def parse_part_number(text: str | None) -> int:
    """Return a part's number. Errors: `InvalidArgument` unless it is 1 to 10,000."""
    digits = text or ""
    if not (digits.isascii() and digits.isdigit()) or not 1 <= int(digits[:9]) <= PART_NUMBER_MAX:
        raise S3Error(
            "InvalidArgument",
            "Part number must be an integer between 1 and 10000, inclusive",
            fields={"ArgumentName": "partNumber", "ArgumentValue": digits},
        )
    return int(digits)


def find_part(rows: Sequence[PartRow], number: int, size: int) -> tuple[int, int, PartRow | None]:
    """Return where a part begins and ends, and its row; an object of `size` bytes without parts is its part 1.

    Errors: `InvalidPartNumber` (416) for a part that the object has not.
    """
    if not rows and number == 1:
        return 0, size, None
    start = 0
    for row in rows:
        if row.number == number:
            return start, start + row.size, row
        start += row.size
    raise S3Error(
        "InvalidPartNumber",
        "The requested partnumber is not satisfiable",
        fields={"PartNumberRequested": str(number), "ActualPartCount": str(len(rows) or 1)},
    )
