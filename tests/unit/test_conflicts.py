"""What lost in a merge: kept with its chunks, listed, brought back, gone after its time; and no conditions there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.admin_fakes import FakeNode, serving
from tests.unit.store_kit import GRACE_S, MIB, BytesBody, StoreKit, open_kit

from meshhold.admin.calls import make_dispatch
from meshhold.cli.main import run
from meshhold.cli.session import Session
from meshhold.cli.vault_conflicts import conflicts as command
from meshhold.errors import InvalidError, NoSuchVaultError, NotFoundError, UnavailableError
from meshhold.index.contract import Name, Row
from meshhold.model.configuration import Mode
from meshhold.model.entry import Entry, Space, decode_entry, encode_entry
from meshhold.model.ids import OpId
from meshhold.replication.index.merging import CONFLICT_GRACE_MS
from meshhold.store.conflicts import Conflicts, ConflictView
from meshhold.store.contract import Metadata, WriteCondition
from meshhold.store.directory import Bucket

KEY = "fotos/ü.jpg".encode()
OURS = b"o" * MIB
THEIRS = b"t" * MIB


class Home:
    """A vault that lets each side go on alone, in which the other side's version of an object has won."""

    def __init__(self, kit: StoreKit, bucket: Bucket) -> None:
        self.kit = kit
        self.bucket = bucket
        self.conflicts = Conflicts(kit.vaults, kit.registers, kit.objects)

    async def lose(self, key: bytes = KEY) -> None:
        """Write both versions here, and merge as if neither had been built on the other."""
        kit, vault = self.kit, self.bucket.id
        await kit.put(self.bucket, key, THEIRS)
        theirs = self.row(key)
        await kit.put(self.bucket, key, OURS)
        kit.wall.pass_s(60)
        ballot = kit.clock.tick(kit.wall.ms)
        winner = Entry(OpId(ballot.pack()), decode_entry(theirs.entry).value)
        ours = replace(decode_entry(self.row(key).entry), ancestors=())
        ours_row = Row(kit.clock.tick(kit.wall.ms - 1), encode_entry(ours))
        assert await kit.replica.take_copies(vault, [(Name(Space.OBJECTS, key, ours_row.accepted), ours_row, True)])
        later = kit.clock.tick(kit.wall.ms)
        winner_row = Row(later, encode_entry(winner))
        assert await kit.replica.take_copies(vault, [(Name(Space.OBJECTS, key, later), winner_row, True)])

    def row(self, key: bytes = KEY) -> Row:
        """Return the row of an object."""
        found = self.kit.index.load(self.bucket.id, Space.OBJECTS, key)
        assert found is not None
        return found

    async def get(self) -> bytes:
        """Return the object."""
        return await self.kit.get(self.bucket, KEY)


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    async with open_kit() as kit:
        bucket = await kit.bucket()
        stable = kit.seats.configuration(bucket.id)
        await kit.seats.adopt(bucket.id, replace(stable, epoch=stable.epoch + 1, mode=Mode.AVAILABLE))
        yield Home(kit, bucket)


# -- the store ---------------------------------------------------------------------------------------------------------


async def test_what_lost_is_listed(home: Home) -> None:
    assert await home.conflicts.views("photos") == []
    await home.lose()
    (view,) = await home.conflicts.views("photos")
    assert (view.key, view.size) == ("fotos/ü.jpg", MIB)
    assert len(view.id) == 32
    assert view.node == home.kit.directory.identity.node_id[: len(view.node)]
    left_ms = view.kept_until_ms - home.kit.wall.ms
    assert CONFLICT_GRACE_MS - 1_000 < left_ms < CONFLICT_GRACE_MS + 1_000
    with pytest.raises(NoSuchVaultError):
        await home.conflicts.views("nowhere")


async def test_what_lost_comes_back_once(home: Home) -> None:
    await home.lose()
    assert await home.get() == THEIRS
    (view,) = await home.conflicts.views("photos")
    assert await home.conflicts.restore("photos", view.id[:16].upper()) == view
    assert await home.get() == OURS
    assert (await home.kit.objects.find(home.bucket, KEY)).modified_ms == home.kit.wall.ms
    assert await home.conflicts.views("photos") == []
    with pytest.raises(NotFoundError, match="vault conflicts photos"):
        await home.conflicts.restore("photos", view.id)


async def test_an_id_must_name_one_version(home: Home) -> None:
    await home.lose(b"a")
    await home.lose(b"b")
    with pytest.raises(InvalidError, match="2 versions"):
        await home.conflicts.restore("photos", "0")
    with pytest.raises(NotFoundError):
        await home.conflicts.restore("photos", "")


async def test_content_that_is_elsewhere_is_not_brought_back(home: Home) -> None:
    await home.lose()
    (view,) = await home.conflicts.views("photos")
    stats = list(home.kit.chunks.scan(home.bucket.id))
    for stat in stats:
        home.kit.chunks.remove_if_unused_since(home.bucket.id, stat.chunk, home.kit.wall.now_s() + 1)
    with pytest.raises(NotFoundError, match=view.node):
        await home.conflicts.restore("photos", view.id)
    assert await home.conflicts.views("photos") == [view]


