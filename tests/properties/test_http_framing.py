"""Wherever its bytes are cut, a request is the same; and whatever is taken, another parser reads in the same way."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from tests.http_script import Listener, Understood, converse, read_answers

METHODS = st.sampled_from([b"GET", b"PUT", b"DELETE", b"POST", b"get", b"FROB", b"OPTIONS", b"CONNECT"])
TARGETS = st.sampled_from([b"/", b"/b/k", b"/b/k%20?a=b&c", b"*", b"/" + b"k" * 300])
VERSIONS = st.sampled_from([b"1.1"] * 8 + [b"1.0", b"2.0"])
HEADERS = st.sampled_from(
    [
        b"a: b", b"a:", b"A:\tb\xff c ", b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue",
        b"Connection: Upgrade\r\nUpgrade: h2c", b"Content-Length: 4", b"Content-Length: 0", b"Content-Length: 4, 4",
        b"Content-Length: 10", b"Content-Length:\x0b4", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked", b"transfer-encoding : chunked", b"Transfer-Encoding: chunked, chunked",
        b"X: y\nContent-Length: 4", b"X: y\rContent-Length: 4", b"X: y\r\n Content-Length: 4", b"Host: y",
        b"Trailer: x",
    ]
)  # fmt: skip
BODIES = st.sampled_from(
    [
        b"", b"", b"body", b"0123456789", b"0\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\n", b"1;x=y\r\n!\r\n0\r\na: b\r\n\r\n",
        b"4\r\nbody\r\n0\r\n", b"a\r\n0123456789\r\n00\r\n\r\n", b"4\nbody\r\n0\r\n\r\n", b"4 \r\nbody\r\n0\r\n\r\n",
        b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return a request that is probably one, with a body that probably is as long as it says."""
    method, target, version = draw(METHODS), draw(TARGETS), draw(VERSIONS)
    lines = [b"%b %b HTTP/%b" % (method, target, version), b"Host: x", *draw(st.lists(HEADERS, max_size=3))]
    return b"\r\n".join(lines) + b"\r\n\r\n" + draw(BODIES)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Return some requests, of which a few bytes are others, more or gone."""
    raw = bytearray(b"".join(draw(st.lists(requests(), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b"\r", b"\n", b"\0", b" ", b":", b"\r\n", b"0", b";"])
        )
    return bytes(raw)


def take(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], list[Understood]]:
    app = Listener()
    sent = trio.run(converse, pieces, app)
    return read_answers(sent), app.understood


def read_elsewhere(raw: bytes) -> list[Understood]:
    """Return the requests that h11 reads, until it refuses one."""
    found = []
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    try:
        while type(head := server.next_event()) is h11.Request:
            body = b""
            while type(event := server.next_event()) is h11.Data:
                body += bytes(event.data)
            if type(event) is not h11.EndOfMessage:
                break
            found.append(Understood(head.method.decode(), head.target, tuple(head.headers), body))
            server.send(h11.Response(status_code=400, headers=[("Content-Length", "0")]))  # 2xx would connect
            server.send(h11.EndOfMessage())
            server.start_next_cycle()
    except h11.ProtocolError:
        pass
    return found


@given(spoiled())
@example(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
def test_whatever_is_taken_another_parser_reads_in_the_same_way(raw: bytes) -> None:
    _, understood = take([raw])
    assert understood == read_elsewhere(raw)[: len(understood)]


@given(spoiled(), st.data())
def test_where_bytes_are_cut_changes_nothing(raw: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    whole = take([raw])
    assert take([raw[a:b] for a, b in pairwise([0, *cuts, len(raw)])]) == whole


WANTED = (
    b"PUT /a?q HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nslowly"
    b"PUT /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4;x\r\nbody\r\n0\r\na: b\r\n\r\n"
    b"GET /c HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    b"POST /d HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"
    b"DELETE /e HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_pieces_of_one_size(size: int) -> None:
    app = Listener()
    sent = await converse([WANTED[at : at + size] for at in range(0, len(WANTED), size)], app)
    bodies = [b"slowly", b"body", b"", b"", b""]
    assert read_answers(sent) == [(200, b"slowly"), (200, b"body"), (200, b""), (100, b""), (200, b""), (200, b"")]
    assert [(found.target, found.body) for found in app.understood] == list(
        zip([b"/a?q", b"/b", b"/c", b"/d", b"/e"], bodies, strict=True)
    )


async def test_a_cut_at_every_byte() -> None:
    for at in range(1, len(WANTED)):
        app = Listener()
        await converse([WANTED[:at], WANTED[at:]], app)
        assert [found.body for found in app.understood] == [b"slowly", b"body", b"", b"", b""], at
