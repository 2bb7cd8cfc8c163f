"""What a replica missed comes from another one: all of it, at the cost of the difference, and against no promise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.healing_kit import VAULT, Mesh, Node, entry, open_mesh, register, stamp_at, wait_until
from trio.testing import MockClock, wait_all_tasks_blocked

from meshhold.errors import CallRefusedError, PeerUnreachableError, ProtocolError, ReplicaRefusedError
from meshhold.index.contract import Change, Row
from meshhold.index.projection import change_of
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Space
from meshhold.model.stamp import ZERO
from meshhold.register.rounds import Answer
from meshhold.replication.healing import differences, index_sync
from meshhold.replication.healing.healing_wire import BUCKET_DIGESTS, BUCKET_NAMES, HOLDS, ROWS, SETTLE
from meshhold.replication.index.replica_wire import PREPARE


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with open_mesh() as opened:
        yield opened


async def fill(nodes: list[Node], first: int, count: int, *, size: int = 60) -> None:
    """Let these replicas hold `count` objects, as if rounds had put them there."""
    ballots = [nodes[0].stamp() for _ in range(count)]
    changes: list[Change] = [
        change_of(Space.OBJECTS, f"photo {first + at:06}".encode(), ballot, entry("x" * size))
        for at, ballot in enumerate(ballots)
    ]
    for node in nodes:
        for at in range(0, count, 1_000):
            await node.index.save_many(VAULT, changes[at : at + 1_000])


async def test_a_replica_that_was_away_gets_what_it_missed(mesh: Mesh) -> None:
    """Objects, overwritten ones and deletions; then one hash tells that nothing differs."""
    one, _, late = await mesh.found(3)
    for at in range(5):
        await one.put(f"k{at}", "before")
    await wait_all_tasks_blocked()
    mesh.cut = {2}
    for at in range(3, 40):
        await one.put(f"k{at}", "after")
    await one.delete("k1")
    mesh.cut = set()
    pulled = await late.sync.pull(VAULT, one.node)
    assert pulled.complete
    assert (pulled.rows, pulled.settled) == (38, 0)
    assert late.digests == one.digests
    mesh.calls.clear()
    assert await late.sync.pull(VAULT, one.node) == (True, 0, 0, 0)
    assert mesh.calls == {BUCKET_DIGESTS: 1}


async def test_two_that_differ_exchange_about_what_differs(mesh: Mesh) -> None:
    """Beside 600 old rows, 20 new ones cost names and rows of 20."""
    nodes = await mesh.found(3)
    await fill(nodes, 0, 600)
    one, _, late = nodes
    mesh.pass_ms(3_600_000)
    await fill([one], 600, 1)
    assert (await late.sync.pull(VAULT, one.node)).complete
    mesh.pass_ms(3_600_000)
    await fill(nodes[:2], 601, 20)
    mesh.bytes = 0
    pulled = await late.sync.pull(VAULT, one.node)
    assert pulled.rows == 20
    assert mesh.bytes < 8_192 + 20 * 600


async def test_rows_older_than_the_bound_are_found_by_their_digest(mesh: Mesh) -> None:
    """A row that nobody would look for, because it is older than the last comparison."""
    nodes = await mesh.found(3)
    one, two, late = nodes
    await fill(nodes, 0, 200)
    old = one.stamp()
    mesh.pass_ms(7_200_000)
    assert (await late.sync.pull(VAULT, one.node)).complete
    for node in (one, two):
        await node.index.save_many(VAULT, [change_of(Space.OBJECTS, b"stray", old, entry("stray"))])
    assert (await late.sync.pull(VAULT, one.node)).rows == 1
    assert late.digests == one.digests


async def test_many_names_come_in_several_messages(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one bucket alone; every message stays below its bound."""
    monkeypatch.setattr(differences, "NAMES_SIZE_MAX", 1_000)
    monkeypatch.setattr(differences, "_PAGE", 7)
    nodes = await mesh.found(3)
    await fill(nodes[:2], 0, 300)
    pulled = await nodes[2].sync.pull(VAULT, nodes[0].node)
    assert (pulled.complete, pulled.rows) == (True, 300)
    bucket = max(range(1024), key=lambda at: len(nodes[0].index.bucket_names(VAULT, at, 99)))
    names = nodes[0].index.bucket_names(VAULT, bucket, 99)
    monkeypatch.setattr(differences, "NAMES_MAX", 2)
    pages = []
    after = None
    while True:
        (page, *_) = differences.read_page(nodes[0].index, VAULT, [bucket], ZERO, after)
        pages.append(page)
        if page.whole:
            break
        after = page.names[-1][:2]
    assert [name for page in pages for name in page.names] == names
    assert len(pages) > 1


