"""The web listener's application: which bucket a host names, which methods a site takes. Knows no index and no object.

It shares everything below a request with the S3 door: connections, limits, streams, answers that are cut short.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from meshhold.errors import FatalError
from meshhold.s3.cross_origin import answer_headers, answer_preflight
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Response
from meshhold.s3.http.application import Application, check_framing
from meshhold.s3.http.conversation import Conversation
from meshhold.s3.http.head import RequestHead
from meshhold.s3.syntax.query import check_key, percent_decode
from meshhold.store.directory import Bucket
from meshhold.web.hosts import bucket_of
from meshhold.web.pages import HTML, render_page
from meshhold.web.site import Asked, answer_page

_READS: Final = ("GET", "HEAD")
_ALLOWED: Final = {"Allow": "GET, HEAD, OPTIONS"}
REQUESTS_MAX: Final = 128  # half of what the S3 door takes: each holds up to two chunks of 1 MiB
CONNECTIONS_MAX: Final = 320


class WebApp(Application):
    """Serves buckets to browsers. `hosts` maps host names to buckets, `root_domain` makes `bucket.root_domain` one."""

    def __init__(
        self,
        door: Door,
        host_id: str,
        *,
        hosts: Mapping[str, str],
        root_domain: str,
        on_fatal: Callable[[FatalError], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        settings = replace(door.settings, requests_max=REQUESTS_MAX, connections_max=CONNECTIONS_MAX)
        super().__init__(settings, host_id, on_fatal=on_fatal, now_s=now_s)
        self._door = door
        self._hosts = hosts
        self._root_domain = root_domain

    async def respond(self, head: RequestHead, talk: Conversation) -> Response:
        """Answer one request for a page. Errors: `S3Error`, which `refusal` shows as a page."""
        check_framing(head)
        bucket = self._bucket(head)
        if bucket is None:
            raise S3Error("NoSuchBucket", "No website has this host name. Names are buckets', or set in node.web.")
        talk.bucket = bucket.alias
        if head.raw_path[:1] != b"/":
            raise S3Error("InvalidURI", "Couldn't parse the specified URI: the path must begin with '/'.")
        key = percent_decode(head.raw_path[1:])
        check_key(key)
        if head.method == "OPTIONS":
            return answer_preflight(self._door, head.by_name(), bucket.alias, key)
        if head.method not in _READS:
            raise S3Error(
                "MethodNotAllowed", f"The method {head.method[:32]} is not allowed here: a website is only read.",
                headers=_ALLOWED,
            )  # fmt: skip
        talk.operation = "GetWebsite"
        asked = Asked(head.method, key, head.raw_query, head.headers, head.peer)
        response = await answer_page(self._door, bucket, asked)
        if bucket.rules.cors:
            response.headers += answer_headers(bucket.rules.cors, head.method, head.by_name())
        return response

    def refusal(self, head: RequestHead | None, error: S3Error, request_id: str) -> Response:
        """Return a page that tells of the error."""
        headers = [HTML]
        bucket = None if head is None else self._bucket(head)
        if head is not None and bucket is not None and bucket.rules.cors and head.method != "OPTIONS":
            headers += answer_headers(bucket.rules.cors, head.method, head.by_name())
        return Response(error.status, headers, render_page(error, request_id))

    def _bucket(self, head: RequestHead) -> Bucket | None:
        host = next((value.decode("latin-1") for name, value in head.headers if name == b"host"), "")
        known = self._door.vaults.known_alias
        name = bucket_of(host, self._hosts, self._root_domain, lambda alias: known(alias) is not None)
        return known(name)
