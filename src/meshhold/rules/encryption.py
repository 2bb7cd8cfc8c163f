"""What is said of a bucket's encryption. Knows no key: whatever is said, every byte is sealed with the vault's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from meshhold.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Encryption:
    """The default encryption, which is AES256 always; `bucket_key` is a wish that S3 gives back and that costs nothing.

    S3 takes a bucket key for AES256 as well, where it means nothing, and programs that describe buckets compare it.
    """

    bucket_key: bool = False


BY_DEFAULT: Final = Encryption()


def unpack_encryption(packed: Any) -> Encryption:
    """Return the stored setting. Errors: `InvalidError`."""
    if packed is not True:
        raise InvalidError("the stored encryption setting is none")
    return Encryption(bucket_key=True)
