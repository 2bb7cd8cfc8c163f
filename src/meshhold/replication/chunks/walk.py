"""Every value of a vault and every chunk it refers to, with bounded memory. Judges nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Protocol

import trio

from meshhold.crypto.vault_keys import VaultKeys
from meshhold.model.entry import Entry, ObjectVersion, Part, Ref, Space, sealed_to
from meshhold.model.ids import VaultId
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.sealing.content import Content, open_content

PAGE: Final = 64  # rows per step on the event loop: 64 inline bodies are 1 MiB at most, and about 1 ms


class Rows(Protocol):
    """Whoever tells the rows of an index: `Registers` as a quorum holds them, or one replica alone."""

    async def scan(
        self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> list[tuple[bytes, Entry]]:
        """Return up to `limit` rows after `after`, in key order, tombstones too; fewer mean the end."""


async def walk_values(
    registers: Rows, keys: VaultKeys, space: Space
) -> AsyncIterator[tuple[bytes, ObjectVersion | Part, Content]]:
    """Yield (key, value, opened content) of each live object or part, in key order.

    In `Space.CONFLICTS` and `Space.VERSIONS` the key is that of the object, to which the content is sealed. Rows
    written or removed behind the walk's position while it runs are not seen.
    """
    after = b""
    while True:
        page = await registers.scan(keys.vault_id, space, after, b"", PAGE)
        for key, entry in page:
            if isinstance(entry.value, ObjectVersion | Part):
                name = sealed_to(space, key)
                yield name, entry.value, open_content(keys, name, entry.value.content)
        if len(page) < PAGE:
            return
        after = page[-1][0]
        await trio.lowlevel.checkpoint()


async def walk_refs(reader: ChunkReader, keys: VaultKeys, content: Content) -> AsyncIterator[Ref]:
    """Yield every ref of a content: manifest chunks before what they hold, and the part table.

    Errors: `IntegrityError` at the first manifest chunk that cannot be read; it has been yielded by then.
    """
    stack = list(reversed(content.refs))
    if content.part_table is not None:
        yield content.part_table
    while stack:
        ref = stack.pop()
        yield ref
        if ref.depth > 0:
            stack.extend(reversed(await reader.node(keys, ref)))
