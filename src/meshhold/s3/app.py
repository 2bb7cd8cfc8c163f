"""One request from its head to its last byte: admit, identify, route, answer. Knows no operation's details.

An ASGI application without a framework: on this stack a routing layer costs a quarter of a millisecond per request
(docs/decisions/0002-asgi-without-framework.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final

import trio

from meshhold.errors import ContentElsewhereError, FatalError, IntegrityError, MeshHoldError
from meshhold.model.ids import AccessKeyId
from meshhold.s3.door import Door, Settings
from meshhold.s3.errors import S3Error, render_error, to_s3
from meshhold.s3.exchange import Request, Response, encode_header
from meshhold.s3.routes import find_handler
from meshhold.s3.syntax.conditions import http_date
from meshhold.s3.syntax.query import decode_key
from meshhold.s3.syntax.sigv4 import Head, SigningKeys, parse_claim, verify

_LOG: Final = logging.getLogger("meshhold.s3")
_DRAIN_MAX: Final = 8 * 2**20  # of a refused body this much is read, so that the client gets to read the answer
_DRAIN_S: Final = 2.0  # nor is a client that waits for the answer before it sends kept waiting for longer
_NO_BODY: Final = frozenset((204, 304))
_READS: Final = frozenset(("GET", "HEAD"))
_CONDITIONS: Final = frozenset((b"if-match", b"if-none-match"))

AsgiReceive = Callable[[], Awaitable[dict[str, Any]]]
AsgiSend = Callable[[dict[str, Any]], Awaitable[None]]


class ClientGoneError(Exception):
    """The client closed its connection, or stalled until it was cut: there is nobody to answer."""


class _Conversation:
    """The ASGI side of one request: reads within the stall deadline, writes, knows whether the client is there."""

    __slots__ = ("_http", "_receive", "_send", "_stall_s", "_stream", "ended", "received", "stalled", "started")

    def __init__(self, scope: dict[str, Any], receive: AsgiReceive, send: AsgiSend, stall_s: float) -> None:
        self._stream = scope["state"]["stream"]
        self._http = scope["state"]["http"]
        self._receive = receive
        self._send = send
        self._stall_s = stall_s
        self.ended = False
        self.received = 0
        self.stalled = False
        self.started = False

    async def receive(self) -> bytes:
        """Return the next piece of the body, `b""` at its end. Errors: `RequestTimeout` when nothing arrives."""
        while not self.ended:
            if self._http.client_waits:
                await self._http.go_ahead()
            with trio.move_on_after(self._stall_s) as deadline:
                message = await self._receive()
            if deadline.cancelled_caught:
                self.stalled = True
                raise S3Error(
                    "RequestTimeout", f"No byte of the body arrived for {self._stall_s:g} seconds; send again."
                )
            if message["type"] != "http.request":
                raise ClientGoneError
            self.ended = not message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            if piece:
                self.received += len(piece)
                return piece
        return b""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes, *, more: bool) -> None:
        if self._stream.broken:
            raise ClientGoneError
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    async def drain(self) -> None:
        """Read what is left of a short body: cut off while sending, many clients never read the answer.

        A client that still waits to be told to send it is left waiting: the answer comes instead.
        """
        limit = self.received + _DRAIN_MAX
        with trio.move_on_after(_DRAIN_S), suppress(S3Error):  # one that stalls loses its connection after the answer
            while not self.ended and not self.stalled and self.received < limit and not self._http.client_waits:
                await self.receive()


class S3App:
    """The door's ASGI application, in the form in which hypercorn calls it."""

    def __init__(
        self,
        door: Door,
        host_id: str,
        *,
        on_fatal: Callable[[FatalError], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._door = door
        self._host_id = host_id
        self._on_fatal = on_fatal
        self._now_s = now_s
        self._signing_keys = SigningKeys()
        self._in_flight = 0
        self._ids = count(time.time_ns())

    @property
    def settings(self) -> Settings:
        """The door's settings."""
        return self._door.settings

    def unframed_answer(self, error: S3Error) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Return headers and document for a request that did not become one; its connection ends after them."""
        request_id = f"{next(self._ids):016X}"
        body = render_error(error, "", request_id, self._host_id)
        headers = self._answer_headers(request_id)
        headers += [(b"content-type", b"application/xml"), (b"content-length", b"%d" % len(body))]
        return [*headers, (b"connection", b"close")], body

    async def __call__(self, scope: dict[str, Any], receive: AsgiReceive, send: AsgiSend, *_: object) -> None:
        """Serve one request. Errors: a `FatalError` ends the process; anything else is answered or logged here."""
        talk = _Conversation(scope, receive, send, self.settings.stall_s)
        request_id = f"{next(self._ids):016X}"
        headers = self._answer_headers(request_id)
        self._in_flight += 1
        try:
            await self._serve(scope, talk, headers)
        except ClientGoneError:
            _LOG.debug("client gone: %s %s", scope["method"], request_id)
        except FatalError as error:
            self._on_fatal(error)
            raise
        except Exception as error:
            if talk.started:
                _LOG.error("answer cut short: %s %s: %s", scope["method"], request_id, error)
                raise _CutShort from error
            await self._refuse(scope, talk, error, request_id)
        finally:
            self._in_flight -= 1

    def _answer_headers(self, request_id: str) -> list[tuple[bytes, bytes]]:
        return [
            (b"server", b"MeshHold"),
            (b"date", http_date(int(self._now_s() * 1000)).encode()),
            (b"x-amz-request-id", request_id.encode()),
            (b"x-amz-id-2", self._host_id.encode()),
        ]

    async def _serve(self, scope: dict[str, Any], talk: _Conversation, headers: list[tuple[bytes, bytes]]) -> None:
        if self._in_flight > self.settings.requests_max:
            raise S3Error(
                "SlowDown", f"More than {self.settings.requests_max} requests at once. Please reduce your request rate."
            )
        request = self._admit(scope, talk)
        handler = find_handler(request)
        response = await handler(self._door, request)
        headers += response.headers
        if response.stream is None:
            await self._answer(request, talk, response, headers)
        else:
            await self._stream(talk, response, headers)

    def _admit(self, scope: dict[str, Any], talk: _Conversation) -> Request:
        """Check framing and signature; return the request with its sender."""
        raw_headers: list[tuple[bytes, bytes]] = scope["headers"]
        head = Head(scope["method"], scope["raw_path"], scope["query_string"], raw_headers)
        _check_framing(raw_headers, head.by_name(), scope["http_version"])
        bucket, key = decode_key(head.raw_path)
        request = Request(head, bucket, key, talk.receive)
        region = self.settings.region
        claim = parse_claim(head, self._now_s(), region)
        if claim is not None:
            secret = self._door.access.secret(AccessKeyId(claim.access_key_id))
            if secret is None:
                raise S3Error(
                    "InvalidAccessKeyId",
                    "The AWS Access Key Id you provided does not exist in our records. See `meshhold s3-key list`.",
                    fields={"AWSAccessKeyId": claim.access_key_id},
                )
            request.signing_key = self._signing_keys.get(claim.access_key_id, secret, claim.scope_date, claim.region)
            verify(claim, head, request.signing_key, scope["server"][1] if scope["server"] else None)
            request.claim = claim
            if claim.presigned:  # what a signer moved into the URL counts as the headers that it stands for
                request.headers = _hoisted(request) | request.headers
            request.access_key = AccessKeyId(claim.access_key_id)
        return request

    async def _answer(
        self, request: Request, talk: _Conversation, response: Response, headers: list[tuple[bytes, bytes]]
    ) -> None:
        if not talk.ended:
            await talk.drain()
        if response.status not in _NO_BODY:
            length = len(response.body) if response.length is None else response.length
            headers.append((b"content-length", b"%d" % length))
        if not talk.ended:
            headers.append((b"connection", b"close"))
        await talk.start(response.status, headers)
        await talk.write(b"" if request.head.method == "HEAD" else response.body, more=False)

    async def _stream(self, talk: _Conversation, response: Response, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head with the first piece: an error before it still gets its own status."""
        if response.length is not None:
            headers.append((b"content-length", b"%d" % response.length))
        if not talk.ended:
            await talk.drain()
        if not talk.ended:
            headers.append((b"connection", b"close"))

        async def sink(piece: bytes) -> None:
            if not talk.started:
                await talk.start(response.status, headers)
            await talk.write(piece, more=True)

        if response.stream is not None:
            await response.stream(sink)
        if not talk.started:
            await talk.start(response.status, headers)
        await talk.write(b"", more=False)

    async def _refuse(
        self,
        scope: dict[str, Any],
        talk: _Conversation,
        error: Exception,
        request_id: str,
    ) -> None:
        answer = _as_answer(error, request_id, is_conditional=_is_conditional_write(scope))
        headers = self._answer_headers(request_id)  # not those of the answer that failed: they describe the object
        if answer.status >= 500:
            level = logging.INFO if isinstance(error, ContentElsewhereError) else logging.WARNING
            _LOG.log(level, "%s %s: %s", scope["method"], request_id, answer)
        method = scope["method"]
        body = b""
        if method != "HEAD" and answer.status not in _NO_BODY:
            resource = scope["raw_path"].decode("latin-1")
            body = render_error(answer, resource, request_id, self._host_id)
        headers += [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        if body:
            headers.append((b"content-type", b"application/xml"))
        if answer.status not in _NO_BODY:
            headers.append((b"content-length", b"%d" % len(body)))
        if "Connection" not in answer.headers:
            if not talk.ended:
                await talk.drain()
            if not talk.ended:
                headers.append((b"connection", b"close"))
        await talk.start(answer.status, headers)
        await talk.write(body, more=False)


class _CutShort(Exception):  # noqa: N818 -- never caught by name: it makes hypercorn close the connection
    """An answer failed after its first byte."""


def _hoisted(request: Request) -> dict[bytes, bytes]:
    return {name.encode(): encode_header(value) for name, value in request.query.hoisted().items()}


def _check_framing(raw: list[tuple[bytes, bytes]], by_name: dict[bytes, bytes], http_version: str) -> None:
    """Refuse requests whose end two parsers could see in different places (request smuggling)."""
    if http_version[:2] != "1.":
        raise _framing_refusal(f"HTTP/{http_version} is not spoken here; speak HTTP/1.1.")
    if b"transfer-encoding" in by_name:
        if b"content-length" in by_name:
            raise _framing_refusal("Both Content-Length and Transfer-Encoding are given; send one of them.")
        if http_version == "1.0":
            raise _framing_refusal("HTTP/1.0 has no Transfer-Encoding; send Content-Length, or speak HTTP/1.1.")
    if len(by_name) != len(raw):
        names = [name for name, _ in raw]
        for name in (b"host", b"authorization", b"content-length", b"x-amz-date", b"x-amz-content-sha256"):
            if names.count(name) > 1:
                raise _framing_refusal(f"The header {name.decode()} is given more than once.")


def _framing_refusal(why: str) -> S3Error:
    """Return a refusal that ends the connection: where the next request begins is not certain."""
    return S3Error("BadRequest", why, headers={"Connection": "close"})


def _is_conditional_write(scope: dict[str, Any]) -> bool:
    names = {name.lower() for name, _ in scope["headers"]}
    return scope["method"] not in _READS and not _CONDITIONS.isdisjoint(names)


def _as_answer(error: Exception, request_id: str, *, is_conditional: bool) -> S3Error:
    if isinstance(error, S3Error):
        return error
    if isinstance(error, MeshHoldError):
        if isinstance(error, IntegrityError):
            _LOG.error("damage found in request %s: %s", request_id, error)
        return to_s3(error, is_conditional=is_conditional)
    _LOG.error("unexpected error in request %s", request_id, exc_info=error)
    return S3Error("InternalError", f"We encountered an internal error; the log names it by request id {request_id}.")
