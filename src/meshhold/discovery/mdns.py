"""Which nodes of the same mesh are on this LAN? Announces this node by multicast DNS and tells of others it hears.

Shown to everyone on the LAN: that a node is here, its addresses and port, the mesh's public tag and eight characters of
the node's id. Neither the swarm key nor any name. What is heard is a rumour: whoever is dialled proves himself by the
handshake, so a liar costs a dial in vain, and only so many of them.

`zeroconf` works in threads of its own; a bounded list of names is all that comes over from them. Whatever goes wrong is
logged once and tried again: no node fails to start because its LAN knows no multicast.
Source: RFC 6762 (multicast DNS), RFC 6763 (DNS-SD: the name of a service, section 4; TXT, section 6).
"""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Final, NamedTuple

import ifaddr
import trio
from zeroconf import ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from meshhold.model.ids import NodeId, short_id

SERVICE: Final = "_meshhold._tcp.local."
VERSION: Final = b"1"
SWARM_TAG_SIZE: Final = 8
"""Bytes of the swarm id that are shown: enough that no two meshes on one LAN meet."""
HEARD_MAX: Final = 256
"""Names kept at once: a home has fewer nodes, and a flood of invented ones stops here."""
ADDRESSES_MAX: Final = 8  # told of one node; a machine has one or two on a LAN
RESOLVE_MS: Final = 3_000
REPEAT_S: Final = 120.0
"""How often those that are still there are told again: a dial that failed deserves another one."""
RETRY_S: Final = 60.0  # after a failure, and between looks at this machine's own addresses
_CLOSE_S: Final = 2.0

_log = logging.getLogger(__name__)


class Sighting(NamedTuple):
    """What an announcement says of a node."""

    tag: str
    addresses: tuple[str, ...]


def swarm_tag(swarm_id: bytes) -> str:
    """Return what a mesh is known by on the LAN."""
    return swarm_id[:SWARM_TAG_SIZE].hex()


def announcement(swarm_id: bytes, node: NodeId, port: int, hosts: Sequence[str]) -> ServiceInfo:
    """Return what this node says of itself; `hosts` are its addresses on the LAN."""
    tag = short_id(node)
    return ServiceInfo(
        SERVICE,
        f"{swarm_tag(swarm_id)}-{tag}.{SERVICE}",
        port=port,
        properties={"v": VERSION, "swarm": swarm_tag(swarm_id), "node": tag},
        server=f"meshhold-{tag}.local.",
        parsed_addresses=list(hosts),
    )


def is_of_swarm(name: str, swarm_id: bytes) -> bool:
    """Tell by its name alone whether an announcement is worth resolving."""
    return name.lower().startswith(f"{swarm_tag(swarm_id)}-")


def read(said: ServiceInfo, swarm_id: bytes, own_tag: str) -> Sighting | None:
    """Return the node that an announcement is about; None for this node, another mesh's, or what makes no sense."""
    properties = said.properties
    tag = _text(properties.get(b"node"))
    if properties.get(b"v") != VERSION or _text(properties.get(b"swarm")) != swarm_tag(swarm_id):
        return None
    if not tag or tag == own_tag or not said.port:
        return None
    hosts = [host for host in said.parsed_scoped_addresses() if _can_be_dialed(host)]
    addresses = tuple(_address(host, said.port) for host in hosts[:ADDRESSES_MAX])
    return Sighting(tag, addresses) if addresses else None


