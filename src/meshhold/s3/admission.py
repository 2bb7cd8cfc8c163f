"""May the sender of a request do this? Grants, the bucket's policy and its public access block, weighed in S3's order.

Knows no HTTP and no operation. An explicit denial beats everything but the owner's right to his own policy; then a
grant or an allowing policy lets pass; then what everybody may do. Nobody writes without a signature.
"""

from __future__ import annotations

from typing import Final

from meshhold.errors import DeniedError
from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS, AccessKeyId
from meshhold.rules.actions import ACTIONS, ANYBODY_ACTIONS, LIST_ACTIONS, OBJECT_ACTIONS, OWNER_ACTIONS
from meshhold.rules.policy import Question, Verdict, is_write
from meshhold.store.access import Access
from meshhold.store.directory import Bucket, GrantFacts

_OF_ANY_PREFIX: Final = frozenset({"s3:GetBucketLocation"})  # tells nothing of what is in the bucket


def refusal(access: Access, bucket: Bucket, question: Question, prefix: bytes | None) -> DeniedError | None:
    """Return why the sender may not, or None if he may.

    `prefix` is that of the keys which an action of `LIST_ACTIONS` would show, None if it shows none.
    """
    sender, action = AccessKeyId(question.sender), question.action
    if sender == ANONYMOUS and is_write(action):
        return DeniedError("Access Denied: writing needs a signed request, whatever is granted to everybody")
    policy = bucket.rules.policy
    verdict = Verdict.SILENT if policy is None else policy.judge(question)
    grant = access.grant_of(sender, bucket)
    if verdict is Verdict.DENIES:
        is_owner = grant is not None and Permission.OWN in grant.permissions
        if is_owner and action in OWNER_ACTIONS:
            return None
        return DeniedError(
            f"Access Denied: the policy of bucket {bucket.alias!r} denies {action}",
            "a key with `own` on the bucket can change it with PutBucketPolicy",
        )
    if sender != ANONYMOUS and grant is not None and covers(grant, action, question.key, prefix):
        return None
    if verdict is Verdict.ALLOWS and _policy_counts(access, bucket, sender, action, has_grant=grant is not None):
        return None
    if _anybody_may(access, bucket, question, prefix):
        return None
    return _unlicensed(bucket, sender, action, grant)


def covers(grant: GrantFacts, action: str, key: str | None, prefix: bytes | None) -> bool:
    """Tell whether a grant allows an action on an object, or with None on the bucket; `prefix` as in `refusal`."""
    if ACTIONS[action] not in grant.permissions:
        return False
    if not grant.limits.prefixes or action in _OF_ANY_PREFIX:
        return True
    if action in LIST_ACTIONS:
        return prefix is None or grant.limits.covers(prefix)
    return key is not None and grant.limits.covers(key.encode())


def _policy_counts(access: Access, bucket: Bucket, sender: AccessKeyId, action: str, *, has_grant: bool) -> bool:
    """Tell whether what the policy allows holds for this sender."""
    if is_write(action) and access.is_read_only(sender):
        return False
    block, policy = bucket.rules.block, bucket.rules.policy
    is_restricted = block is not None and block.restrict and policy is not None and policy.is_public
    return not is_restricted or (has_grant and sender != ANONYMOUS)


def _anybody_may(access: Access, bucket: Bucket, question: Question, prefix: bytes | None) -> bool:
    """Tell whether the grant to everybody allows the action: also to those who sign with some key."""
    grant = access.grant_of(ANONYMOUS, bucket)
    if grant is None or question.action not in ANYBODY_ACTIONS:
        return False
    block = bucket.rules.block
    is_ignored = block is not None and block.ignore_acls
    return not is_ignored and covers(grant, question.action, question.key, prefix)


def _unlicensed(bucket: Bucket, sender: AccessKeyId, action: str, grant: GrantFacts | None) -> DeniedError:
    permission = ACTIONS[action]
    if sender == ANONYMOUS:
        wanted = "read --list" if permission is Permission.LIST else "read"
        return DeniedError(
            f"Access Denied: without a signature, {action} on bucket {bucket.alias!r} is not allowed",
            f"sign the request, or let everybody with `meshhold s3-perm grant anonymous {bucket.alias} {wanted}`",
        )
    name = "read" if permission is Permission.LIST else str(permission)
    if grant is not None and permission in grant.permissions:
        what = "this key" if action in OBJECT_ACTIONS else "more than the prefixes of its grant"
        return DeniedError(
            f"Access Denied: access key {sender} may not {name} {what} in bucket {bucket.alias!r}",
            "see the prefixes of its grant with `meshhold s3-perm list`",
        )
    return DeniedError(
        f"Access Denied: access key {sender} may not {name} bucket {bucket.alias!r}",
        f"grant it with `meshhold s3-perm grant {sender} {bucket.alias} {name}`",
    )
