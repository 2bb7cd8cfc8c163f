"""Which handler answers a request? Method, level and sub-resource decide; whatever is unknown is NotImplemented.

A sub-resource never falls through to the plain operation: a `PUT ?acl` that stored its XML as the object would
destroy it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from meshhold.s3.buckets import acls as bucket_acls
from meshhold.s3.buckets import (
    buckets,
    cors,
    encryption,
    lifecycle,
    ownership,
    policies,
    public_access,
    versioning,
    website,
)
from meshhold.s3.buckets import locks as bucket_locks
from meshhold.s3.buckets import tagging as bucket_tagging
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response
from meshhold.s3.objects import (
    acls,
    attributes,
    copies,
    deletes,
    gets,
    listings,
    locks,
    multipart,
    posts,
    puts,
    tagging,
    versions,
)

Handler = Callable[[Door, Request], Awaitable[Response]]

SUBRESOURCES: Final = frozenset(
    (
        "abac", "accelerate", "acl", "analytics", "annotation", "annotations", "append", "attributes", "cors",
        "delete", "encryption", "intelligent-tiering", "inventory", "legal-hold", "lifecycle", "location",
        "logging", "metadataAnnotationTable", "metadataConfiguration", "metadataInventoryTable",
        "metadataJournalTable", "metadataTable", "metrics", "notification", "object-lock", "ownershipControls",
        "policy", "policyStatus", "position", "publicAccessBlock", "renameObject", "replication",
        "requestPayment", "restore", "retention", "select", "select-type", "session", "tagging", "torrent",
        "uploadId", "uploads", "versioning", "versions", "website",
    )
)  # fmt: skip
"""Query parameters that name another resource than the object or bucket itself. Source: Amazon S3 API reference."""

_SERVICE: Final[dict[tuple[str, str], Handler]] = {("GET", ""): buckets.list_buckets}

_BUCKET: Final[dict[tuple[str, str], Handler]] = {
    ("HEAD", ""): buckets.head_bucket,
    ("GET", ""): listings.list_objects,
    ("PUT", ""): buckets.create_bucket,
    ("DELETE", ""): buckets.delete_bucket,
    ("GET", "location"): buckets.get_location,
    ("GET", "tagging"): bucket_tagging.get_tagging,
    ("PUT", "tagging"): bucket_tagging.put_tagging,
    ("DELETE", "tagging"): bucket_tagging.delete_tagging,
    ("GET", "object-lock"): bucket_locks.get_lock,
    ("PUT", "object-lock"): bucket_locks.put_lock,
    ("GET", "encryption"): encryption.get_encryption,
    ("PUT", "encryption"): encryption.put_encryption,
    ("DELETE", "encryption"): encryption.delete_encryption,
    ("GET", "versioning"): versioning.get_versioning,
    ("PUT", "versioning"): versioning.put_versioning,
    ("GET", "versions"): versions.list_versions,
    ("GET", "uploads"): multipart.list_uploads,
    ("POST", ""): posts.post_object,
    ("POST", "delete"): deletes.delete_objects,
    ("PUT", "website"): website.put_website,
    ("GET", "website"): website.get_website,
    ("DELETE", "website"): website.delete_website,
    ("GET", "acl"): bucket_acls.get_acl,
    ("PUT", "acl"): bucket_acls.put_acl,
    ("GET", "policy"): policies.get_policy,
    ("PUT", "policy"): policies.put_policy,
    ("DELETE", "policy"): policies.delete_policy,
    ("GET", "policyStatus"): policies.get_policy_status,
    ("GET", "publicAccessBlock"): public_access.get_block,
    ("PUT", "publicAccessBlock"): public_access.put_block,
    ("DELETE", "publicAccessBlock"): public_access.delete_block,
    ("GET", "ownershipControls"): ownership.get_ownership,
    ("PUT", "ownershipControls"): ownership.put_ownership,
    ("DELETE", "ownershipControls"): ownership.delete_ownership,
    ("PUT", "cors"): cors.put_cors,
    ("GET", "cors"): cors.get_cors,
    ("DELETE", "cors"): cors.delete_cors,
    ("PUT", "lifecycle"): lifecycle.put_lifecycle,
    ("GET", "lifecycle"): lifecycle.get_lifecycle,
    ("DELETE", "lifecycle"): lifecycle.delete_lifecycle,
}

_OBJECT: Final[dict[tuple[str, str], Handler]] = {
    ("GET", ""): gets.get_object,
    ("HEAD", ""): gets.head_object,
    ("PUT", ""): puts.put_object,
    ("GET", "attributes"): attributes.get_attributes,
    ("PUT", "copy"): copies.copy_object,
    ("DELETE", ""): deletes.delete_object,
    ("GET", "tagging"): tagging.get_tagging,
    ("PUT", "tagging"): tagging.put_tagging,
    ("DELETE", "tagging"): tagging.delete_tagging,
    ("GET", "retention"): locks.get_retention,
    ("PUT", "retention"): locks.put_retention,
    ("GET", "legal-hold"): locks.get_legal_hold,
    ("PUT", "legal-hold"): locks.put_legal_hold,
    ("GET", "acl"): acls.get_acl,
    ("PUT", "acl"): acls.put_acl,
    ("POST", "uploads"): multipart.create_upload,
    ("PUT", "uploadId"): multipart.upload_part,
    ("PUT", "uploadId copy"): copies.upload_part_copy,
    ("GET", "uploadId"): multipart.list_parts,
    ("POST", "uploadId"): multipart.complete_upload,
    ("DELETE", "uploadId"): multipart.abort_upload,
}


def find_handler(request: Request) -> Handler:
    """Return the handler of a request.

    Errors: `NotImplemented` for an operation that MeshHold does not offer, `MethodNotAllowed` for one that S3 has not.
    """
    names = request.query.names() & SUBRESOURCES if request.query.pairs else frozenset()
    if len(names) > 1:
        raise S3Error("InvalidRequest", f"The sub-resources {', '.join(sorted(names))} cannot be used together.")
    what = next(iter(names), "")
    method = request.head.method
    if request.key and method == "PUT" and b"x-amz-copy-source" in request.headers:
        what = f"{what} copy".strip()
    table = _OBJECT if request.key else _BUCKET if request.bucket_name else _SERVICE
    handler = table.get((method, what))
    if handler is None:
        raise _refusal(method, what, request)
    return handler


def _refusal(method: str, what: str, request: Request) -> S3Error:
    level = "an object" if request.key else "a bucket" if request.bucket_name else "the service"
    if what or method in ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"):
        name = f"{method} ?{what}" if what else method
        return S3Error("NotImplemented", f"{name} on {level} is not something that MeshHold offers.")
    return S3Error("MethodNotAllowed", f"The method {method} is not allowed against this resource.")