def lan_hosts() -> tuple[str, ...]:
    """Return this machine's addresses that others on its LAN can dial."""
    found = [str(ip.ip if ip.is_IPv4 else ip.ip[0]) for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    return tuple(sorted(host for host in found if _can_be_dialed(host) and not ipaddress.ip_address(host).is_loopback))


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(value: bytes | None) -> str:
    return (value or b"").decode("ascii", "replace")


def _can_be_dialed(host: str) -> bool:
    """Refuse what would lead elsewhere: groups, nobody, and link-local ones, which mean nothing without a scope."""
    with suppress(ValueError):
        ip = ipaddress.ip_address(host)
        return not (ip.is_multicast or ip.is_unspecified or (ip.version == 6 and ip.is_link_local))
    return False


class _Heard:
    """Names that are on the LAN now. Written by zeroconf's threads, read by Trio's."""

    def __init__(self, swarm_id: bytes) -> None:
        self.changed = trio.Event()
        self._swarm_id = swarm_id
        self._token = trio.lowlevel.current_trio_token()
        self._lock = Lock()
        self._names: OrderedDict[str, bool] = OrderedDict()  # name → not told yet

    def take(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Take one word of zeroconf's, on its thread."""
        del zeroconf, service_type
        if not is_of_swarm(name, self._swarm_id):
            return
        with self._lock:
            if state_change is ServiceStateChange.Removed:
                self._names.pop(name, None)
                return
            if name not in self._names and len(self._names) >= HEARD_MAX:
                return
            self._names[name] = True
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def fresh(self) -> list[str]:
        """Return the names that came or changed since the last look."""
        with self._lock:
            names = [name for name, is_new in self._names.items() if is_new]
            self._names.update(dict.fromkeys(names, False))
        return names

    def age(self) -> None:
        """Let every name that is still there be told again."""
        with self._lock:
            self._names.update(dict.fromkeys(self._names, True))


async def run_mdns(
    swarm_id: bytes,
    node: NodeId,
    port: int,
    found: Callable[[NodeId | None, str], None],
    *,
    resolve: Callable[[str], NodeId | None] = lambda _tag: None,
    hosts: Callable[[], Iterable[str]] = lan_hosts,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Announce this node at `port` and call `found` with each address of another one of its mesh, until cancelled.

    `resolve` names the node that is known by a tag (the short form of its id), if this node knows it; else `found` gets
    None. An address is told again every two minutes while its node is there. `hosts` are the addresses that are
    announced, and whose interfaces are used. Started at once. Errors: none; what fails is logged once and tried again.
    """
    task_status.started()
    lan = _Lan(swarm_id, node, found, resolve)
    last = ""
    while True:
        try:
            addresses = tuple(hosts())
            if addresses:
                await lan.run(port, addresses, hosts)
                continue
        except Exception as error:  # noqa: BLE001 - sockets, interfaces, name conflicts: a node lives without all this
            if repr(error) != last:
                last = repr(error)
                _log.warning("other nodes on the LAN are not found by themselves: %s", last)
        await trio.sleep(RETRY_S)


class _Lan:
    """This node's part in multicast DNS."""

    def __init__(
        self,
        swarm_id: bytes,
        node: NodeId,
        found: Callable[[NodeId | None, str], None],
        resolve: Callable[[str], NodeId | None],
    ) -> None:
        self._swarm_id = swarm_id
        self._node = node
        self._found = found
        self._resolve = resolve
        self._limiter = trio.CapacityLimiter(3)  # one call resolves, one announces, one closes

    async def run(self, port: int, addresses: tuple[str, ...], hosts: Callable[[], Iterable[str]]) -> None:
        """Announce and listen until this machine's addresses change."""
        heard = _Heard(self._swarm_id)
        service = await trio.to_thread.run_sync(_Service, addresses, heard, limiter=self._limiter)
        said = announcement(self._swarm_id, self._node, port, addresses)
        failure: list[Exception] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, service, heard)
                try:
                    await trio.to_thread.run_sync(service.announce, said, limiter=self._limiter, abandon_on_cancel=True)
                    await _wait_move(addresses, hosts)
                except Exception as error:  # noqa: BLE001 - raised below: out of the nursery it would be a group
                    failure.append(error)
                nursery.cancel_scope.cancel()
            if failure:
                raise failure[0]
        finally:
            with trio.move_on_after(_CLOSE_S, shield=True):  # time to say goodbye to the LAN
                await trio.to_thread.run_sync(service.close, limiter=self._limiter, abandon_on_cancel=True)

    async def _listen(self, service: _Service, heard: _Heard) -> None:
        """Tell of what was heard, and now and then of all that is still there."""
        while True:
            changed = heard.changed
            for name in heard.fresh():
                sighting = await self._look_up(service, name)
                if sighting is not None:
                    node = self._resolve(sighting.tag)
                    for address in sighting.addresses:
                        self._found(node, address)
            with trio.move_on_after(REPEAT_S) as waiting:
                await changed.wait()
            if waiting.cancelled_caught:
                heard.age()

    async def _look_up(self, service: _Service, name: str) -> Sighting | None:
        try:
            said = await trio.to_thread.run_sync(service.look_up, name, limiter=self._limiter, abandon_on_cancel=True)
            return read(said, self._swarm_id, short_id(self._node)) if said else None
        except Exception as error:  # noqa: BLE001 - a name that a stranger has malformed
            _log.debug("the announcement %r cannot be read: %r", name, error)
            return None


class _Service:
    """Zeroconf's side: open sockets and a browser. Every method blocks."""

    def __init__(self, addresses: tuple[str, ...], heard: _Heard) -> None:
        ipv4 = [address for address in addresses if ":" not in address]  # IPv6 alone reaches nobody more in a home
        self._zeroconf = Zeroconf(interfaces=ipv4 or list(addresses))
        try:
            self._browser = ServiceBrowser(self._zeroconf, SERVICE, handlers=[heard.take])
        except BaseException:
            self._zeroconf.close()
            raise

    def announce(self, said: ServiceInfo) -> None:
        """Say who is here; a name that is taken gets a number."""
        self._zeroconf.register_service(said, allow_name_change=True)

    def look_up(self, name: str) -> ServiceInfo | None:
        """Return what is said of a name."""
        return self._zeroconf.get_service_info(SERVICE, name, RESOLVE_MS)

    def close(self) -> None:
        """Say goodbye, and end the threads."""
        self._browser.cancel()
        self._zeroconf.close()


async def _wait_move(addresses: tuple[str, ...], hosts: Callable[[], Iterable[str]]) -> None:
    """Wait until this machine has other addresses."""
    while tuple(hosts()) == addresses:  # noqa: ASYNC110 - nobody tells of a change
        await trio.sleep(RETRY_S)
