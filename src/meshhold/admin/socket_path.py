"""How is a Unix socket named whose path is longer than the kernel takes? Knows nothing of what is spoken on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SUN_PATH_MAX: Final = 107  # bytes of sockaddr_un.sun_path without its final NUL; source: unix(7)


@contextmanager
def bindable(path: Path) -> Iterator[str]:
    """Yield a name of `path` that fits into a socket address while the context is open.

    A long path is reached through its folder's descriptor in /proc, as Linux allows for any open folder.
    Errors: `OSError` where the folder cannot be opened, or the last component alone is too long.
    """
    if len(os.fsencode(path)) <= SUN_PATH_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
