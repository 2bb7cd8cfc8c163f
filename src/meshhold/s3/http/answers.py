"""In which form does an answer's head go out? Refuses what would break it; knows no request."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

# botocore takes an answer instead of `100 Continue` for one only if it has a reason phrase
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_TOKEN: Final = b"-!#$%&'*+.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BREAKING: Final = b"\0\n\v\f\r"  # what RFC 9110, section 5.5, allows in no value
CONTINUE: Final = _STATUS_LINES[100] + b"\r\n"


def render_head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return status line, headers and empty line. Errors: `ValueError` for what would end a line or a name early."""
    names, values = zip(*headers, strict=True)
    if not all(names) or b"".join(names).translate(None, _TOKEN):
        raise ValueError(f"an answer's header has no valid name: {names!r}")
    joined = b"".join(values)
    if len(joined.translate(None, _BREAKING)) != len(joined):
        raise ValueError(f"an answer's header holds a line break or NUL: {values!r}")
    return _STATUS_LINES[status] + b"".join([b"%b: %b\r\n" % header for header in headers]) + b"\r\n"
