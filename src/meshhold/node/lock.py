"""One daemon per data directory: a lock that ends with the process that holds it. Knows nothing of what it protects."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshhold.errors import AlreadyRunningError, ConfigError


@contextmanager
def hold_lock(data_dir: Path) -> Iterator[None]:
    """Hold the data directory until the block ends or the process dies.

    Errors: `AlreadyRunningError` names the directory and the holder's process id.
    """
    path = data_dir / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", "give the daemon's user this folder"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise AlreadyRunningError(
                f"another daemon (process {holder}) uses {data_dir}", "stop it, or use another data directory"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
