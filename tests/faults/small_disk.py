"""A file system of its own, so small that a test can fill it. Needs root; knows nothing of the node."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rights import skip_if_denied

MIB = 2**20


class SmallDisk:
    """A mounted file system; `leave` fills it up to a given rest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def free(self) -> int:
        """Return the bytes that a file may still take."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def leave(self, free_bytes: int) -> None:
        """Let something else use all but about `free_bytes`."""
        self.empty()
        size = self.free() - free_bytes
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def exhaust(self) -> None:
        """Let something else use all there is, to the last block."""
        with self._filler.open("ab") as file:
            try:
                while True:
                    os.write(file.fileno(), bytes(4096))
            except OSError:
                return

    def empty(self) -> None:
        """Give back what `leave` and `exhaust` took."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def mounted(kind: str, folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount a `tmpfs`, or an `ext4` in a file, at `folder`; skip the test, with the reason, where that is forbidden."""
    folder.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(folder)]
    else:
        image = folder.with_name(f"{folder.name}.img")
        with image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        skip_if_denied("mounting a small disk", "run as root, or give the container CAP_SYS_ADMIN", done.stderr)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
