"""What a node does by itself, and when: collect, scrub, finish deletions. Knows when; the work is the store's."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn

import trio

from meshhold.config.settings import DAY_S
from meshhold.errors import FatalError, MeshHoldError
from meshhold.model.ids import NodeId
from meshhold.node.assembly import Node
from meshhold.registry.record import Kind, Record

_LOG: Final = logging.getLogger("meshhold.node")
DROP_AGAIN_S: Final = 60.0  # a full or failing disk is not mended sooner
SETTLE_S: Final = 600.0  # after a start, apps come first
COLLECT_EVERY_S: Final = 6 * 3600.0  # space comes back within a quarter of the grace
EXPIRE_EVERY_S: Final = 3600.0  # rules count in days
SCRUB_EVERY_S: Final = 7 * 24 * 3600.0  # a disk's silent faults are found while other copies are young


async def run_chores(node: Node) -> NoReturn:
    """Run every chore on its schedule until cancelled. A chore that fails is logged and tried again the next time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, "collect", COLLECT_EVERY_S, lambda: _collect(node))
        nursery.start_soon(_repeat, "scrub", SCRUB_EVERY_S, lambda: _scrub(node))
        nursery.start_soon(_follow_lifecycles, node)
        nursery.start_soon(_drop_deleted, node)
    raise AssertionError("chores run until cancelled")


async def _repeat(name: str, every_s: float, chore: Callable[[], Awaitable[None]]) -> None:
    await trio.sleep(min(SETTLE_S, every_s))
    while True:
        try:
            await chore()
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.error("%s did not finish: %s", name, error)
        await trio.sleep(every_s)


async def _drop_deleted(node: Node) -> None:
    """Drop what is left of a vault when its deletion arrives from another node; what fails is tried again later."""
    arrived = trio.Event()

    def listen(records: Sequence[Record], _source: NodeId | None) -> None:
        if any(record.kind is Kind.VAULT and record.deleted for record in records):
            arrived.set()

    node.keeper.follow(listen)
    while True:
        arrived = trio.Event()
        wait_s = math.inf
        try:
            await node.vaults.drop_deleted()
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.error("a deleted vault is not gone from this disk yet: %s", error)
            wait_s = DROP_AGAIN_S
        with trio.move_on_after(wait_s):
            await arrived.wait()


async def _collect(node: Node) -> None:
    for bucket in list(node.directory.by_id.values()):
        orphans = await node.uploads.sweep(bucket)
        if orphans:
            _LOG.info("removed %d parts of uploads that are gone from vault %s", orphans, bucket.name)
    report = await node.care.collect(None, in_turn=True)
    _LOG.info("collect: %d chunks, %d bytes, %d tombstones removed", report.removed, report.bytes, report.tombstones)


async def _follow_lifecycles(node: Node) -> NoReturn:
    """Walk the vaults with a lifecycle once an hour; oftener where a test has shortened the days."""
    day_s = node.config.s3.lifecycle_day_s
    every_s = EXPIRE_EVERY_S if day_s == DAY_S else max(1.0, day_s / 10)
    wait_s = min(SETTLE_S, every_s)
    while True:
        node.expiry.next_ms = node.directory.now_ms() + int(wait_s * 1000)
        await trio.sleep(wait_s)
        wait_s = every_s
        try:
            for report in await node.expiry.run(None):
                if report.removed:
                    _LOG.info("lifecycle of vault %s: %s", report.name, report.summary())
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.error("lifecycles were not followed: %s", error)


async def _scrub(node: Node) -> None:
    pause_s_per_mib = 2**20 / node.config.repair.scrub_bytes_per_s
    report = await node.care.scrub(None, _ignore, pause_s_per_mib=pause_s_per_mib)
    lost = len(report.corrupt) - report.repaired
    if report.repaired:
        _LOG.warning("scrub: %d damaged chunks fetched anew from other nodes", report.repaired)
    if lost:
        _LOG.error("scrub: %d damaged chunks in quarantine; see `meshhold vault check`", lost)
    _LOG.info("scrub: %d chunks, %d bytes verified", report.chunks, report.bytes)


async def _ignore(_: dict[str, Any]) -> None:
    """Nobody watches a scheduled chore's progress."""
