"""Finding nodes on the LAN: what is shown, what of what is heard is believed, and that nothing here stops a node."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

import pytest
import trio
from zeroconf import ServiceInfo, ServiceStateChange

from meshhold.crypto.identity import Identity
from meshhold.discovery import mdns
from meshhold.discovery.mdns import SERVICE, Sighting, announcement, is_of_swarm, lan_hosts, read, run_mdns, swarm_tag
from meshhold.model.ids import NodeId, short_id
from meshhold.wire.handshake import swarm_id

KEY: Final = b"k" * 32
SWARM: Final = swarm_id(KEY)
ANN: Final = Identity(b"a" * 32).node_id
BEN: Final = Identity(b"b" * 32).node_id
LOOPBACK: Final = ("127.0.0.1",)  # tests stay on this machine


def said(**changes: Any) -> ServiceInfo:
    """Return Ben's announcement with some of it changed."""
    defaults: dict[str, Any] = {
        "type_": SERVICE,
        "name": f"{swarm_tag(SWARM)}-{short_id(BEN)}.{SERVICE}",
        "port": 7777,
        "properties": {"v": b"1", "swarm": swarm_tag(SWARM), "node": short_id(BEN)},
        "parsed_addresses": ["10.0.0.2"],
    }
    return ServiceInfo(**{**defaults, **changes})


def heard_of(announced: ServiceInfo) -> Sighting | None:
    """Return what Ann makes of it."""
    return read(announced, SWARM, short_id(ANN))


def test_an_announcement_says_where_a_node_is_and_no_secret() -> None:
    """It can be read by the others of the mesh; the swarm key, the whole id and a name are not in it."""
    announced = announcement(SWARM, BEN, 7777, ["10.0.0.2", "fd00::2"])
    assert heard_of(announced) == Sighting(short_id(BEN), ("10.0.0.2:7777", "[fd00::2]:7777"))
    assert is_of_swarm(announced.name, SWARM)
    shown = announced.name.encode() + (announced.text or b"") + (announced.server or "").encode()
    for secret in (KEY, KEY.hex().encode(), SWARM.hex().encode(), BEN.encode()):
        assert secret not in shown


@pytest.mark.parametrize(
    "changes",
    [
        {"properties": {}},
        {"properties": {"v": b"2", "swarm": swarm_tag(SWARM), "node": short_id(BEN)}},
        {"properties": {"v": b"1", "swarm": swarm_tag(swarm_id(b"o" * 32)), "node": short_id(BEN)}},
        {"properties": {"v": b"1", "swarm": swarm_tag(SWARM), "node": short_id(ANN)}},
        {"properties": {"v": b"1", "swarm": swarm_tag(SWARM), "node": b""}},
        {"properties": {"v": b"1", "swarm": swarm_tag(SWARM)}},
        {"port": 0},
        {"port": None},
        {"parsed_addresses": []},
        {"parsed_addresses": ["224.0.0.251", "0.0.0.0", "fe80::1", "::", "ff02::1"]},  # noqa: S104 - refused ones
    ],
)
def test_what_makes_no_sense_leads_nowhere(changes: dict[str, Any]) -> None:
    """Other versions, other meshes, oneself, no port, and addresses that are no machine's."""
    assert heard_of(said(**changes)) is None


def test_one_node_has_only_so_many_addresses() -> None:
    """A liar with a hundred addresses costs as many dials as an honest node with eight."""
    sighting = heard_of(said(parsed_addresses=[f"10.0.0.{n}" for n in range(1, 101)]))
    assert sighting is not None
    assert len(sighting.addresses) == mdns.ADDRESSES_MAX


def test_another_mesh_is_not_even_looked_up() -> None:
    """The name alone tells."""
    assert not is_of_swarm(f"{swarm_tag(swarm_id(b'o' * 32))}-{short_id(BEN)}.{SERVICE}", SWARM)


def test_this_machine_offers_no_address_that_only_it_can_use() -> None:
    """Loopback and link-local addresses are not announced."""
    assert not [host for host in lan_hosts() if host.startswith(("127.", "fe80", "::1"))]


async def test_a_flood_of_names_is_bounded() -> None:
    """Names beyond the bound are forgotten, until some of those known have gone."""
    heard = mdns._Heard(SWARM)
    added, removed = ServiceStateChange.Added, ServiceStateChange.Removed

    def hear(number: int, change: ServiceStateChange) -> None:
        heard.take(None, SERVICE, f"{swarm_tag(SWARM)}-{number:08}.{SERVICE}", change)  # type: ignore[arg-type] # unused

    for number in range(2 * mdns.HEARD_MAX):
        hear(number, added)
    assert len(heard.fresh()) == mdns.HEARD_MAX
    assert heard.fresh() == []
    hear(0, removed)
    hear(5_000, added)
    assert heard.fresh() == [f"{swarm_tag(SWARM)}-00005000.{SERVICE}"]
    heard.age()
    assert len(heard.fresh()) == mdns.HEARD_MAX


async def test_without_multicast_a_node_starts_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sockets that cannot be opened are one line in the log, however often they are tried."""
    tries = trio.Semaphore(0)
    token = trio.lowlevel.current_trio_token()

    def fail(**_arguments: object) -> None:
        token.run_sync_soon(tries.release)
        raise OSError("no multicast here")

    monkeypatch.setattr(mdns, "Zeroconf", fail)
    monkeypatch.setattr(mdns, "RETRY_S", 0.001)
    with caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: run_mdns(SWARM, ANN, 1, _never, hosts=lambda: LOOPBACK, task_status=task_status)
            )
            with trio.fail_after(10):
                for _ in range(3):
                    await tries.acquire()
            nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "other nodes on the LAN are not found by themselves: OSError('no multicast here')"
    ]


def _never(node: NodeId | None, address: str) -> None:
    raise AssertionError(f"{node} at {address}")


async def test_two_nodes_of_one_mesh_find_each_other_and_a_third_of_another_nobody() -> None:
    """Over real multicast, on loopback; a node that both know is named, and what comes later is heard as well."""
    stranger = Identity(b"s" * 32).node_id
    seen: dict[str, list[tuple[NodeId | None, str]]] = {"ann": [], "ben": [], "stranger": []}
    news = trio.Semaphore(0)

    def note(who: str) -> Callable[[NodeId | None, str], None]:
        def found(node: NodeId | None, address: str) -> None:
            seen[who].append((node, address))
            news.release()

        return found

    async def run(who: str, swarm: bytes, node: NodeId, port: int, known: dict[str, NodeId]) -> None:
        await run_mdns(swarm, node, port, note(who), resolve=known.get, hosts=lambda: LOOPBACK)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "ann", SWARM, ANN, 7001, {short_id(BEN): BEN})
            nursery.start_soon(run, "ben", SWARM, BEN, 7002, {})
            nursery.start_soon(run, "stranger", swarm_id(b"o" * 32), stranger, 7003, {})
            while not (seen["ann"] and seen["ben"]):
                await news.acquire()
            nursery.cancel_scope.cancel()
    assert set(seen["ann"]) == {(BEN, "127.0.0.1:7002")}
    assert set(seen["ben"]) == {(None, "127.0.0.1:7001")}
    assert seen["stranger"] == []
    assert not [thread for thread in threading.enumerate() if "zeroconf" in thread.name]
