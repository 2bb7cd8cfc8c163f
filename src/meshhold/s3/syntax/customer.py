"""A client's own key in a request's headers (SSE-C). Knows no object and keeps no key.

Source: Amazon S3 user guide, "Using server-side encryption with customer-provided keys".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from meshhold.crypto.customer import KEY_SIZE
from meshhold.model.entry import CustomerSeal
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers
from meshhold.store.customer import CustomerKey

_OWN: Final = b"x-amz-server-side-encryption-customer-"
_SOURCE: Final = b"x-amz-copy-source-server-side-encryption-customer-"


def parse_customer_key(headers: Mapping[bytes, bytes], *, copy_source: bool = False) -> CustomerKey | None:
    """Return the key that the headers carry, or None without one.

    Errors: `InvalidArgument` for a part of it that is missing or wrong, and for two kinds of encryption at once.
    """
    prefix = _SOURCE if copy_source else _OWN
    algorithm, key, md5 = (headers.get(prefix + name) for name in (b"algorithm", b"key", b"key-md5"))
    if algorithm is None and key is None and md5 is None:
        return None
    if algorithm != b"AES256":
        raise _refusal("must provide a valid encryption algorithm: AES256.")
    if key is None:
        raise _refusal("must provide an appropriate secret key.")
    if md5 is None:
        raise _refusal("must provide the client calculated MD5 of the secret key.")
    raw = _decoded(key)
    if len(raw) != KEY_SIZE:
        raise S3Error("InvalidArgument", "The secret key was invalid for the specified algorithm: it has 256 bits.")
    if not hmac.compare_digest(hashlib.md5(raw, usedforsecurity=False).digest(), _decoded(md5)):
        raise S3Error("InvalidArgument", "The calculated MD5 hash of the key did not match the hash that was provided.")
    if not copy_source and b"x-amz-server-side-encryption" in headers:
        raise S3Error(
            "InvalidArgument", "Server Side Encryption with Customer provided keys excludes other encryption."
        )
    return CustomerKey(raw, md5.decode("latin-1"))


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _refusal(what: str) -> S3Error:
    return S3Error("InvalidArgument", f"Requests specifying Server Side Encryption with Customer provided keys {what}")


def customer_headers(seal: CustomerSeal | None) -> Headers:
    """Return how an answer says that the client's own key was used."""
    if seal is None:
        return []
    return [(_OWN + b"algorithm", b"AES256"), (_OWN + b"key-md5", seal.key_md5.encode("latin-1"))]
