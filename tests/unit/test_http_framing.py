"""Which bytes are a request: a table of heads and bodies, each with what the door makes of it, and a next request."""

from __future__ import annotations

import pytest
from tests.http_script import Listener, converse, read_answers

GET = b"GET /b/kept HTTP/1.1\r\nHost: x\r\n"
PUT = b"PUT /b/new HTTP/1.1\r\nHost: x\r\n"
CHUNKED = PUT + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
NEXT = b"DELETE /b/kept HTTP/1.1\r\nHost: x\r\n\r\n"
LINE = b" HTTP/1.1\r\nHost: x\r\n\r\n"


def sized(length: str, body: bytes = b"body") -> bytes:
    return PUT + f"Content-Length:{length}\r\n\r\n".encode() + body


def coded(coding: bytes, body: bytes = b"4\r\nbody\r\n0\r\n\r\n") -> bytes:
    return PUT + b"Transfer-Encoding:" + coding + b"\r\n\r\n" + body


TAKEN = {
    "no body": (GET + b"\r\n", b""),
    "bytes beyond ASCII in a value": (GET + b"a: \xe4\xff\x85\xa0\r\n\r\n", b""),
    "a tab in a value": (GET + b"a: b\tc\t\r\n\r\n", b""),
    "an empty value": (GET + b"a:\r\n\r\n", b""),
    "an empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b""),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", b""),
    "a method in lower case": (b"get /" + LINE, b""),
    "a method of signs": (b"M-SEARCH!#$%&'*+.^_`|~ /" + LINE, b""),
    "CONNECT": (b"CONNECT elsewhere:443" + LINE, b""),
    "PRI": (b"PRI *" + LINE, b""),
    "keep-alive": (GET + b"Connection: keep-alive\r\n\r\n", b""),
    "an upgrade": (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b""),
    "an upgrade with a body": (
        PUT + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\nbody", b"body",
    ),
    "an upgrade with chunks": (
        PUT + b"Upgrade: websocket\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n" + LAST,
        b"body",
    ),
    "a length": (sized(" 4"), b"body"),
    "a length with blanks around": (sized(" \t4 \t"), b"body"),
    "a length with zeros": (sized("0004"), b"body"),
    "a length of nothing": (sized("0", b""), b""),
    "a body on a GET": (GET + b"Content-Length: 4\r\n\r\nbody", b"body"),
    "a header that is not one on the length": (PUT + b"Content_Length: 4\r\n\r\n", b""),
    "a header that is not one on the coding": (PUT + b"Transfer_Encoding: chunked\r\n\r\n", b""),
    "chunks": (CHUNKED + b"4\r\nbody\r\n1\r\n!\r\n" + LAST, b"body!"),
    "no chunk but the last": (CHUNKED + LAST, b""),
    "a coding with blanks around": (coded(b"\t chunked "), b"body"),
    "a coding in other letters": (coded(b" ChunKed"), b"body"),
    "chunk sizes in hex": (CHUNKED + b"a\r\n0123456789\r\n00B\r\n0123456789a\r\n" + LAST, b"01234567890123456789a"),
    "chunk extensions": (CHUNKED + b'4;a=b;c="d e"\r\nbody\r\n0;x\r\n\r\n', b"body"),
    "a last chunk of many zeros": (CHUNKED + b"4\r\nbody\r\n0000\r\n\r\n", b"body"),
    "trailers": (CHUNKED + b"4\r\nbody\r\n0\r\na: b\r\nContent-Length: 9\r\n\r\n", b"body"),
}  # fmt: skip

