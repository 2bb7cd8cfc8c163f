"""The node's identity on disk: made at the first start, readable by its owner alone. Knows no key's use."""

from __future__ import annotations

import os
from pathlib import Path

from meshhold.crypto.identity import Identity
from meshhold.crypto.random import new_secret
from meshhold.errors import ConfigError

_HEADER = "/meshhold/identity/ed25519/1.0.0/\n/base16/\n"


def load_identity(path: Path) -> Identity:
    """Return the identity kept at `path`, making it durable there first if there is none.

    Errors: `ConfigError` for a file that is damaged or that others may read.
    """
    if not path.exists():
        _create(path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others", f"run: chmod 600 {path}")
    text = path.read_text("ascii", errors="replace")
    try:
        seed = bytes.fromhex(text.removeprefix(_HEADER).strip())
    except ValueError:
        seed = b""
    if not text.startswith(_HEADER) or len(seed) != 32:
        raise ConfigError(
            f"{path} is not a node's identity",
            "restore it from a backup: without it this node cannot open its vaults",
        )
    return Identity(seed)


def _create(path: Path) -> None:
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, (_HEADER + new_secret().hex() + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
