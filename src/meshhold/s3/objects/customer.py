"""Requests with a client's own key: which content is hidden by it, and shown to whom. Knows no cipher."""

from __future__ import annotations

from typing import Final

from meshhold.crypto.customer import Keystream
from meshhold.model.entry import ObjectVersion, Upload
from meshhold.s3.door import Door
from meshhold.s3.exchange import Request
from meshhold.s3.syntax.customer import parse_customer_key
from meshhold.store.customer import Hidden, Hiding, PartStreams, check_key, new_hiding
from meshhold.store.directory import Bucket

_PREFIX: Final = b"x-amz-server-side-encryption-customer-"
_NAMES: Final = frozenset((_PREFIX + b"algorithm", _PREFIX + b"key", _PREFIX + b"key-md5"))


def hiding_of(request: Request) -> Hiding | None:
    """Return how new content is hidden by the request's own key, or None without a key.

    Errors: those of `parse_customer_key`.
    """
    if _NAMES.isdisjoint(request.headers):
        return None
    customer = parse_customer_key(request.headers)
    return None if customer is None else new_hiding(customer)


def part_hiding_of(request: Request, upload: Upload) -> Hiding | None:
    """Return how a part is hidden: by the key that its upload was begun with.

    Errors: those of `parse_customer_key`; `CustomerKeyError` for another key, a missing one, or one that the upload has
    not.
    """
    seal = upload.extras.customer
    customer = parse_customer_key(request.headers)
    check_key(seal, customer)
    return None if customer is None or seal is None else new_hiding(customer, seal.salt)


async def shown_by(
    door: Door, request: Request, bucket: Bucket, key: bytes, version: ObjectVersion, *, copy_source: bool = False
) -> Hidden | None:
    """Return what shows a version to who sent its key, or None for one that is not hidden.

    Errors: those of `parse_customer_key`; `CustomerKeyError`.
    """
    seal = version.extras.customer
    if seal is None and not copy_source and _NAMES.isdisjoint(request.headers):
        return None
    customer = parse_customer_key(request.headers, copy_source=copy_source)
    check_key(seal, customer)
    if customer is None or seal is None:
        return None
    if version.parts_count:
        return PartStreams(customer, await door.objects.parts(bucket, key, version))
    return Keystream(customer.key, seal.salt)
