"""A node announces addresses that others can dial."""

from __future__ import annotations

import pytest

from meshhold.membership.member import ADDRESSES_MAX
from meshhold.node.addresses import dialable, listen_address

LAN = ("192.0.2.7", "2001:db8::7")


@pytest.mark.parametrize(
    ("listening", "mapped", "told"),
    [
        (["127.0.0.1:7777"], None, ("127.0.0.1:7777",)),
        (["0.0.0.0:7777"], None, ("192.0.2.7:7777",)),
        (["[::]:7777"], None, ("[2001:db8::7]:7777",)),
        (["0.0.0.0:7777", "[::]:7777"], "203.0.113.9:7", ("192.0.2.7:7777", "[2001:db8::7]:7777", "203.0.113.9:7")),
        (["192.0.2.7:7777"], "192.0.2.7:7777", ("192.0.2.7:7777",)),
        ([], None, ()),
    ],
)
def test_wildcards_become_the_addresses_of_their_family(
    listening: list[str], mapped: str | None, told: tuple[str, ...]
) -> None:
    assert dialable(listening, LAN, mapped) == told


def test_no_more_are_told_than_a_statement_holds() -> None:
    hosts = [f"192.0.2.{number}" for number in range(20)]
    assert len(dialable(["0.0.0.0:1"], hosts, None)) == ADDRESSES_MAX


def test_the_ipv6_wildcard_listens_for_ipv4_too() -> None:
    assert listen_address("[::]:7777") == ":7777"
    assert listen_address("[::1]:7777") == "[::1]:7777"
    assert listen_address("0.0.0.0:7777") == "0.0.0.0:7777"
