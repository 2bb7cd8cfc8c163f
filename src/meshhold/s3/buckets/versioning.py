"""GetBucketVersioning, PutBucketVersioning. Knows no version."""

from __future__ import annotations

from meshhold.errors import UnavailableError
from meshhold.rules.bucket import Aspect
from meshhold.rules.versioning import Versioning
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.options import check_options
from meshhold.s3.syntax.xml import document, malformed, parse, tag, text_fields


async def get_versioning(door: Door, request: Request) -> Response:
    """Tell whether the bucket keeps versions; of one that never did, S3 tells nothing."""
    bucket = door.allow(request, "s3:GetBucketVersioning")
    state = bucket.rules.versioning
    inner = "" if state is Versioning.NEVER else tag("Status", state)
    return xml_response(document("VersioningConfiguration", inner))


async def put_versioning(door: Door, request: Request) -> Response:
    """Let the bucket keep versions from now on, or, where it did, make no new ones."""
    bucket = door.allow(request, "s3:PutBucketVersioning")
    check_options(request)
    wanted = parse_versioning(await read_document(request, door.settings))
    if bucket.rules.lock.enabled and wanted is not Versioning.ENABLED:
        raise S3Error(
            "InvalidBucketState",
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
        )
    try:
        door.objects.check_versions(bucket)
    except UnavailableError as error:
        raise S3Error("InvalidBucketState", str(error)) from error
    if wanted is not bucket.rules.versioning:
        await door.rules.set(bucket, Aspect.VERSIONING, wanted)
    return Response(200)


def parse_versioning(raw: bytes) -> Versioning:
    """Read a VersioningConfiguration document.

    Errors: `MalformedXML`; `IllegalVersioningConfigurationException` without a state; `NotImplemented` for MFA delete.
    """
    found = text_fields(parse(raw, "VersioningConfiguration"), {"Status", "MfaDelete"})
    if found.get("MfaDelete", "Disabled") != "Disabled":
        raise S3Error("NotImplemented", "MFA delete is not offered: nobody here can check a second factor.")
    if "Status" not in found:
        raise S3Error(
            "IllegalVersioningConfigurationException",
            "The Versioning element must be specified: <Status>Enabled</Status> or <Status>Suspended</Status>.",
        )
    if found["Status"] not in (Versioning.ENABLED, Versioning.SUSPENDED):
        malformed("<Status> is Enabled or Suspended")
    return Versioning(found["Status"])
