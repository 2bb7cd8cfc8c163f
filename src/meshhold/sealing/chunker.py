"""Where does one chunk end and the next begin? Every 1 MiB. Knows no keys and no storage."""

from __future__ import annotations

from typing import Final

CHUNK_SIZE: Final = 1 << 20
"""Plaintext bytes of a full chunk: 1,000 chunks a GiB keep manifests small; a range read wastes at most 2 MiB."""

_RECENT_MAX: Final = 256
"""Pieces held one by one. Beyond it they are joined, so that a body of 1-byte pieces costs no 50 MiB of objects."""


class Chunker:
    """Cuts a stream of pieces of any size into blocks of `CHUNK_SIZE` and a rest.

    Law: what `feed` and `finish` returned, joined, is what was fed. Each byte is copied at most three times, whatever
    the pieces' sizes. Holds less than one block.
    """

    def __init__(self) -> None:
        self._joined: list[bytes] = []
        self._recent: list[bytes] = []
        self._held = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Take a piece; return the blocks that are full now, each of exactly `CHUNK_SIZE` bytes."""
        blocks: list[bytes] = []
        size = len(piece)
        if self._held + size < CHUNK_SIZE:
            self._keep(piece)
            return blocks
        at = CHUNK_SIZE - self._held if self._held else 0
        if at:
            self._keep(piece[:at])
            blocks.append(self.finish())
        while size - at >= CHUNK_SIZE:
            blocks.append(piece[at : at + CHUNK_SIZE])
            at += CHUNK_SIZE
        if at < size:
            self._keep(piece[at:])
        return blocks

    def finish(self) -> bytes:
        """Return the bytes that are held (fewer than `CHUNK_SIZE`, perhaps none), and hold nothing."""
        rest = b"".join(self._joined + self._recent)
        self._joined, self._recent, self._held = [], [], 0
        return rest

    def _keep(self, piece: bytes) -> None:
        self._recent.append(piece)
        self._held += len(piece)
        if len(self._recent) >= _RECENT_MAX:
            self._joined.append(b"".join(self._recent))
            self._recent = []
