"""How answers go out: whole, in order, as long as they say; what an application gets wrong harms no other request."""

from __future__ import annotations

import logging
import socket
import struct

import pytest
import trio
from tests.http_script import Listener, ScriptedStream, converse, read_answers

from meshhold.s3.exchange import Headers, Response, Sink
from meshhold.s3.http.connection import Connection
from meshhold.s3.http.conversation import Conversation
from meshhold.s3.http.head import RequestHead
from meshhold.s3.http.stream import ClientGoneError, ClientStream

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = 2**20


class Scripted(Listener):
    """Gives these answers, one for each request."""

    def __init__(self, *answers: Response) -> None:
        super().__init__()
        self.answers = list(answers)

    async def respond(self, head: RequestHead, talk: Conversation) -> Response:
        await super().respond(head, talk)
        return self.answers.pop(0)


def streamed(*pieces: bytes, length: int, headers: Headers | None = None) -> Response:
    async def stream(sink: Sink) -> None:
        for piece in pieces:
            await sink(piece)

    return Response(200, headers or [], stream=stream, length=length)


async def test_answers_leave_in_order_and_whole() -> None:
    app = Scripted(Response(body=b"one"), streamed(b"t", b"w", b"o", length=3), streamed(length=0), Response(body=b"4"))
    answers = read_answers(await converse([GET * 4], app))
    assert answers == [(200, b"one"), (200, b"two"), (200, b""), (200, b"4")]


async def test_a_large_piece_comes_after_its_head() -> None:
    body = bytes(range(256)) * 1024
    assert read_answers(await converse([GET], Scripted(streamed(body, b"end", length=len(body) + 3)))) == [
        (200, body + b"end")
    ]


async def test_answers_without_a_body() -> None:
    app = Scripted(Response(204), Response(304, body=b"never"), Response(length=7), Response(body=b"after"))
    sent = await converse([GET * 2 + HEAD + GET], app)
    heads = sent.split(b"\r\n\r\n")
    assert [b"content-length" in head for head in heads] == [False, False, True, True, False]
    assert b"content-length: 7" in heads[2]
    assert heads[4] == b"after"


@pytest.mark.parametrize("pieces", [(b"abc",), (b"ab", b"c", b"")])
async def test_an_answer_that_is_too_short_ends_the_connection(
    pieces: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    sent = await converse([GET * 2], Scripted(streamed(*pieces, length=4), Response(body=b"never")))
    assert sent.endswith(b"content-length: 4\r\n\r\nabc")
    assert "answer cut short" in caplog.text


async def test_no_byte_above_an_answers_length_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    sent = await converse([GET * 2], Scripted(streamed(b"abc", b"de", length=4), Response(body=b"never")))
    assert sent.endswith(b"content-length: 4\r\n\r\nabc")
    assert "answer cut short" in caplog.text


@pytest.mark.parametrize(
    "header",
    [
        (b"a", b"b\r\nSet-Cookie: c"),
        (b"a", b"b\nc"),
        (b"a", b"b\r"),
        (b"a", b"\0"),
        (b"a", b"\x0b"),
        (b"a\r\nb", b"c"),
        (b"a: b", b"c"),
        (b"a b", b"c"),
        (b"\xe4", b"c"),
        (b"", b"c"),
    ],
)
async def test_no_header_breaks_out_of_its_line(header: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture) -> None:
    for refused in (Response(headers=[header]), streamed(b"abc", length=3, headers=[header])):
        sent = await converse([GET * 2], Scripted(refused, Response(headers=[(b"a", b" \xe4\t")], body=b"next")))
        assert read_answers(sent) == [(500, b"InternalError"), (200, b"next")]
    assert caplog.records[0].levelno == logging.ERROR


async def test_an_answer_under_way_is_the_last_when_the_door_closes() -> None:
    stream = ScriptedStream([GET * 2])
    app = Scripted()
    connection = Connection(app, stream)

    async def stop(sink: Sink) -> None:
        connection.end_soon()
        await sink(b"last")

    app.answers = [Response(stream=stop, length=4)]
    await connection.run()
    assert read_answers(stream.sent) == [(200, b"last")]
    assert b"\r\nconnection: close\r\n" in stream.sent


async def test_an_idle_connection_that_makes_room_tells_of_half_a_head() -> None:
    stream = ScriptedStream([])
    connection = Connection(Listener(), stream)
    stream.rest = GET[:-1]
    assert connection.end_if_idle()
    await connection.run()
    assert read_answers(stream.sent) == [(400, b"RequestTimeout")]


# -- the socket -----------------------------------------------------------------------------------------------------


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection: the door's and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        return listener.accept()[0], far


async def test_a_peer_that_reads_slowly_gets_everything() -> None:
    near, far = connected()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    far.setblocking(False)
    reading = trio.socket.from_stdlib_socket(far)
    stream = ClientStream(near, 5.0)
    data = bytes(range(256)) * 1024
    received = b""

    async def send() -> None:
        await stream.send_all(data)
        stream.send_eof()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while piece := await reading.recv(1000):
                received += piece
    assert received == data
    stream.close()
    reading.close()


async def test_a_peer_that_takes_nothing_is_given_up() -> None:
    near, far = connected()
    stream = ClientStream(near, 0.02)
    with pytest.raises(ClientGoneError):
        await stream.send_all(bytes(8 * MIB))
    assert stream.broken
    with pytest.raises(ClientGoneError):
        await stream.send_all(b"more")
    stream.close()
    far.close()


async def test_a_peer_that_has_gone() -> None:
    near, far = connected()
    stream = ClientStream(near, 5.0)
    assert (stream.peer, stream.port) == ("127.0.0.1", near.getsockname()[1])
    assert stream.receive_now(100) is None
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its close is a reset
    far.close()
    with trio.fail_after(5):
        await stream.wait_readable()
    with pytest.raises(ClientGoneError):
        stream.receive_now(100)
    with pytest.raises(ClientGoneError):
        await stream.send_all(b"hello")
    stream.close()
