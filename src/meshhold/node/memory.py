"""Keeps large buffers in the allocator: a block that goes back to the kernel each time is paid for in page faults.

By default glibc maps and unmaps each block of 1 MiB anew, which takes longer than sealing it (measured: copy, seal and
hash of 1 MiB 1.57 ms, with these thresholds 0.52 ms). Elsewhere than on glibc nothing happens.
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # the numbers are those of malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_KEPT_BLOCK_MAX: Final = 8 * 2**20  # larger blocks than a chunk with its copies are rare and go back at once
_KEPT_TOTAL: Final = 32 * 2**20  # what may lie free in the heap: small beside the memory bound of 250 MiB
_ARENAS: Final = 2  # one heap for the loop, one for its worker threads: each arena holds its own free blocks


def keep_large_blocks() -> bool:
    """Tell glibc to reuse blocks up to 8 MiB. Returns whether it took the advice. Called once, before threads start."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = [
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_MAX),
        mallopt(_M_TRIM_THRESHOLD, _KEPT_TOTAL),
        mallopt(_M_ARENA_MAX, _ARENAS),
    ]
    return all(taken)
