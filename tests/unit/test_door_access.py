"""Who may do what through the door: policies, prefixes, keys that end, what everybody may; in S3's order."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.door import BUCKET, KEPT, Answer, DoorUnderTest, open_door, render

from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS

READ, WRITE, OWN = Permission.READ, Permission.WRITE, Permission.OWN
OBJECTS: Final = f"arn:aws:s3:::{BUCKET}/*"
ALL: Final = [f"arn:aws:s3:::{BUCKET}", OBJECTS]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    """Open a door whose own key owns the bucket."""
    async with open_door(tmp_path) as opened:
        await opened.grant(opened.signer.key_id, READ | WRITE | OWN)
        yield opened


async def other(door: DoorUnderTest, **wishes: Any) -> DoorUnderTest:
    """Return the door as another key sees it, which was granted nothing."""
    key = await door.node.access.add_key("other", **wishes)
    return door.as_other(key.access_key_id, key.secret_access_key)


async def anonymous(door: DoorUnderTest, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    length = {"Content-Length": str(len(body))} if method in ("PUT", "POST") else {}
    return await door.exchange(render(method, target, {"Host": door.signer.host, **length, **named}, body), method)


async def set_policy(door: DoorUnderTest, *statements: dict[str, Any], **parts: Any) -> Answer:
    base = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "s3:GetObject", "Resource": OBJECTS}
    document = {"Version": "2012-10-17", "Statement": [{**base, **each} for each in statements], **parts}
    return await door.call("PUT", f"/{BUCKET}?policy", json.dumps(document).encode())


async def statuses(door: DoorUnderTest, *calls: tuple[str, str]) -> list[int]:
    return [(await door.call(method, target, b"x" if method == "PUT" else b"")).status for method, target in calls]


# -- the document ---------------------------------------------------------------------------------------------------


async def test_a_policy_comes_back_as_it_was_set_and_goes(door: DoorUnderTest) -> None:
    assert (await door.call("GET", f"/{BUCKET}?policy")).code == "NoSuchBucketPolicy"
    raw = json.dumps(
        {"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": OBJECTS}}
    )
    raw = f"  {raw} "
    assert (await door.call("PUT", f"/{BUCKET}?policy", raw.encode())).status == 204
    found = await door.call("GET", f"/{BUCKET}?policy")
    assert (found.status, found.text, found.headers["content-type"]) == (200, raw, "application/json")
    assert [(await door.call("DELETE", f"/{BUCKET}?policy")).status for _ in range(2)] == [204, 204]
    assert (await door.call("GET", f"/{BUCKET}?policy")).status == 404


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<x/>",
        b"\xff",
        b"{}",
        b'{"Statement": {"Effect": "Allow"}}',
        b"[" * 20_000,
        json.dumps(
            {"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:PutObject", "Resource": OBJECTS}}
        ).encode(),
        json.dumps(
            {
                "Statement": {
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": OBJECTS,
                    "Condition": {"StringEquals": {"aws:SourceVpc": "x"}},
                }
            }
        ).encode(),
        b" " * 20_481,
    ],
)
async def test_what_is_no_policy_is_refused_and_changes_nothing(door: DoorUnderTest, raw: bytes) -> None:
    answer = await door.check_refused(door.signed("PUT", f"/{BUCKET}?policy", raw), 400, "MalformedPolicy")
    assert len(answer.tag("Message")) > 20
    assert (await door.call("GET", f"/{BUCKET}?policy")).code == "NoSuchBucketPolicy"


async def test_only_who_owns_the_bucket_sets_its_policy(door: DoorUnderTest) -> None:
    guest = await other(door)
    await door.grant(guest.signer.key_id, READ | WRITE)
    for method in ("GET", "PUT", "DELETE"):
        assert (await guest.call(method, f"/{BUCKET}?policy", b"{}" if method == "PUT" else b"")).code == "AccessDenied"
    assert (await anonymous(door, "GET", f"/{BUCKET}?policy")).status == 403
    assert (await guest.call("GET", "/nowhere?policy")).code == "NoSuchBucket"


async def test_nobody_locks_himself_out(door: DoorUnderTest) -> None:
    assert (await set_policy(door, {"Effect": "Deny", "Action": "*", "Resource": ALL})).status == 204
    refused = await door.call("GET", f"/{BUCKET}/kept")
    assert (refused.status, refused.code) == (403, "AccessDenied")
    assert "PutBucketPolicy" in refused.tag("Message")
    assert (await door.call("GET", f"/{BUCKET}?policy")).status == 200
    assert (await door.call("DELETE", f"/{BUCKET}?policy")).status == 204
    assert (await door.call("GET", f"/{BUCKET}/kept")).body == KEPT


# -- what it allows and denies --------------------------------------------------------------------------------------


async def test_a_policy_lets_a_key_in_that_was_granted_nothing(door: DoorUnderTest) -> None:
    guest = await other(door)
    calls = [
        ("GET", f"/{BUCKET}/kept"),
        ("PUT", f"/{BUCKET}/new"),
        ("GET", f"/{BUCKET}?list-type=2"),
        ("DELETE", f"/{BUCKET}/new"),
    ]
    assert await statuses(guest, *calls) == [403] * 4
    user = {"AWS": f"arn:aws:iam:::user/{guest.signer.key_id}"}
    await set_policy(door, {"Principal": user, "Action": ["s3:GetObject", "s3:PutObject"]})
    assert await statuses(guest, *calls) == [200, 200, 403, 403]
    stranger = await other(door)
    assert await statuses(stranger, *calls) == [403] * 4
    await set_policy(door, {"Principal": user, "Action": "*", "Resource": ALL})
    assert await statuses(guest, *calls) == [200, 200, 200, 204]


async def test_a_denial_beats_a_grant(door: DoorUnderTest) -> None:
    await set_policy(door, {"Effect": "Deny", "Action": "s3:DeleteObject", "Principal": {"AWS": door.signer.key_id}})
    assert await statuses(door, ("DELETE", f"/{BUCKET}/kept"), ("GET", f"/{BUCKET}/kept")) == [403, 200]


async def test_everybody_reads_by_policy_and_never_writes(door: DoorUnderTest) -> None:
    await set_policy(door, {"Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]})
    assert (await anonymous(door, "GET", f"/{BUCKET}/kept")).body == KEPT
    assert (await anonymous(door, "HEAD", f"/{BUCKET}/kept")).status == 200
    for method, target in (("PUT", "new"), ("DELETE", "kept"), ("POST", "new?uploads")):
        answer = await anonymous(door, method, f"/{BUCKET}/{target}")
        assert (answer.status, answer.code) == (403, "AccessDenied")
        assert "signed" in answer.tag("Message")
    document = b"<Delete><Object><Key>kept</Key></Object></Delete>"
    md5 = b64encode(hashlib.md5(document).digest()).decode()  # noqa: S324 - Content-MD5 is what it is
    assert (await anonymous(door, "POST", f"/{BUCKET}?delete", document, Content_MD5=md5)).code == "AccessDenied"
    assert (await anonymous(door, "GET", f"/{BUCKET}")).status == 403
    assert (await anonymous(door, "GET", f"/{BUCKET}/none")).status == 403
    assert await door.stored() == ["kept"]


async def test_conditions_see_the_request(door: DoorUnderTest) -> None:
    guest = await other(door)

    async def only(condition: dict[str, Any], action: str, resource: Any = OBJECTS) -> None:
        answer = await set_policy(door, {"Action": action, "Resource": resource, "Condition": condition})
        assert answer.status == 204, answer.body

    async def status(method: str, target: str, body: bytes = b"", **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await guest.call(method, target, body, named)).status

    await only({"StringLike": {"s3:prefix": "a/*"}, "NumericLessThanEquals": {"s3:max-keys": 5}}, "s3:ListBucket", ALL)
    assert await status("GET", f"/{BUCKET}?list-type=2&prefix=a%2Fb&max-keys=5") == 200
    assert await status("GET", f"/{BUCKET}?list-type=2&prefix=a%2Fb&max-keys=6") == 403
    assert await status("GET", f"/{BUCKET}?list-type=2&max-keys=5") == 403
    await only({"StringLike": {"aws:Referer": "https://a.example/*"}}, "s3:GetObject")
    assert await status("GET", f"/{BUCKET}/kept", Referer="https://a.example/page") == 200
    assert await status("GET", f"/{BUCKET}/kept", Referer="https://b.example/") == 403
    await only({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}, "Bool": {"aws:SecureTransport": False}}, "s3:GetObject")
    assert await status("GET", f"/{BUCKET}/kept") == 200
    assert await status("GET", f"/{BUCKET}/kept", X_Forwarded_Proto="https") == 403
    await only({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, "s3:GetObject")
    assert await status("GET", f"/{BUCKET}/kept", X_Forwarded_For="10.0.0.1") == 403  # anybody can write that header
    await only({"StringEquals": {"s3:x-amz-server-side-encryption": "AES256"}}, "s3:PutObject")
    assert await status("PUT", f"/{BUCKET}/new", b"x", x_amz_server_side_encryption="AES256") == 200
    assert await status("PUT", f"/{BUCKET}/new", b"x") == 403
    await only({"StringEquals": {"aws:username": guest.signer.key_id, "s3:authType": "REST-HEADER"}}, "s3:GetObject")
    assert await status("GET", f"/{BUCKET}/kept") == 200
    presigned = guest.signer.presign("GET", f"/{BUCKET}/kept")
    assert (await door.exchange(render("GET", presigned, {"Host": door.signer.host}))).status == 403
    await only({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, "s3:GetObject")
    assert await status("GET", f"/{BUCKET}/kept") == 403
    await only({"NumericLessThan": {"s3:signatureAge": 60_000}}, "s3:GetObject")
    presigned = guest.signer.presign("GET", f"/{BUCKET}/kept")
    assert (await door.exchange(render("GET", presigned, {"Host": door.signer.host}))).status == 200
    assert await status("GET", f"/{BUCKET}/kept") == 403


async def test_a_copy_needs_both_ends(door: DoorUnderTest) -> None:
    guest = await other(door, create_buckets=True)
    assert (await guest.call("PUT", "/mine")).status == 200
    assert (await door.call("PUT", f"/{BUCKET}/public/a", b"a")).status == 200
    await set_policy(door, {"Resource": f"arn:aws:s3:::{BUCKET}/public/*"})

    async def copied(source: str, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await guest.call("PUT", "/mine/copy", b"", {"x-amz-copy-source": source, **named})).status

    assert await copied(f"/{BUCKET}/public/a") == 200
    assert await copied(f"{BUCKET}/%70ublic/a") == 200
    assert await copied(f"/{BUCKET}/kept") == 403
    assert await copied(f"/{BUCKET}/public/a", x_amz_source_expected_bucket_owner="somebody") == 403
    assert await copied(f"/{BUCKET}/public/a", x_amz_source_expected_bucket_owner="meshhold") == 200


async def test_a_condition_on_the_source_sees_it_decoded(door: DoorUnderTest) -> None:
    condition = {"StringLike": {"s3:x-amz-copy-source": f"{BUCKET}/kept"}}
    await set_policy(door, {"Effect": "Deny", "Action": "s3:PutObject", "Condition": condition})
    for source in (f"/{BUCKET}/kept", f"{BUCKET}/%6bept", f"/{BUCKET}/kept?versionId=null"):
        assert (await door.call("PUT", f"/{BUCKET}/copy", b"", {"x-amz-copy-source": source})).status == 403
    assert await door.stored() == ["kept"]


async def test_tags_of_the_object_and_of_the_request(door: DoorUnderTest) -> None:
    guest = await other(door)
    for key, colour in (("red", "red"), ("blue", "blue")):
        headers = {"x-amz-tagging": f"colour={colour}"}
        assert (await door.call("PUT", f"/{BUCKET}/{key}", b"x", headers)).status == 200
    await set_policy(
        door,
        {"Condition": {"StringEquals": {"s3:ExistingObjectTag/colour": "red"}}},
        {
            "Action": ["s3:PutObject", "s3:PutObjectTagging"],
            "Condition": {"StringEquals": {"s3:RequestObjectTag/colour": "red"}},
        },
    )
    assert await statuses(guest, ("GET", f"/{BUCKET}/red"), ("GET", f"/{BUCKET}/blue"), ("GET", f"/{BUCKET}/kept")) == [
        200,
        403,
        403,
    ]
    assert (await guest.call("PUT", f"/{BUCKET}/new", b"x", {"x-amz-tagging": "colour=red"})).status == 200
    assert (await guest.call("PUT", f"/{BUCKET}/new", b"x", {"x-amz-tagging": "colour=blue"})).status == 403
    assert (await guest.call("PUT", f"/{BUCKET}/new", b"x")).status == 403
    document = "<Tagging><TagSet><Tag><Key>colour</Key><Value>{}</Value></Tag></TagSet></Tagging>"
    for colour, status in (("red", 200), ("blue", 403)):
        answer = await guest.call("PUT", f"/{BUCKET}/kept?tagging", document.format(colour).encode())
        assert answer.status == status, answer.body


async def test_a_bulk_deletion_is_judged_key_by_key(door: DoorUnderTest) -> None:
    guest = await other(door)
    document = b"<Delete><Object><Key>kept</Key></Object><Object><Key>junk/a</Key></Object></Delete>"

    async def deleted() -> Answer:
        md5 = b64encode(hashlib.md5(document).digest()).decode()  # noqa: S324 - Content-MD5 is what it is
        return await guest.call("POST", f"/{BUCKET}?delete", document, {"Content-MD5": md5})

    assert (await deleted()).code == "AccessDenied"
    await set_policy(door, {"Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{BUCKET}/junk/*"})
    answer = await deleted()
    assert (answer.status, answer.tags("Code"), len(answer.tags("Deleted"))) == (200, ["AccessDenied"], 1)
    await door.call("DELETE", f"/{BUCKET}?policy")
    await door.node.access.grant(guest.signer.key_id, BUCKET, WRITE, prefixes=["junk/"])
    answer = await deleted()
    assert (answer.status, answer.tags("Code"), len(answer.tags("Deleted"))) == (200, ["AccessDenied"], 1)
    assert await door.stored() == ["kept"]


async def test_who_may_list_learns_what_is_not_there(door: DoorUnderTest) -> None:
    guest = await other(door)
    condition = {"StringLike": {"s3:prefix": "public/*"}}
    await set_policy(door, {"Action": "s3:ListBucket", "Resource": ALL[0], "Condition": condition})
    calls = [(method, f"/{BUCKET}/{key}") for method in ("GET", "HEAD") for key in ("public/none", "kept", "none")]
    assert await statuses(guest, *calls) == [404, 403, 403] * 2


async def test_a_policy_stays_with_its_bucket_when_that_is_renamed(door: DoorUnderTest) -> None:
    await set_policy(door, {"Effect": "Deny", "Action": "s3:DeleteObject"})
    await door.node.vaults.set_alias(BUCKET, "renamed")
    assert await statuses(door, ("DELETE", "/renamed/kept"), ("GET", "/renamed/kept")) == [403, 200]


# -- public or not --------------------------------------------------------------------------------------------------

BLOCK: Final = "<PublicAccessBlockConfiguration>{}</PublicAccessBlockConfiguration>"


async def block(door: DoorUnderTest, *switches: str) -> None:
    inner = "".join(f"<{switch}>true</{switch}>" for switch in switches)
    answer = await door.call("PUT", f"/{BUCKET}?publicAccessBlock", BLOCK.format(inner).encode())
    assert answer.status == 200, answer.body


async def is_public(door: DoorUnderTest) -> str:
    return (await door.call("GET", f"/{BUCKET}?policyStatus")).tag("IsPublic")


async def test_the_public_access_block(door: DoorUnderTest) -> None:
    target = f"/{BUCKET}?publicAccessBlock"
    assert (await door.call("GET", target)).code == "NoSuchPublicAccessBlockConfiguration"
    await block(door, "BlockPublicPolicy")
    found = await door.call("GET", target)
    assert [
        found.tag(name)
        for name in ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    ] == [
        "false",
        "false",
        "true",
        "false",
    ]
    assert (await set_policy(door, {})).code == "AccessDenied"
    assert (await set_policy(door, {"Principal": {"AWS": door.signer.key_id}})).status == 204
    assert [(await door.call("DELETE", target)).status for _ in range(2)] == [204, 204]
    assert (await door.call("GET", target)).status == 404
    assert (await set_policy(door, {})).status == 204


@pytest.mark.parametrize(
    "inner", ["<x/>", "<IgnorePublicAcls>1</IgnorePublicAcls>", "<BlockPublicAcls>true</BlockPublicAcls>" * 2]
)
async def test_blocks_that_are_none(door: DoorUnderTest, inner: str) -> None:
    raw = door.signed("PUT", f"/{BUCKET}?publicAccessBlock", BLOCK.format(inner).encode())
    await door.check_refused(raw, 400, "MalformedXML")


async def test_what_is_blocked_does_not_count(door: DoorUnderTest) -> None:
    assert await is_public(door) == "false"
    await door.grant(ANONYMOUS, READ, allow_list=True)
    assert await is_public(door) == "true"
    assert (await anonymous(door, "GET", f"/{BUCKET}/kept")).status == 200
    await block(door, "IgnorePublicAcls")
    assert (await anonymous(door, "GET", f"/{BUCKET}/kept")).status == 403
    assert [view.blocked for view in door.node.access.grants() if view.access_key_id == ANONYMOUS] == [True]
    await set_policy(door, {})
    assert (await anonymous(door, "GET", f"/{BUCKET}/kept")).status == 200
    guest = await other(door)
    assert (await guest.call("GET", f"/{BUCKET}/kept")).status == 200
    await block(door, "IgnorePublicAcls", "RestrictPublicBuckets")
    assert (await anonymous(door, "GET", f"/{BUCKET}/kept")).status == 403
    assert (await guest.call("GET", f"/{BUCKET}/kept")).status == 403
    assert (await door.call("GET", f"/{BUCKET}/kept")).status == 200


# -- grants ---------------------------------------------------------------------------------------------------------


async def test_a_grant_for_a_prefix(door: DoorUnderTest) -> None:
    guest = await other(door)
    await door.node.access.grant(guest.signer.key_id, BUCKET, READ | WRITE, prefixes=["photos/", "text"])
    inside = [
        ("PUT", "/photos/a"),
        ("GET", "/photos/a"),
        ("HEAD", "/photos/a"),
        ("PUT", "/text"),
        ("GET", "?list-type=2&prefix=photos/"),
        ("GET", "?prefix=photos/2026"),
        ("GET", "?uploads&prefix=photos/"),
        ("HEAD", ""),
        ("GET", "?location"),
        ("DELETE", "/text"),
    ]
    outside = [
        ("PUT", "/photo"),
        ("GET", "/kept"),
        ("HEAD", "/kept"),
        ("DELETE", "/kept"),
        ("GET", "?list-type=2"),
        ("GET", "?prefix=photo"),
        ("GET", "?versions"),
        ("GET", "?uploads"),
        ("GET", "?cors"),
        ("GET", "?prefix="),
        ("DELETE", ""),
    ]
    found = await statuses(guest, *((method, f"/{BUCKET}{target}") for method, target in inside))
    assert set(found) == {200, 204}
    assert await statuses(guest, *((method, f"/{BUCKET}{target}") for method, target in outside)) == [403] * len(
        outside
    )
    refused = await guest.call("GET", f"/{BUCKET}/kept")
    assert "s3-perm list" in refused.tag("Message")
    headers = {"x-amz-copy-source": f"/{BUCKET}/kept"}
    assert (await guest.call("PUT", f"/{BUCKET}/photos/copy", b"", headers)).status == 403
    missing = await statuses(guest, ("GET", f"/{BUCKET}/photos/none"), ("GET", f"/{BUCKET}/none"))
    assert missing == [404, 403]


async def test_everybody_reads_a_prefix(door: DoorUnderTest) -> None:
    await door.call("PUT", f"/{BUCKET}/media/a", b"a")
    await door.node.access.grant(ANONYMOUS, BUCKET, READ, prefixes=["media/"])
    assert (await anonymous(door, "GET", f"/{BUCKET}/media/a")).body == b"a"
    assert (await anonymous(door, "GET", f"/{BUCKET}/kept")).status == 403
    assert (await anonymous(door, "GET", f"/{BUCKET}?prefix=media/")).status == 403
    guest = await other(door)
    assert await statuses(guest, ("GET", f"/{BUCKET}/media/a"), ("PUT", f"/{BUCKET}/media/a")) == [200, 403]


async def test_everybody_reads_objects_and_nothing_else(door: DoorUnderTest) -> None:
    await door.grant(ANONYMOUS, READ, allow_list=True)
    for target in (
        "?acl",
        "?policyStatus",
        "?versioning",
        "?location",
        "/kept?acl",
        "/kept?tagging",
        "?cors",
        "?uploads",
    ):
        assert (await anonymous(door, "GET", f"/{BUCKET}{target}")).status == 403
    for target in ("/kept", "?list-type=2", "?versions"):
        assert (await anonymous(door, "GET", f"/{BUCKET}{target}")).status == 200


async def test_a_read_only_key_never_writes(door: DoorUnderTest) -> None:
    frame = await other(door, read_only=True)
    await door.grant(frame.signer.key_id, READ)
    await set_policy(door, {"Action": "*", "Resource": ALL, "Principal": {"AWS": frame.signer.key_id}})
    calls = [
        ("GET", "/kept"),
        ("GET", ""),
        ("PUT", "/kept"),
        ("DELETE", "/kept"),
        ("DELETE", "?policy"),
        ("POST", "/x?uploads"),
    ]
    assert (
        await statuses(frame, *((method, f"/{BUCKET}{target}") for method, target in calls)) == [200, 200] + [403] * 4
    )
    assert (await door.call("GET", f"/{BUCKET}/kept")).body == KEPT


async def test_a_key_that_ended_is_told_so(door: DoorUnderTest) -> None:
    guest = await other(door, expires_s=600)
    await door.grant(guest.signer.key_id, READ)
    assert (await guest.call("GET", f"/{BUCKET}/kept")).body == KEPT
    directory = door.node.access._directory
    now_ms = directory._now_ms
    directory._now_ms = lambda: now_ms() + 600_001
    answer = await guest.call("GET", f"/{BUCKET}/kept")
    assert (answer.status, answer.code) == (403, "InvalidAccessKeyId")
    assert "has expired" in answer.tag("Message")


@pytest.mark.parametrize(("owner", "status"), [("meshhold", 200), ("somebody", 403)])
async def test_the_expected_owner(door: DoorUnderTest, owner: str, status: int) -> None:
    for target in (f"/{BUCKET}/kept", f"/{BUCKET}?list-type=2"):
        answer = await door.call("GET", target, b"", {"x-amz-expected-bucket-owner": owner})
        assert answer.status == status


async def test_a_bucket_that_is_not_ones_own_is_there_and_another_is_not(door: DoorUnderTest) -> None:
    guest = await other(door)
    targets = (f"/{BUCKET}", f"/{BUCKET}/kept", "/nowhere", "/nowhere/x")
    assert [(await guest.call("GET", target)).code for target in targets] == [
        "AccessDenied",
        "AccessDenied",
        "NoSuchBucket",
        "NoSuchBucket",
    ]
