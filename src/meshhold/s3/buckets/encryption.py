"""GetBucketEncryption, PutBucketEncryption, DeleteBucketEncryption. Knows no key: every byte is sealed anyway.

As at AWS since 2023 a bucket always has a default, AES256: asking a bucket on which nothing was set is no error, and
deleting the setting brings that default back.
"""

from __future__ import annotations

from meshhold.rules.bucket import Aspect
from meshhold.rules.encryption import BY_DEFAULT, Encryption
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.xml import Element, boolean, document, malformed, parse, tag, text_fields

_ROOT = "ServerSideEncryptionConfiguration"


async def get_encryption(door: Door, request: Request) -> Response:
    """Say how objects are encrypted that ask for nothing."""
    bucket = door.allow(request, "s3:GetEncryptionConfiguration")
    default = (
        f"<ApplyServerSideEncryptionByDefault>{tag('SSEAlgorithm', 'AES256')}</ApplyServerSideEncryptionByDefault>"
    )
    bucket_key = tag("BucketKeyEnabled", "true" if bucket.rules.encryption.bucket_key else "false")
    return xml_response(document(_ROOT, f"<Rule>{default}{bucket_key}</Rule>"))


async def put_encryption(door: Door, request: Request) -> Response:
    """Take AES256, which holds anyway. Errors: `NotImplemented` for keys of a KMS and for refusing clients' keys."""
    bucket = door.allow(request, "s3:PutEncryptionConfiguration")
    setting = parse_encryption(await read_document(request, door.settings))
    await door.rules.set(bucket, Aspect.ENCRYPTION, setting)
    return Response(200)


async def delete_encryption(door: Door, request: Request) -> Response:
    """Bring the default back; objects stay sealed."""
    bucket = door.allow(request, "s3:PutEncryptionConfiguration")
    await door.rules.set(bucket, Aspect.ENCRYPTION, BY_DEFAULT)
    return Response(204)


def parse_encryption(raw: bytes) -> Encryption:
    """Read a `<ServerSideEncryptionConfiguration>`. Errors: `MalformedXML`, `NotImplemented`."""
    rules = parse(raw, _ROOT).children
    if len(rules) != 1 or rules[0].name != "Rule":
        malformed(f"<{_ROOT}> holds one <Rule>")
    bucket_key = False
    has_default = False
    for child in rules[0].children:
        if child.name == "BucketKeyEnabled":
            bucket_key = boolean(child)
        elif child.name == "BlockedEncryptionTypes":
            _check_blocked(child)
        elif child.name == "ApplyServerSideEncryptionByDefault":
            _check_default(child)
            has_default = True
        else:
            malformed(f"<{child.name}> is not known in <Rule>")
    if not has_default:
        malformed("a <Rule> holds <ApplyServerSideEncryptionByDefault>")
    return Encryption(bucket_key)


def _check_default(element: Element) -> None:
    found = text_fields(element, {"SSEAlgorithm", "KMSMasterKeyID"})
    algorithm = found.get("SSEAlgorithm", "").strip()
    if algorithm.startswith("aws:"):
        raise S3Error(
            "NotImplemented",
            f"{algorithm} is not offered: objects are always sealed with the vault's own keys; use AES256.",
        )
    if algorithm != "AES256":
        malformed("<SSEAlgorithm> is AES256")
    if "KMSMasterKeyID" in found:
        raise S3Error("InvalidArgument", "a KMSMasterKeyID is not applicable if the default sse algorithm is not KMS")


def _check_blocked(element: Element) -> None:
    for child in element.children:
        if child.name != "EncryptionType":
            malformed(f"<{child.name}> is not known in <BlockedEncryptionTypes>")
        if child.value().strip() != "NONE":
            raise S3Error(
                "NotImplemented", "Refusing a bucket's objects with clients' keys (SSE-C) is not offered: use NONE."
            )
