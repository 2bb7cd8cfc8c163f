"""PutObject. Knows neither transfer forms nor chunks: `body` reads, `store` keeps."""

from __future__ import annotations

from dataclasses import replace

from meshhold.s3.buckets.lifecycle import expiration_headers
from meshhold.s3.door import Door
from meshhold.s3.exchange import Headers, Request, Response
from meshhold.s3.objects.acls import check_acl
from meshhold.s3.objects.customer import hiding_of
from meshhold.s3.objects.extras import extras_of
from meshhold.s3.objects.versions import written_headers
from meshhold.s3.syntax.body import open_body, wanted_algorithm
from meshhold.s3.syntax.checksums import announced, checksum_headers
from meshhold.s3.syntax.conditions import write_condition
from meshhold.s3.syntax.options import DESCRIBING, check_options, encryption_headers, stored_headers, user_metadata
from meshhold.store.contract import Body, Metadata
from meshhold.store.customer import HiddenBody, seal_of


async def put_object(door: Door, request: Request) -> Response:
    """Keep the body as the object; 200 says that it is durable."""
    bucket = door.allow(request, "s3:PutObject")
    check_options(request, takes_acl=True, taken=DESCRIBING)
    check_acl(door, request, bucket)
    extras = extras_of(door, request, bucket)
    condition = write_condition(request.headers)
    said = announced(request.headers)
    hiding = hiding_of(request)
    # a checksum that nobody asked for would tell the vault's members about bytes that are hidden from them
    body = open_body(
        request, door.settings, said, algorithm=wanted_algorithm(said) if hiding is None else said.algorithm
    )
    if bucket.rules.quota is not None:
        await door.objects.quotas.admit(bucket, request.key, body.length)
    metadata = Metadata(stored_headers(request), user_metadata(request))
    content: Body = body
    if hiding is not None:
        content, extras = HiddenBody(body, hiding), replace(extras, customer=seal_of(hiding))
    version = await door.objects.put(bucket, request.key, content, metadata, condition, extras)
    headers: Headers = [(b"etag", b'"%b"' % version.etag.encode())]
    headers += expiration_headers(bucket, request.key, version) + written_headers(bucket, version)
    return Response(200, headers + checksum_headers(version.checksums) + encryption_headers(extras.customer))
