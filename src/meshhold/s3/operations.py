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
    "get_location": "GetBucketLocation",
    "get_lifecycle": "GetBucketLifecycleConfiguration",
    "put_lifecycle": "PutBucketLifecycleConfiguration",
    "delete_lifecycle": "DeleteBucketLifecycle",
}
"""Handlers whose function's name, in capitals, is not what S3 calls the operation."""


@cache
def operation_name(handler: Callable[..., object]) -> str:
    """Return the name of the operation that a handler answers; handlers are few, so all answers are kept."""
    name: str = getattr(handler, "__name__", "")
    return _NAMES.get(name) or "".join(word.capitalize() for word in name.split("_"))