MALFORMED = {
    "bare line feeds": (GET + b"\r\n").replace(b"\r\n", b"\n"),
    "a bare line feed after a header": GET + b"a: b\n\r\n",
    "a bare line feed at the end": GET + b"a: b\r\n\n",
    "a bare line feed between headers": GET + b"a: b\nc: d\r\n\r\n",
    "a bare carriage return": GET + b"a: b\rc: d\r\n\r\n",
    "a carriage return in the target": b"GET /a\rb" + LINE,
    "two carriage returns": GET + b"a: b\r\r\n\r\n",
    "a folded header": GET + b"a: b\r\n c\r\n\r\n",
    "a header folded with a tab": GET + b"a: b\r\n\tc\r\n\r\n",
    "a fold before the first header": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "an empty line before": b"\r\n" + GET + b"\r\n",
    "a line feed before": b"\n" + GET + b"\r\n",
    "a blank before": b" " + GET + b"\r\n",
    "a blank before the colon": GET + b"a : b\r\n\r\n",
    "a tab before the colon": GET + b"a\t: b\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "no colon": GET + b"abc\r\n\r\n",
    "a name in quotes": GET + b'"a": b\r\n\r\n',
    "a name beyond ASCII": GET + b"\xe4: b\r\n\r\n",
    "NUL in a name": GET + b"a\0: b\r\n\r\n",
    **{f"byte {octet} in a value": GET + b"a: b%cc\r\n\r\n" % octet for octet in (*range(9), 11, 12, 14, 27, 31, 127)},
    **{f"byte {octet} in a target": b"GET /%c" % octet + LINE for octet in (0, 1, 9, 10, 11, 127, 128, 255)},
    "two blanks in the line": b"GET  /" + LINE,
    "a tab in the line": b"GET\t/" + LINE,
    "a blank at the line's end": b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    "a version in lower case": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "a version of two digits": b"GET / HTTP/1.10\r\nHost: x\r\n\r\n",
    "another protocol": b"GET / ICE/1.0\r\nHost: x\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
    "HTTP/2": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "a method with a slash": b"GE/T /" + LINE,
    "no method": b" /" + LINE,
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "the same host twice": GET + b"Host: x\r\n\r\n",
    "length and coding": PUT + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    "coding and length": PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + LAST,
    "coding in HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + LAST,
    **{
        f"the length {length!r}": sized(length)
        for length in ("+4", "-4", "4, 4", "4,5", "4 4", "0x4", "4_0", "", "\u0664", "4;", "4.0", "9" * 23, str(2**64))
    },
    "the same length twice": PUT + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
    "two lengths": PUT + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
    "a blank before the coding's colon": PUT + b"Transfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\nbody",
    **{
        f"the chunk size {size!r}": CHUNKED + size + b"\r\nbody\r\n" + LAST
        for size in (
            b"4 ",
            b" 4",
            b"0x4",
            b"+4",
            b"-1",
            b"",
            b"4\r",
            b"four",
            b"1" + b"0" * 15 + b"4",
            b"4 ;a",
            b"4;\0",
        )
    },
    "a line feed after a chunk's size": CHUNKED + b"4\nbody\r\n" + LAST,
    "a line feed after a chunk": CHUNKED + b"4\r\nbody\n" + LAST,
    "a line feed in an extension": CHUNKED + b"4;a\nb\r\nbody\r\n" + LAST,
    "a carriage return in an extension": CHUNKED + b"4;a\rb\r\nbody\r\n" + LAST,
    "nothing after a chunk": CHUNKED + b"4\r\nbody" + LAST,
    "half an end after a chunk": CHUNKED + b"4\r\nbody\rX" + LAST,
    "a chunk longer than its size": CHUNKED + b"3\r\nbody\r\n" + LAST,
    "a line feed at the end of all chunks": CHUNKED + b"4\r\nbody\r\n0\r\n\n",
    "no end of all chunks": CHUNKED + b"4\r\nbody\r\n0\r\nXX",
    "a trailer without a colon": CHUNKED + b"0\r\nabc\r\n\r\n",
    "a trailer after a line feed": CHUNKED + b"0\r\na: b\n\r\n",
    "a folded trailer": CHUNKED + b"0\r\na: b\r\n c\r\n\r\n",
    "NUL in a trailer": CHUNKED + b"0\r\na: \0\r\n\r\n",
    "a chunk extension without end": CHUNKED + b"4;" + b"x" * 70_000,
    "trailers without end": CHUNKED + b"0\r\n" + (b"a: " + b"b" * 1_000 + b"\r\n") * 70,
}
CODINGS = [
    b"xchunked", b"gzip", b"identity", b"gzip, chunked", b"chunked, identity", b"chunked, chunked", b'"chunked"',
    b"chunked;q=1", b"chunked,", b"", b"\x0bchunked", b"\r\n chunked", b"chunked\0",
    b" chunked\r\nTransfer-Encoding: chunked", b"chunked\r\nTransfer-Encoding: identity",
    b"identity\r\nTransfer-Encoding: chunked", b"gzip\r\nContent-Length: 4",
]  # fmt: skip