async def test_what_a_quorum_holds_is_taken_against_a_promise(mesh: Mesh) -> None:
    """Whoever got the promise has seen it at that quorum."""
    one, two, late = await mesh.found(3)
    mesh.cut = {2}
    await one.put("k", "chosen")
    mesh.cut = set()
    promised = await late.replica.prepare(1, register("k"), two.stamp())
    assert isinstance(promised, Answer)
    pulled = await late.sync.pull(VAULT, one.node)
    assert (pulled.complete, pulled.rows, pulled.settled) == (True, 1, 0)
    assert late.row("k") == one.row("k")


async def test_what_one_replica_holds_is_not_taken_against_a_promise(mesh: Mesh) -> None:
    """It may never be chosen: a round decides, and it is that round's ballot that is here then."""
    one, _, late = await mesh.found(3)
    ballot = one.stamp()
    await one.plant("k", ballot, "lonely")
    promised = await late.replica.prepare(1, register("k"), late.stamp())
    assert isinstance(promised, Answer)
    pulled = await late.sync.pull(VAULT, one.node)
    assert (pulled.complete, pulled.rows, pulled.settled) == (True, 0, 1)
    row = late.row("k")
    assert row is not None
    assert row > ballot
    assert await late.get("k") == "lonely"


async def test_an_entry_that_a_quorum_knows_nothing_of_is_settled_by_who_holds_it(mesh: Mesh) -> None:
    """A deletion that one replica took and nobody else; the others agree on something older and need no round."""
    one, two, lonely = await mesh.found(3)
    await one.put("k", "agreed")
    await wait_all_tasks_blocked()
    await lonely.plant("k", lonely.stamp(), None)
    assert isinstance(await one.replica.prepare(1, register("k"), one.stamp()), Answer)

    async def hide(caller: Node, target: Node, name: str, _body: Any) -> None:
        if caller is one and target is lonely and name == PREPARE:
            raise PeerUnreachableError("it is slow")

    mesh.before_call = hide
    pulled = await one.sync.pull(VAULT, lonely.node)
    assert pulled.complete
    assert mesh.calls[SETTLE] == 1
    await one.sync.pull(VAULT, lonely.node)
    await two.sync.pull(VAULT, lonely.node)
    assert one.digests == two.digests == lonely.digests


async def test_what_one_replica_holds_is_taken_as_its_proposer_s_late_message(mesh: Mesh) -> None:
    one, _, late = await mesh.found(3)
    ballot = one.stamp()
    await one.plant("k", ballot)
    pulled = await late.sync.pull(VAULT, one.node)
    assert (pulled.rows, pulled.settled) == (1, 0)
    assert late.row("k") == ballot


async def test_a_replica_that_forgot_a_ballot_is_no_witness_of_it(mesh: Mesh) -> None:
    """An empty replica whose floor is above the ballot does not hold it: it proves nothing."""
    one, _, late = await mesh.found(3)
    ballot = one.stamp()
    await one.plant("k", ballot)
    other = await mesh.restart(1)
    await other.replica.raise_floor(late.stamp())
    assert await late.fellows(other.node).holds(VAULT, 1, one.index.bucket_names(VAULT, _bucket_of(one, "k"), 9)) == [
        False
    ]
    assert isinstance(await late.replica.prepare(1, register("k"), late.stamp()), Answer)
    assert (await late.sync.pull(VAULT, one.node)).settled == 1


def _bucket_of(node: Node, key: str) -> int:
    return next(at for at in range(1024) for name in node.index.bucket_names(VAULT, at, 9) if name.key == key.encode())


