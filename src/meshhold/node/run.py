"""The daemon's life: lock, open, serve, drain, close. Knows no request and no call.

A failure that leaves promises in doubt (a failed fsync) ends the process at once: whatever would be answered after it
could be a lie.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import trio

from meshhold.admin.calls import make_dispatch
from meshhold.admin.server import run_admin
from meshhold.config import Config, split_address
from meshhold.config.places import control_socket
from meshhold.errors import ConfigError, FatalError, MeshHoldError, SyncFailedError
from meshhold.model.ids import short_id
from meshhold.node.assembly import Node, open_node
from meshhold.node.chores import run_chores
from meshhold.node.lock import hold_lock
from meshhold.node.memory import keep_large_blocks
from meshhold.node.notify import READY, STOPPING, notify
from meshhold.s3.app import S3App
from meshhold.s3.http.server import open_listeners, run_s3
from meshhold.s3.recording.access_log import AccessLog
from meshhold.s3.recording.served import Recorder
from meshhold.web.app import WebApp

_LOG: Final = logging.getLogger("meshhold.node")
_EXIT_FATAL: Final = 70  # EX_SOFTWARE of sysexits.h
_YOUNG_MAX: Final = 10_000
"""New objects after which cycles are looked for: requests in flight hold more than CPython's 700, and to look through
them again and again took 3 % of the processor time; this many are a few MiB."""
_SWITCH_INTERVAL_S: Final = 0.0005  # worker threads wait this long for the interpreter when the loop is busy


def run_daemon(config: Config, *, on_ready: Callable[[], None] | None = None) -> int:
    """Run the node until SIGTERM or SIGINT; return the exit code. `on_ready` is called once S3 answers.

    Errors are logged, not raised: 0 after a clean stop, 1 when the node could not start or had to stop, 70 after
    a failed fsync.
    """
    data_dir = config.node.data_dir
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold_lock(data_dir):
            keep_large_blocks()
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            trio.run(_run, config, on_ready)
    except MeshHoldError as error:
        _LOG.error("%s", error)
        return _EXIT_FATAL if isinstance(error, SyncFailedError) else 1
    except OSError as error:
        _LOG.error("%s: %s", data_dir, error.strerror or error)
        return 1
    except BaseExceptionGroup as group:
        fatal, rest = group.split(MeshHoldError)
        leaves = _leaves(fatal) if fatal else []
        for leaf in leaves:
            _LOG.error("%s", leaf)
        if rest is not None:
            _LOG.critical("unexpected error", exc_info=rest)
        return _EXIT_FATAL if any(isinstance(leaf, SyncFailedError) for leaf in leaves) else 1
    return 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def _run(config: Config, on_ready: Callable[[], None] | None) -> None:
    async with open_node(config) as node, trio.open_nursery() as background:
        stop = trio.Event()
        await background.start(_wait_for_signal, stop)
        for refused in node.keeper.left_out:
            _LOG.error("registry record left out: %s", refused)
        await node.vaults.drop_deleted()
        if node.access_log is not None:
            _check_log(node.access_log, config)
            background.start_soon(node.access_log.run)
        async with trio.open_nursery() as doors:
            if config.s3.enabled:
                await _open_s3(node, stop, doors)
            if config.web.enabled:
                await _open_web(node, stop, doors)
            dispatch = make_dispatch(
                node.vaults,
                node.access,
                node.care,
                node.status,
                node.mesh,
                node.members,
                node.conflicts,
                rings=node.rings,
                drains=node.drains,
                repairs=node.repairs,
                secrets=node.secrets,
                recovery=node.recovery,
                safekeeping=node.safekeeping,
                expiry=node.expiry,
                counts=node.counters.view,
                founding=node.founding,
            )
            await background.start(run_admin, control_socket(config.node.data_dir), dispatch)
            background.start_soon(run_chores, node)
            background.start_soon(node.mesh.run)
            background.start_soon(node.keeping.run)
            background.start_soon(node.chunk_keeping.run)
            background.start_soon(node.labelling.run)
            background.start_soon(node.index_replicas.run)
            background.start_soon(node.index_news.run)
            background.start_soon(node.snapshots.run, node.open_keys)
            gc.collect()
            gc.freeze()  # what start-up made lives until the end: no later collection needs to walk it
            gc.set_threshold(_YOUNG_MAX)
            notify(READY)
            _LOG.info("node %s is ready", node.status()["name"])
            if on_ready is not None:
                on_ready()
            await stop.wait()
            notify(STOPPING)
            _LOG.info("stopping; requests in flight may end")
        background.cancel_scope.cancel()


async def _open_s3(node: Node, stop: trio.Event, doors: trio.Nursery) -> None:
    address = node.config.s3.listen_addr
    listeners = await _listen(address, "node.s3.listen_addr")
    app = S3App(node.door, short_id(node.identity.node_id), on_fatal=_die)
    app.recorders = _recorders(node)
    await doors.start(run_s3, app, listeners, stop)
    node.s3_addr = _bound(address, listeners)
    _LOG.info("S3 on http://%s, region %s", node.s3_addr, node.config.s3.region)


async def _open_web(node: Node, stop: trio.Event, doors: trio.Nursery) -> None:
    web = node.config.web
    listeners = await _listen(web.listen_addr, "node.web.listen_addr")
    app = WebApp(
        node.door, short_id(node.identity.node_id), hosts=web.hosts, root_domain=web.root_domain, on_fatal=_die
    )
    app.recorders = _recorders(node)
    await doors.start(run_s3, app, listeners, stop)
    node.web_addr = _bound(web.listen_addr, listeners)
    _LOG.info("websites on http://%s", node.web_addr)


def _recorders(node: Node) -> tuple[Recorder, ...]:
    return (node.counters.record,) if node.access_log is None else (node.counters.record, node.access_log.record)


def _check_log(log: AccessLog, config: Config) -> None:
    try:
        log.check()
    except OSError as error:
        raise ConfigError(
            f"node.s3.access_log {config.s3.access_log} cannot be written: {error.strerror}",
            "create its folder, or choose another path",
        ) from error


async def _listen(address: str, setting: str) -> list[trio.SocketListener]:
    host, port = split_address(address)
    try:
        return await open_listeners(host, port)
    except OSError as error:
        raise ConfigError(
            f"{setting} {address} cannot be used: {error.strerror}", "stop what holds it, or choose another"
        ) from error


def _bound(address: str, listeners: Sequence[trio.SocketListener]) -> str:
    """Return where a door listens: the configured port may be 0, any that is free."""
    return f"{address.rpartition(':')[0]}:{listeners[0].socket.getsockname()[1]}"


def _die(error: FatalError) -> NoReturn:
    """End the process without another answer: what would be acknowledged from here on may not be true."""
    _LOG.critical("%s: the daemon stops", error)
    logging.shutdown()
    os._exit(_EXIT_FATAL)


async def _wait_for_signal(stop: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            stop.set()
