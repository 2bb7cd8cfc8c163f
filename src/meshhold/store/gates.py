"""May this vault still be written? Keeps a deletion from dropping what is just being acknowledged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from meshhold.errors import NoSuchBucketError
from meshhold.model.ids import VaultId


class Gates:
    """One gate per vault, open unless the vault is being deleted."""

    def __init__(self) -> None:
        self._writing: dict[VaultId, int] = {}
        self._closed: dict[VaultId, trio.Event] = {}

    @contextmanager
    def writing(self, vault: VaultId) -> Iterator[None]:
        """Hold the gate open for one commit. Errors: `NoSuchBucketError` once a deletion has closed it."""
        if vault in self._closed:
            raise NoSuchBucketError("the vault is being deleted")
        self._writing[vault] = self._writing.get(vault, 0) + 1
        try:
            yield
        finally:
            self._writing[vault] -= 1
            if not self._writing[vault]:
                del self._writing[vault]
                if vault in self._closed:
                    self._closed[vault].set()

    @asynccontextmanager
    async def closed(self, vault: VaultId) -> AsyncIterator[None]:
        """Close the gate, wait for commits in flight, and open it again at the end: what is gone is then not found."""
        drained = self._closed[vault] = trio.Event()
        try:
            if vault in self._writing:
                await drained.wait()
            yield
        finally:
            del self._closed[vault]
