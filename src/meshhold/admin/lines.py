"""What one line of the control socket says: JSON objects, one a line, bounded. Knows no socket and no call.

request   {"v": 1, "call": "vault.create", "args": {"name": "photos"}}
progress  {"progress": {"objects": 17}}                     zero or more, before the answer
answer    {"ok": true, "result": …}
          {"ok": false, "error": {"kind": "NoSuchVaultError", "message": "…", "fix": "…"}}
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any, Final

from meshhold.errors import InvalidError, MeshHoldError

PROTOCOL_VERSION: Final = 1
REQUEST_BYTES_MAX: Final = 64 * 1024  # the longest request names a vault, a key and a label
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024  # a check that lists some 100,000 lost objects


def encode_line(message: dict[str, Any]) -> bytes:
    """Return one line. Dataclasses become objects, tuples and sets arrays, enum members their text."""
    return (
        json.dumps(message, default=_plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        + b"\n"
    )


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def decode_line(line: bytes) -> dict[str, Any]:
    """Undo `encode_line`. Errors: `InvalidError` for anything that is not one JSON object."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidError("a line on the control socket is not JSON", "send one JSON object per line") from None
    if not isinstance(message, dict):
        raise InvalidError("a line on the control socket is not a JSON object", "send one JSON object per line")
    return message


def decode_request(line: bytes) -> tuple[str, dict[str, Any]]:
    """Return the call's name and its arguments. Errors: `InvalidError` naming the field, or the other version."""
    message = decode_line(line)
    version, call, args = message.get("v"), message.get("call"), message.get("args", {})
    if version != PROTOCOL_VERSION:
        raise InvalidError(
            f"control protocol {str(version)[:20]} is not known to this daemon, which speaks {PROTOCOL_VERSION}",
            "use the meshhold program that the daemon was started from",
        )
    if not isinstance(call, str) or not isinstance(args, dict):
        raise InvalidError('a request needs "call" (text) and "args" (object)')
    unknown = sorted(message.keys() - {"v", "call", "args"})
    if unknown:
        raise InvalidError(f"a request has no field {unknown[0][:40]!r}", "use v, call and args")
    return call, args


def error_answer(error: MeshHoldError) -> dict[str, Any]:
    """Return the answer that carries `error`."""
    return {"ok": False, "error": {"kind": type(error).__name__, "message": error.message, "fix": error.fix}}
