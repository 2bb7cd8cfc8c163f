"""The door's HTTP without a socket: bytes in pieces of any size go in, requests as they were understood come out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn

import trio

from meshhold.errors import FatalError
from meshhold.s3.door import Settings
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Response
from meshhold.s3.http.application import Application, check_framing
from meshhold.s3.http.connection import Connection
from meshhold.s3.http.conversation import Conversation
from meshhold.s3.http.head import RequestHead
from meshhold.s3.http.stream import ClientStream

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


@dataclass(frozen=True)
class Understood:
    """A request as the door took it."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class ScriptedStream(ClientStream):
    """A client that sends these pieces, each of which arrives alone, and then no more. `sent` is what it was told."""

    __slots__ = ("_pieces", "_turn", "sent")

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._turn = True
        self.sent = b""
        self.rest = b""
        self.stall_s = 5.0
        self.closing = self.broken = False
        self.peer, self.port = "192.0.2.1", 3900

    def receive_now(self, size: int) -> bytes | None:
        """Return at most `size` bytes of one piece; nothing has come yet each second time."""
        self._turn = not self._turn
        if self._turn:
            return None
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_all(self, data: bytes) -> None:
        assert not self.broken
        await trio.lowlevel.checkpoint()
        self.sent += data

    def send_eof(self) -> None:
        pass

    def close(self) -> None:
        self.broken = True


class Listener(Application):
    """Notes each request whole, and answers with its body. `/fail` and others ask it to misbehave."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings or Settings(), "tests", on_fatal=_refuse_death, now_s=lambda: 0.0)
        self.understood: list[Understood] = []

    async def respond(self, head: RequestHead, talk: Conversation) -> Response:
        check_framing(head)
        body = b""
        while piece := await talk.receive():
            body += piece
        target = head.raw_path + (b"?" + head.raw_query if head.raw_query else b"")
        self.understood.append(Understood(head.method, target, tuple(head.headers), body))
        return Response(200, [], body)

    def refusal(self, head: RequestHead | None, error: S3Error, request_id: str) -> Response:
        del head, request_id
        return Response(error.status, [], error.code.encode())


def _refuse_death(error: FatalError) -> NoReturn:
    raise AssertionError from error


async def converse(pieces: list[bytes], app: Application) -> bytes:
    """Return all that a client which sends these pieces is told, until its connection has ended."""
    stream = ScriptedStream(pieces)
    with trio.fail_after(5):
        await Connection(app, stream).run()
    assert stream.broken, "the socket is left open"
    return stream.sent


def read_answers(raw: bytes, methods: list[str] | None = None) -> list[tuple[int, bytes]]:
    """Return status and body of each answer; interim ones have none. Fails where anything else is between them."""
    found = []
    asked = list(methods or [])
    while raw:
        head, end, raw = raw.partition(b"\r\n\r\n")
        status = _STATUS.match(head + end)
        assert status, head
        assert end, head
        length = _LENGTH.search(head + b"\r\n")
        is_interim = status[1] == b"100"
        method = "" if is_interim or not asked else asked.pop(0)
        size = int(length[1]) if length and method != "HEAD" else 0
        assert length or is_interim, head
        assert len(raw) >= size, "an answer is cut short"
        found.append((int(status[1]), raw[:size]))
        raw = raw[size:]
    return found
