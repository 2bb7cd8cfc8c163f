"""Which bytes are a request's head and which its body? HTTP/1.1 alone; reads no socket and knows no S3 operation.

A head ends at its first empty line, and all of it must be well-formed both for the line below and for llhttp, which
takes no bare line feed, no folded line, no blank before a colon and no doubtful length. A body ends where its length
says, or with its last chunk. Nothing is guessed: what another parser could read differently is refused, and its
connection ends.
"""

from __future__ import annotations

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from meshhold.s3.errors import S3Error
from meshhold.s3.http.head import RequestHead

HEADERS_SIZE_MAX: Final = 64 * 1024  # request line and headers: a presigned URL with an 8 KiB token and a long key fits
RECEIVE_MAX: Final = 256 * 1024  # a large body costs a fifth less than with 64 KiB
HEAD_END: Final = b"\r\n\r\n"
_REQUEST_LINE: Final = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
_LINE_FOR_PARSER: Final = b"GET / HTTP/1.1\r\n"
"""Stands for the request line, which was read already: llhttp refuses methods that it does not know, where S3 has an
answer of its own, and reads what comes after some that it does know as no HTTP."""
_TRANSFER_CODINGS: Final = re.compile(rb"^transfer-encoding[ \t]*:[ \t]*(.*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_FIRST_PRINTED: Final = 0x21  # `!`: no request line begins with less, and the first byte of TLS is less


class _Fields:
    """Collects a head's headers as llhttp finds them."""

    __slots__ = ("complete", "headers")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_head(raw: bytes, peer: str = "", port: int | None = None) -> RequestHead:
    """Return the head that `raw` is, up to and including its empty line.

    A method in lower case is another method, an upgrade is ignored (RFC 9110, sections 9.1 and 7.8).
    Errors: `BadRequest`; `NotImplemented` for a transfer coding other than chunked.
    """
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise _malformed()
    fields = _Fields()
    try:
        HttpRequestParser(fields).feed_data(_LINE_FOR_PARSER + raw[line.end() :])
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        raise _refusal_of(raw) from None
    if not fields.complete:
        raise _malformed()
    method, target, version = line.groups()
    path, _, query = _origin_form(target).partition(b"?")
    head = RequestHead(method.decode(), path, query, fields.headers, version.decode(), peer, port)
    _read_framing(head)
    return head


def _read_framing(head: RequestHead) -> None:
    """Note where the body ends and whether the connection goes on after it."""
    by_name = head.by_name()
    is_current = head.version > "1.0"
    if is_current and b"host" not in by_name:
        raise S3Error("BadRequest", "The request has no Host header; HTTP/1.1 asks for one.")
    coding = by_name.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise _unknown_coding()
        head.is_chunked = True
    length = by_name.get(b"content-length")
    if length is not None:
        head.length = int(length)  # llhttp let only digits pass, and only one such header
    connection = by_name.get(b"connection")
    head.keep_alive = is_current and (connection is None or b"close" not in _tokens(connection))
    expectation = by_name.get(b"expect")
    if expectation is not None and is_current:
        head.expects_continue = b"100-continue" in _tokens(expectation)


def check_beginning(held: bytes | bytearray) -> None:
    """Refuse early what cannot become a head. Errors: `BadRequest`, `RequestHeaderSectionTooLarge`."""
    if held and held[0] < _FIRST_PRINTED:
        raise _malformed()
    if len(held) > HEADERS_SIZE_MAX:
        raise S3Error("RequestHeaderSectionTooLarge", f"The headers exceed {HEADERS_SIZE_MAX} bytes.")


class SizedBody:
    """A body of a known length. `wanted` is how much to read for its next piece at most."""

    __slots__ = ("_left", "ended")

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = not length

    @property
    def wanted(self) -> int:
        """How much to read next at most: nothing of the request that comes after it."""
        return min(self._left, RECEIVE_MAX)

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what of `data` is the body's, and what comes after it."""
        piece, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(piece)
        self.ended = not self._left
        return piece, rest


class ChunkedBody:
    """A body in chunks, each behind its size; extensions and trailers are read past. `wanted` as in `SizedBody`.

    Every line ends with CR and LF, and one that goes on for 64 KiB, or trailers as long, are refused.
    Source: RFC 9112, section 7.1.
    """

    __slots__ = ("_expected", "_held", "_left", "_trailers_size", "ended")
    wanted: Final = 64 * 1024  # of the smallest chunks that is 15 ms during which nobody else runs

    def __init__(self) -> None:
        self._expected = _SIZE_LINE
        self._held = b""
        self._left = 0
        self._trailers_size = 0
        self.ended = False

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what of the body `data` brought, perhaps nothing, and what comes after the body.

        Errors: `BadRequest` for broken chunks.
        """
        held, at = self._held + data, 0
        pieces = []
        while not self.ended:
            if self._left:
                piece = held[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            stop = held.find(b"\n", at) + 1
            if not stop:
                break
            self._take_line(held, at, stop)
            at = stop
        self._held = b"" if self.ended else held[at:]
        if len(self._held) > HEADERS_SIZE_MAX:
            raise _malformed()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), held[at:] if self.ended else b""

    def _take_line(self, held: bytes, start: int, stop: int) -> None:
        line = self._expected.fullmatch(held, start, stop)
        if line is None:
            raise _malformed()
        if self._expected is _SIZE_LINE:
            self._left = int(line[1], 16)
            self._expected = _DATA_END if self._left else _TRAILER_LINE
        elif self._expected is _DATA_END:
            self._expected = _SIZE_LINE
        elif stop - start == len(b"\r\n"):
            self.ended = True
        else:
            self._trailers_size += stop - start
            if self._trailers_size > HEADERS_SIZE_MAX:
                raise _malformed()


_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_DATA_END: Final = re.compile(rb"\r\n")
_TRAILER_LINE: Final = re.compile(rb"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*)?\r\n")


def body_of(head: RequestHead) -> SizedBody | ChunkedBody:
    """Return what finds the end of a request's body."""
    return ChunkedBody() if head.is_chunked else SizedBody(head.length)


def _origin_form(target: bytes) -> bytes:
    """Return path and query of a target in absolute form (RFC 9112, section 3.2.2); others as they are."""
    if target[:7].lower() != b"http://":
        return target
    rest = target[7:]
    at = next((at for at, octet in enumerate(rest) if octet in b"/?"), len(rest))
    return rest[at:] if rest[at : at + 1] == b"/" else b"/" + rest[at:]


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip() for token in value.lower().split(b",")]


def _refusal_of(raw: bytes) -> S3Error:
    codings = _TRANSFER_CODINGS.findall(raw)
    return _unknown_coding() if codings and (len(codings) > 1 or codings[0].lower() != b"chunked") else _malformed()


def _unknown_coding() -> S3Error:
    return S3Error(
        "NotImplemented",
        "A header you provided implies functionality that is not implemented: send Transfer-Encoding: chunked.",
        fields={"Header": "Transfer-Encoding"},
    )


def incomplete() -> S3Error:
    """Return the refusal of a request whose connection ends in its midst."""
    return S3Error("IncompleteBody", "The connection closed before the request was complete; send it again.")


def _malformed() -> S3Error:
    return S3Error("BadRequest", "The request is not well-formed HTTP/1.1.")
