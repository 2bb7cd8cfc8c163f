"""Which mesh does this node belong to, as its data directory remembers? Small files, each replaced whole and durably.

`swarm.key` the key of the mesh, `swarm.previous` the one before it and until when it is taken, `swarm.pass` a key that
one inviting node takes until this node has the real one, `peers` where to call at a start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meshhold.crypto.random import encode_swarm_key, parse_swarm_key
from meshhold.errors import ConfigError, InvalidError

PEERS_MAX: Final = 64
_KEY_LINES: Final = 3


class SwarmFiles:
    """The files of one data directory. Keys are 32 bytes. Errors: `ConfigError` for a damaged file."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir

    def key(self) -> bytes | None:
        """Return the swarm key, None where there is none."""
        return self._read_key("swarm.key")

    def set_key(self, key: bytes) -> None:
        """Remember the key of the mesh."""
        self._write("swarm.key", encode_swarm_key(key))

    def previous(self) -> list[tuple[bytes, int]]:
        """Return the keys before this one, latest first, and until when (milliseconds since 1970) each is taken."""
        lines = (self._read("swarm.previous") or "").splitlines()
        found = []
        for at in range(0, len(lines), _KEY_LINES + 1):
            until, key = lines[at], "\n".join(lines[at + 1 : at + 1 + _KEY_LINES])
            if not until.isdigit():
                raise self._damaged("swarm.previous")
            found.append((self._decoded("swarm.previous", key), int(until)))
        return found

    def set_previous(self, keys: Sequence[tuple[bytes, int]]) -> None:
        """Remember the keys before this one."""
        self._write("swarm.previous", "".join(f"{until_ms}\n{encode_swarm_key(key)}" for key, until_ms in keys))

    def pending(self) -> bytes | None:
        """Return the pass of an invitation that was not used yet."""
        return self._read_key("swarm.pass")

    def set_pending(self, key: bytes) -> None:
        """Remember the pass of an invitation."""
        self._write("swarm.pass", encode_swarm_key(key))

    def peers(self) -> tuple[str, ...]:
        """Return the addresses to call at a start."""
        text = self._read("peers")
        return tuple((text or "").split()[:PEERS_MAX])

    def set_peers(self, addresses: tuple[str, ...]) -> None:
        """Remember where to call at a start."""
        self._write("peers", "".join(f"{address}\n" for address in addresses[:PEERS_MAX]))

    def forget_pending(self) -> None:
        """Drop the pass: the real key is there."""
        self._remove("swarm.pass")

    def forget_all(self) -> None:
        """Leave the mesh: nothing here leads back to it."""
        for name in ("peers", "swarm.pass", "swarm.previous", "swarm.key"):
            self._remove(name)

    def _read_key(self, name: str) -> bytes | None:
        text = self._read(name)
        return None if text is None else self._decoded(name, text)

    def _decoded(self, name: str, text: str) -> bytes:
        try:
            return parse_swarm_key(text)
        except InvalidError as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> ConfigError:
        return ConfigError(f"{self._folder / name} is damaged", "remove it and join the mesh again")

    def _read(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def _write(self, name: str, text: str) -> None:
        fresh = self._folder / f".{name}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.rename(self._folder / name)
        self._sync()

    def _remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        self._sync()

    def _sync(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
