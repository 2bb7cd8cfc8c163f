"""Forwarding by the router: what is asked of a real protocol's other end, and that no router stops a node."""

from __future__ import annotations

import logging
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import pytest
import trio

from meshhold.discovery import upnp
from meshhold.discovery.upnp import LEASE_S, PORTS_TRIED, Router, UpnpRouter, run_upnp

OUTSIDE: Final = "1.2.3.4"  # a public address, as text: nobody dials it here
HERE: Final = "127.0.0.1"
GROUP: Final = ("239.255.255.250", 1900)
PORT: Final = 7777
SERVICE: Final = "urn:schemas-upnp-org:service:WANIPConnection:1"
DEVICE: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
DESCRIPTION: Final = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>{DEVICE}</deviceType><friendlyName>fake</friendlyName><manufacturer>test</manufacturer>
<modelName>fake</modelName><UDN>uuid:0</UDN><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><UDN>uuid:1</UDN><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType><serviceId>c</serviceId>
<controlURL>/common</controlURL><eventSubURL>/e</eventSubURL><SCPDURL>/s</SCPDURL></service></serviceList><deviceList>
<device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><UDN>uuid:2</UDN><serviceList><service>
<serviceType>{SERVICE}</serviceType><serviceId>i</serviceId>
<controlURL>/ip</controlURL><eventSubURL>/e</eventSubURL><SCPDURL>/s</SCPDURL></service></serviceList></device>
</deviceList></device></deviceList></device></root>"""


class FakeGateway:
    """A router on loopback: answers M-SEARCH, serves its description, keeps mappings."""

    def __init__(self) -> None:
        self.location = ""
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.mappings: dict[int, tuple[str, int, int]] = {}  # outside port → host, port, lease
        self.outside = OUTSIDE
        self.permanent_only = False
        self.added = 0

    def answer(self, action: str, said: dict[str, str]) -> dict[str, str] | int:
        """Return what an action yields, or the number of an error."""
        port = int(said.get("NewExternalPort", 0))
        if action == "GetStatusInfo":
            return {"NewConnectionStatus": "Connected", "NewLastConnectionError": "ERROR_NONE", "NewUptime": "1"}
        if action == "GetExternalIPAddress":
            return {"NewExternalIPAddress": self.outside}
        if action == "GetSpecificPortMappingEntry":
            held = self.mappings.get(port)
            if held is None:
                return 714
            names = ("NewInternalClient", "NewInternalPort", "NewLeaseDuration")
            more = {"NewEnabled": "1", "NewPortMappingDescription": "x"}
            return dict(zip(names, map(str, held), strict=True)) | more
        if action == "AddPortMapping":
            if self.permanent_only and said["NewLeaseDuration"] != "0":
                return 725
            internal = int(said["NewInternalPort"])
            self.mappings[port] = (said["NewInternalClient"], internal, int(said["NewLeaseDuration"]))
            self.added += 1
            return {}
        if action == "DeletePortMapping":
            return {} if self.mappings.pop(port, None) else 714
        return 401


def _handler(gateway: FakeGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200, DESCRIPTION)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            action = self.headers["SOAPAction"].strip('"').rpartition("#")[2]
            answer = gateway.answer(action, dict(re.findall(r"<(New\w+)>([^<]*)</", body)))
            if isinstance(answer, int):
                inner = (
                    "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
                    '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0">'
                    f"<errorCode>{answer}</errorCode></UPnPError></detail></s:Fault>"
                )
            else:
                fields = "".join(f"<{name}>{value}</{name}>" for name, value in answer.items())
                inner = f'<u:{action}Response xmlns:u="{SERVICE}">{fields}</u:{action}Response>'
            envelope = f'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{inner}</s:Body>'
            self._reply(500 if isinstance(answer, int) else 200, f"{envelope}</s:Envelope>")

        def _reply(self, status: int, text: str) -> None:
            raw = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    return Handler


def _answer_searches(group: socket.socket, gateway: FakeGateway, over: threading.Event) -> None:
    while not over.is_set():
        try:
            asked, asker = group.recvfrom(2048)
        except TimeoutError:
            continue
        if asked.startswith(b"M-SEARCH") and asker[0] == HERE:
            answer = f"HTTP/1.1 200 OK\r\nST: {DEVICE}\r\nUSN: uuid:0\r\nLOCATION: {gateway.location}\r\n\r\n"
            group.sendto(answer.encode(), asker)


@contextmanager
def fake_gateway() -> Iterator[FakeGateway]:
    """Run a router on loopback."""
    gateway, over = FakeGateway(), threading.Event()
    with (
        ThreadingHTTPServer((HERE, 0), _handler(gateway)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as group,
    ):
        gateway.location = f"http://{HERE}:{server.server_port}/description.xml"
        group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        group.settimeout(0.02)
        group.bind(GROUP)
        joined = struct.pack("4s4s", socket.inet_aton(GROUP[0]), socket.inet_aton(HERE))
        group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}),
            threading.Thread(target=_answer_searches, args=(group, gateway, over)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield gateway
        finally:
            over.set()
            server.shutdown()
            for thread in threads:
                thread.join(5)


@pytest.fixture(scope="module")
def found() -> Iterator[tuple[FakeGateway, UpnpRouter]]:
    """Find the router once: that takes a second, whatever it answers."""
    with fake_gateway() as gateway:
        yield gateway, UpnpRouter(HERE, discovery_ms=100)


@pytest.fixture
def pair(found: tuple[FakeGateway, UpnpRouter]) -> tuple[FakeGateway, UpnpRouter]:
    """Return the router and this side of it, as after a restart of the router."""
    gateway, router = found
    gateway.reset()
    return gateway, router


def test_a_port_is_lent_renewed_and_given_back(pair: tuple[FakeGateway, UpnpRouter]) -> None:
    """The whole protocol, as miniupnpc speaks it."""
    gateway, router = pair
    assert router.outside_host() == OUTSIDE
    for _ in range(2):
        assert router.map(PORT) == PORT
        assert gateway.mappings == {PORT: (HERE, PORT, LEASE_S)}
    assert gateway.added == 2
    router.unmap(PORT)
    assert gateway.mappings == {}


def test_a_router_that_lends_for_ever_only_is_asked_so(pair: tuple[FakeGateway, UpnpRouter]) -> None:
    """Error 725 leads to a mapping without end, which is taken back all the same."""
    gateway, router = pair
    gateway.permanent_only = True
    assert router.map(PORT) == PORT
    assert gateway.mappings == {PORT: (HERE, PORT, 0)}
    router.unmap(PORT)
    assert gateway.mappings == {}


def test_what_belongs_to_others_is_left_alone(pair: tuple[FakeGateway, UpnpRouter]) -> None:
    """Another machine's port, and another program's of this one, are neither taken nor given back."""
    gateway, router = pair
    others = {PORT: ("10.0.0.9", PORT, 0), PORT + 1: (HERE, 80, 0)}
    gateway.mappings.update(others)
    assert router.map(PORT) == PORT + 2
    router.unmap(PORT)
    assert gateway.mappings == others
    gateway.mappings.update({PORT + n: ("10.0.0.9", 1, 0) for n in range(PORTS_TRIED)})
    with pytest.raises(OSError, match="to other machines"):
        router.map(PORT)
    router.unmap(PORT)
    assert len(gateway.mappings) == PORTS_TRIED


def test_the_last_ports_have_no_next_one(pair: tuple[FakeGateway, UpnpRouter]) -> None:
    """No port above 65535 is asked for."""
    gateway, router = pair
    gateway.mappings[65_535] = ("10.0.0.9", 1, 0)
    with pytest.raises(OSError, match="to other machines"):
        router.map(65_535)


def test_without_a_router_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What miniupnpc raises after four seconds without an answer is the exception "Success"."""

    class Lonely:
        def __init__(self, *_arguments: object) -> None:
            """Take what miniupnpc takes."""

        def discover(self) -> int:
            raise Exception("Success")  # noqa: TRY002 - as the library does

    monkeypatch.setattr("miniupnpc.UPnP", Lonely)
    with pytest.raises(OSError, match="no router on this LAN offers UPnP"):
        UpnpRouter(HERE)


