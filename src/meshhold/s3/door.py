"""What the S3 handlers work with: the use-cases and a few settings. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS, AccessKeyId
from meshhold.rules.actions import ACTIONS
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request
from meshhold.store.access import Access
from meshhold.store.bucket_rules import BucketRulesKeeper
from meshhold.store.directory import Bucket
from meshhold.store.listing import Listing
from meshhold.store.objects import Objects
from meshhold.store.uploads import Uploads
from meshhold.store.vaults import Vaults

OWNER: Final = "meshhold"
"""Id and display name of every object's owner: a vault belongs to whoever holds its secret, not to an account."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The door's own settings. Sizes in bytes, times in seconds.

    `requests_max`: more at once get 503 `SlowDown`; each may hold about 6 MiB while it moves a large body, and small
    ones a few KiB. `stall_s`: a client that neither sends nor takes a byte for so long is dropped; mobile clients pause
    for some seconds, dead ones for ever.
    """

    region: str = "meshhold"
    put_size_max: int = 5 * 2**30
    requests_max: int = 256
    stall_s: float = 60.0
    idle_s: float = 75.0
    connections_max: int = 640


@dataclass(frozen=True, slots=True)
class Door:
    """Use-cases and settings, given to each handler."""

    objects: Objects
    uploads: Uploads
    listing: Listing
    vaults: Vaults
    access: Access
    rules: BucketRulesKeeper
    settings: Settings
    now_ms: Callable[[], int]

    def is_public(self, bucket: Bucket) -> bool:
        """Tell whether anybody may read the bucket's objects without a signature."""
        return self.access.may(ANONYMOUS, bucket, Permission.READ)

    def secret(self, access_key_id: str) -> str:
        """Return the secret that a signature must prove. Errors: `InvalidAccessKeyId`."""
        secret = self.access.secret(AccessKeyId(access_key_id))
        if secret is None:
            raise S3Error(
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records. See `meshhold s3-key list`.",
                fields={"AWSAccessKeyId": access_key_id},
            )
        return secret

    def allow(self, request: Request, action: str) -> Bucket:
        """Return the request's bucket if its sender may do `action`, one of `rules.actions`, to what it names.

        Errors: `NoSuchBucketError`, `DeniedError`; `AccessDenied` for another expected owner.
        """
        bucket = self.vaults.bucket(request.bucket_name)
        self.access.require(request.access_key, bucket, ACTIONS[action])
        expected = request.headers.get(b"x-amz-expected-bucket-owner")
        if expected is not None and expected != OWNER.encode():
            raise S3Error("AccessDenied", f"The bucket's owner is {OWNER!r}, not the expected one.")
        return bucket
