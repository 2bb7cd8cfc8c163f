"""A vault with a quota, as clients meet it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.door import BUCKET, KEPT, Answer, DoorUnderTest, open_door

MIB = 2**20


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        yield opened


async def limit(door: DoorUnderTest, most_bytes: int | None = None, most_objects: int | None = None) -> None:
    await door.node.vaults.set_quota(BUCKET, most_bytes, most_objects)


async def put(door: DoorUnderTest, key: str, size: int) -> Answer:
    return await door.call("PUT", f"/{BUCKET}/{key}", b"x" * size)


def check_refused(answer: Answer, option: str) -> None:
    assert (answer.status, answer.code) == (403, "QuotaExceeded"), answer.body
    assert f"meshhold vault set vault {option}" in answer.tag("Message")


async def test_bytes(door: DoorUnderTest) -> None:
    await limit(door, len(KEPT) + 100)
    assert (await put(door, "a", 60)).status == 200
    check_refused(await put(door, "b", 41), "--quota-bytes")
    assert await door.stored() == ["a", "kept"]
    assert (await put(door, "b", 40)).status == 200
    assert (await put(door, "a", 60)).status == 200, "an overwrite counts the difference"
    check_refused(await put(door, "a", 61), "--quota-bytes")
    assert (await door.call("DELETE", f"/{BUCKET}/a")).status == 204
    assert (await put(door, "b", 100)).status == 200


async def test_objects(door: DoorUnderTest) -> None:
    await limit(door, None, 2)
    assert (await put(door, "a", 60)).status == 200
    check_refused(await put(door, "b", 0), "--quota-objects")
    assert (await put(door, "a", 600)).status == 200
    await limit(door, None, 0)
    assert (await put(door, "b", 0)).status == 200, "0 takes the limit away"


async def test_a_vault_over_its_quota_shrinks(door: DoorUnderTest) -> None:
    assert (await put(door, "a", 500)).status == 200
    await limit(door, 1, 1)
    assert (await put(door, "a", 500)).status == 200
    assert (await put(door, "a", 499)).status == 200
    check_refused(await put(door, "a", 500), "--quota-bytes")
    assert (await door.call("DELETE", f"/{BUCKET}/a")).status == 204


async def test_a_body_of_unknown_length_is_judged_at_its_end(door: DoorUnderTest) -> None:
    await limit(door, len(KEPT) + 10)
    headers = {"Transfer-Encoding": "chunked"}
    raw = door.signed("PUT", f"/{BUCKET}/a", headers=headers, payload="UNSIGNED-PAYLOAD")
    check_refused(await door.exchange(raw + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n", "PUT"), "--quota-bytes")
    assert await door.stored() == ["kept"]


async def test_a_refused_body_is_not_waited_for(door: DoorUnderTest) -> None:
    await limit(door, 50)
    headers = {"Content-Length": str(5 * MIB), "Expect": "100-continue"}
    raw = door.signed("PUT", f"/{BUCKET}/a", headers=headers, payload="UNSIGNED-PAYLOAD")
    answer = await door.exchange(raw, "PUT")
    check_refused(answer, "--quota-bytes")
    assert answer.interim == (), "the client is never told to send"


async def test_copies(door: DoorUnderTest) -> None:
    await limit(door, 2 * len(KEPT))
    source = {"x-amz-copy-source": f"/{BUCKET}/kept"}
    assert (await door.call("PUT", f"/{BUCKET}/a", headers=source)).status == 200
    check_refused(await door.call("PUT", f"/{BUCKET}/b", headers=source), "--quota-bytes")


async def test_parts_count_with_those_of_their_upload(door: DoorUnderTest) -> None:
    await limit(door, len(KEPT) + 1000)
    upload = (await door.call("POST", f"/{BUCKET}/big?uploads")).tag("UploadId")

    async def send(number: int, size: int) -> Answer:
        return await door.call("PUT", f"/{BUCKET}/big?partNumber={number}&uploadId={upload}", b"x" * size)

    assert (await send(1, 600)).status == 200
    check_refused(await send(2, 401), "--quota-bytes")
    for _ in range(3):
        assert (await send(1, 600)).status == 200, "sent again, a part takes no more room"
    assert (await send(2, 400)).status == 200
    check_refused(await send(3, 1), "--quota-bytes")
    assert (await put(door, "other", 1000)).status == 200, "until they are an object, parts leave room to others"
    etag = '"x"'
    done = await door.call(
        "POST",
        f"/{BUCKET}/big?uploadId={upload}",
        f"<CompleteMultipartUpload><Part><PartNumber>2</PartNumber><ETag>{etag}</ETag></Part>"
        "</CompleteMultipartUpload>".encode(),
    )
    assert done.code == "InvalidPart"
    parts = await door.call("GET", f"/{BUCKET}/big?uploadId={upload}")
    etags = parts.tags("ETag")
    done = await door.call(
        "POST",
        f"/{BUCKET}/big?uploadId={upload}",
        f"<CompleteMultipartUpload><Part><PartNumber>2</PartNumber><ETag>{etags[1]}</ETag></Part>"
        "</CompleteMultipartUpload>".encode(),
    )
    check_refused(done, "--quota-bytes")
    assert await door.stored() == ["kept", "other"]


async def test_people_see_use_and_limits(door: DoorUnderTest) -> None:
    await limit(door, 100, 50)
    view = await door.node.vaults.view(BUCKET)
    assert (view.quota_bytes, view.quota_objects, view.objects) == (100, 50, 1)
    assert door.node.status()["quotas"] == [{"vault": view.id, "name": "vault", "percent": len(KEPT)}]
    await limit(door, 0)
    assert (await door.node.vaults.view(BUCKET)).quota_bytes is None
    await limit(door, None, 0)
    assert door.node.status()["quotas"] == []