async def test_the_chunks_stay_as_long_as_it_is_kept(home: Home) -> None:
    await home.lose()
    stored = home.kit.stored(home.bucket)
    home.kit.wall.pass_s(2 * GRACE_S)
    assert await home.kit.collect() == 0
    (view,) = await home.conflicts.views("photos")
    await home.conflicts.restore("photos", view.id)
    assert await home.get() == OURS
    home.kit.wall.pass_s(2 * GRACE_S)
    assert 0 < await home.kit.collect() < stored  # the version that was current meanwhile


async def test_they_go_with_it_when_its_time_is_over(home: Home) -> None:
    await home.lose()
    home.kit.wall.pass_s(CONFLICT_GRACE_MS / 1000 + 60)
    assert await home.kit.collect() > 0
    assert await home.conflicts.views("photos") == []
    assert await home.get() == THEIRS


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [WriteCondition(if_absent=True), WriteCondition(if_match=("*",))])
async def test_no_write_can_be_conditional(home: Home, condition: WriteCondition) -> None:
    kit, bucket = home.kit, home.bucket
    version = await kit.put(bucket, KEY, OURS)
    upload_id, claims = await kit.upload(bucket, b"big", THEIRS)
    with pytest.raises(UnavailableError, match="consistency: available"):
        await kit.put(bucket, b"other", OURS, condition)
    with pytest.raises(UnavailableError):
        await kit.objects.delete(bucket, KEY, condition)
    with pytest.raises(UnavailableError):
        await kit.objects.copy(bucket, KEY, version, bucket, b"copy", None, condition)
    with pytest.raises(UnavailableError):
        await kit.objects.commit(bucket, KEY, version, condition)
    with pytest.raises(UnavailableError):
        await kit.complete(bucket, b"big", upload_id, claims, condition)
    await kit.complete(bucket, b"big", upload_id, claims, WriteCondition())
    assert kit.object_count(bucket.id) == 2


async def test_a_condition_is_refused_before_the_body_is_read(home: Home) -> None:
    body = BytesBody(OURS)
    with pytest.raises(UnavailableError):
        await home.kit.objects.put(home.bucket, KEY, body, Metadata(), WriteCondition(if_absent=True))
    assert await body.receive() != b""
    assert home.kit.stored(home.bucket) == 0


# -- people ------------------------------------------------------------------------------------------------------------

VIEW = ConflictView(
    id="018bcfe58f110000" + "ab" * 8,
    key="cat\x1b[31m.jpg",
    size=2048,
    etag="e",
    modified_ms=1_700_000_000_000,
    kept_until_ms=1_702_592_000_000,
    node="abcdefgh",
)


class FakeConflicts:
    """Kept versions in memory."""

    def __init__(self) -> None:
        self.kept = [VIEW]

    async def views(self, ref: str) -> list[ConflictView]:
        """Return all."""
        assert ref == "photos"
        return self.kept

    async def restore(self, ref: str, identifier: str) -> ConflictView:
        """Take one away."""
        assert ref == "photos"
        if not VIEW.id.startswith(identifier):
            raise NotFoundError("no such version")
        self.kept = []
        return VIEW


@pytest.fixture
def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[FakeConflicts]:
    monkeypatch.setenv("MESHHOLD_HOME", str(tmp_path))
    monkeypatch.delenv("MESHHOLD_CONFIG", raising=False)
    assert run(["init"]) == 0
    capsys.readouterr()
    fake, kept = FakeNode(), FakeConflicts()
    dispatch = make_dispatch(fake, fake, fake, fake.status, fake.mesh, fake.members, kept)
    with serving(tmp_path / "control.sock", dispatch):
        yield kept


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    command.main(list(arguments), obj=Session(), standalone_mode=False)
    return capsys.readouterr().out


def test_a_table_for_people_and_json_for_scripts(served: FakeConflicts, capsys: pytest.CaptureFixture[str]) -> None:
    header, line = shown(capsys, "photos").splitlines()
    assert header.split("  ")[0] == "ID"
    assert line.split()[:4] == ["018bcfe58f110000", "cat\\x1b[31m.jpg", "2.0", "KiB"]
    (found,) = json.loads(shown(capsys, "photos", "--json"))
    assert found == {name: getattr(VIEW, name) for name in VIEW.__slots__}
    served.kept = []
    assert shown(capsys, "photos") == "nothing is kept aside\n"


def test_restore(served: FakeConflicts, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "photos", "--restore", VIEW.id[:16]).startswith("cat\\x1b[31m.jpg is again as of 2023-11-1")
    assert served.kept == []


def test_a_long_list_says_that_it_is_cut(served: FakeConflicts, capsys: pytest.CaptureFixture[str]) -> None:
    served.kept = [VIEW] * 1_000
    command.main(["photos"], obj=Session(), standalone_mode=False)
    assert capsys.readouterr().err == "These are the first 1000.\n"
