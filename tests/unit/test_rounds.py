"""Reads, changes and listings through three replicas and more, with links that fail. Virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
import trio
from tests.mesh_nodes import virtual_time
from tests.unit.replica_lab import VAULT, Lab, once, open_lab, text_of, version

from meshhold.errors import NoMajorityError, PreconditionFailedError
from meshhold.model.configuration import Mode, found_configuration
from meshhold.model.entry import Space
from meshhold.model.ids import NodeId, OpId
from meshhold.register.lineage import succeed
from meshhold.replication.index import replica_wire as wire
from meshhold.replication.index.contract import Absent, Outdated, Register, Unaware
from meshhold.replication.index.early import Early
from meshhold.replication.index.panel import POLL_S
from meshhold.replication.index.registers import KEEP, Registers

KEY = Register(VAULT, Space.OBJECTS, b"k")


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with open_lab("abcd") as opened:
        yield opened


async def accept_on(lab: Lab, names: str, text: str) -> None:
    """Leave an entry on some replicas only, as a writer that died would."""
    ballot = lab["d"].clock.tick(lab["d"].now_ms())
    for name in names:
        entry = succeed(None, OpId(ballot.pack()), version(text))
        assert await lab[name].replica.accept(1, KEY, ballot, entry) is None


def encode_nothing() -> bytes:
    """Return what a replica's state is that adopted nothing: as if there were none."""
    return b"\x92\xc0\x00"


async def begin_early(registers: Registers) -> Early:
    """Ask for an early promise, and wait until the answers are here."""
    early = registers.early(*KEY)
    assert early is not None
    early.begin()
    early.begin()  # asks once
    await trio.testing.wait_all_tasks_blocked()
    return early


