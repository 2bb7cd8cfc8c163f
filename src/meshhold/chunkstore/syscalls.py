"""What the chunk store asks of the system, and what a refusal means. Knows no chunk and no layout."""

# ruff: noqa: PTH116 - by file descriptor and by string: pathlib would hide which system call is made
from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from meshhold.chunkstore.new_file import open_with
from meshhold.errors import MeshHoldError, StorageFailedError, StorageFullError, SyncFailedError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def translated(doing: str, where: str) -> Iterator[None]:
    """Turn an `OSError` into the store's own errors, with the fix."""
    try:
        yield
    except OSError as error:
        raise _storage_error(error, doing, where) from error


def is_no_room(error: OSError) -> bool:
    """Tell whether the disk, or the quota on it, is full."""
    return error.errno in _FULL


def _storage_error(error: OSError, doing: str, where: str) -> MeshHoldError:
    if is_no_room(error):
        return StorageFullError(f"{doing} {where}: {error.strerror}", "free some space on it, or raise the quota")
    return StorageFailedError(f"{doing} {where} failed: {error.strerror}", "check the disk, its mount and permissions")


def sync(fd: int, path: str) -> None:
    """Fsync an open file or folder. Errors: `SyncFailedError`, which ends the process."""
    try:
        os.fsync(fd)
    except OSError as error:
        raise SyncFailedError(
            f"fsync of {path} failed: {error.strerror}", "check the disk, then start the node again"
        ) from error


def sync_folder(path: str) -> None:
    """Make the names in a folder durable. Errors: as `sync`; `OSError` if it cannot be opened."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd, path)
    finally:
        os.close(fd)


def write_unseen(path: str, content: bytes, stamp_ns: int | None = None) -> None:
    """Make a new file that nobody sees yet durable; `stamp_ns` is the time of its last change (None: now).

    Errors: `OSError`, also for no room at the fsync, which only means that the file is discarded; `SyncFailedError`.
    """
    fd = open_with(path, content)
    try:
        if stamp_ns is not None:
            os.utime(fd, ns=(stamp_ns, stamp_ns))
        _sync_unseen(fd, path)
    finally:
        os.close(fd)


def _sync_unseen(fd: int, path: str) -> None:
    """As `sync`, for a file that nobody sees yet: no room (delayed allocation) only means that it is discarded."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise SyncFailedError(
            f"fsync of {path} failed: {error.strerror}", "check the disk, then start the node again"
        ) from error


def read_whole(fd: int, size_max: int) -> bytes | None:
    """Return the file's bytes, or None, having read nothing, if there are more than `size_max`."""
    size = os.fstat(fd).st_size
    if size > size_max:
        return None
    sealed = os.read(fd, size)
    while len(sealed) < size and (more := os.read(fd, size - len(sealed))):
        sealed += more
    return sealed


def read_cached(path: str, size_max: int) -> bytes | None:
    """Return the file's bytes if no byte has to come from the disk and there are at most `size_max`; else None.

    Errors: `OSError`, also where the file system cannot tell (then ask in a thread). Source: preadv2(2), `RWF_NOWAIT`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size > size_max:
            return None
        sealed = bytearray(size)
        return bytes(sealed) if os.preadv(fd, [sealed], 0, os.RWF_NOWAIT) == size else None
    finally:
        os.close(fd)


def stat_of(path: str) -> os.stat_result | None:
    """Return what is at the path, or None if nothing is."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
