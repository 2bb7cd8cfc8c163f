"""What `invite` prints and `join` reads: enough to find a node of the mesh and be let in. Knows no key's use."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

import msgpack

from meshhold.errors import InvalidError
from meshhold.model.ids import NodeId, decode_id
from meshhold.model.word import decode_word, encode_word

PREFIX: Final = "mh1"
SIZE_MAX: Final = 2048
_KEY_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class Token:
    """An invitation. `key` is the swarm key, or with `is_pass` a key that the inviting node alone takes for a while.

    `addresses` are where that node can be dialled, `expires_ms` (since 1970) is 0 for never.
    """

    key: bytes
    node: NodeId
    addresses: tuple[str, ...]
    is_pass: bool = False
    expires_ms: int = 0

    def __repr__(self) -> str:
        return f"Token(node={self.node!r}, addresses={self.addresses!r})"  # never the key


def encode_token(token: Token) -> str:
    """Return the token as one word that survives chat programs and terminals."""
    packed: bytes = msgpack.packb(
        [token.key, decode_id(token.node), list(token.addresses), token.is_pass, token.expires_ms]
    )
    return encode_word(PREFIX, packed)


def decode_token(text: str) -> Token:
    """Undo `encode_token`. Errors: `InvalidError` that never repeats the token."""
    try:
        key, node, addresses, is_pass, expires_ms = msgpack.unpackb(decode_word(PREFIX, text, SIZE_MAX))
        if len(key) != _KEY_SIZE or len(node) != _KEY_SIZE or type(expires_ms) is not int:
            raise ValueError
        named = tuple(str(address) for address in addresses)
    except Exception as error:  # whatever base64, msgpack or unpacking says about a damaged word
        raise InvalidError(
            "this is no invitation, or a part of it is missing", "copy the whole output of `meshhold invite`"
        ) from error
    return Token(key, NodeId(base64.b32encode(node).decode().rstrip("=").lower()), named, bool(is_pass), expires_ms)