@virtual_time
class TestRounds:
    """Three replicas, a, b and c; d keeps none."""

    async def test_what_one_node_wrote_every_other_one_reads(self, lab: Lab) -> None:
        await lab["a"].put("k", "one")
        assert [await lab[name].get("k") for name in "abcd"] == ["one"] * 4
        await lab["d"].put("k", "two")  # keeps no index itself
        assert [await lab[name].get("k") for name in "abcd"] == ["two"] * 4
        await lab["b"].delete("k")
        assert [await lab[name].get("k") for name in "abcd"] == [None] * 4

    async def test_round_trips_in_the_quiet_case(self, lab: Lab) -> None:
        await lab["a"].put("k", "one")
        assert lab.calls == {wire.PREPARE: 1, wire.ACCEPT: 2}
        lab.calls.clear()
        await lab["a"].get("k")
        assert lab.calls == {wire.READ: 1}
        lab.calls.clear()
        await lab["a"].keys()
        assert lab.calls == {wire.DIGESTS: 1}

    async def test_an_early_promise_leaves_one_round_trip_after_the_body(self, lab: Lab) -> None:
        early = await begin_early(lab["a"].registers)
        lab.calls.clear()
        await lab["a"].registers.change(*KEY, lambda _: KEEP, early)
        assert lab.calls == {}
        early = await begin_early(lab["a"].registers)
        await lab["b"].put("k", "between")
        with pytest.raises(PreconditionFailedError):
            await lab["a"].registers.change(*KEY, once("late"), early)
        assert await lab["a"].get("k") == "between"

    async def test_an_early_promise_that_nobody_asked_for_is_asked_for_by_the_change(self, lab: Lab) -> None:
        early = lab["a"].registers.early(*KEY)
        await lab["a"].registers.change(*KEY, once("one"), early)
        assert lab.calls == {wire.PREPARE: 1, wire.ACCEPT: 2}
        assert await lab["b"].get("k") == "one"

    async def test_an_early_promise_without_a_majority_is_asked_for_again(self, lab: Lab) -> None:
        lab.isolate("a")
        early = await begin_early(lab["a"].registers)
        await trio.sleep(POLL_S * 2)
        lab.heal()
        await lab["a"].registers.change(*KEY, once("one"), early)
        assert early.sight is None
        assert await lab["b"].get("k") == "one"

    async def test_a_minority_is_missed_by_nobody(self, lab: Lab) -> None:
        lab.isolate("c")
        await lab["a"].put("k", "one")
        assert await lab["b"].get("k") == "one"
        assert await lab["d"].keys() == ["k"]
        lab.heal()
        lab.isolate("a")
        assert await lab["c"].get("k") == "one", "b tells, and c is settled"

    async def test_without_a_majority_writes_and_reads_name_who_is_missing(self, lab: Lab) -> None:
        lab.isolate("b")
        lab.isolate("c")
        with pytest.raises(NoMajorityError, match=r"missing: b .*, c "):
            await lab["a"].get("k")
        with pytest.raises(NoMajorityError):
            await lab["a"].put("k", "lost")
        with pytest.raises(NoMajorityError):
            await lab["a"].keys()
        lab.heal()
        assert await lab["b"].get("k") is None

    async def test_of_creators_on_all_nodes_exactly_one_wins(self, lab: Lab) -> None:
        won: list[str] = []

        async def create(name: str) -> None:
            try:
                await lab[name].registers.change(*KEY, once(name))
                won.append(name)
            except PreconditionFailedError:
                pass

        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(create, name)
        assert len(won) == 1
        assert [await lab[name].get("k") for name in "abcd"] == won * 4

    async def test_a_value_on_a_minority_is_settled_by_the_first_who_sees_it(self, lab: Lab) -> None:
        await accept_on(lab, "a", "half")
        lab.isolate("c")
        assert await lab["b"].get("k") == "half"
        lab.heal()
        lab.isolate("a")
        assert await lab["b"].get("k") == "half", "b and c must not forget what was read"
        assert await lab["c"].get("k") == "half"

    async def test_a_listing_settles_what_it_shows(self, lab: Lab) -> None:
        for number in range(20):
            await lab["a"].put(f"x{number:02}", "x")
        await accept_on(lab, "a", "half")
        lab.isolate("c")
        assert "k" in await lab["a"].keys()
        lab.heal()
        lab.isolate("a")
        assert "k" in await lab["b"].keys()
        assert len(await lab["c"].keys()) == 21

    async def test_a_listing_through_a_replica_that_is_behind(self, lab: Lab) -> None:
        for number in range(5):
            await lab["b"].put(f"old{number}", "x")
        lab.isolate("a")
        for number in range(40):
            await lab["b"].put(f"new{number:02}", "x")
        await lab["b"].delete("old3")
        lab.heal()
        keys = await lab["a"].keys()
        assert len(keys) == 44
        assert keys == await lab["b"].keys() == await lab["d"].keys()
        assert await lab["a"].keys("new", 7) == [f"new{number:02}" for number in range(7)]

    async def test_pages_from_others_fit_into_messages(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("meshhold.replication.index.replica.LIST_SIZE_MAX", 2_000)
        monkeypatch.setattr("meshhold.replication.index.replica.NAMES_MAX", 7)
        keys = [f"{number:02}" + "k" * 300 for number in range(30)]
        for key in keys:
            await lab["a"].put(key, "x")
        for key in keys[5:25]:
            await lab["a"].delete(key)
        for name in "ad":
            assert await lab[name].keys() == keys[:5] + keys[25:]
            assert await lab[name].keys(limit=7) == keys[:5] + keys[25:27]
        assert lab.calls[wire.LIST] > 5

    async def test_scans_see_rows_of_others(self, lab: Lab) -> None:
        lab.isolate("a")
        await lab["b"].put("k", "v" * 9)
        lab.heal()
        found = await lab["a"].registers.scan(VAULT, Space.OBJECTS, b"", b"", 10)
        assert [(key, text_of(entry)) for key, entry in found] == [(b"k", "v" * 9)]
        assert await lab["d"].registers.scan(VAULT, Space.OBJECTS, b"k", b"", 10) == []

    @pytest.mark.parametrize("space", ["listing", "scan"])
    async def test_rows_of_a_base_that_fails_between_two_pages_are_not_taken_for_confirmed(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, space: str
    ) -> None:
        lab.isolate("a")
        await lab["b"].put("k1", "one")
        lab.heal()
        for key in ("k2", "k3"):
            await lab["b"].put(key, "all")
        replica, reader = lab["a"].replica, lab["a"].registers
        asked = 0

        async def page_once(*arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            return Absent("its disk is gone") if asked > 1 else await genuine(*arguments)

        if space == "scan":
            genuine = cast("Callable[..., Awaitable[Any]]", replica.scan_page)
            monkeypatch.setattr(replica, "scan_page", page_once)
            found = [key for key, _ in await reader.scan(VAULT, Space.OBJECTS, b"", b"", 5)]
        else:
            genuine = cast("Callable[..., Awaitable[Any]]", replica.list_page)
            monkeypatch.setattr(replica, "list_page", page_once)
            reading, found, is_settled = reader.open_reading(VAULT), [], False
            while not is_settled:
                first = await reading.rows(b"", b"", 1)
                found = [row.key for row in [*first, *await reading.rows(first[-1].key, b"", 5)]]
                is_settled = await reading.settle()
        assert asked > 1, "its base failed where it was to go on"
        assert found == [b"k1", b"k2", b"k3"]

    async def test_an_old_epoch_is_refused_and_the_new_one_learned(self, lab: Lab) -> None:
        await lab["a"].put("k", "one")
        joint = found_configuration([NodeId(name) for name in "abc"]).begin_change(
            [NodeId(name) for name in "abd"], Mode.LINEARIZABLE
        )
        for name in "ab":
            await lab[name].seats.adopt(VAULT, joint)
        ballot = lab["c"].clock.tick(lab["c"].now_ms())
        assert await lab["a"].replica.prepare(1, KEY, ballot) == Outdated(joint)
        assert await lab["c"].replica.prepare(2, KEY, ballot) == Unaware(1)
        assert await lab["c"].get("k") == "one", "it learned the new epoch from the others"
        assert lab["c"].seats.adopted(VAULT) == joint
        assert await lab["d"].get("k") == "one"

    async def test_a_joint_epoch_needs_majorities_of_both_sets(self, lab: Lab) -> None:
        await lab["a"].put("k", "one")
        first = found_configuration([NodeId(name) for name in "abc"])
        await lab.adopt(first.begin_change([NodeId("d")], Mode.LINEARIZABLE))
        lab.isolate("d")
        with pytest.raises(NoMajorityError):
            await lab["a"].put("k", "two")
        lab.heal()
        assert await lab["a"].get("k") == "one"

    async def test_a_wiped_replica_is_silent(self, lab: Lab) -> None:
        await lab["a"].put("k", "one")
        await lab["a"].index.drop_vault(VAULT)
        await lab["a"].index.save_setting(f"seat/{VAULT}", encode_nothing())
        lab["a"].start()
        ballot = lab["b"].clock.tick(lab["b"].now_ms())
        assert await lab["a"].replica.prepare(1, KEY, ballot) == Unaware(0)
        lab.isolate("c")
        with pytest.raises(NoMajorityError, match="being refilled"):
            await lab["b"].get("k")
        lab.heal()
        assert await lab["b"].get("k") == "one"
        assert isinstance(await lab["a"].replica.prepare(1, KEY, ballot), Absent)

    async def test_a_late_entry_after_a_vote_is_not_taken(self, lab: Lab) -> None:
        early = lab["a"].clock.tick(lab["a"].now_ms())
        await lab["a"].put("k", "one")
        late = succeed(None, OpId(early.pack()), version("late"))
        for name in "abc":
            assert await lab[name].replica.accept(1, KEY, early, late) is not None
        assert await lab["b"].get("k") == "one"
