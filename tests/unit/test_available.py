"""Each side goes on alone; on contact what they wrote is merged: equal everywhere, and nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from tests.unit.healing_kit import VAULT, WINDOW_MS, Mesh, Node, entry, open_mesh, register, version
from trio.testing import MockClock, wait_all_tasks_blocked

from meshhold.errors import (
    MeshHoldError,
    NoMajorityError,
    ProtocolError,
    StorageFullError,
    UnavailableError,
    UnknownOutcomeError,
)
from meshhold.index.contract import Name, Row
from meshhold.model.configuration import Mode
from meshhold.model.entry import ANCESTORS_KEPT, Entry, ObjectVersion, Space, Value, encode_entry
from meshhold.model.ids import short_id
from meshhold.model.stamp import Stamp, unpack_stamp
from meshhold.register.acceptor import HORIZON_STEP_MS, Skewed, Stale
from meshhold.replication.index import replica
from meshhold.replication.index.contract import Absent, Outdated
from meshhold.replication.index.merging import CONFLICT_GRACE_MS, conflict_key, split_conflict_key
from meshhold.replication.index.registers import KEEP, Change, Write
from meshhold.replication.index.replica_wire import MERGE

LATER_MS = 3 * HORIZON_STEP_MS
"""A node's stamps run ahead of its clock by a step after a restart or a change of epoch: so much later is later."""


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with open_mesh() as opened:
        yield opened


async def available(mesh: Mesh, count: int = 2) -> list[Node]:
    """Found a vault on some nodes and let each side go on alone from now on."""
    nodes = await mesh.found(count)
    await nodes[0].reconfiguration.change(VAULT, [node.node for node in nodes], Mode.AVAILABLE)
    await wait_all_tasks_blocked()
    mesh.pass_ms(LATER_MS)
    return nodes


async def sync(nodes: list[Node]) -> None:
    """Let everybody compare with everybody, until nothing differs."""
    await wait_all_tasks_blocked()
    for _ in range(3):
        for node in nodes:
            for other in nodes:
                if other is not node:
                    await node.sync.pull(VAULT, other.node)
    assert len({node.digests for node in nodes}) == 1


async def mend(mesh: Mesh) -> None:
    """Join the sides again, after what was on its way between them got lost."""
    await wait_all_tasks_blocked()
    mesh.cut = set()


def rows(node: Node, space: Space) -> dict[bytes, Row]:
    """Return the rows of a replica."""
    return dict(node.index.scan(VAULT, space, b"", b"", 10_000))


def assert_equal(nodes: list[Node]) -> None:
    """Check that all rows are the same everywhere, their bytes too."""
    for space in (Space.OBJECTS, Space.CONFLICTS):
        first, *others = (rows(node, space) for node in nodes)
        assert all(other == first for other in others)


async def kept(node: Node) -> list[tuple[str, str]]:
    """Return key and text of what a node keeps aside."""
    found = await node.registers.scan(VAULT, Space.CONFLICTS, b"", b"", 1_000)
    return [
        (split_conflict_key(key)[0].decode(), each.value.etag)
        for key, each in found
        if isinstance(each.value, ObjectVersion)
    ]


async def listed(node: Node) -> list[str]:
    """Return the keys that a node lists."""
    reading = node.registers.open_reading(VAULT)
    found = await reading.rows(b"", b"", 1_000)
    assert await reading.settle()
    return [row.key.decode() for row in found]


# -- both alone --------------------------------------------------------------------------------------------------------


async def test_one_side_writes_reads_lists_and_deletes_while_the_other_is_gone(mesh: Mesh) -> None:
    one, _ = await available(mesh)
    mesh.cut = {1}
    mesh.calls.clear()
    await one.put("a", "1")
    await one.put("b", "2")
    await one.delete("a")
    assert (await one.get("a"), await one.get("b"), await listed(one)) == (None, "2", ["b"])
    await wait_all_tasks_blocked()
    assert not mesh.calls  # the link is down; no round was tried


