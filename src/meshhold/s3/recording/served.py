"""One request that was served, as logs and counters see it. Decides nothing.

Made for every request, so its making is a few slots filled and nothing computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

CLIENT_GONE: Final = 499
"""The status of a request whose client left before an answer began, as nginx writes it; no answer ever has it."""
TARGET_MAX: Final = 4_096  # these two bound what waits to be written; a longer text is cut
HEADER_MAX: Final = 512


class Served(NamedTuple):
    """A request and what came of it.

    `at_s` is when it began (since 1970), `duration_s` how long it took to its last byte; `target` is path and query as
    sent, `referer` and `agent` are header values, `b""` without one. `sender` is the access key's id, `""` for a
    request without a signature that held; `bucket` and `operation` are `""` where the request named none. Bytes are
    those of bodies.
    """

    at_s: float
    duration_s: float
    remote: str
    method: str
    target: bytes
    version: str
    status: int
    bytes_in: int
    bytes_out: int
    referer: bytes
    agent: bytes
    request_id: str
    sender: str
    bucket: str
    operation: str


Recorder = Callable[[Served], None]
"""Takes note of a served request; returns at once and raises nothing."""
