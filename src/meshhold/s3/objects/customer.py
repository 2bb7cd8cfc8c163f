"""Requests with a client's own key: which content is hidden by it, and shown to whom. Knows no cipher."""

from __future__ import annotations

from typing import Final

from meshhold.crypto.customer import Keystream
from meshhold.model.entry import CustomerSeal, ObjectVersion
from meshhold.s3.door import Door
from meshhold.s3.exchange import Request
from meshhold.s3.syntax.customer import parse_customer_key
from meshhold.store.customer import Hidden, PartStreams, check_key, new_seal
from meshhold.store.directory import Bucket

_PREFIX: Final = b"x-amz-server-side-encryption-customer-"
_NAMES: Final = frozenset((_PREFIX + b"algorithm", _PREFIX + b"key", _PREFIX + b"key-md5"))


def writing_seal(request: Request) -> tuple[CustomerSeal, Keystream] | None:
    """Return seal and key stream of new content that the request's own key is to hide, or None without a key.

    Errors: those of `parse_customer_key`.
    """
    if _NAMES.isdisjoint(request.headers):
        return None
    customer = parse_customer_key(request.headers)
    if customer is None:
        return None
    seal = new_seal(customer)
    return seal, Keystream(customer.key, seal.salt)


def part_seal(request: Request, of_upload: CustomerSeal | None) -> tuple[bytes, Keystream] | None:
    """Return salt and key stream of a part, which is hidden by the key that its upload was begun with.

    Errors: `CustomerKeyError` for another key, a missing one, or one that the upload has not.
    """
    customer = parse_customer_key(request.headers)
    check_key(of_upload, customer)
    if customer is None:
        return None
    salt = new_seal(customer).salt
    return salt, Keystream(customer.key, salt)


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
