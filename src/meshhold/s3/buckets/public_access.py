"""GetPublicAccessBlock, PutPublicAccessBlock, DeletePublicAccessBlock. Knows no grant and no policy."""

from __future__ import annotations

from typing import Final

from meshhold.rules.bucket import Aspect
from meshhold.rules.public_access import PublicAccessBlock
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.xml import boolean, document, malformed, parse, tag

_ROOT: Final = "PublicAccessBlockConfiguration"
_SWITCHES: Final = {
    "BlockPublicAcls": "block_acls",
    "IgnorePublicAcls": "ignore_acls",
    "BlockPublicPolicy": "block_policy",
    "RestrictPublicBuckets": "restrict",
}


async def get_block(door: Door, request: Request) -> Response:
    """Show the four switches. Errors: `NoSuchPublicAccessBlockConfiguration` where none was ever set."""
    block = door.allow(request, "s3:GetBucketPublicAccessBlock").rules.block
    if block is None:
        raise S3Error("NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found")
    rows = (tag(name, "true" if getattr(block, switch) else "false") for name, switch in _SWITCHES.items())
    return xml_response(document(_ROOT, "".join(rows)))


async def put_block(door: Door, request: Request) -> Response:
    """Set the four switches; one that is not named is off."""
    bucket = door.allow(request, "s3:PutBucketPublicAccessBlock")
    block = parse_block(await read_document(request, door.settings))
    await door.rules.set(bucket, Aspect.BLOCK, block)
    return Response(200)


async def delete_block(door: Door, request: Request) -> Response:
    """Set no switch any more."""
    bucket = door.allow(request, "s3:PutBucketPublicAccessBlock")
    await door.rules.set(bucket, Aspect.BLOCK, None)
    return Response(204)


def parse_block(raw: bytes) -> PublicAccessBlock:
    """Read a `<PublicAccessBlockConfiguration>`. Errors: `MalformedXML`."""
    found: dict[str, bool] = {}
    for child in parse(raw, _ROOT).children:
        switch = _SWITCHES.get(child.name)
        if switch is None or switch in found:
            malformed(f"<{child.name}> is repeated or not known in <{_ROOT}>")
        found[switch] = boolean(child)
    return PublicAccessBlock(**found)
