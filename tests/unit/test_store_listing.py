"""Pages of a listing against the plainest oracle: all keys, sorted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.store_kit import StoreKit, open_kit

from meshhold.index.contract import Listed
from meshhold.model.entry import ObjectVersion, Space
from meshhold.model.ids import VaultId
from meshhold.replication.index.registers import Write
from meshhold.store.directory import Bucket
from meshhold.store.listing import Page


async def fill(kit: StoreKit, bucket: Bucket, keys: list[bytes]) -> None:
    for key in keys:
        await kit.registers.change(bucket.id, Space.OBJECTS, key, lambda _: Write(ObjectVersion(1, "e", 1, b"")))


def rolled_up(keys: list[bytes], prefix: bytes, delimiter: bytes, after: bytes) -> list[bytes]:
    """Return keys and common prefixes greater than `after`, each once, in order; one that equals `after` was shown."""
    shown: list[bytes] = []
    for key in sorted(key for key in keys if key.startswith(prefix) and key > after):
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key[: at + len(delimiter)] if at >= 0 else key
        if name not in shown and not (at >= 0 and name == after):
            shown.append(name)
    return shown


def shown_by(page: Page) -> list[bytes]:
    return sorted([row.key for row in page.items] + page.prefixes)


async def walk(kit: StoreKit, bucket: Bucket, prefix: bytes, delimiter: bytes, limit: int) -> list[bytes]:
    """Follow the pages to the end; each is full but the last."""
    found: list[bytes] = []
    after = b""
    while True:
        page = await kit.listing.page(bucket, prefix, delimiter, after, limit)
        found += shown_by(page)
        if page.resume_after is None:
            return found
        assert len(page.items) + len(page.prefixes) == limit
        assert page.last == max(shown_by(page))
        after = page.resume_after


KEYS = [
    b"a", b"a/", b"a//", b"a//b", b"a/b", b"a/b/", b"a/b/c", b"a/b/d", b"a/c", b"a0", b"aa", b"aab", b"aaab", b"b/x",
    b"/", b"//", b"/x", b"-", b"z/1", b"z/2", "z/\U0010ffff".encode(), b"z0", "ä/ö".encode(), "\U0010ffff/".encode(),
]  # fmt: skip


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


@pytest.mark.parametrize("delimiter", [b"", b"/", b"//", b"aa", "ö".encode(), b"b/"])
@pytest.mark.parametrize("prefix", [b"", b"a", b"a/", b"a/b/", b"z/", b"/", b"nothing", "\U0010ffff".encode()])
async def test_every_page_size_shows_everything_once(kit: StoreKit, prefix: bytes, delimiter: bytes) -> None:
    bucket = await kit.bucket()
    await fill(kit, bucket, KEYS)
    for limit in (1, 2, 3, len(KEYS), 1000):
        found = await walk(kit, bucket, prefix, delimiter, limit)
        assert found == rolled_up(KEYS, prefix, delimiter, b""), limit


@pytest.mark.parametrize("delimiter", [b"", b"/", b"aa"])
@pytest.mark.parametrize("prefix", [b"", b"a", b"a/"])
async def test_after_any_key_or_prefix(kit: StoreKit, prefix: bytes, delimiter: bytes) -> None:
    """`start-after` and markers: whether they name a key, a common prefix, or neither."""
    bucket = await kit.bucket()
    await fill(kit, bucket, KEYS)
    for after in [*KEYS, b"a/b/cc", b"a/z", b"zzz", b"A"]:
        page = await kit.listing.page(bucket, prefix, delimiter, after, 1000)
        assert shown_by(page) == rolled_up(KEYS, prefix, delimiter, after), after


async def test_corners(kit: StoreKit) -> None:
    bucket = await kit.bucket()
    empty = await kit.listing.page(bucket, b"", b"/", b"", 10)
    assert (shown_by(empty), empty.resume_after, empty.last) == ([], None, b"")
    await fill(kit, bucket, KEYS)
    nothing = await kit.listing.page(bucket, b"", b"", b"", 0)
    assert (shown_by(nothing), nothing.resume_after) == ([], None)
    exact = await kit.listing.page(bucket, b"", b"", b"", len(KEYS))
    assert exact.resume_after is None, "a page that ends with the last key is the last page"


async def test_deleted_keys_are_not_shown(kit: StoreKit) -> None:
    bucket = await kit.bucket()
    await fill(kit, bucket, [b"a/1", b"a/2", b"b"])
    for key in (b"a/1", b"a/2"):
        await kit.objects.delete(bucket, key)
    assert await walk(kit, bucket, b"", b"/", 10) == [b"b"]


async def test_a_common_prefix_costs_one_step(kit: StoreKit) -> None:
    """A folder of many keys is passed over, not walked through."""
    bucket = await kit.bucket()
    await fill(kit, bucket, [b"big/%04d" % number for number in range(400)] + [b"small/1"])
    calls: list[int] = []
    real = kit.index.list_keys

    def counted(vault: VaultId, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        calls.append(limit)
        return real(vault, after, prefix, limit)

    kit.index.list_keys = counted  # type: ignore[method-assign] # counts the real calls
    assert await walk(kit, bucket, b"", b"/", 10) == [b"big/", b"small/"]
    assert sum(calls) < 100


TEXT = st.text(alphabet="a/b\U0010ffff", min_size=1, max_size=5).map(str.encode)


@settings(max_examples=40, deadline=None)
@given(
    keys=st.sets(TEXT, max_size=12),
    prefix=st.one_of(st.just(b""), TEXT),
    delimiter=st.sampled_from([b"", b"/", b"a", b"//", b"ab"]),
    after=st.one_of(st.just(b""), TEXT),
    limit=st.integers(1, 4),
)
def test_pages_follow_the_oracle(keys: set[bytes], prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> None:
    async def run() -> None:
        async with open_kit() as kit:
            bucket = await kit.bucket()
            await fill(kit, bucket, sorted(keys))
            assert await walk(kit, bucket, prefix, delimiter, limit) == rolled_up(list(keys), prefix, delimiter, b"")
            page = await kit.listing.page(bucket, prefix, delimiter, after, 1000)
            assert shown_by(page) == rolled_up(list(keys), prefix, delimiter, after)

    trio.run(run)
