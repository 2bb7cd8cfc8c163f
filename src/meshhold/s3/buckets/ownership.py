"""GetBucketOwnershipControls, PutBucketOwnershipControls, DeleteBucketOwnershipControls. Knows no object.

All keys belong to one account, so every setting leaves objects with the bucket's owner; `BucketOwnerEnforced` besides
refuses ACLs.
"""

from __future__ import annotations

from typing import Final

from meshhold.model.ids import ANONYMOUS
from meshhold.rules.bucket import Aspect
from meshhold.rules.public_access import Ownership
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.xml import document, malformed, parse, tag, text_fields

_ROOT: Final = "OwnershipControls"
_HEADER: Final = b"x-amz-object-ownership"
_SETTINGS: Final = tuple(str(each) for each in Ownership if each)


async def get_ownership(door: Door, request: Request) -> Response:
    """Show what was set. Errors: `OwnershipControlsNotFoundError`."""
    ownership = door.allow(request, "s3:GetBucketOwnershipControls").rules.ownership
    if ownership is Ownership.UNSET:
        raise S3Error("OwnershipControlsNotFoundError", "The bucket ownership controls were not found")
    return xml_response(document(_ROOT, f"<Rule>{tag('ObjectOwnership', ownership)}</Rule>"))


async def put_ownership(door: Door, request: Request) -> Response:
    """Set whether ACLs are taken. Errors: `InvalidBucketAclWithObjectOwnership` while an ACL says something."""
    bucket = door.allow(request, "s3:PutBucketOwnershipControls")
    ownership = parse_ownership(await read_document(request, door.settings))
    if ownership is Ownership.ENFORCED and door.access.grant_of(ANONYMOUS, bucket) is not None:
        raise S3Error(
            "InvalidBucketAclWithObjectOwnership",
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting: everybody may read it. "
            f"Take that back with `meshhold s3-perm revoke anonymous {bucket.alias}`.",
        )
    await door.rules.set(bucket, Aspect.OWNERSHIP, ownership)
    return Response(200)


async def delete_ownership(door: Door, request: Request) -> Response:
    """Set nothing any more; 204 whether or not there was something."""
    bucket = door.allow(request, "s3:PutBucketOwnershipControls")
    await door.rules.set(bucket, Aspect.OWNERSHIP, Ownership.UNSET)
    return Response(204)


def ownership_at_creation(request: Request) -> Ownership:
    """Return what a new bucket is to have set. Errors: `InvalidArgument`."""
    text = request.header(_HEADER)
    return Ownership.UNSET if text is None else _setting(text)


def parse_ownership(raw: bytes) -> Ownership:
    """Read an `<OwnershipControls>`. Errors: `MalformedXML`, `InvalidArgument`."""
    rules = parse(raw, _ROOT).children
    if len(rules) != 1 or rules[0].name != "Rule":
        malformed(f"<{_ROOT}> holds one <Rule>")
    found = text_fields(rules[0], {"ObjectOwnership"})
    if "ObjectOwnership" not in found:
        malformed("a <Rule> holds <ObjectOwnership>")
    return _setting(found["ObjectOwnership"].strip())


def _setting(text: str) -> Ownership:
    if text not in _SETTINGS:
        raise S3Error("InvalidArgument", f"ObjectOwnership is {', '.join(_SETTINGS[:-1])} or {_SETTINGS[-1]}.")
    return Ownership(text)
