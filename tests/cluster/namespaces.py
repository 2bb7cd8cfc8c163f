"""Machines of their own for tests: network namespaces on one switch, partitions, one-way losses, and a router with NAT.

Nothing appears in this machine's own network: the switch, too, is a namespace, and leads nowhere. Names carry the
process's number, so runs do not meet, and what a killed run left behind is found and removed by the next one.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from tests.rights import skip_without

SUBNET: Final = "10.77.0"
SUBNET_6: Final = "fd77::"
INSIDE: Final = "192.168.77"  # behind each router; the same behind all, as in homes
_NAMES: Final = re.compile(r"mh(\d+)n\d+-[a-z0-9]+\Z")
_HOST_NAME: Final = re.compile(r"[a-z][a-z0-9]{0,9}\Z")  # with its prefix it names an interface: 15 characters
_CLONE_NEWNET: Final = 0x40000000
_CALL_S: Final = 20.0
_FOLDER: Final = Path("/run/netns")
_numbers = count(1)


def why_not() -> str:
    """Return what would have to be so that namespaces can be used here, "" if they can.

    A program that is missing is no right that is: it fails the test, and `make test` installs it.
    """
    if os.geteuid() != 0:
        return "run the tests as root"
    missing = [tool for tool in ("ip", "nft", "sysctl") if shutil.which(tool) is None]
    assert not missing, f"install {', '.join(missing)} (packages iproute2, nftables, procps)"
    probe = f"mh{os.getpid()}n0-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False, timeout=_CALL_S)
    if made.returncode:
        return f"give the container CAP_SYS_ADMIN and CAP_NET_ADMIN ({made.stderr.strip()})"
    _call("ip", "netns", "delete", probe)
    return ""


class Host:
    """One machine. `address` is where others on the switch see it: its router's, if it is behind one."""

    def __init__(self, network: Network, name: str, number: int, *, behind_nat: bool) -> None:
        self.name = name
        self.namespace = f"{network.prefix}-{name}"
        self.behind_nat = behind_nat
        self.address = f"{SUBNET}.{number}"
        self.address_6 = "" if behind_nat else f"{SUBNET_6}{number:x}"
        self.own_address = f"{INSIDE}.2" if behind_nat else self.address
        self._network = network

    def command(self, *words: str) -> list[str]:
        """Return the words of a command line that runs on this machine; its process is the command's own."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        defaults: dict[str, Any] = {"capture_output": True, "text": True, "timeout": _CALL_S}
        return subprocess.run(self.command(*words), check=False, **{**defaults, **options})

    def start(self, *words: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command; it is killed when the network ends."""
        process = subprocess.Popen(self.command(*words), **options)
        self._network.processes.append(process)
        return process

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread make its sockets on the machine; those that it has made stay there."""
        here = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net")
        with here.open() as before, (_FOLDER / self.namespace).open() as inside:
            _set_namespace(inside.fileno())
            try:
                yield
            finally:
                _set_namespace(before.fileno())


class Network:
    """Machines on one switch. Made by `open_network`."""

    def __init__(self) -> None:
        self.prefix = f"mh{os.getpid()}n{next(_numbers)}"
        self.processes: list[subprocess.Popen[Any]] = []
        self.hosts: dict[str, Host] = {}
        self._switch = f"{self.prefix}-switch"
        self._drops: set[tuple[str, str]] = set()
        _call("ip", "netns", "add", self._switch)
        _batch(self._switch, "link set lo up", "link add br0 type bridge", "link set br0 up")

    def add(self, name: str, *, behind_nat: bool = False) -> Host:
        """Add a machine; with `behind_nat` it gets a router of its own that lets nothing in."""
        assert _HOST_NAME.match(name), f"a machine's name is one to ten of a-z and 0-9, not {name!r}"
        assert name not in self.hosts, f"there is a machine {name} already"
        host = Host(self, name, len(self.hosts) + 2, behind_nat=behind_nat)
        self.hosts[name] = host
        outer = f"{host.namespace}r" if behind_nat else host.namespace
        for namespace in dict.fromkeys((outer, host.namespace)):
            _call("ip", "netns", "add", namespace)
            _batch(namespace, "link set lo up")
        port = f"port-{name}"
        _batch(
            self._switch,
            f"link add {port} type veth peer name mesh0 netns {outer}",
            f"link set {port} master br0 up",
        )
        _batch(outer, f"addr add {host.address}/24 dev mesh0", "link set mesh0 up")
        if behind_nat:
            self._add_router(host, outer)
        else:
            _batch(outer, f"addr add {host.address_6}/64 dev mesh0 nodad")
        self._wait_forwarding(port)
        return host

    def _wait_forwarding(self, port: str) -> None:
        """Wait until the switch passes on what a port brings: the kernel sets that a moment after the link is up."""
        deadline = time.monotonic() + _CALL_S
        while '"state":"forwarding"' not in _call("ip", "-n", self._switch, "-j", "-d", "link", "show", "dev", port):
            assert time.monotonic() < deadline, f"{port} of {self._switch} does not come up"

    @staticmethod
    def _add_router(host: Host, router: str) -> None:
        """Put a machine behind a router: what it begins goes out under the router's address, nothing comes in."""
        _batch(
            router,
            f"link add home0 type veth peer name mesh0 netns {host.namespace}",
            f"addr add {INSIDE}.1/24 dev home0",
            "link set home0 up",
        )
        _batch(
            host.namespace,
            f"addr add {host.own_address}/24 dev mesh0",
            "link set mesh0 up",
            f"route add default via {INSIDE}.1",
        )
        _call("ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        _nft(
            router,
            """
            table ip nat {
              chain out { type nat hook postrouting priority srcnat; oifname "mesh0" masquerade; }
            }
            table ip filter {
              chain through {
                type filter hook forward priority filter;
                iifname "mesh0" ct state != { established, related } drop;
              }
              chain to_router {
                type filter hook input priority filter;
                iifname "mesh0" ct state != { established, related } drop;
              }
            }
            """,
        )

    def drop(self, sender: Host, receiver: Host) -> None:
        """Lose all that one machine sends to another; the opposite way stays as it is."""
        self._drops.add((sender.name, receiver.name))
        self._apply()

    def partition(self, *sides: Iterable[Host]) -> None:
        """Lose all that goes between machines of different sides."""
        groups = [tuple(side) for side in sides]
        self._drops |= {
            (a.name, b.name) for one in groups for other in groups if one is not other for a in one for b in other
        }
        self._apply()

    def heal(self) -> None:
        """Undo every drop and partition."""
        self._drops.clear()
        self._apply()

    def _apply(self) -> None:
        """Write the switch's rules anew. ARP passes: a one-way loss is one of packets, not of neighbours."""
        rules = "".join(
            f'iifname "port-{sender}" oifname "port-{receiver}" meta protocol {{ ip, ip6 }} drop;\n'
            for sender, receiver in sorted(self._drops)
        )
        _nft(
            self._switch,
            f"""
            table bridge faults
            delete table bridge faults
            table bridge faults {{
              chain between {{
                type filter hook forward priority 0;
                {rules}
              }}
            }}
            """,
        )

    def close(self) -> None:
        """End every process on the machines, then remove them."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        remove(name for name in _namespaces() if name.startswith(f"{self.prefix}-"))
        for process in self.processes:
            process.wait(_CALL_S)


@contextmanager
def open_network() -> Iterator[Network]:
    """Make an empty network; at the end nothing of it is left.

    Skips the test, with the reason, where that is denied.
    """
    if remedy := why_not():
        skip_without("network namespaces", remedy)
    remove_stale()
    network = Network()
    try:
        yield network
    finally:
        network.close()


def remove_stale() -> list[str]:
    """Remove what runs left behind that were killed; return the names."""
    stale = []
    for name in _namespaces():
        match = _NAMES.match(name)
        if match and not Path(f"/proc/{match[1]}").exists():
            stale.append(name)
    remove(stale)
    return stale


def remove(namespaces: Iterable[str]) -> None:
    """Kill what runs in namespaces of ours, and delete them; their interfaces and rules go with them."""
    for name in list(namespaces):
        assert _NAMES.match(name), f"{name} is not ours"
        listed = subprocess.run(
            ["ip", "netns", "pids", name], capture_output=True, text=True, check=False, timeout=_CALL_S
        )
        for number in listed.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
        with suppress(subprocess.CalledProcessError):  # somebody else has removed the same stale one
            _call("ip", "netns", "delete", name)


def _namespaces() -> list[str]:
    return sorted(path.name for path in _FOLDER.iterdir()) if _FOLDER.exists() else []


def _call(*words: str, text: str | None = None) -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=_CALL_S)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, f"{done.stderr}\n{text or ''}")
    return done.stdout


def _batch(namespace: str, *commands: str) -> None:
    _call("ip", "-n", namespace, "-batch", "-", text="\n".join(commands))


def _nft(namespace: str, rules: str) -> None:
    _call("ip", "netns", "exec", namespace, "nft", "-f", "-", text=rules)


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
