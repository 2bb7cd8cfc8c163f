"""Which texts mean a size, an address, a swarm key? Pure readers: each raises `ValueError` with what it found.

Knows no file, no line and no key; `load` adds those.
"""

from __future__ import annotations

import re
from typing import Final

SWARM_KEY_SIZE: Final = 32
SWARM_KEY_HEADER: Final = "/key/swarm/psk/1.0.0/"
_SWARM_KEY_ENCODING: Final = "/base16/"
_UNITS: Final[dict[str, int]] = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtp", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
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


def encode_swarm_key(raw: bytes) -> str:
    """Return the text of a swarm key file: two header lines and 64 hex digits."""
    if len(raw) != SWARM_KEY_SIZE:
        raise ValueError(f"a swarm key has {SWARM_KEY_SIZE} bytes, not {len(raw)}")
    return f"{SWARM_KEY_HEADER}\n{_SWARM_KEY_ENCODING}\n{raw.hex()}\n"


def decode_swarm_key(text: str) -> bytes:
    """Undo `encode_swarm_key`; the 64 hex digits alone are taken too. The error never repeats the key."""
    lines = text.split()
    if lines[:1] == [SWARM_KEY_HEADER]:
        if lines[1:2] != [_SWARM_KEY_ENCODING]:
            raise ValueError(f"a swarm key whose second line is not {_SWARM_KEY_ENCODING}")
        lines = lines[2:]
    if len(lines) != 1 or len(lines[0]) != SWARM_KEY_SIZE * 2:
        raise ValueError("a swarm key that is not 64 hex digits")
    try:
        return bytes.fromhex(lines[0])
    except ValueError:
        raise ValueError("a swarm key with characters other than hex digits") from None
