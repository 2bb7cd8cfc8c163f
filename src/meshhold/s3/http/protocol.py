"""Which bytes are a request, and in which form does its answer go out? HTTP/1.1 alone; knows no S3 operation.

A subclass of hypercorn's: no upgrade is taken (HTTP/2 in the clear would slip past the checks on framing), `100
Continue` waits until the body is wanted, and a request that cannot be framed is explained in S3's own form.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import h11
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import H11SendableEvent

from meshhold.s3.errors import S3Error
from meshhold.s3.http.application import Application

HEADERS_SIZE_MAX: Final = 64 * 1024  # request line and headers: a presigned URL with an 8 KiB token and a long key fits
_JOINED_MAX: Final = 64 * 1024  # above it, copying head and body together costs more than a second system call


class HttpProtocol(H11Protocol):
    """HTTP/1.1 alone; a request that cannot be framed gets an error document and the end of its connection.

    The head of an answer waits for the first bytes of its body: one system call and one packet instead of two.
    """

    connection: h11.Connection
    timed_out = False
    _head = b""

    @property
    def client_waits(self) -> bool:
        """Tell whether the client holds its body back until it is told to go on (`Expect: 100-continue`)."""
        return self.connection.they_are_waiting_for_100_continue

    async def go_ahead(self) -> None:
        """Tell a client that waits to send its body. Called once the body is wanted: a refusal saves the upload."""
        if self.client_waits:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def _handle_events(self) -> None:
        while True:
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse_framing(error.error_status_hint)
                return
            if isinstance(event, h11.Request):
                await self.send(Updated(idle=False))
                if self.client_waits and (b"content-length", b"0") in list(event.headers):
                    # aws-cli takes the status of an answer that came instead for that of the connection's next one too
                    await self.go_ahead()
                await self._create_stream(event)
            elif event is h11.PAUSED:
                await self.can_read.clear()
                await self.can_read.wait()
            elif isinstance(event, h11.ConnectionClosed) or event is h11.NEED_DATA or self.stream is None:
                return
            elif isinstance(event, h11.Data):
                await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=STREAM_ID))

    async def _create_stream(self, request: h11.Request) -> None:
        """Hand a request on as it came: a method in lower case is another method, an upgrade is ignored (RFC 9110)."""
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        head = Request(
            stream_id=STREAM_ID,
            headers=list(request.headers),
            http_version=request.http_version.decode(),
            method=request.method.decode("ascii"),
            raw_path=_origin_form(request.target),
            state=self.connection_state,
        )
        await self.stream.handle(head)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if isinstance(event, (h11.Response, h11.InformationalResponse)) and not event.reason:
            # botocore takes an answer instead of `100 Continue` for one only if it has a reason phrase
            data = data.replace(b" \r\n", b" %b\r\n" % _PHRASES[event.status_code], 1)
        if type(event) is h11.Response:
            self._head = data
            return
        if self._head:
            head, self._head = self._head, b""
            if len(data) <= _JOINED_MAX:
                data = head + data
            else:
                await self.send(RawData(data=head))
        if data:
            await self.send(RawData(data=data))

    async def _refuse_framing(self, status_hint: int) -> None:
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            error = self._framing_error(status_hint)
            headers, body = self._s3_app.unframed_answer(error)
            await self._send_h11_event(h11.Response(status_code=error.status, headers=headers))
            await self._send_h11_event(h11.Data(data=body))
            await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())

    def _framing_error(self, status_hint: int) -> S3Error:
        _, ended = self.connection.trailing_data
        if self.timed_out:
            return S3Error("RequestTimeout", "The request's headers did not arrive in time; send it again.")
        if status_hint == 431 and self.connection.our_state is h11.IDLE:
            return S3Error("RequestHeaderSectionTooLarge", f"The headers exceed {HEADERS_SIZE_MAX} bytes.")
        if status_hint == 501:
            return S3Error(
                "NotImplemented",
                "A header you provided implies functionality that is not implemented: send Transfer-Encoding: chunked.",
                fields={"Header": "Transfer-Encoding"},
            )
        if ended:
            return S3Error("IncompleteBody", "The connection closed before the request was complete; send it again.")
        return S3Error("BadRequest", "The request is not well-formed HTTP/1.1.")

    @property
    def _s3_app(self) -> Application:
        app: Any = self.app  # hypercorn calls it by its own type
        return app  # type: ignore[no-any-return] # an Application is what `run_s3` was given


_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def _origin_form(target: bytes) -> bytes:
    """Return path and query of a target in absolute form (RFC 9112, section 3.2.2); others as they are."""
    if target[:7].lower() != b"http://":
        return target
    rest = target[7:]
    at = next((at for at, octet in enumerate(rest) if octet in b"/?"), len(rest))
    return rest[at:] if rest[at : at + 1] == b"/" else b"/" + rest[at:]
