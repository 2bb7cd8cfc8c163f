"""One request from its head to its last byte, whatever door it came through: answer, stream, refuse, or cut.

Knows no operation and no form of an error's document.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Final

from meshhold.errors import ContentElsewhereError, FatalError, IntegrityError, MeshHoldError
from meshhold.s3.door import Settings
from meshhold.s3.errors import S3Error, to_s3
from meshhold.s3.exchange import Headers, Response
from meshhold.s3.http.answers import render_head
from meshhold.s3.http.conversation import Conversation
from meshhold.s3.http.head import RequestHead
from meshhold.s3.http.stream import ClientGoneError, ClientStream
from meshhold.s3.recording.served import CLIENT_GONE, Recorder, Served
from meshhold.s3.syntax.conditions import http_date

_LOG: Final = logging.getLogger("meshhold.s3")
_NO_BODY: Final = frozenset((204, 304))
_READS: Final = frozenset(("GET", "HEAD"))
_CONDITIONS: Final = frozenset((b"if-match", b"if-none-match"))
_ONCE: Final = (b"host", b"authorization", b"content-length", b"x-amz-date", b"x-amz-content-sha256")


class Application(ABC):
    """What answers a door's requests, one call for each.

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
    async def respond(self, head: RequestHead, talk: Conversation) -> Response:
        """Admit the request and do what it asks. Errors: what `to_s3` knows, and `S3Error`."""

    @abstractmethod
    def refusal(self, head: RequestHead | None, error: S3Error, request_id: str) -> Response:
        """Return the answer that tells of an error; `head` is None where there is no request."""

    def unframed_answer(self, error: S3Error) -> bytes:
        """Return the whole answer to a request that did not become one; its connection ends after it."""
        request_id = f"{next(self._ids):016X}"
        answer = self.refusal(None, error, request_id)
        headers = [*self._answer_headers(request_id), *answer.headers, (b"content-length", b"%d" % len(answer.body))]
        return render_head(error.status, [*headers, (b"connection", b"close")]) + answer.body

    async def serve(self, head: RequestHead, stream: ClientStream) -> bool:
        """Serve one request; tell whether another one may follow on its connection.

        Errors: a `FatalError` ends the process; anything else is answered or logged here.
        """
        talk = Conversation(head, stream, self.unframed_answer)
        request_id = f"{next(self._ids):016X}"
        self._in_flight += 1
        began_s = self._now_s()
        try:
            if head.expects_continue and talk.ended and b"content-length" in head.by_name():
                # aws-cli takes the status of an answer that came instead for that of the connection's next one too
                await talk.go_ahead()
            await self._serve(head, talk, request_id)
        except ClientGoneError:
            _LOG.debug("client gone: %s %s", head.method, request_id)
        except FatalError as error:
            self._on_fatal(error)
            raise
        except Exception as error:
            if talk.started:
                _LOG.error("answer cut short: %s %s: %s", head.method, request_id, error)
                raise _CutShort from error
            await self._refuse(head, talk, error, request_id)
        finally:
            self._in_flight -= 1
            if self.recorders:
                self._record(head, talk, request_id, began_s)
        return talk.finished

    def _record(self, head: RequestHead, talk: Conversation, request_id: str, began_s: float) -> None:
        headers = head.by_name()
        served = Served(
            at_s=began_s,
            duration_s=max(0.0, self._now_s() - began_s),
            remote=head.peer,
            method=head.method,
            target=head.raw_path + b"?" + head.raw_query if head.raw_query else head.raw_path,
            version=head.version,
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

    async def _serve(self, head: RequestHead, talk: Conversation, request_id: str) -> None:
        headers = self._answer_headers(request_id)
        if self._in_flight > self.settings.requests_max:
            raise S3Error(
                "SlowDown", f"More than {self.settings.requests_max} requests at once. Please reduce your request rate."
            )
        response = await self.respond(head, talk)
        headers += response.headers
        if response.stream is None:
            await self._answer(talk, response, headers)
        else:
            await self._stream(talk, response, headers)

    async def _answer(self, talk: Conversation, response: Response, headers: Headers) -> None:
        if not talk.ended:
            await talk.drain()
        length = len(response.body) if response.length is None else response.length
        talk.start(response.status, headers, length)
        await talk.write(response.body, more=False)

    async def _stream(self, talk: Conversation, response: Response, headers: Headers) -> None:
        """Send the head with the first piece: an error before it still gets its own status."""
        if not talk.ended:
            await talk.drain()

        async def sink(piece: bytes) -> None:
            if not talk.started:
                talk.start(response.status, headers, response.length)
            await talk.write(piece, more=True)

        if response.stream is not None:
            await response.stream(sink)
        if not talk.started:
            talk.start(response.status, headers, response.length)
        await talk.write(b"", more=False)

    async def _refuse(self, head: RequestHead, talk: Conversation, error: Exception, request_id: str) -> None:
        told = _as_answer(error, request_id, is_conditional=_is_conditional_write(head))
        if told.status >= 500:
            level = logging.INFO if isinstance(error, ContentElsewhereError) else logging.WARNING
            _LOG.log(level, "%s %s: %s", head.method, request_id, told)
        answer = self.refusal(head, told, request_id)
        body = b"" if head.method == "HEAD" or answer.status in _NO_BODY else answer.body
        # not the headers of the answer that failed: they describe the object
        headers = self._answer_headers(request_id)
        headers += [pair for pair in answer.headers if body or pair[0] != b"content-type"]
        headers += [(name.encode(), value.encode()) for name, value in told.headers.items() if name != "Connection"]
        if "Connection" in told.headers:
            talk.end_after()
        elif not talk.ended:
            await talk.drain()
        talk.start(answer.status, headers, len(body))
        await talk.write(body, more=False)


class _CutShort(Exception):  # noqa: N818 -- never caught by name: it makes the connection end
    """An answer failed after its first byte."""


def check_framing(head: RequestHead) -> None:
    """Refuse requests whose end two parsers could see in different places (request smuggling)."""
    by_name, version = head.by_name(), head.version
    if version[:2] != "1.":
        raise _framing_refusal(f"HTTP/{version} is not spoken here; speak HTTP/1.1.")
    if b"transfer-encoding" in by_name:
        if b"content-length" in by_name:
            raise _framing_refusal("Both Content-Length and Transfer-Encoding are given; send one of them.")
        if version == "1.0":
            raise _framing_refusal("HTTP/1.0 has no Transfer-Encoding; send Content-Length, or speak HTTP/1.1.")
    if len(by_name) != len(head.headers):
        names = [name for name, _ in head.headers]
        for name in _ONCE:
            if names.count(name) > 1:
                raise _framing_refusal(f"The header {name.decode()} is given more than once.")


def _framing_refusal(why: str) -> S3Error:
    """Return a refusal that ends the connection: where the next request begins is not certain."""
    return S3Error("BadRequest", why, headers={"Connection": "close"})


def _is_conditional_write(head: RequestHead) -> bool:
    return head.method not in _READS and not _CONDITIONS.isdisjoint(head.by_name())


def _as_answer(error: Exception, request_id: str, *, is_conditional: bool) -> S3Error:
    if isinstance(error, S3Error):
        return error
    if isinstance(error, MeshHoldError):
        if isinstance(error, IntegrityError):
            _LOG.error("damage found in request %s: %s", request_id, error)
        return to_s3(error, is_conditional=is_conditional)
    _LOG.error("unexpected error in request %s", request_id, exc_info=error)
    return S3Error("InternalError", f"We encountered an internal error; the log names it by request id {request_id}.")
