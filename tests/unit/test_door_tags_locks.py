"""Tags, locks and encryption settings, as clients see them."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.door import Answer, DoorUnderTest, open_door

from meshhold.errors import BucketNotEmptyError, LockedError
from meshhold.model.grant import Permission
from meshhold.rules.bucket import BucketRules
from meshhold.rules.versioning import Versioning
from meshhold.store.directory import Bucket

LOCKABLE = "lockable"
TAGGING = "<Tagging><TagSet>{}</TagSet></Tagging>"
ENCRYPTION = (
    "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>{}</SSEAlgorithm>"
    "</ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
)
LOCK = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>{}</ObjectLockConfiguration>"
A_DAY = "<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule>"


def tagging(**tags: str) -> bytes:
    rows = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in tags.items())
    return TAGGING.format(rows).encode()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        made = await opened.call("PUT", f"/{LOCKABLE}", headers={"x-amz-bucket-object-lock-enabled": "true"})
        assert made.status == 200, made.body
        made = await opened.call("PUT", "/plain")
        assert made.status == 200, made.body
        yield opened


def refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code), answer.body


# -- buckets --------------------------------------------------------------------------------------------------------


async def test_tags_of_a_bucket(door: DoorUnderTest) -> None:
    refused(await door.call("GET", "/plain?tagging"), 404, "NoSuchTagSet")
    assert (await door.call("PUT", "/plain?tagging", tagging(b="2", a="1"))).status == 204
    answer = await door.call("GET", "/plain?tagging")
    assert (answer.tags("Key"), answer.tags("Value")) == (["a", "b"], ["1", "2"])
    many = {f"k{at}": "" for at in range(51)}
    refused(await door.call("PUT", "/plain?tagging", tagging(**many)), 400, "InvalidTag")
    assert (await door.call("DELETE", "/plain?tagging")).status == 204
    refused(await door.call("GET", "/plain?tagging"), 404, "NoSuchTagSet")


async def test_tags_of_a_bucket_are_its_owners(door: DoorUnderTest) -> None:
    refused(await door.call("PUT", "/bucket?tagging", tagging(a="1")), 403, "AccessDenied")


async def test_a_bucket_says_aes256_whatever_was_set(door: DoorUnderTest) -> None:
    for change in (None, "PUT", "DELETE"):
        if change is not None:
            body = ENCRYPTION.format("AES256").encode() if change == "PUT" else b""
            assert (await door.call(change, "/plain?encryption", body)).status in (200, 204)
        answer = await door.call("GET", "/plain?encryption")
        assert (answer.tag("SSEAlgorithm"), answer.tag("BucketKeyEnabled")) == ("AES256", "false")
    refused(await door.call("PUT", "/plain?encryption", ENCRYPTION.format("aws:kms").encode()), 501, "NotImplemented")


async def test_every_answer_about_an_object_says_that_it_is_sealed(door: DoorUnderTest) -> None:
    put = await door.call("PUT", "/plain/photo", b"bytes")
    read = await door.call("GET", "/plain/photo")
    head = await door.call("HEAD", "/plain/photo")
    assert {answer.headers["x-amz-server-side-encryption"] for answer in (put, read, head)} == {"AES256"}
    wish = {"x-amz-server-side-encryption": "AES256"}
    refused(await door.call("GET", "/plain/photo", headers=wish), 400, "InvalidArgument")


async def test_a_bucket_is_made_lockable_or_becomes_so_with_versioning(door: DoorUnderTest) -> None:
    answer = await door.call("GET", f"/{LOCKABLE}?object-lock")
    assert (answer.tag("ObjectLockEnabled"), answer.tag("Rule")) == ("Enabled", "")
    refused(await door.call("GET", "/plain?object-lock"), 404, "ObjectLockConfigurationNotFoundError")
    refused(await door.call("PUT", "/plain?object-lock", LOCK.format("").encode()), 409, "InvalidBucketState")
    maybe = {"x-amz-bucket-object-lock-enabled": "maybe"}
    refused(await door.call("PUT", "/another", headers=maybe), 400, "InvalidArgument")


async def test_a_default_retention_is_set_and_taken_off(door: DoorUnderTest) -> None:
    assert (await door.call("PUT", f"/{LOCKABLE}?object-lock", LOCK.format(A_DAY).encode())).status == 200
    answer = await door.call("GET", f"/{LOCKABLE}?object-lock")
    assert (answer.tag("Mode"), answer.tag("Days")) == ("GOVERNANCE", "1")
    assert (await door.call("PUT", f"/{LOCKABLE}?object-lock", LOCK.format("").encode())).status == 200
    assert not (await door.call("GET", f"/{LOCKABLE}?object-lock")).tag("Mode")


# -- tags of objects ------------------------------------------------------------------------------------------------


async def tags_of(door: DoorUnderTest, target: str) -> dict[str, str]:
    answer = await door.call("GET", f"{target}{'&' if '?' in target else '?'}tagging")
    assert answer.status == 200, answer.body
    return dict(zip(answer.tags("Key"), answer.tags("Value"), strict=True))


async def test_tags_change_without_bytes_and_dates(door: DoorUnderTest) -> None:
    put = await door.call("PUT", "/plain/photo", b"bytes")
    before = await door.call("HEAD", "/plain/photo")
    assert "x-amz-tagging-count" not in before.headers
    assert (await door.call("PUT", "/plain/photo?tagging", tagging(b="2", a="1"))).status == 200
    after = await door.call("GET", "/plain/photo")
    assert (after.body, after.headers["etag"]) == (b"bytes", put.headers["etag"])
    assert after.headers["last-modified"] == before.headers["last-modified"]
    assert after.headers["x-amz-tagging-count"] == "2"
    assert await tags_of(door, "/plain/photo") == {"a": "1", "b": "2"}
    assert (await door.call("DELETE", "/plain/photo?tagging")).status == 204
    assert await tags_of(door, "/plain/photo") == {}


async def test_tags_that_s3_does_not_take_change_nothing(door: DoorUnderTest) -> None:
    await door.call("PUT", "/plain/photo", b"bytes", {"x-amz-tagging": "a=1"})
    many = {f"k{at}": "" for at in range(11)}
    refused(await door.call("PUT", "/plain/photo?tagging", tagging(**many)), 400, "InvalidTag")
    refused(await door.call("PUT", "/plain/photo?tagging", b"<Tagging/>"), 400, "MalformedXML")
    refused(await door.call("PUT", "/plain/photo?tagging"), 400, "MalformedXML")
    refused(await door.call("PUT", "/plain/gone?tagging", tagging(a="1")), 404, "NoSuchKey")
    refused(await door.call("GET", "/plain/gone?tagging"), 404, "NoSuchKey")
    assert await tags_of(door, "/plain/photo") == {"a": "1"}


@pytest.mark.parametrize(
    ("header", "code"),
    [("a=1&a=2", "InvalidArgument"), ("a=%zz", "InvalidArgument"), ("=1", "InvalidTag"), ("a=%3C", "InvalidTag")],
)
async def test_a_header_of_tags_that_is_wrong_keeps_nothing(door: DoorUnderTest, header: str, code: str) -> None:
    refused(await door.call("PUT", "/plain/photo", b"bytes", {"x-amz-tagging": header}), 400, code)
    refused(await door.call("POST", "/plain/photo?uploads", b"", {"x-amz-tagging": header}), 400, code)
    assert (await door.call("GET", "/plain/photo")).status == 404


async def test_tags_come_with_a_write_and_go_along_with_a_copy(door: DoorUnderTest) -> None:
    await door.call("PUT", "/plain/photo", b"bytes", {"x-amz-tagging": "b=x%20y&a"})
    assert await tags_of(door, "/plain/photo") == {"a": "", "b": "x y"}
    source = {"x-amz-copy-source": "/plain/photo"}
    anew = {**source, "x-amz-tagging-directive": "REPLACE"}
    await door.call("PUT", "/plain/copy", b"", source)
    assert await tags_of(door, "/plain/copy") == {"a": "", "b": "x y"}
    await door.call("PUT", "/plain/other", b"", {**anew, "x-amz-tagging": "c=3"})
    assert await tags_of(door, "/plain/other") == {"c": "3"}
    await door.call("PUT", "/plain/none", b"", anew)
    assert await tags_of(door, "/plain/none") == {}
    unknown = {**source, "x-amz-tagging-directive": "MERGE"}
    refused(await door.call("PUT", "/plain/never", b"", unknown), 400, "InvalidArgument")


async def upload(door: DoorUnderTest, target: str, headers: dict[str, str]) -> Answer:
    begun = await door.call("POST", f"{target}?uploads", b"", headers)
    assert begun.status == 200, begun.body
    of_upload = f"{target}?uploadId={begun.tag('UploadId')}"
    etag = (await door.call("PUT", f"{of_upload}&partNumber=1", b"part")).headers["etag"]
    part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    completion = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>"
    return await door.call("POST", of_upload, completion.encode())


async def test_an_upload_in_parts_has_the_tags_and_the_lock_of_its_beginning(door: DoorUnderTest) -> None:
    headers = {"x-amz-tagging": "a=1", **until("GOVERNANCE", days=1), "x-amz-object-lock-legal-hold": "ON"}
    assert (await upload(door, f"/{LOCKABLE}/multi", headers)).status == 200
    assert await tags_of(door, f"/{LOCKABLE}/multi") == {"a": "1"}
    head = await door.call("HEAD", f"/{LOCKABLE}/multi")
    assert (head.headers["x-amz-object-lock-mode"], head.headers["x-amz-object-lock-legal-hold"]) == (
        "GOVERNANCE",
        "ON",
    )


# -- locks of versions ----------------------------------------------------------------------------------------------


def moment(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def until(mode: str, days: float) -> dict[str, str]:
    return {"x-amz-object-lock-mode": mode, "x-amz-object-lock-retain-until-date": moment(days)}


def retention(mode: str, days: float) -> bytes:
    return f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{moment(days)}</RetainUntilDate></Retention>".encode()


async def locked(door: DoorUnderTest, headers: dict[str, str]) -> str:
    """Make a locked version and return its address."""
    put = await door.call("PUT", f"/{LOCKABLE}/photo", b"bytes", headers)
    assert put.status == 200, put.body
    return f"/{LOCKABLE}/photo?versionId={put.headers['x-amz-version-id']}"


BYPASS = {"x-amz-bypass-governance-retention": "true"}


async def test_compliance_yields_to_nobody(door: DoorUnderTest) -> None:
    version = await locked(door, until("COMPLIANCE", days=1))
    for body in (retention("COMPLIANCE", 0.5), retention("GOVERNANCE", 2), b"<Retention/>"):
        refused(await door.call("PUT", f"{version}&retention", body, BYPASS), 403, "AccessDenied")
    refused(await door.call("DELETE", version, b"", BYPASS), 403, "AccessDenied")
    assert (await door.call("PUT", f"{version}&retention", retention("COMPLIANCE", 2))).status == 200
    assert (await door.call("GET", version)).body == b"bytes"


async def test_governance_yields_to_an_owner_who_asks(door: DoorUnderTest) -> None:
    version = await locked(door, until("GOVERNANCE", days=1))
    refused(await door.call("DELETE", version), 403, "AccessDenied")
    refused(await door.call("PUT", f"{version}&retention", retention("GOVERNANCE", 0.5)), 403, "AccessDenied")
    assert (await door.call("PUT", f"{version}&retention", retention("GOVERNANCE", 0.5), BYPASS)).status == 200
    assert (await door.call("DELETE", version, b"", BYPASS)).status == 204
    assert (await door.call("GET", version)).status == 404


async def test_a_writer_who_is_no_owner_goes_around_nothing(door: DoorUnderTest) -> None:
    version = await locked(door, until("GOVERNANCE", days=1))
    key = await door.node.access.add_key("writer")
    await door.node.access.grant(key.access_key_id, LOCKABLE, Permission.READ | Permission.WRITE)
    writer = door.as_other(key.access_key_id, key.secret_access_key)
    refused(await writer.call("DELETE", version, b"", BYPASS), 403, "AccessDenied")
    refused(await writer.call("PUT", f"{version}&retention", b"<Retention/>", BYPASS), 403, "AccessDenied")
    assert (await writer.call("PUT", f"{version}&retention", retention("GOVERNANCE", 2))).status == 200


async def test_a_legal_hold_stands_until_it_is_ended(door: DoorUnderTest) -> None:
    version = await locked(door, {})
    refused(await door.call("GET", f"{version}&legal-hold"), 404, "NoSuchObjectLockConfiguration")
    refused(await door.call("GET", f"{version}&retention"), 404, "NoSuchObjectLockConfiguration")
    for status in ("ON", "OFF"):
        body = f"<LegalHold><Status>{status}</Status></LegalHold>".encode()
        assert (await door.call("PUT", f"{version}&legal-hold", body)).status == 200
        assert (await door.call("GET", f"{version}&legal-hold")).tag("Status") == status
        if status == "ON":
            refused(await door.call("DELETE", version, b"", BYPASS), 403, "AccessDenied")
    assert (await door.call("DELETE", version)).status == 204


async def test_a_locked_version_may_be_hidden_but_not_lost(door: DoorUnderTest) -> None:
    version = await locked(door, until("COMPLIANCE", days=1))
    assert (await door.call("DELETE", f"/{LOCKABLE}/photo")).status == 204
    assert (await door.call("PUT", f"/{LOCKABLE}/photo", b"newer")).status == 200
    assert (await door.call("GET", version)).body == b"bytes"
    name, _, identifier = version.rpartition("=")
    wish = f"<Delete><Object><Key>photo</Key><VersionId>{identifier}</VersionId></Object></Delete>".encode()
    digest = {"Content-MD5": b64encode(hashlib.md5(wish, usedforsecurity=False).digest()).decode()}
    answer = await door.call("POST", f"/{LOCKABLE}?delete", wish, {**digest, **BYPASS})
    assert (answer.status, answer.tag("Code")) == (200, "AccessDenied"), f"{name}: {answer.body!r}"


async def test_new_versions_have_the_default_retention_unless_they_ask(door: DoorUnderTest) -> None:
    assert (await door.call("PUT", f"/{LOCKABLE}?object-lock", LOCK.format(A_DAY).encode())).status == 200
    by_default = await door.call("GET", f"{await locked(door, {})}&retention")
    asked = await door.call("GET", f"{await locked(door, until('COMPLIANCE', days=9))}&retention")
    assert (by_default.tag("Mode"), asked.tag("Mode")) == ("GOVERNANCE", "COMPLIANCE")
    assert moment(0.9) < by_default.tag("RetainUntilDate") < moment(1.1) < asked.tag("RetainUntilDate")
    copied = await door.call("PUT", f"/{LOCKABLE}/copy", b"", {"x-amz-copy-source": f"/{LOCKABLE}/photo"})
    assert copied.status == 200
    assert (await door.call("HEAD", f"/{LOCKABLE}/copy")).headers["x-amz-object-lock-mode"] == "GOVERNANCE"


async def test_a_lockable_bucket_keeps_versions(door: DoorUnderTest) -> None:
    suspend = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
    refused(await door.call("PUT", f"/{LOCKABLE}?versioning", suspend), 409, "InvalidBucketState")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-object-lock-mode": "GOVERNANCE"},
        {"x-amz-object-lock-retain-until-date": "2999-01-01T00:00:00Z"},
        {"x-amz-object-lock-mode": "governance", "x-amz-object-lock-retain-until-date": "2999-01-01T00:00:00Z"},
        {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": "2001-01-01T00:00:00Z"},
        {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": "soon"},
        {"x-amz-object-lock-legal-hold": "on"},
    ],
)
async def test_wrong_locks_keep_nothing(door: DoorUnderTest, headers: dict[str, str]) -> None:
    refused(await door.call("PUT", f"/{LOCKABLE}/photo", b"bytes", headers), 400, "InvalidArgument")
    assert (await door.call("GET", f"/{LOCKABLE}/photo")).status == 404


async def test_a_bucket_without_object_lock_takes_no_lock(door: DoorUnderTest) -> None:
    assert (await door.call("PUT", "/plain/photo", b"bytes", {"x-amz-object-lock-legal-hold": "OFF"})).status == 200
    refused(await door.call("PUT", "/plain/photo", b"", until("GOVERNANCE", days=1)), 400, "InvalidRequest")
    refused(await door.call("PUT", "/plain/photo", b"", {"x-amz-object-lock-legal-hold": "ON"}), 400, "InvalidRequest")
    for aspect in ("retention", "legal-hold"):
        refused(await door.call("GET", f"/plain/photo?{aspect}"), 400, "InvalidRequest")
        refused(await door.call("PUT", f"/plain/photo?{aspect}", b"<Retention/>"), 400, "InvalidRequest")


async def test_a_vault_with_locks_is_deleted_by_who_says_so(door: DoorUnderTest) -> None:
    await locked(door, until("GOVERNANCE", days=1))
    await locked(door, until("COMPLIANCE", days=1))
    vaults = door.node.vaults
    with pytest.raises(BucketNotEmptyError):
        await vaults.delete(LOCKABLE)
    with pytest.raises(LockedError, match=r"photo.*--break-locks"):
        await vaults.delete(LOCKABLE, force=True)
    await vaults.delete(LOCKABLE, force=True, break_locks=True)
    assert vaults.known_alias(LOCKABLE) is None


async def test_an_operator_goes_around_governance(door: DoorUnderTest) -> None:
    await locked(door, until("GOVERNANCE", days=1))
    await door.node.vaults.delete(LOCKABLE, force=True)
    assert door.node.vaults.known_alias(LOCKABLE) is None


async def lock_an_old_object(door: DoorUnderTest) -> tuple[Bucket, Bucket]:
    """Lock an object from before versions; return its bucket as nodes see it that have not heard of that.

    To one it never kept versions, to the other it does no more.
    """
    assert (await door.call("PUT", "/plain/photo", b"bytes")).status == 200
    never = door.node.vaults.bucket("plain")
    enable = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    assert (await door.call("PUT", "/plain?versioning", enable)).status == 200
    assert (await door.call("PUT", "/plain?object-lock", LOCK.format("").encode())).status == 200
    assert (await door.call("PUT", "/plain/photo?retention", retention("COMPLIANCE", 1))).status == 200
    return never, replace(never, rules=BucketRules(versioning=Versioning.SUSPENDED))


async def test_a_node_that_has_not_heard_of_the_locks_loses_no_locked_version(door: DoorUnderTest) -> None:
    """An object of the time before versions is locked; to another node its bucket never kept any, or does no more."""
    never, suspended = await lock_an_old_object(door)
    objects = door.node.door.objects
    with pytest.raises(LockedError):
        await objects.delete(suspended, b"photo")
    await objects.delete(never, b"photo")
    assert (await door.call("GET", "/plain/photo")).status == 404
    assert (await door.call("GET", "/plain/photo?versionId=null")).body == b"bytes"


async def test_a_wall_clock_that_jumps_opens_no_lock_in_a_bucket_that_was_suspended(
    door: DoorUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, suspended = await lock_an_old_object(door)
    objects = door.node.door.objects
    later_ms = objects.stacks._now_ms() + 3 * 86_400_000
    monkeypatch.setattr(objects.stacks, "_now_ms", lambda: later_ms)
    with pytest.raises(LockedError):
        await objects.delete(suspended, b"photo")


async def test_tags_go_along_only_for_who_may_read_them(door: DoorUnderTest) -> None:
    """A policy that lets read bytes and not tags: such a copy would show them."""
    await door.call("PUT", "/plain/photo", b"bytes", {"x-amz-tagging": "a=1"})
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObjectTagging", "Resource": "arn:aws:s3:::plain/*"}
        ],
    }
    assert (await door.call("PUT", "/plain?policy", json.dumps(policy).encode())).status == 204
    source = {"x-amz-copy-source": "/plain/photo"}
    refused(await door.call("PUT", "/lockable/copy", b"", source), 403, "AccessDenied")
    assert (
        await door.call("PUT", "/lockable/copy", b"", {**source, "x-amz-tagging-directive": "REPLACE"})
    ).status == 200


async def test_every_answer_to_a_write_says_that_it_is_sealed(door: DoorUnderTest) -> None:
    await door.call("PUT", "/plain/photo", b"bytes")
    copied = await door.call("PUT", "/plain/copy", b"", {"x-amz-copy-source": "/plain/photo"})
    completed = await upload(door, "/plain/multi", {})
    assert {answer.headers["x-amz-server-side-encryption"] for answer in (copied, completed)} == {"AES256"}
