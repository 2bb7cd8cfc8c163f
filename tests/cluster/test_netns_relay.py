"""Nodes behind real address translation: who is relayed, who is not for long, and what a lost relay does."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from tests.cluster.namespaces import Host, Network, open_network
from tests.cluster.relay_node import SIZE, identity

DEADLINE_S: Final = 30.0
LISTEN: Final = "0.0.0.0:7777"


class Process:
    """One node in a process of its own."""

    def __init__(self, host: Host, **words: Any) -> None:
        defaults = {"name": host.name, "listen": LISTEN, "join": "", "call": "", "at": [], "knows": {}}
        program = [sys.executable, "-m", "tests.cluster.relay_node", json.dumps({**defaults, **words})]
        self.process = host.start(*program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._rest = b""
        assert self.hear("ready") == identity(host.name).node_id

    def hear(self, word: str) -> Any:
        """Wait until the node says something, and return what; other words are passed over."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                said = json.loads(line)
                if word in said:
                    return said if word == "answer" else said[word]
            assert self.process.stdout is not None
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"nothing about {word} within {DEADLINE_S} s"
            if select.select([self.process.stdout], [], [], left_s)[0]:
                read = self.process.stdout.read(65_536)
                assert read, f"the node ended without a word about {word}"
                self._rest += read


@pytest.fixture
def network() -> Iterator[Network]:
    with open_network() as opened:
        yield opened


def test_two_nodes_behind_routers_talk_through_a_third(network: Network) -> None:
    """Nobody can dial either; calls and bulk pass, within the head start and a little, through the node in the open."""
    middle = network.add("middle")
    one, two = network.add("one", behind_nat=True), network.add("two", behind_nat=True)
    join = f"{middle.address}:7777"
    relay = Process(middle)
    Process(two, join=join)
    source = Process(one, join=join, call="two", at=[f"{two.address}:7777"])
    answer = source.hear("answer")
    assert answer["answer"] == [identity("one").node_id, "hello"]
    assert answer["vias"] == [identity("middle").node_id]
    assert answer["seconds"] < 5
    assert source.hear("counted") == SIZE
    relay.process.kill()
    assert source.hear("closed") in (identity("middle").node_id, identity("two").node_id)


def test_a_node_behind_a_router_dials_back_who_asks_for_it(network: Network) -> None:
    """The one in the open cannot dial it: the first word goes through the relay, the next ones do not."""
    middle, source_host = network.add("middle"), network.add("one")
    hidden = network.add("two", behind_nat=True)
    join = f"{middle.address}:7777"
    Process(middle)
    Process(hidden, join=join, knows={"one": f"{source_host.address}:7777"})
    source = Process(source_host, join=join, call="two", at=[f"{hidden.address}:7777"])
    assert source.hear("answer")["answer"] == [identity("one").node_id, "hello"]
    assert source.hear("direct") == [identity("one").node_id, "again"]
