"""Request headers that change what an operation means: taken when they say what holds anyway, else refused by name.

Knows no operation. Silently ignoring one of these would let a client believe in a protection that is not there.
"""

from __future__ import annotations

from typing import Final

from meshhold.model.entry import CustomerSeal
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request
from meshhold.s3.syntax.customer import customer_headers
from meshhold.s3.syntax.words import decode_words

_REFUSED: Final = {
    b"x-amz-tagging": "tags",
    b"x-amz-object-lock-mode": "object lock",
    b"x-amz-object-lock-retain-until-date": "object lock",
    b"x-amz-object-lock-legal-hold": "object lock",
    b"x-amz-bucket-object-lock-enabled": "object lock",
    b"x-amz-server-side-encryption-aws-kms-key-id": "KMS keys; objects are always sealed with the vault's own keys",
    b"x-amz-write-offset-bytes": "appending to an object",
    b"x-amz-mfa": "MFA delete",
}
_HARMLESS: Final = {
    b"x-amz-bucket-object-lock-enabled": b"false",  # rclone sends it with each CreateBucket
    b"x-amz-object-lock-legal-hold": b"OFF",
    b"x-amz-tagging": b"",
}
"""Values of refused headers that ask for nothing."""
DESCRIBING: Final = frozenset(
    (
        b"x-amz-tagging",
        b"x-amz-object-lock-mode",
        b"x-amz-object-lock-retain-until-date",
        b"x-amz-object-lock-legal-hold",
    )
)
"""What operations that make an object read: see `objects.extras`."""
_PRIVATE_ACLS: Final = (b"private", b"bucket-owner-full-control", b"bucket-owner-read")
_STORED: Final = (b"cache-control", b"content-disposition", b"content-encoding", b"content-language", b"expires")
_USER: Final = b"x-amz-meta-"
REDIRECT: Final = "x-amz-website-redirect-location"
REDIRECT_LENGTH_MAX: Final = 2048  # S3's own limit
DEFAULT_TYPE: Final = "binary/octet-stream"


def check_options(request: Request, *, takes_acl: bool = False, taken: frozenset[bytes] = frozenset()) -> None:
    """Take what holds anyway. `takes_acl`: the operation judges itself which access its headers ask for.

    `taken` names the other headers that it reads itself.

    Errors: `NotImplemented`, naming the header; `InvalidStorageClass`, `InvalidEncryptionAlgorithmError`.
    """
    headers = request.headers
    for name in headers:
        if not name.startswith(b"x-amz-"):
            continue
        if name in _REFUSED and name not in taken and headers[name] != _HARMLESS.get(name):
            raise S3Error("NotImplemented", f"The header {name.decode()} asks for {_REFUSED[name]}: not offered here.")
        if name.startswith(b"x-amz-grant-") and not takes_acl:
            raise _acl_refusal(name.decode())
    acl = headers.get(b"x-amz-acl", b"private")
    if acl not in _PRIVATE_ACLS and not takes_acl:
        raise _acl_refusal(f"x-amz-acl: {acl.decode('latin-1')}")
    storage_class = headers.get(b"x-amz-storage-class", b"STANDARD")
    if storage_class != b"STANDARD":
        raise S3Error("InvalidStorageClass", "The only storage class is STANDARD; every vault chooses its own copies.")
    encryption = headers.get(b"x-amz-server-side-encryption", b"AES256")
    if encryption.startswith(b"aws:kms"):
        raise S3Error("NotImplemented", "KMS is not offered; objects are always sealed (use AES256, or no header).")
    if encryption != b"AES256":
        raise S3Error(
            "InvalidEncryptionAlgorithmError", "The encryption method specified is not supported; use AES256."
        )


def _acl_refusal(what: str) -> S3Error:
    return S3Error(
        "NotImplemented",
        f"{what} is not offered here: access is granted per bucket or prefix, with `meshhold s3-perm grant`.",
    )


def stored_headers(request: Request) -> dict[str, str]:
    """Return the headers that come back with the object, by lowercase name.

    In `Content-Encoding` the token `aws-chunked` describes the transfer and is dropped; the others are kept.
    """
    found = {"content-type": request.header(b"content-type") or DEFAULT_TYPE}
    for name in _STORED:
        value = request.header(name)
        if value is not None and name == b"content-encoding" and "aws-chunked" in value.lower():
            kept = (token for token in value.split(",") if token.strip().lower() != "aws-chunked")
            value = ",".join(kept).strip()
        if value:
            found[name.decode()] = value
    location = redirect_location(request)
    if location is not None:
        found[REDIRECT] = location
    return found


def redirect_location(request: Request) -> str | None:
    """Return where a website is to send those who ask for the object; None where the request does not say.

    Errors: `InvalidRedirectLocation`.
    """
    value = request.header(REDIRECT.encode())
    if value is None:
        return None
    value = value.strip()
    if not value.startswith(("/", "http://", "https://")):
        raise S3Error(
            "InvalidRedirectLocation",
            "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
        )
    if len(value) > REDIRECT_LENGTH_MAX or not value.isascii():
        raise S3Error(
            "InvalidRedirectLocation",
            f"The website redirect location has at most {REDIRECT_LENGTH_MAX} characters of ASCII; URL-encode others.",
        )
    return value


def user_metadata(request: Request) -> dict[str, str]:
    """Return the `x-amz-meta-*` headers, by lowercase name without the prefix, encoded words (RFC 2047) decoded."""
    return {
        name[len(_USER) :].decode("latin-1"): decode_words(request.header(name) or "")
        for name in request.headers
        if name.startswith(_USER)
    }


ENCRYPTED: Final = (b"x-amz-server-side-encryption", b"AES256")
"""What S3 says of every object since 2023, asked or not, and what is true here: it is sealed."""


def encryption_headers(customer: CustomerSeal | None) -> Headers:
    """Return how an answer says that the object is sealed, and by whose key."""
    return [ENCRYPTED] if customer is None else customer_headers(customer)


def check_read_options(request: Request) -> None:
    """Errors: `InvalidArgument` for a wish how to encrypt, which a read cannot have."""
    if ENCRYPTED[0] in request.headers:
        raise S3Error("InvalidArgument", "x-amz-server-side-encryption header is not supported for this operation.")