async def test_a_row_that_changes_while_it_is_copied_is_taken_as_it_is_then(mesh: Mesh) -> None:
    """The proof was for the row before: what is there now has none, and is taken by the ordinary rule."""
    one, two, late = await mesh.found(3)
    mesh.cut = {2}
    await one.put("k", "first")
    mesh.cut = set()
    later = one.stamp()

    async def change(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if name == ROWS and target is one and one.row("k") != later:
            await one.plant("k", later, "second")

    mesh.before_call = change
    assert (await late.sync.pull(VAULT, one.node)).complete
    assert late.row("k") == later
    assert two.row("k") != later


async def test_a_row_that_changes_while_it_is_copied_is_not_taken_against_a_promise(mesh: Mesh) -> None:
    """The row before was chosen; what replaced it may never be."""
    one, _, late = await mesh.found(3)
    mesh.cut = {2}
    await one.put("k", "first")
    mesh.cut = set()
    later = one.stamp()
    assert isinstance(await late.replica.prepare(1, register("k"), late.stamp()), Answer)

    async def change(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if name == ROWS and target is one and one.row("k") != later:
            await one.plant("k", later, "second")

    mesh.before_call = change
    assert (await late.sync.pull(VAULT, one.node)).settled == 1
    row = late.row("k")
    assert row is not None
    assert row > later


async def test_a_dead_witness_is_asked_once(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five, with one away: its silence costs one call, not one for each message of rows."""
    monkeypatch.setattr(differences, "NAMES_MAX", 50)
    nodes = await mesh.found(5)
    await fill(nodes[:4], 0, 200)
    mesh.cut = {3}
    tried: list[str] = []

    async def note(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if target is nodes[3]:
            tried.append(name)

    mesh.before_call = note
    pulled = await nodes[4].sync.pull(VAULT, nodes[0].node)
    assert (pulled.complete, pulled.rows) == (True, 200)
    assert tried == [HOLDS]


async def test_rows_that_cannot_be_settled_are_left_and_told(mesh: Mesh, autojump_clock: MockClock) -> None:  # noqa: ARG001 - the rounds give up in its time
    one, two, late = await mesh.found(3)
    await one.plant("k", one.stamp())
    assert isinstance(await late.replica.prepare(1, register("k"), late.stamp()), Answer)

    async def cut(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if name.startswith(("index.prepare", "index.read")) or target is two:
            raise PeerUnreachableError("nobody home")

    mesh.before_call = cut
    pulled = await late.sync.pull(VAULT, one.node)
    assert not pulled.complete
    shown = late.sync.progress()[VAULT]
    assert (shown["state"], shown["rows_left"]) == ("incomplete", 1)
    mesh.before_call = None
    assert (await late.sync.pull(VAULT, one.node)).complete


async def test_a_pull_ends_with_its_epoch(mesh: Mesh) -> None:
    """What was proven in one configuration is not taken in the next."""
    one, two, late = await mesh.found(3)
    mesh.cut = {2}
    await one.put("k")
    mesh.cut = set()
    known = one.seats.configuration(VAULT)
    later = Configuration(2, known.seats, known.seats, known.mode)

    async def adopt(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if name == HOLDS and target is two:
            await late.seats.adopt(VAULT, later)

    mesh.before_call = adopt
    with pytest.raises(ReplicaRefusedError, match="being changed"):
        await late.sync.pull(VAULT, one.node)
    assert late.row("k") is None


async def test_a_source_in_a_later_epoch_tells_of_it_and_one_in_an_earlier_is_told(mesh: Mesh) -> None:
    one, _, late = await mesh.found(3)
    known = one.seats.configuration(VAULT)
    joint = Configuration(2, known.seats, known.seats, known.mode)
    await one.seats.adopt(VAULT, joint)
    with pytest.raises(ReplicaRefusedError, match="epoch 2"):
        await late.sync.pull(VAULT, one.node)
    assert late.seats.adopted(VAULT) == joint
    stable = joint.end_change()
    await late.seats.adopt(VAULT, stable)
    assert (await late.sync.pull(VAULT, one.node)).complete
    assert one.seats.adopted(VAULT) == stable


async def test_the_removal_of_a_tombstone_makes_copies_under_way_void(mesh: Mesh) -> None:
    """A value that was read before the look is not put where the tombstone went."""
    one, two, late = await mesh.found(3)
    ballot = stamp_at(mesh.wall.ms - 30_000, one)
    for node in (one, two):
        await node.plant("k", ballot, "deleted since")
    voided = 0

    async def look(_caller: Node, target: Node, name: str, _body: Any) -> None:
        nonlocal voided
        if name == HOLDS and target is two and voided < 9:
            voided += 1
            await late.copying.confirm(VAULT, 1, [])

    mesh.before_call = look
    pulled = await late.sync.pull(VAULT, one.node)
    assert not pulled.complete
    assert late.row("k") is None
    assert voided == index_sync.TRIES_MAX
    mesh.before_call = None
    assert (await late.sync.pull(VAULT, one.node)).rows == 1


async def test_a_deletion_that_was_forgotten_here_is_not_brought_back(mesh: Mesh) -> None:
    """The other replica will forget it too: nothing is written because of it."""
    one, _, late = await mesh.found(3)
    await one.plant("k", one.stamp(), None)
    await late.replica.raise_floor(late.stamp())
    mesh.calls.clear()
    pulled = await late.sync.pull(VAULT, one.node)
    assert (pulled.complete, pulled.rows, pulled.settled) == (True, 0, 0)
    assert mesh.calls["index.accept/1"] == 0


async def test_replicas_heal_by_themselves(mesh: Mesh, autojump_clock: MockClock) -> None:  # noqa: ARG001 - a minute passes at once
    """At the latest within a minute; at once when a link opens."""
    mesh.chores = True
    one, two, late = await mesh.found(3)
    mesh.cut = {2}
    await one.put("k")
    mesh.cut = set()
    late.sync.greet(two.node)
    await wait_until(lambda: late.digests == one.digests, 1.0)
    mesh.cut = {2}
    await one.put("m")
    mesh.cut = set()
    await wait_until(lambda: late.digests == one.digests, index_sync.SYNC_EVERY_S + 1)
    assert late.sync.progress()[VAULT]["state"] == "done"
    late.sync.forget(VAULT)
    assert late.sync.progress() == {}


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (BUCKET_DIGESTS, None),
        (BUCKET_DIGESTS, [0, b"short"]),
        (BUCKET_DIGESTS, [0]),
        (BUCKET_DIGESTS, [9, 9]),
        (BUCKET_NAMES, [0, []]),
        (BUCKET_NAMES, [0, [[5_000, 0, [], True]]]),
        (BUCKET_NAMES, [0, [[0, 0, [1, b"k"], True]]]),
        (ROWS, [0, []]),
        (ROWS, [0, [b"short", b"entry"]]),
        (ROWS, [0, [None, None] * 99]),
    ],
)
async def test_answers_that_cannot_be_read_end_a_pull(mesh: Mesh, name: str, answer: Any) -> None:
    one, _, late = await mesh.found(3)
    await one.plant("k", one.stamp())

    async def nonsense(_peer: Any, _body: Any) -> Any:
        return answer

    one.dispatch.calls[name] = nonsense
    with pytest.raises(ProtocolError):
        await late.sync.pull(VAULT, one.node)
    assert late.row("k") is None


async def test_an_entry_of_a_newer_program_is_left(mesh: Mesh) -> None:
    one, _, late = await mesh.found(3)
    await one.plant("k", one.stamp())
    await one.plant("m", one.stamp())
    serve = one.dispatch.calls[ROWS]

    async def newer(peer: Any, body: Any) -> Any:
        kind, flat = await serve(peer, body)
        return [kind, [b"\xc1" if at == 1 else field for at, field in enumerate(flat)]]

    one.dispatch.calls[ROWS] = newer
    pulled = await late.sync.pull(VAULT, one.node)
    assert (pulled.complete, pulled.rows) == (False, 1)


@pytest.mark.parametrize(
    "body",
    [
        {"b": [], "a": bytes(16), "f": []},
        {"b": list(range(65)), "a": bytes(16), "f": []},
        {"b": [1024], "a": bytes(16), "f": []},
        {"b": [0], "a": b"", "f": []},
        {"b": [0], "a": bytes(16), "f": [77, b""]},
        {"b": [0], "a": bytes(16), "f": [0]},
        {"b": [0]},
    ],
)
async def test_questions_that_cannot_be_read_are_refused(mesh: Mesh, body: dict[str, Any]) -> None:
    one, two = await mesh.found(2)
    with pytest.raises(CallRefusedError) as refusal:
        await two.call(one.node, BUCKET_NAMES, {"v": VAULT, "e": 1, **body}, timeout_s=1)
    assert refusal.value.kind == "ProtocolError"


async def test_rows_that_are_large_come_in_several_messages(mesh: Mesh) -> None:
    nodes = await mesh.found(3)
    await fill(nodes[:2], 0, 40, size=16_000)
    pulled = await nodes[2].sync.pull(VAULT, nodes[0].node)
    assert (pulled.complete, pulled.rows) == (True, 40)
    assert mesh.calls[ROWS] >= 5
    assert isinstance(nodes[2].index.load(VAULT, Space.OBJECTS, b"photo 000007"), Row)
