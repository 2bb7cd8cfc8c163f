"""Can this node be dialled from outside? Asks the home's router to forward a port, where it speaks UPnP.

The forwarding is lent for an hour and renewed three times as often, so a node that dies leaves nothing behind; at an
orderly end it is taken back. A port that somebody else has is left alone, and the next ones are tried. Whatever goes
wrong is logged once and tried again: no node fails to start because its router is dumb, or is none.
Source: UPnP Forum, WANIPConnection:1, sections 2.4.16 to 2.4.18 (mappings; errors 718 and 725).

`miniupnpc` blocks, so it works in threads. It forwards IPv4 only.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import miniupnpc
import trio

LEASE_S: Final = 3_600
RENEW_S: Final = LEASE_S / 3
RETRY_S: Final = 300.0
"""After a failure: a router that starts, or a laptop that comes home, is found within minutes."""
DISCOVERY_MS: Final = 2_000
"""How long routers are given to answer: most take a tenth of it, UPnP allows for much more."""
PORTS_TRIED: Final = 8
_UNMAP_S: Final = 3.0
_PERMANENT_ONLY: Final = "OnlyPermanentLeasesSupported"  # error 725, as miniupnpc says it
_DESCRIPTION: Final = "MeshHold"

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Router(Protocol):
    """What is asked of a router. Every method blocks, and may raise anything."""

    def outside_host(self) -> str:
        """Return the address that the router has outside."""

    def map(self, port: int) -> int:
        """Forward an outside port to `port` of this machine, or renew that; return the outside port."""

    def unmap(self, port: int) -> None:
        """Forward nothing to `port` of this machine any more."""


class UpnpRouter:
    """The first router that answers on the LAN. `interface` is the address of the one to ask on, "" for any."""

    def __init__(self, interface: str = "", discovery_ms: int = DISCOVERY_MS) -> None:
        self._upnp = miniupnpc.UPnP(interface or None, None, discovery_ms, 0)
        try:
            self._upnp.discover()
            self._upnp.selectigd()
        except Exception as error:  # nothing more special comes, and not even a reason: "Success"
            raise OSError(f"no router on this LAN offers UPnP ({error})") from error

    def outside_host(self) -> str:
        """Return the address that the router has outside."""
        return str(self._upnp.externalipaddress())

    def map(self, port: int) -> int:
        """Forward an outside port, the same one if it is free. Errors: `OSError` when none of several is."""
        here = self._upnp.lanaddr
        for outside in _candidates(port):
            if self._holder(outside) in (None, (here, port)):
                self._add(outside, here, port)
                return outside
        raise OSError(f"the router forwards port {port} and the next {PORTS_TRIED - 1} to other machines")

    def _add(self, outside: int, host: str, port: int) -> None:
        try:
            self._upnp.addportmapping(outside, "TCP", host, port, _DESCRIPTION, "", LEASE_S)
        except Exception as error:
            if _PERMANENT_ONLY not in str(error):
                raise
            self._upnp.addportmapping(outside, "TCP", host, port, _DESCRIPTION, "", 0)

    def unmap(self, port: int) -> None:
        """Forward nothing to `port` of this machine any more; what is somebody else's stays."""
        for outside in _candidates(port):
            if self._holder(outside) == (self._upnp.lanaddr, port):
                self._upnp.deleteportmapping(outside, "TCP")

    def _holder(self, outside: int) -> tuple[str, int] | None:
        entry = self._upnp.getspecificportmapping(outside, "TCP")
        return entry and (entry[0], entry[1])


def _candidates(port: int) -> range:
    return range(port, min(port + PORTS_TRIED, 65_536))


async def run_upnp(
    port: int,
    mapped: Callable[[str | None], None],
    *,
    find_router: Callable[[], Router] = UpnpRouter,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep `port` of this machine forwarded until cancelled; `mapped` gets the address outside, None when it is lost.

    `find_router` blocks; it raises anything if there is none. Started at once. Errors: none.
    """
    task_status.started()
    forwarding = _Forwarding(port, mapped)
    last = ""
    while True:
        try:
            await forwarding.run(find_router)
        except Exception as error:  # noqa: BLE001 - a router may answer anything: a node lives without it
            if str(error) != last:
                last = str(error)
                _log.info("this node cannot be dialled from outside by UPnP: %s", last or repr(error))
        await trio.sleep(RETRY_S)


class _Forwarding:
    """One port, forwarded by one router after the other."""

    def __init__(self, port: int, mapped: Callable[[str | None], None]) -> None:
        self._port = port
        self._mapped = mapped
        self._limiter = trio.CapacityLimiter(2)  # a call that hangs does not keep the last one from being made

    async def run(self, find_router: Callable[[], Router]) -> None:
        """Find a router and keep the port forwarded until it refuses. Errors: what the router raises."""
        router = await self._in_thread(find_router)
        told: str | None = None
        try:
            while True:
                host = await self._in_thread(router.outside_host)
                if not ipaddress.ip_address(host).is_global:
                    raise OSError(f"the router itself is behind another one: its address is {host}")
                outside = await self._in_thread(router.map, self._port)
                if told != f"{host}:{outside}":
                    told = f"{host}:{outside}"
                    _log.info("the router forwards %s to this node", told)
                    self._mapped(told)
                await trio.sleep(RENEW_S)
        finally:
            if told is not None:
                self._mapped(None)
            await self._unmap(router)

    async def _in_thread(self, run: Callable[..., _T], *arguments: object) -> _T:
        return await trio.to_thread.run_sync(run, *arguments, limiter=self._limiter, abandon_on_cancel=True)

    async def _unmap(self, router: Router) -> None:
        with trio.move_on_after(_UNMAP_S, shield=True):
            try:
                await self._in_thread(router.unmap, self._port)
            except Exception as error:  # noqa: BLE001 - the lease ends by itself
                _log.debug("the router does not take a forwarding back: %r", error)
