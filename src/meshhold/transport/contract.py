"""What a way to reach other machines promises. Knows no message, no key and no node.

An address is text, `host:port`, or `[host]:port` for IPv6. A stream carries bytes both ways, whole and in order, until
either side ends it or the connection is lost; nothing is promised of who is on the other side.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import trio

from meshhold.errors import InvalidError

RECEIVE_SIZE: Final = 256 * 1024
"""Bytes taken at once: four slices of bulk. Each turn of the loop costs as much as opening 100 KiB."""


class ByteStream(Protocol):
    """One connection, as Trio's half-closeable streams promise it, and a send that never waits.

    Errors of all methods: `trio.BrokenResourceError` once the connection is lost, `trio.ClosedResourceError` after
    `aclose`, `trio.BusyResourceError` when two tasks send, or two receive, at once.
    """

    @property
    def peer_address(self) -> str:
        """The address of the other side, as far as this machine can tell."""

    def send_soon(self, data: bytes | bytearray | memoryview) -> int:
        """Take as many bytes from the front as go without waiting; return how many (0 when none)."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything. After a cancellation some unknown part was sent: only closing makes sense."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return 1 to `max_bytes` of them, or `b""` once the other side has ended its direction."""

    async def send_eof(self) -> None:
        """Tell the other side that nothing more comes; receiving goes on. Idempotent."""

    async def aclose(self) -> None:
        """Close at once, also when cancelled. Idempotent."""


Serve = Callable[[ByteStream], Awaitable[None]]
"""Takes one incoming stream and closes it. It deals with its own errors: what it raises ends the listening."""


class Transport(Protocol):
    """Connections between addresses."""

    async def dial(self, address: str, *, timeout_s: float) -> ByteStream:
        """Return a stream to whoever listens at `address`.

        Errors: `PeerUnreachableError` that names the address and the cause: nobody listens, no route, no answer within
        `timeout_s`. `InvalidError` for an address that is none.
        """

    async def listen(
        self, address: str, serve: Serve, *, task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Call `serve` in its own task for each incoming stream, until cancelled.

        Started with the addresses that it listens at: port 0 is replaced by the one that the system chose, and an empty
        host stands for all of this machine's addresses, IPv4 and IPv6.
        Errors: `ConflictError` when an address is taken or not this machine's; `InvalidError` for one that is none.
        """


class HostPort(NamedTuple):
    """An address taken apart."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(address: str) -> HostPort:
    """Return host (without brackets; may be empty) and port. Errors: `InvalidError` that tells the form."""
    host, colon, digits = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    well_formed = colon and digits.isascii() and digits.isdigit() and len(digits) <= 5 and len(host) <= 255
    if not well_formed or int(digits) > 65535 or (":" in host) != bracketed:
        raise InvalidError(f"{address!r} is not an address", "write host:port, and [host]:port for IPv6")
    return HostPort(host, int(digits))