async def test_a_write_needs_no_round_and_reaches_the_other_by_itself(mesh: Mesh) -> None:
    one, two = await available(mesh)
    mesh.calls.clear()
    await one.put("k", "x")
    await wait_all_tasks_blocked()
    assert mesh.calls == {MERGE: 1}
    assert await two.get("k") == "x"
    assert_equal([one, two])
    assert await kept(one) == []


async def test_what_both_wrote_is_merged_the_later_stays_and_the_other_is_kept(mesh: Mesh) -> None:
    one, two = await available(mesh)
    await one.put("k", "before")
    await wait_all_tasks_blocked()
    mesh.cut = {0}
    await one.put("k", "one")
    await one.put("only one", "x")
    mesh.pass_ms(LATER_MS)
    await two.put("k", "two")
    await two.put("only two", "y")
    await mend(mesh)
    await sync([one, two])
    assert_equal([one, two])
    for node in (one, two):
        assert await node.get("k") == "two"
        assert await kept(node) == [("k", "one")]
        assert await listed(node) == ["k", "only one", "only two"]


async def test_the_sides_meet_by_a_write_too(mesh: Mesh) -> None:
    """Whoever hands over an entry takes a later one in return, and each keeps what lost."""
    one, two = await available(mesh)
    mesh.cut = {0}
    await one.put("k", "one")
    mesh.pass_ms(LATER_MS)
    await two.put("k", "two")
    ballot = two.row("k")
    await mend(mesh)
    mesh.wall.ms -= LATER_MS - 100  # the first one's clock is behind
    await one.put("k", "one again")
    await wait_all_tasks_blocked()
    assert one.row("k") == two.row("k") == ballot
    assert await kept(two) == [("k", "one again")]
    assert await kept(one) == [("k", "one again")]


async def test_a_deletion_that_is_later_wins_and_the_object_is_kept(mesh: Mesh) -> None:
    one, two = await available(mesh)
    await one.put("k", "before")
    await wait_all_tasks_blocked()
    mesh.cut = {0}
    await one.put("k", "written")
    mesh.pass_ms(LATER_MS)
    await two.delete("k")
    await mend(mesh)
    await sync([one, two])
    assert_equal([one, two])
    assert (await one.get("k"), await kept(two)) == (None, [("k", "written")])


async def test_an_object_that_is_later_wins_and_a_deletion_leaves_nothing(mesh: Mesh) -> None:
    one, two = await available(mesh)
    await one.put("k", "before")
    await wait_all_tasks_blocked()
    mesh.cut = {0}
    await two.delete("k")
    mesh.pass_ms(LATER_MS)
    await one.put("k", "written")
    await mend(mesh)
    await sync([one, two])
    assert_equal([one, two])
    assert (await two.get("k"), await kept(two)) == ("written", [])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
async def test_three_sides_keep_two_that_lost(mesh: Mesh, order: tuple[int, ...]) -> None:
    nodes = await available(mesh, 3)
    mesh.cut = {0, 1, 2}
    for number in order:
        mesh.pass_ms(LATER_MS)
        await nodes[number].put("k", f"{number}")
    await mend(mesh)
    await sync(nodes)
    assert_equal(nodes)
    assert await nodes[0].get("k") == f"{order[-1]}"
    assert sorted(await kept(nodes[0])) == sorted(("k", f"{number}") for number in order[:-1])


async def test_a_restart_in_between_loses_nothing(mesh: Mesh) -> None:
    one, two = await available(mesh)
    mesh.cut = {0}
    await one.put("k", "one")
    one = await mesh.restart(0)
    await one.put("k", "one again")
    mesh.pass_ms(60_000)
    await two.put("k", "two")
    two = await mesh.restart(1)
    await mend(mesh)
    await sync([one, two])
    assert_equal([one, two])
    assert (await one.get("k"), await kept(one)) == ("two", [("k", "one again")])
    await one.put("k", "later")
    assert await one.get("k") == "later"


