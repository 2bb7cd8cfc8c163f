"""How does a served request look in a log? Two forms, both safe to show: no control character, no secret, one line.

What gives access is left out of the line: signatures and session tokens of presigned URLs, also where a browser sends
such a URL on as a referer.
"""

from __future__ import annotations

import json
import re
import time
from typing import Final
from urllib.parse import unquote_to_bytes

from meshhold.s3.recording.served import Served

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SECRETS: Final = frozenset((b"x-amz-signature", b"x-amz-security-token", b"signature", b"token"))
_REDACTED: Final = b"REDACTED"
_UNSAFE_IN_URL: Final = re.compile(rb"[^!#-\[\]-~]")  # all but visible ASCII without `"` and `\`
_UNSAFE_IN_TEXT: Final = re.compile(rb"[^ !#-\[\]-~]")


def combined_line(served: Served) -> str:
    """Return a line of Apache's Combined Log Format; its user is the access key's id.

    Source: Apache HTTP Server 2.4, mod_log_config, `combined`.
    """
    moment = time.gmtime(served.at_s)
    day = f"{moment.tm_mday:02}/{_MONTHS[moment.tm_mon - 1]}/{moment.tm_year}"
    return (
        f"{served.remote or '-'} - {served.sender or '-'} [{day}:{time.strftime('%H:%M:%S', moment)} +0000] "
        f'"{served.method} {safe_target(served.target)} HTTP/{served.version}" {served.status} '
        f'{served.bytes_out or "-"} "{_text(served.referer, url=True)}" "{_text(served.agent)}"'
    )


def json_line(served: Served) -> str:
    """Return one JSON object: what `combined_line` says, and request id, duration, key, bucket and operation."""
    path, _, query = safe_target(served.target).partition("?")
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(served.at_s))
    return json.dumps(
        {
            "time": f"{moment}.{int(served.at_s * 1000) % 1000:03}Z",
            "remote": served.remote,
            "method": served.method,
            "path": path,
            "query": query,
            "status": served.status,
            "bytes_in": served.bytes_in,
            "bytes_out": served.bytes_out,
            "duration_ms": round(served.duration_s * 1000, 1),
            "referer": safe_target(served.referer),
            "user_agent": served.agent.decode("utf-8", "backslashreplace"),
            "request_id": served.request_id,
            "access_key_id": served.sender,
            "bucket": served.bucket,
            "operation": served.operation,
        },
        separators=(",", ":"),
    )


def safe_target(raw: bytes) -> str:
    """Return a path with its query, percent-encoded where it is not visible ASCII, without what gives access."""
    path, mark, query = raw.partition(b"?")
    if mark:
        path += b"?" + b"&".join(_redacted(pair) for pair in query.split(b"&"))
    return _UNSAFE_IN_URL.sub(lambda found: b"%%%02X" % found[0][0], path).decode("ascii")


def _redacted(pair: bytes) -> bytes:
    name, equals, _ = pair.partition(b"=")
    return name + equals + _REDACTED if unquote_to_bytes(name).lower() in _SECRETS else pair


def _text(raw: bytes, *, url: bool = False) -> str:
    """Return a header's value as Apache writes it: `-` for none, with backslashes before what would mislead."""
    if url:
        return safe_target(raw) or "-"
    return _UNSAFE_IN_TEXT.sub(_escaped, raw).decode("ascii") or "-"


def _escaped(found: re.Match[bytes]) -> bytes:
    octet = found[0]
    return b"\\" + octet if octet in (b'"', b"\\") else b"\\x%02x" % octet[0]
