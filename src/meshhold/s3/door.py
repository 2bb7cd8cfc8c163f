"""What the S3 handlers work with: the use-cases and a few settings. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meshhold.errors import DeniedError, RefusedError
from meshhold.model.grant import UNLIMITED
from meshhold.model.ids import ANONYMOUS, AccessKeyId
from meshhold.rules.actions import ACTIONS, LIST_ACTIONS, OBJECT_ACTIONS, OF_VERSIONS
from meshhold.rules.policy import Question
from meshhold.s3.admission import refusal
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request
from meshhold.s3.policy_facts import facts_of
from meshhold.store.access import Access
from meshhold.store.bucket_rules import BucketRulesKeeper
from meshhold.store.directory import Bucket
from meshhold.store.founding import Founding
from meshhold.store.listing import Listing
from meshhold.store.objects import Objects
from meshhold.store.uploads import Uploads
from meshhold.store.vaults import Vaults
from meshhold.store.versions import Versions

OWNER: Final = "meshhold"
"""Id and display name of the one account: every bucket and object is its own, and access keys are its users."""


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
    versions: Versions
    founding: Founding
    now_ms: Callable[[], int]

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

    def allow(self, request: Request, action: str, *, new_tags: Mapping[str, str] | None = None) -> Bucket:
        """Return the request's bucket if its sender may do `action`, one of `rules.actions`, to what it names.

        A request that names a version asks for the action on versions. `new_tags` are those that the body sets.
        Errors: `NoSuchBucketError`, `DeniedError`; `AccessDenied` for another expected owner.
        """
        bucket = self.bucket(request)
        grant = self.access.grant_of(request.access_key, bucket)
        if (
            grant is None
            or ACTIONS[action] not in grant.permissions
            or bucket.rules.policy is not None
            or grant.limits is not UNLIMITED
            or request.access_key == ANONYMOUS
        ):
            self.check(request, bucket, action, request.key, new_tags=new_tags)
        return bucket

    def bucket(self, request: Request) -> Bucket:
        """Return the request's bucket. Errors: `NoSuchBucketError`; `AccessDenied` for another expected owner."""
        bucket = self.vaults.bucket(request.bucket_name)
        check_owner(request, b"x-amz-expected-bucket-owner")
        return bucket

    def allow_some(self, request: Request, action: str) -> Bucket:
        """Return the request's bucket if its sender may do `action` to some objects; `check` then says to which.

        Errors: those of `allow`.
        """
        bucket = self.bucket(request)
        grant = self.access.grant_of(request.access_key, bucket)
        is_granted = grant is not None and ACTIONS[action] in grant.permissions
        if request.access_key == ANONYMOUS or (bucket.rules.policy is None and not is_granted):
            self.check(request, bucket, action, b"")
        return bucket

    def check(
        self,
        request: Request,
        bucket: Bucket,
        action: str,
        key: bytes,
        *,
        new_tags: Mapping[str, str] | None = None,
        names_version: bool | None = None,
    ) -> None:
        """Let the sender do `action` to an object of the bucket, or with an empty `key` to the bucket.

        `names_version` says that a version is named; None: the query tells. Errors: `DeniedError`.
        """
        if names_version is None:
            names_version = request.query.has("versionId")
        if names_version:
            action = OF_VERSIONS.get(action, action)
        prefix = None
        if action in LIST_ACTIONS and request.head.method != "HEAD":
            prefix = (request.query.get("prefix") or "").encode()
        facts = facts_of(request, self.now_ms(), existing_tags=request.existing_tags, new_tags=new_tags)
        name = key.decode() if action in OBJECT_ACTIONS else None
        refused = refusal(self.access, bucket, Question(request.access_key, action, name, facts), prefix)
        if refused is not None:
            raise refused

    def may_know(self, request: Request, bucket: Bucket, key: bytes) -> bool:
        """Tell whether the sender may learn that there is no object of this key: he could list it."""
        facts = facts_of(request, self.now_ms(), prefix=key)
        question = Question(request.access_key, "s3:ListBucket", None, facts)
        return refusal(self.access, bucket, question, key) is None

    def is_public(self, bucket: Bucket, key: bytes | None = None) -> bool:
        """Tell whether everybody may read an object without a signature; or, without a key, list the bucket."""
        action = "s3:ListBucket" if key is None else "s3:GetObject"
        question = Question(ANONYMOUS, action, None if key is None else key.decode(), _no_facts)
        return refusal(self.access, bucket, question, b"") is None

    async def allow_source(self, request: Request, name: str, key: bytes, version_id: str | None) -> Bucket:
        """Return the bucket that a copy is made from, if the sender may read the object.

        Errors: those of `allow`, for the source and its own expected owner.
        """
        bucket = self.vaults.bucket(name)
        check_owner(request, b"x-amz-source-expected-bucket-owner")
        known, request.existing_tags = request.existing_tags, await self._tags(bucket, key, version_id)
        try:
            self.check(request, bucket, "s3:GetObject", key, names_version=version_id is not None)
        finally:
            request.existing_tags = known
        return bucket

    async def prepare(self, request: Request) -> None:
        """Look up what a policy asks of the object that a request names, before anything is allowed."""
        bucket = self.vaults.known_alias(request.bucket_name)
        if bucket is not None and bucket.rules.policy is not None and request.key:
            request.existing_tags = await self._tags(bucket, request.key, request.query.get("versionId"))

    async def _tags(self, bucket: Bucket, key: bytes, version_id: str | None) -> Mapping[str, str] | None:
        """Return an object's tags where the bucket's policy asks for them."""
        if bucket.rules.policy is None or not bucket.rules.policy.asks_for_tags:
            return None
        try:
            return (await self.objects.find(bucket, key, version_id)).extras.tags
        except RefusedError:  # there is none, and whoever asked is told so by what comes next
            return None


def check_owner(request: Request, header: bytes) -> None:
    """Refuse a request that expects another owner of a bucket than the one account. Errors: `AccessDenied`."""
    expected = request.headers.get(header)
    if expected is not None and expected != OWNER.encode():
        raise DeniedError(f"Access Denied: the bucket's owner is {OWNER!r}, not the one that {header.decode()} expects")


def _no_facts(_: str) -> Sequence[str]:
    return ()
