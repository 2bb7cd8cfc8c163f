"""The network that cluster tests run on: what passes, what a fault stops, what a router lets through, what is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.cluster.namespaces import Host, Network, open_network, remove_stale

PORT: Final = 7777
SOON_S: Final = 5.0
NEVER_S: Final = 0.15  # how long a test waits for what must not arrive: loopback needs a thousandth of it


@pytest.fixture
def network() -> Iterator[Network]:
    with open_network() as opened:
        yield opened


def mailbox(host: Host, family: int = socket.AF_INET) -> socket.socket:
    """Return a datagram socket on a machine."""
    with host.entered():
        box = socket.socket(family, socket.SOCK_DGRAM)
    box.bind(("", PORT))
    return box


def arrives(sender: socket.socket, receiver: socket.socket, address: str, patience_s: float = SOON_S) -> bool:
    """Tell whether a datagram gets there."""
    word = os.urandom(8)
    sender.sendto(word, (address, PORT))
    receiver.settimeout(patience_s)
    try:
        return receiver.recv(64) == word
    except TimeoutError:
        return False


def test_machines_reach_each_other_and_nothing_else(network: Network) -> None:
    """IPv4 and IPv6 pass between them; they have no way out, and this machine sees no new interface."""
    before = socket.if_nameindex()
    a, b = network.add("a"), network.add("b")
    with mailbox(a) as at_a, mailbox(b) as at_b:
        assert arrives(at_a, at_b, b.address)
        assert arrives(at_b, at_a, a.address)
        with pytest.raises(OSError, match="unreachable"):
            at_a.sendto(b"out", ("203.0.113.1", PORT))
    with mailbox(a, socket.AF_INET6) as at_a, mailbox(b, socket.AF_INET6) as at_b:
        assert arrives(at_a, at_b, b.address_6)
    assert socket.if_nameindex() == before


def test_partitions_and_one_way_losses_come_and_go(network: Network) -> None:
    """Faults add up until they are healed; nobody else is touched."""
    a, b, c = (network.add(name) for name in "abc")
    with mailbox(a) as at_a, mailbox(b) as at_b, mailbox(c) as at_c:
        network.drop(a, b)
        assert not arrives(at_a, at_b, b.address, NEVER_S)
        assert arrives(at_b, at_a, a.address)
        network.partition([a, b], [c])
        assert not arrives(at_a, at_c, c.address, NEVER_S)
        assert not arrives(at_c, at_b, b.address, NEVER_S)
        assert arrives(at_b, at_a, a.address)
        network.heal()
        for sender, receiver, address in ((at_a, at_b, b.address), (at_a, at_c, c.address), (at_c, at_b, b.address)):
            assert arrives(sender, receiver, address)


def test_a_router_lets_out_and_not_in(network: Network) -> None:
    """A machine behind NAT is seen under its router's address, gets answers, and cannot be dialled."""
    outer = network.add("outer")
    hidden, other = network.add("hidden", behind_nat=True), network.add("other", behind_nat=True)
    with outer.entered():
        listener = socket.create_server((outer.address, PORT))
    with hidden.entered():
        hidden_listener = socket.create_server((hidden.own_address, PORT))
        call = socket.create_connection((outer.address, PORT), timeout=SOON_S)
    with listener, hidden_listener, call:
        taken, (seen, _port) = listener.accept()
        with taken:
            assert seen == hidden.address != hidden.own_address
            taken.sendall(b"answer")
            assert call.recv(16) == b"answer"
        for stranger in (outer, other):
            with stranger.entered(), pytest.raises(OSError, match="timed out"):
                socket.create_connection((hidden.address, PORT), timeout=NEVER_S)


def test_commands_run_on_the_machine_and_end_with_it() -> None:
    """A process is signalled under its own number, and none is left when the network ends, children included."""
    with open_network() as network:
        a = network.add("a")
        shown = a.run("ip", "-brief", "-4", "address", "show", "mesh0").stdout
        assert a.address in shown
        child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(99)'])"
        parent = a.start(sys.executable, "-c", child)
        deadline = time.monotonic() + SOON_S
        while len(pids := a.run("ip", "netns", "pids", a.namespace).stdout.split()) < 2:
            assert time.monotonic() < deadline
        assert str(parent.pid) in pids
    assert parent.returncode == -signal.SIGKILL
    assert not Path("/run/netns", a.namespace).exists()
    assert not [pid for pid in pids if _runs(int(pid))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_killed_run_left_is_removed_by_the_next() -> None:
    """Namespaces of a process that is no more go; those of one that lives stay."""
    script = (
        "import os, signal\n"
        "from tests.cluster.namespaces import open_network\n"
        "with open_network() as network:\n"
        "    print(network.add('a').namespace, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with open_network() as mine:
        kept = mine.add("a")
        died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
        assert died.returncode == -signal.SIGKILL, died.stderr
        left = died.stdout.strip()
        assert Path("/run/netns", left).exists()
        assert left in remove_stale()
        assert not Path("/run/netns", left).exists()
        assert Path("/run/netns", kept.namespace).exists()
