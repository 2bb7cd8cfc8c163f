"""Where does this node listen, and where are others told to dial it? Pure, but for the addresses that callers pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshhold.membership.member import ADDRESSES_MAX


def listen_address(address: str) -> str:
    """Return the address for the transport: `[::]` means every address of the machine, IPv4 too."""
    return address.removeprefix("[::]") if address.startswith("[::]:") else address


def dialable(listening: Sequence[str], lan_hosts: Iterable[str], mapped: str | None) -> tuple[str, ...]:
    """Return where others can dial a node that listens there: wildcards made concrete, then the router."""
    hosts_here = list(lan_hosts)
    found: list[str] = []
    for address in listening:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        hosts = [host]
        if host in ("0.0.0.0", "::"):  # noqa: S104 - it is compared, not bound
            hosts = [each for each in hosts_here if (":" in each) == (host == "::")]
        found += [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]
    return tuple(dict.fromkeys([*found, *([mapped] if mapped else [])]))[:ADDRESSES_MAX]