async def test_many_overwrites_of_one_side_keep_what_they_cannot_be_known_to_follow(mesh: Mesh) -> None:
    """Beyond the ancestry that an entry carries the other side's version may be unseen; within it, it is not."""
    one, two = await available(mesh)
    for key in ("few", "many"):
        await one.put(key, "shared")
    await wait_all_tasks_blocked()
    mesh.cut = {1}
    for number in range(ANCESTORS_KEPT):
        await one.put("few", f"{number}")
    for number in range(ANCESTORS_KEPT + 1):
        await one.put("many", f"{number}")
    await mend(mesh)
    await sync([one, two])
    assert_equal([one, two])
    assert await two.get("many") == f"{ANCESTORS_KEPT}"
    assert await kept(two) == [("many", "shared")]


async def test_an_upload_that_loses_is_not_kept_as_an_object(mesh: Mesh) -> None:
    one, two = await available(mesh)
    mesh.cut = {0}
    name = (VAULT, Space.PARTS, b"p" * 18)
    for node in (one, two):
        await node.registers.change(*name, lambda _: Write(version("part")))
    await mend(mesh)
    await sync([one, two])
    assert await kept(one) == []


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_what_lost_goes_after_the_grace_everywhere_and_does_not_return(mesh: Mesh) -> None:
    """The grace counts from when it was found, however long the sides were apart."""
    one, two = await available(mesh)
    mesh.cut = {0}
    await one.put("k", "one")
    await two.put("k", "two")
    mesh.pass_ms(2 * CONFLICT_GRACE_MS)
    await mend(mesh)
    await sync([one, two])
    assert await one.registers.expire_conflicts(VAULT) == 0
    assert len(await kept(one)) == 1
    mesh.pass_ms(CONFLICT_GRACE_MS + 1_000)
    assert await one.registers.expire_conflicts(VAULT) == 1
    assert (await one.sync.pull(VAULT, two.node)).complete
    assert (await kept(one), len(await kept(two))) == ([], 1)
    assert await two.registers.expire_conflicts(VAULT) == 1
    await sync([one, two])
    assert len(await listed(one)) == 1


async def test_what_was_taken_away_is_gone_everywhere(mesh: Mesh) -> None:
    one, two = await available(mesh)
    mesh.cut = {0}
    await one.put("k", "one")
    mesh.pass_ms(LATER_MS)
    await two.put("k", "two")
    await mend(mesh)
    await sync([one, two])
    ((key, _),) = rows(one, Space.CONFLICTS).items()
    mesh.pass_ms(LATER_MS)
    await one.registers.change(VAULT, Space.CONFLICTS, key, lambda _: Write(None))
    await wait_all_tasks_blocked()
    await sync([one, two])
    assert (await kept(one), await kept(two)) == ([], [])
    _, op = split_conflict_key(key)
    again = Row(unpack_stamp(op), encode_entry(Entry(op, version("one"))))
    assert await one.replica.take_copies(VAULT, [_copy("k", again)]) == [True]
    assert await kept(one) == []


def _copy(key: str, row: Row) -> tuple[Name, Row, bool]:
    return Name(Space.OBJECTS, key.encode(), row.accepted), row, True


