"""What listings of buckets and objects show: pages of buckets, keys that need encoding, options of others' servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.door import KEPT, Answer, DoorUnderTest, open_door


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        yield opened


# -- buckets --------------------------------------------------------------------------------------------------------


async def buckets(door: DoorUnderTest, query: str) -> Answer:
    return await door.call("GET", f"/?{query}" if query else "/")


async def test_buckets_are_listed_by_pages(door: DoorUnderTest) -> None:
    for name in ("alpha", "album", "zeta"):
        assert (await door.call("PUT", f"/{name}")).status == 200
    whole = await buckets(door, "")
    assert whole.tags("Name") == ["album", "alpha", "bucket", "zeta"]
    assert (whole.tags("BucketRegion"), whole.tags("ContinuationToken"), whole.tags("Prefix")) == ([], [], [])
    first = await buckets(door, "max-buckets=3")
    assert first.tags("Name") == ["album", "alpha", "bucket"]
    assert first.tags("BucketRegion") == ["meshhold"] * 3
    token = first.tag("ContinuationToken")
    rest = await buckets(door, f"max-buckets=3&continuation-token={quote(token, safe='')}")
    assert (rest.tags("Name"), rest.tags("ContinuationToken")) == (["zeta"], [])
    exact = await buckets(door, "prefix=al&max-buckets=2")
    assert (exact.tags("Name"), exact.tag("Prefix"), exact.tags("ContinuationToken")) == (["album", "alpha"], "al", [])


@pytest.mark.parametrize(("region", "shown"), [("meshhold", ["bucket"]), ("eu-central-1", [])])
async def test_all_buckets_are_in_the_one_region(door: DoorUnderTest, region: str, shown: list[str]) -> None:
    assert (await buckets(door, f"bucket-region={region}")).tags("Name") == shown


@pytest.mark.parametrize(
    "query", ["max-buckets=0", "max-buckets=10001", "max-buckets=-1", "max-buckets=x", "continuation-token=%21"]
)
async def test_a_page_of_buckets_that_cannot_be_is_refused(door: DoorUnderTest, query: str) -> None:
    answer = await buckets(door, query)
    assert (answer.status, answer.code, answer.tag("ArgumentName")) == (400, "InvalidArgument", query.partition("=")[0])


async def test_what_a_bucket_holds_is_told_where_it_is_asked_for(door: DoorUnderTest) -> None:
    plain = await door.call("HEAD", "/bucket")
    assert plain.headers["x-amz-bucket-region"] == "meshhold"
    assert "x-rgw-object-count" not in plain.headers
    told = (await door.call("HEAD", "/bucket?read-stats=true")).headers
    assert (told["x-rgw-object-count"], told["x-rgw-bytes-used"]) == ("1", str(len(KEPT)))


async def test_a_bucket_that_one_has_is_made_again_in_the_oldest_region_only(door: DoorUnderTest) -> None:
    again = await door.call("PUT", "/bucket")
    assert (again.status, again.code) == (409, "BucketAlreadyOwnedByYou")
    settings = replace(door.app._door.settings, region="us-east-1")
    door.app._door = replace(door.app._door, settings=settings)
    assert (await door.call("PUT", "/bucket")).status == 200
    assert (await door.call("GET", "/bucket/kept")).body == KEPT


# -- objects --------------------------------------------------------------------------------------------------------


async def test_encoded_keys_have_no_plus_signs(door: DoorUnderTest) -> None:
    for key in ("a+b c/x", "a+b c/y z", "line%0Abreak"):
        assert (await door.call("PUT", "/bucket/" + quote(key, safe="/%"), b"1")).status == 200
    found = await door.call("GET", "/bucket?list-type=2&encoding-type=url&prefix=a%2Bb%20&delimiter=%20z&start-after=a")
    assert found.tags("Key") == ["a%2Bb%20c/x"]
    assert found.tags("Prefix") == ["a%2Bb%20", "a%2Bb%20c/y%20z"]
    assert "line%0Abreak" in (await door.call("GET", "/bucket?encoding-type=url")).tags("Key")


@pytest.mark.parametrize(("prefix", "shown"), [("%0A", "\n"), ("a%20b", "a b"), ("%01", "%01"), ("%0D", "&#13;")])
async def test_the_prefix_of_a_first_version_listing_is_text_where_xml_can_carry_it(
    door: DoorUnderTest, prefix: str, shown: str
) -> None:
    assert (await door.call("GET", f"/bucket?encoding-type=url&prefix={prefix}")).tag("Prefix") == shown


@pytest.mark.parametrize("kind", ["", "list-type=2&"])
async def test_an_order_that_does_not_matter_is_the_usual_one_and_excludes_groups(
    door: DoorUnderTest, kind: str
) -> None:
    assert (await door.call("GET", f"/bucket?{kind}allow-unordered=true")).tags("Key") == ["kept"]
    refused = await door.call("GET", f"/bucket?{kind}allow-unordered=true&delimiter=/")
    assert (refused.status, refused.code) == (400, "InvalidArgument")


async def test_a_listing_names_the_checksum_that_was_added(door: DoorUnderTest) -> None:
    row = await door.call("GET", "/bucket?list-type=2")
    assert (row.tag("ChecksumAlgorithm"), row.tag("ChecksumType")) == ("CRC64NVME", "FULL_OBJECT")
