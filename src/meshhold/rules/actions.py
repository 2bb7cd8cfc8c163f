"""Which permission of a grant lets a key do an action of S3, and to what is it done? Knows no key and no bucket.

Actions have the names that S3's policies use. Source: Service Authorization Reference, "Actions for Amazon S3".
"""

from __future__ import annotations

import re
from typing import Final

from meshhold.model.grant import Permission

ACTIONS: Final[dict[str, Permission]] = {
    "s3:GetObject": Permission.READ,
    "s3:GetObjectVersion": Permission.READ,
    "s3:GetObjectAttributes": Permission.READ,
    "s3:GetObjectVersionAttributes": Permission.READ,
    "s3:GetObjectTagging": Permission.READ,
    "s3:GetObjectVersionTagging": Permission.READ,
    "s3:GetObjectAcl": Permission.READ,
    "s3:GetObjectVersionAcl": Permission.READ,
    "s3:GetObjectRetention": Permission.READ,
    "s3:GetObjectLegalHold": Permission.READ,
    "s3:ListMultipartUploadParts": Permission.READ,
    "s3:ListBucket": Permission.LIST,
    "s3:ListBucketVersions": Permission.LIST,
    "s3:ListBucketMultipartUploads": Permission.LIST,
    "s3:GetBucketLocation": Permission.LIST,
    "s3:GetBucketVersioning": Permission.LIST,
    "s3:GetBucketAcl": Permission.LIST,
    "s3:GetBucketCORS": Permission.LIST,
    "s3:GetBucketWebsite": Permission.LIST,
    "s3:GetBucketTagging": Permission.LIST,
    "s3:GetBucketObjectLockConfiguration": Permission.LIST,
    "s3:GetEncryptionConfiguration": Permission.LIST,
    "s3:GetLifecycleConfiguration": Permission.LIST,
    "s3:GetBucketPublicAccessBlock": Permission.LIST,
    "s3:GetBucketOwnershipControls": Permission.LIST,
    "s3:GetBucketPolicyStatus": Permission.LIST,
    "s3:PutObject": Permission.WRITE,
    "s3:PutObjectTagging": Permission.WRITE,
    "s3:PutObjectVersionTagging": Permission.WRITE,
    "s3:PutObjectAcl": Permission.WRITE,
    "s3:PutObjectVersionAcl": Permission.WRITE,
    "s3:PutObjectRetention": Permission.WRITE,
    "s3:PutObjectLegalHold": Permission.WRITE,
    "s3:AbortMultipartUpload": Permission.WRITE,
    "s3:DeleteObject": Permission.WRITE,
    "s3:DeleteObjectVersion": Permission.WRITE,
    "s3:DeleteObjectTagging": Permission.WRITE,
    "s3:DeleteObjectVersionTagging": Permission.WRITE,
    "s3:BypassGovernanceRetention": Permission.OWN,
    "s3:GetBucketPolicy": Permission.OWN,
    "s3:PutBucketPolicy": Permission.OWN,
    "s3:DeleteBucketPolicy": Permission.OWN,
    "s3:PutBucketAcl": Permission.OWN,
    "s3:PutBucketCORS": Permission.OWN,
    "s3:PutBucketWebsite": Permission.OWN,
    "s3:DeleteBucketWebsite": Permission.OWN,
    "s3:PutBucketTagging": Permission.OWN,
    "s3:PutBucketVersioning": Permission.OWN,
    "s3:PutBucketObjectLockConfiguration": Permission.OWN,
    "s3:PutEncryptionConfiguration": Permission.OWN,
    "s3:PutLifecycleConfiguration": Permission.OWN,
    "s3:PutBucketPublicAccessBlock": Permission.OWN,
    "s3:PutBucketOwnershipControls": Permission.OWN,
    "s3:DeleteBucket": Permission.WRITE,
}
"""What a grant must hold for each action. Whoever may write may delete; who sets rules for all needs `own`."""

_OF_OBJECTS: Final = re.compile(
    r"s3:(?:(?:Get|Put|Delete)Object(?:Version)?(?:Attributes|Tagging|Acl|Retention|LegalHold)?"
    r"|ListMultipartUploadParts|AbortMultipartUpload|BypassGovernanceRetention)"
)
OBJECT_ACTIONS: Final = frozenset(filter(_OF_OBJECTS.fullmatch, ACTIONS))
"""Actions on one object; the others are on a bucket."""

LIST_ACTIONS: Final = frozenset({"s3:ListBucket", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads"})
"""Actions on the part of a bucket whose keys begin with the request's prefix."""

ANYBODY_ACTIONS: Final = frozenset({"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:ListBucketVersions"})
"""What a grant to `anonymous` can allow: what S3's ACL permission READ for everybody does."""

OWNER_ACTIONS: Final = frozenset({"s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"})
"""What a key that owns the bucket may do whatever its policy denies, so that nobody locks everybody out."""

UNOFFERED: Final = frozenset(
    f"s3:{name}"
    for name in (
        "GetAccelerateConfiguration", "GetAnalyticsConfiguration",
        "GetBucketLogging", "GetBucketNotification", "GetBucketRequestPayment", "GetIntelligentTieringConfiguration",
        "GetInventoryConfiguration", "GetMetricsConfiguration", "GetObjectTorrent", "GetObjectVersionForReplication",
        "GetObjectVersionTorrent", "GetReplicationConfiguration", "InitiateReplication", "ReplicateDelete",
        "PutAccelerateConfiguration", "PutAnalyticsConfiguration", "PutBucketLogging", "PutBucketNotification",
        "PutBucketRequestPayment", "PutIntelligentTieringConfiguration", "PutInventoryConfiguration",
        "PutMetricsConfiguration", "PutReplicationConfiguration", "ReplicateObject", "ReplicateTags",
        "RestoreObject",
    )
)  # fmt: skip
"""Actions of S3 that nobody can do here: a policy may name them, and they allow and deny nothing."""

OF_VERSIONS: Final = {
    action: version
    for action in OBJECT_ACTIONS
    if (version := re.sub("Object", "ObjectVersion", action)) in OBJECT_ACTIONS and "Version" not in action
}
"""The action on a version that the request names, where S3 has one of its own."""