async def test_more_merges_than_one_commit_holds_keep_each_loser(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await available(mesh)
    monkeypatch.setattr(replica, "COPIES_MAX", 7)
    mine = [_copy(f"k{number:04}", Row(one.stamp(), encode_entry(entry("one")))) for number in range(100)]
    theirs = [
        _copy(f"k{number:04}", Row(two.stamp(), encode_entry(entry("two", b"%016d" % number)))) for number in range(100)
    ]
    assert all(await one.replica.take_copies(VAULT, mine))
    assert all(await one.replica.take_copies(VAULT, theirs))
    assert len(await kept(one)) == 100
    assert await one.registers.expire_conflicts(VAULT) == 0


async def test_a_clock_that_is_far_ahead_wins_nothing(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    """Neither by handing over nor by comparison; once the time has come, its entry is merged as any other."""
    one, two = await available(mesh)
    far = Stamp(mesh.wall.ms + 2 * WINDOW_MS << 16, two.stamp_node)
    answer = await one.replica.merge(3, register("k"), far, entry("far"))
    assert answer == Skewed(two.stamp_node, 2 * WINDOW_MS)
    copy = _copy("k", Row(far, encode_entry(entry("far"))))
    assert await one.replica.take_copies(VAULT, [copy]) == [False]
    assert "1 entries wait" in caplog.text
    await one.put("k", "right")
    assert await one.get("k") == "right"
    mesh.pass_ms(2 * WINDOW_MS)
    assert await one.replica.take_copies(VAULT, [copy]) == [True]
    assert (await one.get("k"), await kept(one)) == ("far", [("k", "right")])


async def test_a_message_from_before_a_forgotten_deletion_revives_nothing(mesh: Mesh) -> None:
    one, two = await available(mesh)
    await one.put("k", "x")
    late = two.stamp()
    await one.delete("k")
    await wait_all_tasks_blocked()
    mesh.pass_ms(3 * WINDOW_MS)
    await sync([one, two])
    assert await one.tombstones.sweep(VAULT, WINDOW_MS) == 1
    assert rows(two, Space.OBJECTS) == {}
    mesh.wall.ms -= 3 * WINDOW_MS  # so that not the window refuses it
    assert isinstance(await two.replica.merge(3, register("k"), late, entry("late")), Stale)
    assert await two.get("k") is None


async def test_a_full_disk_refuses_objects_and_takes_deletions(mesh: Mesh) -> None:
    one, _ = await available(mesh)
    await one.put("k", "x")

    def full() -> None:
        raise StorageFullError("no room")

    one.replica._check_room = full
    with pytest.raises(StorageFullError):
        await one.put("other", "x")
    await one.delete("k")
    assert await listed(one) == []


# -- without a seat ----------------------------------------------------------------------------------------------------


async def test_a_node_without_a_seat_reads_and_writes_through_the_first_that_answers(mesh: Mesh) -> None:
    one, two = await available(mesh)
    guest = await mesh.add()
    await guest.seats.adopt(VAULT, one.seats.configuration(VAULT))
    await guest.put("k", "x")
    await wait_all_tasks_blocked()
    assert await guest.get("k") == "x"
    assert await listed(guest) == ["k"]
    mesh.cut = {0}
    await guest.put("j", "y")
    await guest.delete("k")
    assert await listed(guest) == ["j"]
    assert [key async for key in _keys(guest)] == [b"j", b"k"]
    mesh.cut = {0, 1}
    with pytest.raises(NoMajorityError, match=short_id(one.node)):
        await guest.get("k")
    with pytest.raises(NoMajorityError):
        await guest.put("k", "z")
    await mend(mesh)
    await sync([one, two])
    assert_equal([one, two])


async def _keys(node: Node) -> AsyncIterator[bytes]:
    for key, _ in await node.registers.scan(VAULT, Space.OBJECTS, b"", b"", 10):
        yield key


async def test_pages_of_large_entries_come_whole(mesh: Mesh) -> None:
    """A replica answers with fewer rows than were asked for when they are large."""
    one, _ = await available(mesh)
    guest = await mesh.add()
    await guest.seats.adopt(VAULT, one.seats.configuration(VAULT))
    for number in range(12):
        await one.put(f"k{number:02}", "x" * 16_000)
    assert len([key async for key in _keys(guest)]) == 10


async def test_an_answer_that_is_lost_leaves_the_outcome_open(mesh: Mesh) -> None:
    """Unless another replica takes the same change: that is the same as once."""
    one, two = await available(mesh)
    guest = await mesh.add()
    await guest.seats.adopt(VAULT, one.seats.configuration(VAULT))
    carry = mesh.carry
    deaf: set[int] = {0, 1}

    async def lossy(caller: Node, peer: object, name: str, body: object) -> object:
        answer = await carry(caller, peer, name, body)  # type: ignore[arg-type] # as in `Mesh.carry`
        if caller is guest and name == MERGE and mesh.by_id[peer].number in deaf:  # type: ignore[index] # same
            raise UnknownOutcomeError("the answer is lost")
        return answer

    mesh.carry = lossy  # type: ignore[method-assign] # a network that loses answers
    with pytest.raises(UnknownOutcomeError, match="may or may not"):
        await guest.put("k", "lost")
    deaf.remove(1)
    await guest.put("j", "heard")
    await wait_all_tasks_blocked()
    await sync([one, two])
    assert (await kept(one), await listed(one)) == ([], ["j", "k"])


async def test_a_wiped_replica_serves_through_the_other_until_it_is_refilled(mesh: Mesh) -> None:
    one, two = await available(mesh)
    await one.put("k", "x")
    await wait_all_tasks_blocked()
    configuration = one.seats.configuration(VAULT)
    two = await mesh.restart(1, wiped=True)
    await two.seats.adopt(VAULT, configuration)
    assert await two.get("k") == "x"
    await two.put("k", "y")
    assert await one.get("k") == "y"
    answer = await two.replica.merge(configuration.epoch, register("k"), one.stamp(), entry("z"))
    assert isinstance(answer, Absent)


# -- conditions --------------------------------------------------------------------------------------------------------


async def test_a_conditional_change_is_refused_with_the_way_out(mesh: Mesh) -> None:
    one, _ = await available(mesh)
    with pytest.raises(UnavailableError, match="--consistency linearizable"):
        await one.registers.change(VAULT, Space.OBJECTS, b"k", lambda _: Write(version("x")), conditional=True)
    with pytest.raises(UnavailableError, match="If-Match"):
        one.registers.check_conditional(VAULT)
    assert await one.get("k") is None


async def test_a_decision_to_keep_writes_nothing_and_promises_are_not_asked_for(mesh: Mesh) -> None:
    one, _ = await available(mesh)
    await one.put("k", "x")
    before = one.row("k")
    seen: list[Value | None] = []

    def decide(current: Value | None) -> Change:
        seen.append(current)
        return KEEP

    changed = await one.registers.change(VAULT, Space.OBJECTS, b"k", decide)
    assert (changed.before, changed.after, one.row("k")) == (changed.after, changed.before, before)
    assert seen == [version("x")]
    assert one.registers.early(VAULT, Space.OBJECTS, b"k") is None


# -- from one way to the other -----------------------------------------------------------------------------------------


async def test_a_change_back_to_rounds_settles_what_differs_and_keeps_what_lost(mesh: Mesh) -> None:
    one, two = await available(mesh)
    mesh.cut = {0}
    for key in ("a", "b"):
        await one.put(key, "one")
        mesh.pass_ms(LATER_MS)
        await two.put(key, "two")
    await one.put("only", "one")
    one, two = await mesh.restart(0), await mesh.restart(1)
    await mend(mesh)
    await two.reconfiguration.change(VAULT, [one.node, two.node], Mode.LINEARIZABLE)
    for node in (one, two):
        assert (await node.get("a"), await node.get("b"), await node.get("only")) == ("two", "two", "one")
    await sync([one, two])
    assert_equal([one, two])
    assert await kept(one) == await kept(two) == [("a", "one"), ("b", "one")]


async def test_a_round_of_the_joint_epoch_keeps_what_it_replaces(mesh: Mesh) -> None:
    """A client's write comes before the replicas were compared."""
    one, two = await available(mesh)
    mesh.cut = {0}
    await one.put("k", "one")
    mesh.pass_ms(LATER_MS)
    await two.put("k", "two")
    await mend(mesh)
    joint = one.seats.configuration(VAULT).begin_change([one.node, two.node], Mode.LINEARIZABLE)
    for node in (one, two):
        await node.seats.adopt(VAULT, joint)
    mesh.pass_ms(LATER_MS)
    await one.registers.change(VAULT, Space.OBJECTS, b"k", lambda _: Write(version("three")), conditional=True)
    await wait_all_tasks_blocked()
    assert await kept(one) == [("k", "one")]
    found = await two.registers.read(VAULT, Space.OBJECTS, b"k")
    assert found is not None
    assert (found.value, found.generation) == (version("three"), 2)  # the other one's entry the round has seen


async def test_merging_ends_with_the_joint_epoch(mesh: Mesh) -> None:
    one, two = await available(mesh)
    stable = one.seats.configuration(VAULT)
    joint = stable.begin_change([one.node, two.node], Mode.LINEARIZABLE)
    await one.seats.adopt(VAULT, joint)
    assert await one.replica.merge(stable.epoch, register("k"), two.stamp(), entry("x")) == Outdated(joint)
    with pytest.raises(ProtocolError, match="by rounds"):
        await one.replica.merge(joint.epoch, register("k"), two.stamp(), entry("x"))
    await two.put("k", "x")  # taken by one replica, whose hand-over then meets the joint epoch
    await wait_all_tasks_blocked()
    assert two.seats.configuration(VAULT) == joint
    assert await one.get("k") == "x"


async def test_a_write_whose_epoch_ended_while_it_was_saved_is_settled_by_a_round(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await available(mesh)
    joint = one.seats.configuration(VAULT).begin_change([one.node, two.node], Mode.LINEARIZABLE)
    save = one.index.save

    async def slow(*arguments: object, **facts: object) -> None:
        monkeypatch.setattr(one.index, "save", save)
        for node in (one, two):
            await node.seats.adopt(VAULT, joint)
        await save(*arguments, **facts)  # type: ignore[arg-type] # handed through

    await one.put("before")  # so that nothing but the entry is to be saved
    monkeypatch.setattr(one.index, "save", slow)
    await one.put("k", "x")
    assert two.row("k") is not None
    assert (await two.get("k"), await kept(one)) == ("x", [])


async def test_rows_that_came_by_rounds_are_not_kept_when_they_are_replaced(mesh: Mesh) -> None:
    """Once the time of going alone is over, an entry that a round left unfinished is nothing that was acknowledged."""
    one, two = await available(mesh)
    await one.reconfiguration.change(VAULT, [one.node, two.node], Mode.LINEARIZABLE)
    await one.put("j", "x")
    mesh.pass_ms(LATER_MS)
    await one.put("k", "settled")
    mesh.pass_ms(60_000)
    await one.plant("k", one.stamp(), "unfinished")
    mesh.pass_ms(LATER_MS)
    await two.replica.accept(
        two.seats.configuration(VAULT).epoch, register("k"), two.stamp(), entry("chosen", b"c" * 16)
    )
    await one.sync.pull(VAULT, two.node)
    await wait_all_tasks_blocked()
    assert (await one.get("k"), await kept(one)) == ("chosen", [])


async def test_a_new_replica_takes_what_was_kept_along(mesh: Mesh) -> None:
    one, two = await available(mesh)
    mesh.cut = {0}
    await one.put("k", "one")
    mesh.pass_ms(LATER_MS)
    await two.put("k", "two")
    await mend(mesh)
    await sync([one, two])
    three = await mesh.add()
    await one.reconfiguration.change(VAULT, [one.node, two.node, three.node], Mode.AVAILABLE)
    assert (await three.get("k"), await kept(three)) == ("two", [("k", "one")])
    mesh.cut = {0, 1}
    await three.put("k", "three")
    assert await three.get("k") == "three"


async def test_while_the_set_changes_nobody_acknowledges_alone(
    mesh: Mesh,
    autojump_clock: MockClock,  # noqa: ARG001 - pytest-trio finds the clock by the argument
) -> None:
    one, two = await available(mesh)
    joint = one.seats.configuration(VAULT).begin_change([one.node], Mode.AVAILABLE)
    for node in (one, two):
        await node.seats.adopt(VAULT, joint)
    mesh.cut = {1}
    with pytest.raises(MeshHoldError):
        await two.put("k", "x")
    await mend(mesh)
    await two.put("k", "x")
    assert one.row("k") is not None


async def test_keys_of_kept_rows_name_the_object_and_the_change(mesh: Mesh) -> None:
    one, two = await available(mesh)
    mesh.cut = {0}
    await one.put("k", "one")
    lost = one.row("k")
    mesh.pass_ms(LATER_MS)
    await two.put("k", "two")
    await mend(mesh)
    await sync([one, two])
    assert lost is not None
    assert list(rows(two, Space.CONFLICTS)) == [conflict_key(b"k", type(entry(None).op)(lost.pack()))]
    await trio.lowlevel.checkpoint()