@pytest.mark.parametrize(("raw", "body"), TAKEN.values(), ids=TAKEN)
async def test_a_request_is_taken_and_so_is_the_next(raw: bytes, body: bytes) -> None:
    app = Listener()
    assert read_answers(await converse([raw + NEXT], app)) == [(200, body), (200, b"")]
    assert [found.body for found in app.understood] == [body, b""]
    assert app.understood[0].method.encode() == raw.partition(b" ")[0]


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_malformed_is_refused_and_nothing_after_it_is_a_request(raw: bytes) -> None:
    app = Listener()
    sent = await converse([raw + NEXT], app)
    assert read_answers(sent) == [(400, b"BadRequest")]
    assert b"\r\nconnection: close\r\n" in sent
    assert app.understood == []


@pytest.mark.parametrize("coding", CODINGS)
async def test_another_coding_is_not_implemented_and_ends_the_connection(coding: bytes) -> None:
    app = Listener()
    sent = await converse([coded(coding) + NEXT], app)
    assert read_answers(sent) == [(501, b"NotImplemented")]
    assert b"\r\nconnection: close\r\n" in sent
    assert app.understood == []


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        GET + b"Connection: close\r\n\r\n",
        GET + b"Connection: CLOSE\r\n\r\n",
        GET + b"Connection: a, close ,b\r\n\r\n",
        GET + b"Connection: a\r\nConnection: close\r\n\r\n",
        GET + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
async def test_the_last_request_of_a_connection(raw: bytes) -> None:
    app = Listener()
    sent = await converse([raw + NEXT], app)
    assert read_answers(sent) == [(200, b"")]
    assert b"\r\nconnection: close\r\n" in sent
    assert len(app.understood) == 1


@pytest.mark.parametrize(
    ("target", "taken"),
    [
        (b"http://x/b/k?q", b"/b/k?q"),
        (b"HTTP://elsewhere", b"/"),
        (b"http://x?q=1", b"/?q=1"),
        (b"https://x/b", b"https://x/b"),
        (b"/b#f", b"/b#f"),
        (b"*", b"*"),
    ],
)
async def test_forms_of_a_target(target: bytes, taken: bytes) -> None:
    app = Listener()
    await converse([b"GET " + target + LINE], app)
    assert [found.target for found in app.understood] == [taken]


@pytest.mark.parametrize("over", [False, True])
async def test_the_largest_head(over: bool) -> None:
    room = 65_536 - len(GET) - len(b"a: \r\n\r\n") + over
    app = Listener()
    answers = read_answers(await converse([GET, b"a: " + b"b" * room, b"\r\n\r\n", NEXT], app))
    assert answers == ([(400, b"RequestHeaderSectionTooLarge")] if over else [(200, b""), (200, b"")])


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", []),
        (b"G", [(400, b"IncompleteBody")]),
        (GET, [(400, b"IncompleteBody")]),
        (sized("4", b"bod"), [(400, b"IncompleteBody")]),
        (CHUNKED + b"4\r\nbody\r\n", [(400, b"IncompleteBody")]),
        (CHUNKED + b"4\r\nbody\r\n0\r\n", [(400, b"IncompleteBody")]),
        (NEXT + b"\r", [(200, b""), (400, b"BadRequest")]),
        (b"\x16\x03\x01\x02", [(400, b"BadRequest")]),
    ],
)
async def test_a_connection_that_ends_early(sent: bytes, answers: list[tuple[int, bytes]]) -> None:
    assert read_answers(await converse([sent], Listener())) == answers
