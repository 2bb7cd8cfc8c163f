"""What a node does by itself, and when: sweep, collect, scrub. Knows the schedule; the work is the store's."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import trio

from meshhold.errors import FatalError, MeshHoldError
from meshhold.node.assembly import Node

_LOG: Final = logging.getLogger("meshhold.node")
SETTLE_S: Final = 600.0  # after a start, apps come first
COLLECT_EVERY_S: Final = 6 * 3600.0  # space comes back within a quarter of the grace
SCRUB_EVERY_S: Final = 7 * 24 * 3600.0  # a disk's silent faults are found while other copies are young
SCRUB_PAUSE_S_PER_MIB: Final = 0.05  # about 20 MiB/s: a terabyte takes half a day and leaves the disk to the apps


async def run_chores(node: Node) -> NoReturn:
    """Run every chore on its schedule until cancelled. A chore that fails is logged and tried again the next time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, "collect", COLLECT_EVERY_S, lambda: _collect(node))
        nursery.start_soon(_repeat, "scrub", SCRUB_EVERY_S, lambda: _scrub(node))
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


async def _collect(node: Node) -> None:
    for bucket in list(node.directory.by_id.values()):
        orphans = await node.uploads.sweep(bucket)
        if orphans:
            _LOG.info("removed %d parts of uploads that are gone from vault %s", orphans, bucket.name)
    report = await node.care.collect(None)
    _LOG.info("collect: %d chunks, %d bytes, %d tombstones removed", report.removed, report.bytes, report.tombstones)


async def _scrub(node: Node) -> None:
    report = await node.care.scrub(None, _ignore, pause_s_per_mib=SCRUB_PAUSE_S_PER_MIB)
    if report.corrupt:
        _LOG.error("scrub: %d damaged chunks in quarantine; see `meshhold vault check`", len(report.corrupt))
    _LOG.info("scrub: %d chunks, %d bytes verified", report.chunks, report.bytes)


async def _ignore(_: dict[str, Any]) -> None:
    """Nobody watches a scheduled chore's progress."""
