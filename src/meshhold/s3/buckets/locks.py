"""GetObjectLockConfiguration, PutObjectLockConfiguration. Knows no version and no clock."""

from __future__ import annotations

from meshhold.rules.bucket import Aspect
from meshhold.rules.lock import DAYS_MAX, MODES, YEARS_MAX, BucketLock
from meshhold.rules.versioning import Versioning
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.xml import Element, document, malformed, parse, tag, text_fields

ENABLED_HEADER = b"x-amz-bucket-object-lock-enabled"
_ROOT = "ObjectLockConfiguration"


async def get_lock(door: Door, request: Request) -> Response:
    """Say that versions can be locked here, and how new ones are."""
    bucket = door.allow(request, "s3:GetBucketObjectLockConfiguration")
    if not bucket.rules.lock.enabled:
        raise S3Error(
            "ObjectLockConfigurationNotFoundError",
            "Object Lock configuration does not exist for this bucket",
            fields={"BucketName": request.bucket_name},
        )
    return xml_response(render_lock(bucket.rules.lock))


async def put_lock(door: Door, request: Request) -> Response:
    """Let versions be locked, for good, and set how new ones are. Errors: `InvalidBucketState` without versioning."""
    bucket = door.allow(request, "s3:PutBucketObjectLockConfiguration")
    lock = parse_lock(await read_document(request, door.settings))
    if bucket.rules.versioning is not Versioning.ENABLED:
        raise S3Error(
            "InvalidBucketState",
            "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration; enable it first.",
        )
    await door.rules.set(bucket, Aspect.LOCK, lock)
    return Response(200)


def wish_at_creation(request: Request) -> BucketLock:
    """Return what CreateBucket asks for with `x-amz-bucket-object-lock-enabled`. Errors: `InvalidArgument`."""
    value = request.headers.get(ENABLED_HEADER, b"false").strip().lower()
    if value not in (b"true", b"false"):
        raise S3Error("InvalidArgument", "x-amz-bucket-object-lock-enabled is true or false.")
    return BucketLock(enabled=value == b"true")


def render_lock(lock: BucketLock) -> bytes:
    """Return the `<ObjectLockConfiguration>` document."""
    inner = tag("ObjectLockEnabled", "Enabled")
    if lock.mode:
        period = tag("Days", str(lock.days)) if lock.days else tag("Years", str(lock.years))
        inner += f"<Rule><DefaultRetention>{tag('Mode', lock.mode)}{period}</DefaultRetention></Rule>"
    return document(_ROOT, inner)


def parse_lock(raw: bytes) -> BucketLock:
    """Read an `<ObjectLockConfiguration>`. Errors: `MalformedXML`, `InvalidRetentionPeriod`."""
    enabled = False
    lock = BucketLock(enabled=True)
    for child in parse(raw, _ROOT).children:
        if child.name == "ObjectLockEnabled":
            enabled = child.value().strip() == "Enabled"
        elif child.name == "Rule" and len(child.children) == 1 and child.children[0].name == "DefaultRetention":
            lock = _default(child.children[0])
        else:
            malformed(f"<{child.name}> is not known in <{_ROOT}>, or not of its form")
    if not enabled:
        malformed("<ObjectLockEnabled> is Enabled: object lock is never taken off a bucket")
    return lock


def _default(element: Element) -> BucketLock:
    found = text_fields(element, {"Mode", "Days", "Years"})
    mode = found.get("Mode", "")
    if mode not in MODES:
        malformed("<Mode> is GOVERNANCE or COMPLIANCE")
    if ("Days" in found) == ("Years" in found):
        malformed("a <DefaultRetention> has either <Days> or <Years>")
    if "Days" in found:
        return BucketLock(True, mode, days=_period(found["Days"], "days", DAYS_MAX))
    return BucketLock(True, mode, years=_period(found["Years"], "years", YEARS_MAX))


def _period(text: str, unit: str, most: int) -> int:
    digits = text.strip()
    if not digits.removeprefix("-").isdigit() or not digits.isascii():
        malformed(f"a retention of {unit} is a number")
    if len(digits) > 9 or not 0 < int(digits) <= most:
        raise S3Error("InvalidRetentionPeriod", f"The default retention period must be 1 to {most} {unit}.")
    return int(digits)
