"""ACLs and object ownership: what says what holds is taken, what would change it is refused by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import trio
from tests.door import BUCKET, KEPT, Answer, DoorUnderTest, open_door, render

from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS

READ, WRITE, OWN = Permission.READ, Permission.WRITE, Permission.OWN
EVERYBODY: Final = "http://acs.amazonaws.com/groups/global/AllUsers"
SIGNED: Final = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
XSI: Final = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
OWNER: Final = "<Grant><Grantee><ID>meshhold</ID></Grantee><Permission>FULL_CONTROL</Permission></Grant>"
NOT_SUPPORTED: Final = "AccessControlListNotSupported"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    """Open a door whose own key owns the bucket and may not publish."""
    async with open_door(tmp_path) as opened:
        await opened.grant(opened.signer.key_id, READ | WRITE | OWN)
        yield opened


async def publisher(door: DoorUnderTest) -> DoorUnderTest:
    """Return the door as a key sees it that owns the bucket and may publish."""
    key = await door.node.access.add_key("publisher", create_buckets=True, may_publish=True)
    await door.grant(key.access_key_id, READ | WRITE | OWN)
    return door.as_other(key.access_key_id, key.secret_access_key)


def document(*grants: str, owner: str = "meshhold") -> bytes:
    inner = f"<Owner><ID>{owner}</ID></Owner><AccessControlList>{''.join(grants)}</AccessControlList>"
    return (
        f'<AccessControlPolicy xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</AccessControlPolicy>'.encode()
    )


def grant(grantee: str, permission: str = "READ") -> str:
    return f'<Grant><Grantee {XSI} xsi:type="Group">{grantee}</Grantee><Permission>{permission}</Permission></Grant>'


async def put_acl(door: DoorUnderTest, target: str, acl: str = "", body: bytes = b"") -> Answer:
    return await door.call("PUT", f"{target}?acl", body, {"x-amz-acl": acl} if acl else {})


async def readers(door: DoorUnderTest, target: str) -> list[str]:
    """Return whom the ACL names, as `grantee permission`."""
    answer = await door.call("GET", f"{target}?acl")
    assert answer.status == 200, answer.body
    assert answer.tag("Owner").startswith("<ID>meshhold</ID>")
    groups = [uri.rsplit("/", 1)[-1] for uri in answer.tags("URI")]
    return [
        f"{name} {permission}" for name, permission in zip([*groups, "owner"], answer.tags("Permission"), strict=True)
    ]


async def unsigned(door: DoorUnderTest, target: str) -> int:
    return (await door.exchange(render("GET", target, {"Host": door.signer.host}))).status


# -- what holds -----------------------------------------------------------------------------------------------------


async def test_an_acl_shows_what_the_grants_say(door: DoorUnderTest) -> None:
    assert await readers(door, f"/{BUCKET}") == await readers(door, f"/{BUCKET}/kept") == ["owner FULL_CONTROL"]
    await door.grant(ANONYMOUS, READ)
    assert await readers(door, f"/{BUCKET}") == ["owner FULL_CONTROL"]  # READ on a bucket is to list it
    assert await readers(door, f"/{BUCKET}/kept") == ["AllUsers READ", "owner FULL_CONTROL"]
    await door.grant(ANONYMOUS, READ, allow_list=True)
    assert await readers(door, f"/{BUCKET}") == ["AllUsers READ", "owner FULL_CONTROL"]
    assert (await door.call("GET", f"/{BUCKET}/none?acl")).code == "NoSuchKey"
    assert (await door.call("GET", "/nowhere?acl")).code == "NoSuchBucket"


async def test_what_says_what_holds_is_taken(door: DoorUnderTest) -> None:
    for acl in ("private", "bucket-owner-full-control", "bucket-owner-read"):
        assert (await put_acl(door, f"/{BUCKET}/kept", acl)).status == 200
        assert (await door.call("PUT", f"/{BUCKET}/kept", KEPT, {"x-amz-acl": acl})).status == 200
    for target in (f"/{BUCKET}", f"/{BUCKET}/kept"):
        assert (await put_acl(door, target, "private")).status == 200
        assert (await put_acl(door, target, body=document(OWNER))).status == 200
        shown = (await door.call("GET", f"{target}?acl")).body
        assert (await put_acl(door, target, body=shown)).status == 200  # as a client sends back what it read
    headers = {"x-amz-grant-full-control": 'id="meshhold"'}
    assert (await door.call("PUT", f"/{BUCKET}/kept", KEPT, headers)).status == 200
    await door.grant(ANONYMOUS, READ, allow_list=True)
    for target in (f"/{BUCKET}", f"/{BUCKET}/kept"):
        assert (await put_acl(door, target, "public-read")).status == 200
        assert (await put_acl(door, target, body=document(OWNER, grant(f"<URI>{EVERYBODY}</URI>")))).status == 200
    assert (await door.call("PUT", f"/{BUCKET}/kept", KEPT, {"x-amz-acl": "public-read"})).status == 200
    headers = {"x-amz-grant-read": f'uri="{EVERYBODY}"'}
    assert (await door.call("PUT", f"/{BUCKET}/kept", KEPT, headers)).status == 200
    assert (await door.call("GET", f"/{BUCKET}/kept")).body == KEPT


async def test_a_prefix_that_everybody_reads(door: DoorUnderTest) -> None:
    await door.node.access.grant(ANONYMOUS, BUCKET, READ, prefixes=["media/"])
    codes = [
        (await door.call("PUT", f"/{BUCKET}/{key}", b"x", {"x-amz-acl": acl})).code
        for key in ("media/a", "backups/a")
        for acl in ("public-read", "private")
    ]
    assert codes == ["", NOT_SUPPORTED, NOT_SUPPORTED, ""]


# -- what does not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acl", ["public-read", "public-read-write", "authenticated-read", "aws-exec-read"])
async def test_access_that_no_grant_gives_is_refused(door: DoorUnderTest, acl: str) -> None:
    for target in (
        f"/{BUCKET}/kept?acl",
        f"/{BUCKET}?acl",
        f"/{BUCKET}/kept",
        f"/{BUCKET}/new",
        f"/{BUCKET}/new?uploads",
    ):
        method = "POST" if "uploads" in target else "PUT"
        raw = door.signed(method, target, b"", {"x-amz-acl": acl})
        answer = await door.check_refused(raw, 400, NOT_SUPPORTED)
        assert "s3-perm" in answer.tag("Message")
    copied = {"x-amz-acl": acl, "x-amz-copy-source": f"/{BUCKET}/kept"}
    await door.check_refused(door.signed("PUT", f"/{BUCKET}/new", b"", copied), 400, NOT_SUPPORTED)
    assert door.node.access.grant_of(ANONYMOUS, door.node.vaults.bucket(BUCKET)) is None


async def test_a_protection_that_is_not_there_is_refused(door: DoorUnderTest) -> None:
    await door.grant(ANONYMOUS, READ)
    for target in (f"/{BUCKET}/kept?acl", f"/{BUCKET}?acl", f"/{BUCKET}/kept"):
        raw = door.signed("PUT", target, b"", {"x-amz-acl": "private"})
        answer = await door.check_refused(raw, 400, NOT_SUPPORTED)
        assert "s3-perm revoke anonymous" in answer.tag("Message")


async def test_grants_to_single_keys_are_refused_by_name(door: DoorUnderTest) -> None:
    other = (await door.node.access.add_key("other")).access_key_id
    for target in (f"/{BUCKET}", f"/{BUCKET}/kept"):
        refused = await put_acl(door, target, body=document(OWNER, grant(f"<ID>{other}</ID>")))
        assert (refused.status, refused.code) == (400, NOT_SUPPORTED)
        assert f"s3-perm grant {other} {BUCKET}" in refused.tag("Message")
    answer = await door.call("PUT", f"/{BUCKET}/kept", b"x", {"x-amz-grant-read": f"id={other}"})
    assert answer.code == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({}, b"", "MissingSecurityHeader"),
        ({"x-amz-acl": "private"}, document(OWNER), "UnexpectedContent"),
        ({"x-amz-acl": "secret"}, b"", "InvalidArgument"),
        ({"x-amz-acl": "private", "x-amz-grant-read": "id=meshhold"}, b"", "InvalidRequest"),
        ({"x-amz-grant-read": "somebody"}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": 'id="nobody"'}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": "uri=http://example.org/"}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": "emailAddress=a@example.org"}, b"", "UnresolvableGrantByEmailAddress"),
        ({"x-amz-grant-read": ",".join(f"id=k{n}" for n in range(101))}, b"", "MalformedACLError"),
        ({"x-amz-grant-read": f"uri={SIGNED}"}, b"", NOT_SUPPORTED),
        ({}, document(), NOT_SUPPORTED),
        ({}, document(grant("<ID>meshhold</ID>")), NOT_SUPPORTED),
        ({}, document(OWNER, grant("<ID>_foo</ID>")), "InvalidArgument"),
        ({}, document(OWNER, grant("<EmailAddress>a@example.org</EmailAddress>")), "UnresolvableGrantByEmailAddress"),
        ({}, document(OWNER, grant("<URI>x</URI>")), "InvalidArgument"),
        ({}, document(OWNER, grant("")), "MalformedACLError"),
        ({}, document(OWNER, grant("<ID>a</ID><URI>b</URI>")), "MalformedACLError"),
        ({}, document(OWNER, grant(f"<URI>{EVERYBODY}</URI>", "LIST")), "MalformedACLError"),
        ({}, document(OWNER, "<Grant/>"), "MalformedACLError"),
        ({}, document(OWNER, "<Other/>"), "MalformedXML"),
        ({}, document(OWNER, "<Grant><Other/></Grant>"), "MalformedXML"),
        ({}, document(*[OWNER] * 101), "MalformedACLError"),
        ({}, document(OWNER, owner="somebody"), "AccessDenied"),
        ({}, b"<AccessControlPolicy/>", "MalformedACLError"),
        ({}, b"<AccessControlPolicy><Other/></AccessControlPolicy>", "MalformedXML"),
        ({}, b"<Other/>", "MalformedXML"),
        ({}, b"x", "MalformedXML"),
    ],
)
@pytest.mark.parametrize("target", [f"/{BUCKET}", f"/{BUCKET}/kept"])
async def test_acls_that_are_none(
    door: DoorUnderTest, target: str, headers: dict[str, str], body: bytes, code: str
) -> None:
    raw = door.signed("PUT", f"{target}?acl", body, headers)
    await door.check_refused(raw, 403 if code == "AccessDenied" else 400, code)


async def test_the_acl_of_an_object_that_is_not_there(door: DoorUnderTest) -> None:
    assert (await put_acl(door, f"/{BUCKET}/none", "private")).code == "NoSuchKey"
    assert (await put_acl(door, "/nowhere", "private")).code == "NoSuchBucket"


async def test_only_who_owns_a_bucket_sets_its_acl(door: DoorUnderTest) -> None:
    key = await door.node.access.add_key("writer")
    await door.grant(key.access_key_id, READ | WRITE)
    writer = door.as_other(key.access_key_id, key.secret_access_key)
    assert (await put_acl(writer, f"/{BUCKET}", "private")).code == "AccessDenied"
    assert (await put_acl(writer, f"/{BUCKET}/kept", "private")).status == 200


# -- keys that may publish ------------------------------------------------------------------------------------------


async def test_a_key_that_may_publish_opens_and_closes_a_bucket(door: DoorUnderTest) -> None:
    owner = await publisher(door)
    for body in (b"", document(OWNER, grant(f"<URI>{EVERYBODY}</URI>"))):
        assert (await put_acl(owner, f"/{BUCKET}", "" if body else "public-read", body)).status == 200
        assert await readers(owner, f"/{BUCKET}") == ["AllUsers READ", "owner FULL_CONTROL"]
        assert [await unsigned(door, target) for target in (f"/{BUCKET}/kept", f"/{BUCKET}")] == [200, 200]
        assert (await put_acl(owner, f"/{BUCKET}", "private")).status == 200
        assert [await unsigned(door, target) for target in (f"/{BUCKET}/kept", f"/{BUCKET}")] == [403, 403]
    assert (await put_acl(owner, f"/{BUCKET}/kept", "public-read")).code == NOT_SUPPORTED
    assert (await put_acl(owner, f"/{BUCKET}", "public-read-write")).code == NOT_SUPPORTED


async def test_many_publish_at_once(door: DoorUnderTest) -> None:
    owner = await publisher(door)
    statuses: list[int] = []

    async def publish() -> None:
        statuses.append((await put_acl(owner, f"/{BUCKET}", "public-read")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(publish)
    assert statuses == [200] * 8


async def test_a_bucket_is_made_public(door: DoorUnderTest) -> None:
    owner = await publisher(door)
    assert (await owner.call("PUT", "/open", b"", {"x-amz-acl": "public-read"})).status == 200
    assert await unsigned(door, "/open") == 200
    assert (await owner.call("PUT", "/closed", b"", {"x-amz-acl": "private"})).status == 200
    assert await unsigned(door, "/closed") == 403
    refused = await door.call("PUT", "/third", b"", {"x-amz-acl": "public-read"})
    assert (refused.status, refused.code) == (400, NOT_SUPPORTED)
    assert "--may-publish" in refused.tag("Message")
    for acl in ("public-read-write", "authenticated-read"):
        assert (await owner.call("PUT", "/third", b"", {"x-amz-acl": acl})).code == NOT_SUPPORTED
    assert (await owner.call("PUT", "/third", b"", {"x-amz-grant-read": "id=nobody"})).code == "InvalidArgument"
    assert door.node.vaults.known_alias("third") is None


async def test_public_acls_can_be_blocked(door: DoorUnderTest) -> None:
    owner = await publisher(door)
    inner = "<BlockPublicAcls>true</BlockPublicAcls>"
    raw = f"<PublicAccessBlockConfiguration>{inner}</PublicAccessBlockConfiguration>".encode()
    assert (await owner.call("PUT", f"/{BUCKET}?publicAccessBlock", raw)).status == 200
    for acl in ("public-read", "public-read-write", "authenticated-read"):
        assert (await put_acl(owner, f"/{BUCKET}", acl)).code == "AccessDenied"
        assert (await owner.call("PUT", f"/{BUCKET}/new", b"x", {"x-amz-acl": acl})).code == "AccessDenied"
    assert (await owner.call("PUT", f"/{BUCKET}/kept", KEPT, {"x-amz-acl": "private"})).status == 200


# -- ownership ------------------------------------------------------------------------------------------------------


def ownership(setting: str) -> bytes:
    rule = f"<Rule><ObjectOwnership>{setting}</ObjectOwnership></Rule>"
    return f"<OwnershipControls>{rule}</OwnershipControls>".encode()


@pytest.mark.parametrize("setting", ["BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"])
async def test_ownership_comes_back_and_goes(door: DoorUnderTest, setting: str) -> None:
    target = f"/{BUCKET}?ownershipControls"
    assert (await door.call("GET", target)).code == "OwnershipControlsNotFoundError"
    assert (await door.call("PUT", target, ownership(setting))).status == 200
    assert (await door.call("GET", target)).tag("ObjectOwnership") == setting
    assert [(await door.call("DELETE", target)).status for _ in range(2)] == [204, 204]
    assert (await door.call("GET", target)).status == 404
    assert (await door.call("PUT", "/made", b"", {"x-amz-object-ownership": setting})).status == 200
    assert (await door.call("GET", "/made?ownershipControls")).tag("ObjectOwnership") == setting


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (ownership("Mine"), "InvalidArgument"),
        (b"<OwnershipControls/>", "MalformedXML"),
        (b"<OwnershipControls><Rule/></OwnershipControls>", "MalformedXML"),
        (b"", "MalformedXML"),
    ],
)
async def test_ownership_that_is_none(door: DoorUnderTest, raw: bytes, code: str) -> None:
    await door.check_refused(door.signed("PUT", f"/{BUCKET}?ownershipControls", raw), 400, code)


async def test_a_bucket_that_takes_no_acls(door: DoorUnderTest) -> None:
    target = f"/{BUCKET}?ownershipControls"
    await door.grant(ANONYMOUS, READ)
    assert (
        await door.call("PUT", target, ownership("BucketOwnerEnforced"))
    ).code == "InvalidBucketAclWithObjectOwnership"
    await door.node.access.revoke(ANONYMOUS, BUCKET)
    assert (await door.call("PUT", target, ownership("BucketOwnerEnforced"))).status == 200
    assert (await door.call("PUT", f"/{BUCKET}/kept", KEPT)).status == 200
    for acl, code in (("bucket-owner-full-control", ""), ("private", NOT_SUPPORTED), ("public-read", NOT_SUPPORTED)):
        assert (await door.call("PUT", f"/{BUCKET}/kept", KEPT, {"x-amz-acl": acl})).code == code
        assert (await put_acl(door, f"/{BUCKET}/kept", acl)).code == code
    assert (await put_acl(door, f"/{BUCKET}", "private")).code == NOT_SUPPORTED
    headers = {"x-amz-object-ownership": "BucketOwnerEnforced", "x-amz-acl": "public-read"}
    assert (await (await publisher(door)).call("PUT", "/made", b"", headers)).code == NOT_SUPPORTED