class Told:
    """What `run_upnp` tells, one at a time."""

    def __init__(self) -> None:
        self._put, self._get = trio.open_memory_channel[str | None](16)

    def __call__(self, address: str | None) -> None:
        self._put.send_nowait(address)

    async def next(self) -> str | None:
        """Wait for the next word."""
        with trio.fail_after(10):
            return await self._get.receive()


@asynccontextmanager
async def forwarding(find_router: Callable[[], Router]) -> AsyncIterator[Told]:
    """Run `run_upnp` while the block lasts."""
    told = Told()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(run_upnp, PORT, told, find_router=find_router))
        yield told
        nursery.cancel_scope.cancel()


async def test_the_address_outside_is_told_and_the_port_given_back(pair: tuple[FakeGateway, UpnpRouter]) -> None:
    """A change of the router's address is told at the next renewal, and the end of it all as well."""
    gateway, router = pair
    async with forwarding(lambda: router) as told:
        assert await told.next() == f"{OUTSIDE}:{PORT}"
        assert gateway.mappings == {PORT: (HERE, PORT, LEASE_S)}
    assert await told.next() is None
    assert gateway.mappings == {}


async def test_a_router_that_forgets_or_moves_is_asked_again(
    pair: tuple[FakeGateway, UpnpRouter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewal puts a lost mapping back, and tells of another address once."""
    gateway, router = pair
    monkeypatch.setattr(upnp, "RENEW_S", 0.005)
    async with forwarding(lambda: router) as told:
        assert await told.next() == f"{OUTSIDE}:{PORT}"
        gateway.reset()
        gateway.outside = "5.6.7.8"
        assert await told.next() == f"5.6.7.8:{PORT}"
        assert gateway.mappings == {PORT: (HERE, PORT, LEASE_S)}
    assert await told.next() is None


async def test_a_router_behind_another_one_is_no_way_in(
    pair: tuple[FakeGateway, UpnpRouter], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A private address outside is not told; the log says why, once, until the router has a better one."""
    gateway, router = pair
    gateway.outside = "100.64.0.7"
    tries = iter(range(4))
    monkeypatch.setattr(upnp, "RETRY_S", 0.001)

    def find() -> Router:
        if next(tries) == 3:
            gateway.outside = OUTSIDE
        return router

    with caplog.at_level(logging.INFO, "meshhold.discovery.upnp"):
        async with forwarding(find) as told:
            assert await told.next() == f"{OUTSIDE}:{PORT}"
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "behind another one: its address is 100.64.0.7" in line]) == 1


async def test_a_router_that_answers_no_more_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs is left to its thread."""
    hangs, over = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    monkeypatch.setattr(upnp, "_UNMAP_S", 0.01)

    class Dead:
        def outside_host(self) -> str:
            token.run_sync_soon(hangs.set)
            over.wait(10)
            return OUTSIDE

        def map(self, port: int) -> int:
            return port

        def unmap(self, port: int) -> None:
            del port
            over.wait(10)

    with trio.fail_after(5):
        async with forwarding(Dead):
            await hangs.wait()
    over.set()
