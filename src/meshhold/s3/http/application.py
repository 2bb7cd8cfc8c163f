"""One request from its head to its last byte, whatever door it came through: answer, stream, refuse, or cut.

An ASGI application without a framework: on this stack a routing layer costs a quarter of a millisecond per request
(docs/decisions/0002-asgi-without-framework.md). Knows no operation and no form of an error's document.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from meshhold.errors import ContentElsewhereError, FatalError, IntegrityError, MeshHoldError
from meshhold.s3.door import Settings
from meshhold.s3.errors import S3Error, to_s3
from meshhold.s3.exchange import Headers, Response
from meshhold.s3.http.conversation import AsgiReceive, AsgiSend, ClientGoneError, Conversation
from meshhold.s3.recording.served import CLIENT_GONE, Recorder, Served
from meshhold.s3.syntax.conditions import http_date

_LOG: Final = logging.getLogger("meshhold.s3")
_NO_BODY: Final = frozenset((204, 304))
_READS: Final = frozenset(("GET", "HEAD"))
_CONDITIONS: Final = frozenset((b"if-match", b"if-none-match"))
_ONCE: Final = (b"host", b"authorization", b"content-length", b"x-amz-date", b"x-amz-content-sha256")


class Application(ABC):
    """A door's ASGI application, in the form in which hypercorn calls it.

    `host_id` names the node in answers; `on_fatal` is told of what must end the process, before it propagates.
    `recorders` take note of each request when it has been served; none to begin with.
    """

    def __init__(
        self,
        settings: Settings,
        host_id: str,
        *,
        on_fatal: Callable[[FatalError], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._host_id = host_id
        self._on_fatal = on_fatal
        self._now_s = now_s
        self.recorders: tuple[Recorder, ...] = ()
        self._in_flight = 0
        self._ids = count(time.time_ns())

    @abstractmethod
    async def respond(self, scope: dict[str, Any], talk: Conversation) -> Response:
        """Admit the request and do what it asks. Errors: what `to_s3` knows, and `S3Error`."""

    @abstractmethod
    def refusal(self, scope: dict[str, Any], error: S3Error, request_id: str) -> Response:
        """Return the answer that tells of an error; `scope` is empty where there is no request."""

    def unframed_answer(self, error: S3Error) -> tuple[Headers, bytes]:
        """Return headers and document for a request that did not become one; its connection ends after them."""
        request_id = f"{next(self._ids):016X}"
        answer = self.refusal({}, error, request_id)
        headers = [*self._answer_headers(request_id), *answer.headers, (b"content-length", b"%d" % len(answer.body))]
        return [*headers, (b"connection", b"close")], answer.body

    async def __call__(self, scope: dict[str, Any], receive: AsgiReceive, send: AsgiSend, *_: object) -> None:
        """Serve one request. Errors: a `FatalError` ends the process; anything else is answered or logged here."""
        talk = Conversation(scope, receive, send, self.settings.stall_s)
        request_id = f"{next(self._ids):016X}"
        self._in_flight += 1
        began_s = self._now_s()
        try:
            await self._serve(scope, talk, request_id)
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
            if self.recorders:
                self._record(scope, talk, request_id, began_s)

    def _record(self, scope: dict[str, Any], talk: Conversation, request_id: str, began_s: float) -> None:
        headers = dict(scope["headers"])
        query = scope["query_string"]
        served = Served(
            at_s=began_s,
            duration_s=max(0.0, self._now_s() - began_s),
            remote=scope["client"][0] if scope["client"] else "",
            method=scope["method"],
            target=scope["raw_path"] + b"?" + query if query else scope["raw_path"],
            version=scope["http_version"],
            status=talk.status or CLIENT_GONE,
            bytes_in=talk.received,
            bytes_out=talk.sent,
            referer=headers.get(b"referer", b""),
            agent=headers.get(b"user-agent", b""),
            request_id=request_id,
            sender=talk.sender,
            bucket=talk.bucket,
            operation=talk.operation,
        )
        for record in self.recorders:
            record(served)

    def _answer_headers(self, request_id: str) -> Headers:
        return [
            (b"server", b"MeshHold"),
            (b"date", http_date(int(self._now_s() * 1000)).encode()),
            (b"x-amz-request-id", request_id.encode()),
            (b"x-amz-id-2", self._host_id.encode()),
        ]

    async def _serve(self, scope: dict[str, Any], talk: Conversation, request_id: str) -> None:
        headers = self._answer_headers(request_id)
        if self._in_flight > self.settings.requests_max:
            raise S3Error(
                "SlowDown", f"More than {self.settings.requests_max} requests at once. Please reduce your request rate."
            )
        response = await self.respond(scope, talk)
        headers += response.headers
        if response.stream is None:
            await self._answer(scope, talk, response, headers)
        else:
            await self._stream(talk, response, headers)

    async def _answer(self, scope: dict[str, Any], talk: Conversation, response: Response, headers: Headers) -> None:
        if not talk.ended:
            await talk.drain()
        if response.status not in _NO_BODY:
            length = len(response.body) if response.length is None else response.length
            headers.append((b"content-length", b"%d" % length))
        if not talk.ended:
            headers.append((b"connection", b"close"))
        await talk.start(response.status, headers)
        await talk.write(b"" if scope["method"] == "HEAD" else response.body, more=False)

    async def _stream(self, talk: Conversation, response: Response, headers: Headers) -> None:
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

    async def _refuse(self, scope: dict[str, Any], talk: Conversation, error: Exception, request_id: str) -> None:
        told = _as_answer(error, request_id, is_conditional=_is_conditional_write(scope))
        if told.status >= 500:
            level = logging.INFO if isinstance(error, ContentElsewhereError) else logging.WARNING
            _LOG.log(level, "%s %s: %s", scope["method"], request_id, told)
        answer = self.refusal(scope, told, request_id)
        body = b"" if scope["method"] == "HEAD" or answer.status in _NO_BODY else answer.body
        # not the headers of the answer that failed: they describe the object
        headers = self._answer_headers(request_id)
        headers += [pair for pair in answer.headers if body or pair[0] != b"content-type"]
        headers += [(name.encode(), value.encode()) for name, value in told.headers.items()]
        if answer.status not in _NO_BODY:
            headers.append((b"content-length", b"%d" % len(body)))
        if "Connection" not in told.headers:
            if not talk.ended:
                await talk.drain()
            if not talk.ended:
                headers.append((b"connection", b"close"))
        await talk.start(answer.status, headers)
        await talk.write(body, more=False)


class _CutShort(Exception):  # noqa: N818 -- never caught by name: it makes hypercorn close the connection
    """An answer failed after its first byte."""


def check_framing(raw: list[tuple[bytes, bytes]], by_name: dict[bytes, bytes], http_version: str) -> None:
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
        for name in _ONCE:
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
