"""The S3 door: who sent a request, which handler answers it, how S3 tells of an error. Knows no operation's details."""

from __future__ import annotations

import time
from collections.abc import Callable

from meshhold.errors import FatalError, UnavailableError
from meshhold.model.ids import AccessKeyId
from meshhold.s3.cross_origin import answer_headers, headers_of_refusal, preflight
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error, render_error
from meshhold.s3.exchange import XML, Request, Response, encode_header
from meshhold.s3.http.application import Application, check_framing
from meshhold.s3.http.conversation import Conversation
from meshhold.s3.http.head import RequestHead
from meshhold.s3.recording.operations import operation_name
from meshhold.s3.routes import find_handler
from meshhold.s3.syntax.query import decode_key
from meshhold.s3.syntax.sigv4 import SigningKeys, parse_claim, verify


class S3App(Application):
    """The S3 door's application."""

    def __init__(
        self,
        door: Door,
        host_id: str,
        *,
        on_fatal: Callable[[FatalError], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(door.settings, host_id, on_fatal=on_fatal, now_s=now_s)
        self._door = door
        self._signing_keys = SigningKeys()

    async def respond(self, head: RequestHead, talk: Conversation) -> Response:
        """Admit the request, and let its handler answer."""
        if head.method == "OPTIONS":
            return preflight(self._door, head)
        request = self._admit(head, talk)
        talk.sender, talk.bucket = request.access_key, request.bucket_name
        handler = find_handler(request)
        talk.operation = operation_name(handler)
        await self._door.prepare(request)
        try:
            response = await handler(self._door, request)
        except UnavailableError:
            if request.bucket_name and talk.operation != "CreateBucket":
                self._door.bucket(request)  # one that was deleted while its request was under way is no more: not 503
            raise
        talk.sender = request.access_key  # a form tells it in its fields
        bucket = self._door.vaults.known_alias(request.bucket_name)
        if bucket is not None and bucket.rules.cors:  # after the handler: it may be the one that sets or deletes them
            response.headers += answer_headers(bucket.rules.cors, request.head.method, request.headers)
        return response

    def refusal(self, head: RequestHead | None, error: S3Error, request_id: str) -> Response:
        """Return S3's error document; a page of another origin may read it where the bucket lets it."""
        resource = "" if head is None else head.raw_path.decode("latin-1")
        headers = [XML, *(() if head is None else headers_of_refusal(self._door, head))]
        return Response(error.status, headers, render_error(error, resource, request_id, self._host_id))

    def _admit(self, head: RequestHead, talk: Conversation) -> Request:
        """Check framing and signature; return the request with its sender."""
        check_framing(head)
        bucket, key = decode_key(head.raw_path)
        request = Request(head, bucket, key, talk.receive)
        request.peer = head.peer
        region = self.settings.region
        claim = parse_claim(head, self._now_s(), region)
        if claim is not None:
            secret = self._door.secret(claim.access_key_id)
            request.signing_key = self._signing_keys.get(claim.access_key_id, secret, claim.scope_date, claim.region)
            verify(claim, head, request.signing_key, head.port)
            request.claim = claim
            if claim.presigned:  # what a signer moved into the URL counts as the headers that it stands for
                request.headers = _hoisted(request) | request.headers
            request.access_key = AccessKeyId(claim.access_key_id)
        return request


def _hoisted(request: Request) -> dict[bytes, bytes]:
    return {name.encode(): encode_header(value) for name, value in request.query.hoisted().items()}
