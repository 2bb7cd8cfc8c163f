"""Which texts mean a size, a rate, a duration or an address? Pure readers: each raises `ValueError` with what it found.

Knows no file, no line and no key; `load` adds those.
"""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final[dict[str, int]] = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION: Final = re.compile(r"(\d{1,9})\s*([a-z]+)\Z", re.ASCII)
_SIZE: Final = re.compile(r"(\d{1,20})(?:\.(\d{1,6}))?\s*([a-zA-Z]*)\Z", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})\Z")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,16})?\Z")


def parse_size(text: str) -> int:
    """Return bytes for `67108864`, `64MiB`, `500 GB`, `1.5TiB` (KiB … PiB are powers of 1024, kB … PB of 1000)."""
    found = _SIZE.match(text.strip())
    factor = _UNITS.get(found[3].lower()) if found else None
    if found is None or factor is None or (found[2] and factor == 1):  # there is no half byte
        raise ValueError(f"{text!r}")
    whole, fraction = int(found[1]), found[2] or ""
    return whole * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def parse_rate(text: str) -> int:
    """Return bytes per second for a size, with or without `/s`: `50MB`, `20 MiB/s`."""
    return parse_size(text.strip().removesuffix("/s"))


def parse_duration(text: str) -> int:
    """Return seconds for `90s`, `30min`, `24h`, `7d` or `2w`. A bare number is refused: its unit would be a guess."""
    found = _DURATION.match(text.strip().lower())
    if found is None or found[2] not in _SECONDS:
        raise ValueError(f"{text!r}")
    return int(found[1]) * _SECONDS[found[2]]


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[ipv6]:port`; port 0 asks the system for a free one."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r}, which has no port")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"{text!r}, whose port is not 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host, pattern = host[1:-1], _IPV6
    else:
        pattern = _HOST
    if not pattern.match(host):
        raise ValueError(f"{text!r}, whose host is neither a name nor an IP address (IPv6 goes in [brackets])")
    return host, int(port)
