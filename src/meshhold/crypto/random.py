"""Where fresh secrets come from, and the file format of a swarm key. The one place that asks the system for randomness.

Source of the format: libp2p private networks (`/key/swarm/psk/1.0.0/`), as IPFS swarms use it.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from meshhold.errors import InvalidError

_SWARM_HEADER: Final = "/key/swarm/psk/1.0.0/"
_SWARM_ENCODING: Final = "/base16/"
_SWARM_HEX: Final = re.compile(r"[0-9a-fA-F]{64}\Z")


def new_secret() -> bytes:
    """Return 32 random bytes: a vault's secret or an identity's seed."""
    return secrets.token_bytes(32)


def new_salt() -> bytes:
    """Return 16 random bytes for one `seal_small`."""
    return secrets.token_bytes(16)


def new_key_secret() -> str:
    """Return the secret of an access key: 64 hex digits, which need no quoting in any configuration file."""
    return secrets.token_hex(32)


def new_swarm_key_file() -> str:
    """Return the text of a file with a new swarm key."""
    return encode_swarm_key(secrets.token_bytes(32))


def encode_swarm_key(key: bytes) -> str:
    """Return the text of a file that holds this swarm key; `parse_swarm_key` reads it."""
    return f"{_SWARM_HEADER}\n{_SWARM_ENCODING}\n{key.hex()}\n"


def parse_swarm_key(text: str) -> bytes:
    """Return the 32 bytes of a swarm key, given the text of its file or 64 hex digits alone.

    Errors: `InvalidError` that tells what is wrong and never repeats the key.
    """
    fix = "make one with `meshhold keygen`"
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) == 1 and not lines[0].startswith("/"):
        digits = lines[0]
    elif len(lines) != 3 or lines[0] != _SWARM_HEADER:
        raise InvalidError(f"a swarm key file has three lines, the first being {_SWARM_HEADER}", fix)
    elif lines[1] != _SWARM_ENCODING:
        raise InvalidError(f"the second line of a swarm key file is {_SWARM_ENCODING}; no other encoding is known", fix)
    else:
        digits = lines[2]
    if not _SWARM_HEX.match(digits):
        raise InvalidError(f"a swarm key has 64 hex digits; found {len(digits)} characters", fix)
    return bytes.fromhex(digits)
