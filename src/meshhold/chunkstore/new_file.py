"""How does a new file get its bytes: by way of the system's memory, or past it? Knows no chunk, makes nothing durable.

A large file is mostly a piece of something larger, which nobody reads again soon: a backup, a film. Past the system's
memory it displaces nothing that is used more often, and costs less: an upload of 64 MiB to three nodes on one machine
took 530 to 630 ms of processor time instead of 800 to 820. It is in that memory once it has been read.
"""

# ruff: noqa: PTH108 - `os` calls one by one: their order is what is decided here
from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from contextlib import suppress
from typing import Final

DIRECT_MIN: Final = 256 << 10
"""Bytes from which on a file goes past the system's memory: a picture is smaller, and is looked at."""
BLOCK: Final = 4096
"""What addresses, lengths and places in the file are multiples of, as open(2) asks of O_DIRECT. A file system that
wants more refuses, and gets the bytes in the usual way."""
SPARE_SIZE_MAX: Final = 2 << 20
"""The largest buffer that is kept: chunks have 1 MiB and a little."""
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_spare: Final = deque[mmap.mmap](maxlen=8)  # as many as threads write at once, or less: 16 MiB at most


def open_with(path: str, content: bytes) -> int:
    """Make a new file, for this user alone, with this content; return its descriptor, open for writing. Thread-safe.

    Errors: `OSError`; the file may be there then.
    """
    if len(content) >= DIRECT_MIN:
        try:
            return _open_direct(path, content)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system knows no such writes, or not of this form
                raise
        with suppress(FileNotFoundError):
            os.unlink(path)
    fd = os.open(path, _NEW, 0o600)
    try:
        _write_whole(fd, memoryview(content))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_direct(path: str, content: bytes) -> int:
    """Write whole blocks from aligned memory, then cut the file to its length."""
    size = -(-len(content) // BLOCK) * BLOCK
    aligned = _take_spare(size)
    try:
        aligned[: len(content)] = content
        fd = os.open(path, _NEW | os.O_DIRECT, 0o600)
        try:
            with memoryview(aligned) as view:
                _write_whole(fd, view[:size])
            os.ftruncate(fd, len(content))
        except BaseException:
            os.close(fd)
            raise
        return fd
    finally:
        if len(aligned) <= SPARE_SIZE_MAX:
            _spare.append(aligned)


def _take_spare(size: int) -> mmap.mmap:
    """Return a buffer that begins at a page."""
    with suppress(IndexError):
        if len(aligned := _spare.pop()) >= size:
            return aligned
    return mmap.mmap(-1, size)


def _write_whole(fd: int, rest: memoryview) -> None:
    """Write all of it, however much the system takes at a time."""
    while rest:
        rest = rest[os.write(fd, rest) :]
