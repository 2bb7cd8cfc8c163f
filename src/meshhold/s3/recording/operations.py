"""What is an operation called in logs and counters? By S3's own names; knows no request."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

_NAMES: Final = {
    "create_upload": "CreateMultipartUpload",
    "complete_upload": "CompleteMultipartUpload",
    "abort_upload": "AbortMultipartUpload",
    "list_uploads": "ListMultipartUploads",
    "list_versions": "ListObjectVersions",
}
_NOUNS: Final = {
    "Lock": "ObjectLockConfiguration",
    "Block": "PublicAccessBlock",
    "Ownership": "BucketOwnershipControls",
    "Lifecycle": "BucketLifecycleConfiguration",
}
"""What S3 calls what the names of handlers say in short."""
_VERBS: Final = ("get", "put", "delete")


@cache
def operation_name(handler: Callable[..., object]) -> str:
    """Return the name of the operation that a handler answers; handlers are few, so all answers are kept.

    It is the function's name in capitals; `get_tagging` of a bucket and of an object differ by the room they are in.
    """
    name = handler.__name__
    verb, _, rest = name.partition("_")
    noun = "".join(word.capitalize() for word in rest.split("_"))
    if name in _NAMES:
        return _NAMES[name]
    if verb in _VERBS and noun in _NOUNS:
        return verb.capitalize() + _NOUNS[noun]
    level = ""
    if verb in _VERBS and "Object" not in noun and "Bucket" not in noun:
        level = "Bucket" if ".buckets." in handler.__module__ else "Object"
    return verb.capitalize() + level + noun
