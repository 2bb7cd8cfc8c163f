"""Tags, locks and encryption settings, as clients see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.door import Answer, DoorUnderTest, open_door

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
