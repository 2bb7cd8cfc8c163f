"""A bucket's lifecycle through the door, and the walks that follow it, at any time that a test likes."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from tests.door import BUCKET, DoorUnderTest, open_door

from meshhold.errors import ConflictError, NotFoundError
from meshhold.model.grant import Permission
from meshhold.rules.lifecycle import DAY_MS
from meshhold.store.expiry import Expiry
from meshhold.store.expiry_walk import ExpiryReport

XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        every = Permission.READ | Permission.WRITE | Permission.OWN
        await opened.grant(opened.signer.key_id, every)
        yield opened


def rule(does: str, reach: str = "<Filter/>", name: str = "it") -> str:
    return f"<Rule><ID>{name}</ID>{reach}<Status>Enabled</Status>{does}</Rule>"


def days(count: int) -> str:
    return f"<Expiration><Days>{count}</Days></Expiration>"


def prefix(text: str) -> str:
    return f"<Filter><Prefix>{text}</Prefix></Filter>"


EARLIER = "<NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays></NoncurrentVersionExpiration>"
ABORT = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload>"


async def set_document(door: DoorUnderTest, sub: str, body: str) -> None:
    digest = base64.b64encode(hashlib.md5(body.encode()).digest()).decode()  # noqa: S324 - S3 asks for this one
    answer = await door.call("PUT", f"/{BUCKET}?{sub}", body.encode(), {"Content-MD5": digest})
    assert answer.status == 200, answer.body


async def set_rules(door: DoorUnderTest, *rules: str) -> None:
    await set_document(
        door, "lifecycle", f'<LifecycleConfiguration xmlns="{XMLNS}">{"".join(rules)}</LifecycleConfiguration>'
    )


async def keep_versions(door: DoorUnderTest) -> None:
    inner = "<Status>Enabled</Status>"
    await set_document(
        door, "versioning", f'<VersioningConfiguration xmlns="{XMLNS}">{inner}</VersioningConfiguration>'
    )


async def put(door: DoorUnderTest, key: str, body: bytes = b"x", tags: str = "") -> None:
    answer = await door.call("PUT", f"/{BUCKET}/{key}", body, {"x-amz-tagging": tags} if tags else {})
    assert answer.status == 200, answer.body


async def unpaced(_: float) -> None:
    """Do not rest: a walk in a test has nobody to step aside for."""


def expiry_after(door: DoorUnderTest, later_days: float, **stores: Any) -> Expiry:
    """Return what follows lifecycles, so many days from now."""
    now_ms = int(time.time() * 1000 + later_days * DAY_MS)
    return Expiry(
        door.node.directory,
        door.node.vaults,
        replace(door.node.expiry._stores, sleep=unpaced, **stores),
        leads=lambda _: True,
        now_ms=lambda: now_ms,
    )


async def walk(door: DoorUnderTest, later_days: float, *, dry_run: bool = False) -> ExpiryReport:
    (report,) = await expiry_after(door, later_days).run(BUCKET, dry_run=dry_run)
    assert not report.error
    return report


async def versions(door: DoorUnderTest) -> tuple[int, int]:
    """Return how many versions and delete markers there are, `kept` not among them."""
    answer = await door.call("GET", f"/{BUCKET}?versions")
    assert answer.status == 200, answer.body
    return answer.text.count("<Version>") - answer.text.count("<Key>kept</Key>"), answer.text.count("<DeleteMarker>")


# -- the document ---------------------------------------------------------------------------------------------------


async def test_rules_are_set_shown_and_dropped(door: DoorUnderTest) -> None:
    target = f"/{BUCKET}?lifecycle"
    none = await door.call("GET", target)
    assert (none.status, none.code, none.tag("BucketName")) == (404, "NoSuchLifecycleConfiguration", BUCKET)
    await set_rules(door, rule(days(3), prefix("old/"), "first"), rule(ABORT, name="second"))
    shown = await door.call("GET", target)
    assert (shown.status, shown.tags("ID"), shown.tag("Prefix"), shown.tag("Days")) == (
        200, ["first", "second"], "old/", "3",
    )  # fmt: skip
    for _ in range(2):
        assert (await door.call("DELETE", target)).status == 204
    assert (await door.call("GET", target)).status == 404


async def test_rules_that_do_not_fit_into_a_record_are_refused(door: DoorUnderTest) -> None:
    rules = "".join(rule(days(1), prefix("p" * 900), str(at)) for at in range(100))
    body = f"<LifecycleConfiguration>{rules}</LifecycleConfiguration>".encode()
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()  # noqa: S324 - S3 asks for this one
    answer = await door.call("PUT", f"/{BUCKET}?lifecycle", body, {"Content-MD5": digest})
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    assert "at most 57344" in answer.tag("Message")
    assert (await door.call("GET", f"/{BUCKET}?lifecycle")).status == 404


async def test_rules_need_a_digest_and_the_right_to_set_them(door: DoorUnderTest) -> None:
    body = f"<LifecycleConfiguration>{rule(days(1))}</LifecycleConfiguration>".encode()
    bare = await door.call("PUT", f"/{BUCKET}?lifecycle", body)
    assert (bare.status, bare.code) == (400, "InvalidRequest")
    await door.grant(door.signer.key_id, Permission.READ | Permission.WRITE)
    for method, content in (("PUT", body), ("DELETE", b"")):
        answer = await door.call(method, f"/{BUCKET}?lifecycle", content)
        assert (answer.status, answer.code) == (403, "AccessDenied")


# -- what answers announce ------------------------------------------------------------------------------------------


async def test_answers_say_when_an_object_ends(door: DoorUnderTest) -> None:
    await set_rules(door, rule(days(3), prefix("old/"), "a b"))
    written = await door.call("PUT", f"/{BUCKET}/old/a", b"x")
    read = await door.call("GET", f"/{BUCKET}/old/a")
    head = await door.call("HEAD", f"/{BUCKET}/old/a")
    found = re.fullmatch(r'expiry-date="(.*)", rule-id="a%20b"', written.headers["x-amz-expiration"])
    assert found
    ends = parsedate_to_datetime(found[1])
    assert (ends.hour, ends.minute, ends.second) == (0, 0, 0)
    assert 3 * 86_400 <= ends.timestamp() - time.time() + 60 <= 4 * 86_400 + 60
    assert {one.headers["x-amz-expiration"] for one in (written, read, head)} == {written.headers["x-amz-expiration"]}
    copied = await door.call("PUT", f"/{BUCKET}/old/b", headers={"x-amz-copy-source": f"/{BUCKET}/kept"})
    assert "x-amz-expiration" in copied.headers
    assert "x-amz-expiration" not in (await door.call("GET", f"/{BUCKET}/kept")).headers


async def test_a_day_beyond_all_dates_is_not_announced(door: DoorUnderTest) -> None:
    await set_rules(door, rule(days(2**31 - 1)))
    answer = await door.call("GET", f"/{BUCKET}/kept")
    assert answer.status == 200
    assert "x-amz-expiration" not in answer.headers


async def test_an_upload_says_when_it_is_aborted(door: DoorUnderTest) -> None:
    await set_rules(door, rule(ABORT, name="clean"))
    answer = await door.call("POST", f"/{BUCKET}/big?uploads")
    assert answer.headers["x-amz-abort-rule-id"] == "clean"
    assert parsedate_to_datetime(answer.headers["x-amz-abort-date"]).hour == 0


# -- following the rules --------------------------------------------------------------------------------------------


async def test_objects_go_when_their_time_has_come(door: DoorUnderTest) -> None:
    await set_rules(door, rule(days(3), prefix("old/")))
    await put(door, "old/a", b"12345")
    await put(door, "photo")
    assert (await walk(door, 2)).removed == 0
    tried = await walk(door, 4, dry_run=True)
    assert (tried.objects, tried.bytes, [(due.key, due.rule) for due in tried.examples]) == (1, 5, [("old/a", "it")])
    assert await door.stored() == ["kept", "old/a", "photo"]
    done = await walk(door, 4)
    assert (done.objects, done.bytes, done.looked_at) == (1, 5, 1), "only what begins with the prefix is looked at"
    assert await door.stored() == ["kept", "photo"]


async def test_tags_and_sizes_choose(door: DoorUnderTest) -> None:
    tagged = "<Filter><Tag><Key>kind</Key><Value>tmp</Value></Tag></Filter>"
    large = "<Filter><ObjectSizeGreaterThan>1000</ObjectSizeGreaterThan></Filter>"
    await set_rules(door, rule(days(1), tagged, "tag"), rule(days(1), large, "size"))
    await put(door, "a", tags="kind=tmp")
    await put(door, "b", tags="kind=photo")
    await put(door, "c", b"x" * 1001)
    assert (await walk(door, 3)).objects == 2
    assert await door.stored() == ["b", "kept"]


async def test_what_was_written_anew_meanwhile_stays(door: DoorUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    await set_rules(door, rule(days(1), prefix("old/")))
    await put(door, "old/a", b"old")
    stacks = door.node.door.objects.stacks
    delete = stacks.delete

    async def late_delete(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(stacks, "delete", delete)
        await put(door, "old/a", b"new")
        return await delete(*args, **more)

    monkeypatch.setattr(stacks, "delete", late_delete)
    report = await walk(door, 3)
    assert (report.objects, report.changed) == (0, 1)
    assert (await door.call("GET", f"/{BUCKET}/old/a")).body == b"new"


async def test_a_walk_ends_with_the_rules_it_began_with(door: DoorUnderTest) -> None:
    await set_rules(door, rule(days(1), prefix("old/")), rule(ABORT, prefix("old/"), "first"))
    await put(door, "old/a")
    await door.call("POST", f"/{BUCKET}/old/b?uploads")

    async def drop_rules(_: float) -> None:
        await door.call("DELETE", f"/{BUCKET}?lifecycle")

    now_ms = int(time.time() * 1000 + 5 * DAY_MS)
    expiry = Expiry(
        door.node.directory,
        door.node.vaults,
        replace(door.node.expiry._stores, sleep=drop_rules),
        leads=lambda _: True,
        now_ms=lambda: now_ms,
    )
    (report,) = await expiry.run(BUCKET)
    assert "changed on the way" in report.error
    assert (report.uploads, report.objects) == (1, 0)
    assert "old/a" in await door.stored()


async def test_unfinished_uploads_are_aborted(door: DoorUnderTest) -> None:
    await set_rules(door, rule(ABORT, prefix("big/")))
    for key in ("big/film", "small"):
        assert (await door.call("POST", f"/{BUCKET}/{key}?uploads")).status == 200
    assert (await walk(door, 1)).uploads == 0
    assert (await walk(door, 4)).uploads == 1
    listed = await door.call("GET", f"/{BUCKET}?uploads")
    assert listed.tags("Key") == ["small"]


async def test_only_whose_turn_it_is_walks_by_itself(door: DoorUnderTest) -> None:
    await set_rules(door, rule(days(1)))
    expiry = expiry_after(door, 3)
    expiry._leads = lambda _: False
    assert await expiry.run(None) == []
    assert await door.stored() == ["kept"]
    await door.call("DELETE", f"/{BUCKET}?lifecycle")
    with pytest.raises(NotFoundError, match="has no lifecycle"):
        await expiry.run(BUCKET)


async def test_of_two_walks_one_removes(door: DoorUnderTest) -> None:
    await set_rules(door, rule(days(1), prefix("old/")))
    await put(door, "old/a")
    expiry = expiry_after(door, 3)
    refused: list[str] = []

    async def walk_too(_: dict[str, Any]) -> None:
        assert (await expiry.run(BUCKET, dry_run=True))[0].dry_run, "looking is no walk"
        with pytest.raises(ConflictError) as conflict:
            await expiry.run(BUCKET)
        refused.append(conflict.value.message)

    await expiry.run(BUCKET, walk_too)
    assert refused == ["lifecycles are being followed right now"]


async def test_people_see_rules_and_the_last_walk(door: DoorUnderTest) -> None:
    await set_rules(door, rule(days(1) + EARLIER, prefix("old/")))
    expiry = expiry_after(door, 3)
    (view,) = expiry.views(BUCKET)
    assert view.rules == [
        {
            "id": "it",
            "enabled": True,
            "applies_to": "keys that begin with 'old/'",
            "does": "objects end after 1 day; earlier versions end after 2 days",
        }
    ]
    assert view.last is None
    await expiry.run(BUCKET)
    last = expiry.views(BUCKET)[0].last
    assert last is not None
    assert last.looked_at == 0


# -- versions -------------------------------------------------------------------------------------------------------


async def test_where_versions_are_kept_an_object_ends_under_a_marker(door: DoorUnderTest) -> None:
    await keep_versions(door)
    await set_rules(door, rule(days(1), prefix("old/")))
    await put(door, "old/a")
    assert (await walk(door, 3)).objects == 1
    assert await versions(door) == (1, 1)
    again = await walk(door, 3)
    assert (again.objects, again.markers) == (0, 0), "the marker hides a version, so it stays"


async def test_earlier_versions_go_and_then_the_marker(door: DoorUnderTest) -> None:
    await keep_versions(door)
    clean = "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
    await set_rules(door, rule(clean + EARLIER, prefix("old/")))
    for body in (b"1", b"2", b"3"):
        await put(door, "old/a", body)
        await put(door, "old/b", body)
    await door.call("DELETE", f"/{BUCKET}/old/b")
    assert (await walk(door, 1)).removed == 0
    report = await walk(door, 4)
    assert (report.versions, report.markers, report.objects) == (5, 1, 0)
    assert await versions(door) == (1, 0)
    assert (await door.call("GET", f"/{BUCKET}/old/a")).body == b"3"


async def test_so_many_earlier_versions_are_kept(door: DoorUnderTest) -> None:
    await keep_versions(door)
    kept = EARLIER.replace("</NoncurrentDays>", "</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions>")
    await set_rules(door, rule(kept, prefix("old/")))
    for body in (b"1", b"2", b"3", b"4", b"5"):
        await put(door, "old/a", body)
    assert (await walk(door, 4)).versions == 2
    assert await versions(door) == (3, 0)


async def test_a_lock_is_stronger_than_a_rule(door: DoorUnderTest) -> None:
    made = await door.call("PUT", "/locked", headers={"x-amz-bucket-object-lock-enabled": "true"})
    assert made.status == 200, made.body
    digest = base64.b64encode(hashlib.md5(b"1").digest()).decode()  # noqa: S324 - S3 asks for this one
    held = {"x-amz-object-lock-legal-hold": "ON", "Content-MD5": digest}
    assert (await door.call("PUT", "/locked/a", b"1", held)).status == 200
    assert (await door.call("PUT", "/locked/a", b"2")).status == 200
    body = f"<LifecycleConfiguration>{rule(EARLIER)}</LifecycleConfiguration>".encode()
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()  # noqa: S324 - S3 asks for this one
    assert (await door.call("PUT", "/locked?lifecycle", body, {"Content-MD5": digest})).status == 200
    (report,) = await expiry_after(door, 9).run("locked")
    assert (report.versions, report.locked) == (0, 1)
    assert (await door.call("GET", "/locked?versions")).text.count("<Version>") == 2
