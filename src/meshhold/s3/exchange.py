"""One request and its answer, as handlers see them. Knows no server and no use-case."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from meshhold.model.ids import ANONYMOUS, AccessKeyId
from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.query import Query
from meshhold.s3.syntax.sigv4 import Claim, Head

Receive = Callable[[], Awaitable[bytes]]
Sink = Callable[[bytes], Awaitable[None]]
Stream = Callable[[Sink], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

XML: Final = (b"content-type", b"application/xml")
_BREAKING: Final = frozenset("\0\n\v\f\r")  # what RFC 9110, section 5.5, allows in no value


class Request:
    """A request whose sender is known. `headers` maps lowercase names to values, repeated ones joined by `,`.

    `receive` returns the next piece of the raw body, `b""` at its end. `peer` is the address that connected, `""` if it
    is not known; `existing_tags` those of the object, where a policy asks for them.
    """

    __slots__ = (
        "access_key", "bucket_name", "claim", "existing_tags", "head", "headers", "key", "peer", "query", "receive",
        "signing_key",
    )  # fmt: skip

    def __init__(self, head: Head, bucket_name: str, key: bytes, receive: Receive) -> None:
        self.head = head
        self.headers = head.by_name()
        self.bucket_name = bucket_name
        self.key = key
        self.query: Query = head.query()
        self.receive = receive
        self.access_key: AccessKeyId = ANONYMOUS
        self.claim: Claim | None = None
        self.signing_key = b""
        self.peer = ""
        self.existing_tags: Mapping[str, str] | None = None

    def header(self, name: bytes) -> str | None:
        """Return a header's value as text, or None."""
        value = self.headers.get(name)
        return None if value is None else decode_header(value)

    @property
    def content_length(self) -> int | None:
        """The announced length of the raw body in bytes; None with chunked transfer or without a body."""
        raw = self.headers.get(b"content-length")
        return None if raw is None else int(raw)  # the HTTP parser let only digits pass

    @property
    def has_body(self) -> bool:
        """Tell whether the request announces a body, even an empty one."""
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers


def decode_header(value: bytes) -> str:
    """Return a header's value: UTF-8 where it is that, else Latin-1 (RFC 9110, section 5.5)."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def encode_header(value: str) -> bytes:
    """Return the bytes that `decode_header` reads back, without blanks around; what would break a line is refused."""
    if not _BREAKING.isdisjoint(value):
        raise S3Error("InvalidArgument", "A header value holds a line break, a form feed or NUL; remove it.")
    return value.strip(" \t").encode()


@dataclass(slots=True)
class Response:
    """An answer: a body in one piece, or a stream that the server pulls.

    A stream that fails before its first byte becomes an error document; after it the connection is cut, so that no
    client takes a part for the whole.
    """

    status: int = 200
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    stream: Stream | None = None
    length: int | None = None
    """The stream's length in bytes, or of a HEAD the length that GET would have."""


def xml_response(body: bytes, status: int = 200, **fields: Any) -> Response:
    """Return an answer that is an XML document."""
    return Response(status, [XML], body, **fields)
