"""Versions through the door: what is set on the bucket, which headers say which version, listings, deletions."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pytest
from tests.door import BUCKET, KEPT, Answer, DoorUnderTest, open_door

from meshhold.errors import ConflictError
from meshhold.model.configuration import Configuration, Mode
from meshhold.model.grant import Permission
from meshhold.store.index_replicas import _check_mode

PATH = f"/{BUCKET}/kept"
FAR = "0123456789abcdef" * 2


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        await opened.grant(opened.signer.key_id, Permission.READ | Permission.WRITE | Permission.LIST | Permission.OWN)
        yield opened


async def configure(door: DoorUnderTest, inner: str) -> Answer:
    body = f"<VersioningConfiguration>{inner}</VersioningConfiguration>".encode()
    return await door.call("PUT", f"/{BUCKET}?versioning", body)


async def set_state(door: DoorUnderTest, state: str) -> None:
    answer = await configure(door, f"<Status>{state}</Status>")
    assert answer.status == 200, answer.body


async def put(door: DoorUnderTest, body: bytes, path: str = PATH) -> str:
    answer = await door.call("PUT", path, body)
    assert answer.status == 200, answer.body
    return answer.headers.get("x-amz-version-id", "")


async def listed(door: DoorUnderTest, query: str = "") -> Answer:
    answer = await door.call("GET", f"/{BUCKET}?versions{query}")
    assert answer.status == 200, answer.body
    return answer


def deletion(inner: str) -> tuple[bytes, dict[str, str]]:
    body = f"<Delete>{inner}</Delete>".encode()
    return body, {"Content-MD5": b64encode(md5(body, usedforsecurity=False).digest()).decode()}


# -- what is set on the bucket ----------------------------------------------------------------------------------------


async def test_a_bucket_says_what_was_set(door: DoorUnderTest) -> None:
    assert (await door.call("GET", f"/{BUCKET}?versioning")).tag("Status") == ""
    for state in ("Enabled", "Suspended", "Enabled", "Enabled"):
        await set_state(door, state)
        assert (await door.call("GET", f"/{BUCKET}?versioning")).tag("Status") == state


@pytest.mark.parametrize(
    ("inner", "status", "code"),
    [
        ("", 400, "IllegalVersioningConfigurationException"),
        ("<Status>enabled</Status>", 400, "MalformedXML"),
        ("<Status>Off</Status>", 400, "MalformedXML"),
        ("<Status>Enabled</Status><Status>Enabled</Status>", 400, "MalformedXML"),
        ("<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>", 501, "NotImplemented"),
        ("<Other/>", 400, "MalformedXML"),
    ],
)
async def test_what_is_no_state_is_refused(door: DoorUnderTest, inner: str, status: int, code: str) -> None:
    answer = await configure(door, inner)
    assert (answer.status, answer.code) == (status, code)
    assert (await door.call("GET", f"/{BUCKET}?versioning")).tag("Status") == ""


async def test_who_does_not_own_the_bucket_does_not_set_it(door: DoorUnderTest) -> None:
    await door.grant(door.signer.key_id, Permission.READ | Permission.WRITE | Permission.LIST)
    assert (await configure(door, "<Status>Enabled</Status>")).status == 403


async def test_a_vault_that_goes_on_alone_keeps_no_versions_and_the_other_way_round(door: DoorUnderTest) -> None:
    vault = door.node.vaults.bucket(BUCKET)
    _check_mode(vault, (), Mode.AVAILABLE)
    stable = door.node.keeping.seats.configuration(vault.id)
    await door.node.keeping.seats.adopt(vault.id, replace_mode(stable, Mode.AVAILABLE))
    answer = await configure(door, "<Status>Enabled</Status>")
    assert (answer.status, answer.code) == (409, "InvalidBucketState")
    assert "available" in answer.tag("Message")
    await door.node.keeping.seats.adopt(vault.id, replace_mode(stable, Mode.LINEARIZABLE, 2))
    await set_state(door, "Enabled")
    with pytest.raises(ConflictError, match="keeps versions"):
        _check_mode(door.node.vaults.bucket(BUCKET), (), Mode.AVAILABLE)


def replace_mode(configuration: Configuration, mode: Mode, later: int = 1) -> Configuration:
    """Return a later configuration in another mode."""
    return replace(configuration, epoch=configuration.epoch + later, mode=mode)


# -- which version an answer is about ---------------------------------------------------------------------------------


async def test_without_versions_no_answer_names_one(door: DoorUnderTest) -> None:
    assert await put(door, b"one") == ""
    for method in ("HEAD", "GET", "DELETE"):
        assert "x-amz-version-id" not in (await door.call(method, PATH)).headers


async def test_answers_name_the_version_that_they_are_about(door: DoorUnderTest) -> None:
    await set_state(door, "Enabled")
    assert (await door.call("GET", PATH)).headers["x-amz-version-id"] == "null"
    one, two = await put(door, b"one"), await put(door, b"two")
    assert len({one, two, "null"}) == 3
    for version, body in ((one, b"one"), (two, b"two"), ("null", KEPT)):
        answer = await door.call("GET", f"{PATH}?versionId={version}")
        assert (answer.status, answer.body, answer.headers["x-amz-version-id"]) == (200, body, version)
        assert (await door.call("HEAD", f"{PATH}?versionId={version}")).headers["content-length"] == str(len(body))
    assert (await door.call("GET", PATH)).headers["x-amz-version-id"] == two
    unchanged = await door.call("GET", PATH, b"", {"If-None-Match": "*"})
    assert (unchanged.status, unchanged.headers["x-amz-version-id"]) == (304, two)
    await set_state(door, "Suspended")
    assert await put(door, b"three") == ""
    assert (await door.call("HEAD", PATH)).headers["x-amz-version-id"] == "null"


async def test_a_version_that_is_not_there(door: DoorUnderTest) -> None:
    for state in ("", "Enabled"):
        if state:
            await set_state(door, state)
        for method in ("GET", "HEAD"):
            assert (await door.call(method, f"{PATH}?versionId={FAR}")).status == 404
            assert (await door.call(method, f"{PATH}?versionId=1")).status == 400
        assert (await door.call("GET", f"{PATH}?versionId={FAR}")).code == "NoSuchVersion"
        assert (await door.call("GET", f"{PATH}?versionId=")).code == "InvalidArgument"
        assert (await door.call("DELETE", f"{PATH}?versionId={FAR}")).status == 204
    assert (await door.call("GET", PATH)).body == KEPT


async def test_a_copy_names_both_versions_and_brings_an_earlier_one_back(door: DoorUnderTest) -> None:
    await set_state(door, "Enabled")
    one, two = await put(door, b"one"), await put(door, b"two")
    copied = await door.call("PUT", PATH, b"", {"x-amz-copy-source": f"{PATH}?versionId={one}"})
    assert copied.status == 200, copied.body
    assert copied.headers["x-amz-copy-source-version-id"] == one
    assert copied.headers["x-amz-version-id"] not in (one, two)
    assert (await door.call("GET", PATH)).body == b"one"
    other = await door.call("PUT", f"/{BUCKET}/copy", b"", {"x-amz-copy-source": PATH})
    assert other.headers["x-amz-copy-source-version-id"] == copied.headers["x-amz-version-id"]
    missing = await door.call("PUT", f"/{BUCKET}/copy", b"", {"x-amz-copy-source": f"{PATH}?versionId={FAR}"})
    assert (missing.status, missing.code) == (404, "NoSuchVersion")
    marker = (await door.call("DELETE", PATH)).headers["x-amz-version-id"]
    gone = await door.call("PUT", f"/{BUCKET}/copy", b"", {"x-amz-copy-source": PATH})
    assert (gone.status, gone.code) == (404, "NoSuchKey")
    named = await door.call("PUT", f"/{BUCKET}/copy", b"", {"x-amz-copy-source": f"{PATH}?versionId={marker}"})
    assert (named.status, named.code) == (400, "InvalidRequest")


async def test_a_completion_names_its_version(door: DoorUnderTest) -> None:
    await set_state(door, "Enabled")
    upload = (await door.call("POST", f"{PATH}?uploads", b"")).tag("UploadId")
    etag = (await door.call("PUT", f"{PATH}?partNumber=1&uploadId={upload}", b"part")).headers["etag"]
    body = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    )
    done = await door.call("POST", f"{PATH}?uploadId={upload}", body.encode())
    version = done.headers["x-amz-version-id"]
    assert (await door.call("GET", f"{PATH}?versionId={version}")).body == b"part"
    assert (await door.call("GET", f"{PATH}?versionId=null")).body == KEPT


# -- deletions --------------------------------------------------------------------------------------------------------


async def test_a_delete_marker_looks_like_nothing_and_says_what_it_is(door: DoorUnderTest) -> None:
    await set_state(door, "Enabled")
    made = await door.call("DELETE", PATH)
    marker = made.headers["x-amz-version-id"]
    assert (made.status, made.headers["x-amz-delete-marker"]) == (204, "true")
    found = await door.call("GET", PATH)
    assert (found.status, found.code, found.headers["x-amz-delete-marker"]) == (404, "NoSuchKey", "true")
    assert found.headers["x-amz-version-id"] == marker
    named = await door.call("GET", f"{PATH}?versionId={marker}")
    assert (named.status, named.code, named.headers["allow"]) == (405, "MethodNotAllowed", "DELETE")
    assert named.headers["x-amz-delete-marker"] == "true"
    assert named.headers["last-modified"]
    assert (await door.call("HEAD", f"{PATH}?versionId={marker}")).status == 405
    removed = await door.call("DELETE", f"{PATH}?versionId={marker}")
    assert (removed.headers["x-amz-version-id"], removed.headers["x-amz-delete-marker"]) == (marker, "true")
    assert (await door.call("GET", PATH)).body == KEPT
    gone = await door.call("DELETE", f"{PATH}?versionId=null")
    assert gone.headers["x-amz-version-id"] == "null"
    assert "x-amz-delete-marker" not in gone.headers
    assert (await listed(door)).tags("VersionId") == []


async def test_many_deletions_tell_what_each_did(door: DoorUnderTest) -> None:
    await set_state(door, "Enabled")
    one = await put(door, b"one")
    await put(door, b"x", f"/{BUCKET}/other")
    rows = f"<Object><Key>kept</Key><VersionId>{one}</VersionId></Object><Object><Key>other</Key></Object>"
    rows += "<Object><Key>bad</Key><VersionId>1</VersionId></Object>"
    answer = await door.call("POST", f"/{BUCKET}?delete", *deletion(rows))
    assert answer.status == 200, answer.body
    assert f"<Deleted><Key>kept</Key><VersionId>{one}</VersionId></Deleted>" in answer.text
    (marker,) = answer.tags("DeleteMarkerVersionId")
    assert "<Deleted><Key>other</Key><DeleteMarker>true</DeleteMarker>" in answer.text
    assert answer.tags("Code") == ["InvalidArgument"]
    again = await door.call(
        "POST", f"/{BUCKET}?delete", *deletion(f"<Object><Key>other</Key><VersionId>{marker}</VersionId></Object>")
    )
    assert again.tags("DeleteMarkerVersionId") == [marker]
    assert again.tags("VersionId") == [marker]
    assert (await door.call("GET", f"/{BUCKET}/other")).body == b"x"


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("If-Match", "{etag}", '"another"'),
        ("x-amz-if-match-size", "{size}", "1"),
        ("x-amz-if-match-last-modified-time", "{time}", "Wed, 21 Oct 2015 07:28:00 GMT"),
    ],
)
async def test_deletions_on_condition(door: DoorUnderTest, name: str, right: str, wrong: str) -> None:
    head = (await door.call("HEAD", PATH)).headers
    right = right.format(etag=head["etag"], size=head["content-length"], time=head["last-modified"])
    refused = await door.call("DELETE", PATH, b"", {name: wrong})
    assert (refused.status, refused.code) == (412, "PreconditionFailed")
    assert (await door.call("DELETE", PATH, b"", {name: right})).status == 204
    assert (await door.call("GET", PATH)).status == 404
    assert (await door.call("DELETE", PATH, b"", {name: wrong})).status == 204  # what is not there fits


@pytest.mark.parametrize(
    ("name", "value"), [("x-amz-if-match-size", "big"), ("x-amz-if-match-last-modified-time", "?")]
)
async def test_a_condition_that_cannot_be_read_deletes_nothing(door: DoorUnderTest, name: str, value: str) -> None:
    assert (await door.call("DELETE", PATH, b"", {name: value})).code == "InvalidArgument"
    assert (await door.call("GET", PATH)).body == KEPT


async def test_many_deletions_on_condition(door: DoorUnderTest) -> None:
    for inner in (
        "<ETag>another</ETag>",
        "<Size>1</Size>",
        "<LastModifiedTime>2015-10-21T07:28:00Z</LastModifiedTime>",
    ):
        row = f"<Object><Key>kept</Key>{inner}</Object>"
        answer = await door.call("POST", f"/{BUCKET}?delete", *deletion(row))
        assert answer.tags("Code") == ["PreconditionFailed"]
    row = f"<Object><Key>kept</Key><Size>{len(KEPT)}</Size></Object>"
    assert (await door.call("POST", f"/{BUCKET}?delete", *deletion(row))).tags("Code") == []
    assert await door.stored() == []


async def test_a_bucket_goes_when_its_last_version_went(door: DoorUnderTest) -> None:
    await set_state(door, "Enabled")
    marker = (await door.call("DELETE", PATH)).headers["x-amz-version-id"]
    for version in ("null", marker):
        assert (await door.call("DELETE", f"/{BUCKET}")).code == "BucketNotEmpty"
        assert (await door.call("DELETE", f"{PATH}?versionId={version}")).status == 204
    assert (await door.call("DELETE", f"/{BUCKET}")).status == 204


# -- listings ---------------------------------------------------------------------------------------------------------


async def test_listed_versions_are_newest_first_and_markers_are_told_apart(door: DoorUnderTest) -> None:
    assert (await listed(door)).tags("VersionId") == ["null"]
    await set_state(door, "Enabled")
    one = await put(door, b"one")
    marker = (await door.call("DELETE", PATH)).headers["x-amz-version-id"]
    answer = await listed(door)
    assert answer.tags("VersionId") == [marker, one, "null"]
    assert answer.tags("IsLatest") == ["true", "false", "false"]
    assert len(answer.tags("DeleteMarker")) == 1
    assert len(answer.tags("Version")) == 2
    assert answer.tags("Size") == ["3", str(len(KEPT))]
    assert await door.stored() == []


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7])
async def test_pages_of_versions_together_show_each_once(door: DoorUnderTest, limit: int) -> None:
    await set_state(door, "Enabled")
    for key in ("a", "d/x", "d/y", "e", "kept"):
        for number in range(3):
            await put(door, b"%d" % number, f"/{BUCKET}/{key}")
    whole = (await listed(door)).tags("VersionId")
    assert len(whole) == 16
    seen: list[str] = []
    query = ""
    while True:
        page = await listed(door, f"&max-keys={limit}{query}")
        seen += page.tags("VersionId")
        if page.tag("IsTruncated") == "false":
            break
        query = f"&key-marker={page.tag('NextKeyMarker')}&version-id-marker={page.tag('NextVersionIdMarker')}"
    assert seen == whole


@pytest.mark.parametrize("limit", [1, 2, 4, 1000])
async def test_versions_behind_a_common_prefix_are_one_row(door: DoorUnderTest, limit: int) -> None:
    await set_state(door, "Enabled")
    for key in ("a", "d/x", "d/y", "e/z", "kept"):
        await put(door, b"1", f"/{BUCKET}/{key}")
        await put(door, b"2", f"/{BUCKET}/{key}")
    rows: list[str] = []
    query = ""
    while True:
        page = await listed(door, f"&delimiter=/&max-keys={limit}{query}")
        prefixes = [each.removeprefix("<Prefix>").removesuffix("</Prefix>") for each in page.tags("CommonPrefixes")]
        assert len(page.tags("Key")) + len(prefixes) <= limit
        rows += sorted([*page.tags("Key"), *prefixes])
        if page.tag("IsTruncated") == "false":
            break
        query = f"&key-marker={page.tag('NextKeyMarker')}&version-id-marker={page.tag('NextVersionIdMarker')}"
    assert rows == ["a", "a", "d/", "e/", "kept", "kept", "kept"]
    inside = await listed(door, "&delimiter=/&prefix=d/")
    assert inside.tags("Key") == ["d/x", "d/x", "d/y", "d/y"]


async def test_markers_of_listings(door: DoorUnderTest) -> None:
    await set_state(door, "Enabled")
    one, two = await put(door, b"one"), await put(door, b"two")
    after = await listed(door, f"&key-marker=kept&version-id-marker={two}")
    assert after.tags("VersionId") == [one, "null"]
    assert (await listed(door, "&key-marker=kept&version-id-marker=null")).tags("VersionId") == []
    assert (await listed(door, "&key-marker=kept")).tags("VersionId") == []
    assert (await listed(door, "&key-marker=kepa")).tags("VersionId") == [two, one, "null"]
    assert (await listed(door, "&max-keys=0")).tags("VersionId") == []
    for query in ("&version-id-marker=null", "&key-marker=a&version-id-marker=1"):
        assert (await door.call("GET", f"/{BUCKET}?versions{query}")).code == "InvalidArgument"
