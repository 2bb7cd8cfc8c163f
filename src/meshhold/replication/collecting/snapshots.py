"""The index as chunks: taken every hour, so that it can be had again when its replicas are gone. Knows no wire.

The rows are cut into blocks that are sealed and kept like any content, so each block is on as many machines as the
vault asks for, and one that did not change is the chunk that is there already. A record that the vault signs tells the
whole mesh of it, also machines that cannot open it; where the blocks are is sealed inside.

Rows are read page by page while others write: what a snapshot holds of one key was true at some moment after
`taken_ms`, of two keys not at the same one. Uploads come before parts, these before objects and these before earlier
versions, so that what moves on is in the snapshot twice rather than not at all.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

import msgpack
import trio

from meshhold.crypto.hashing import hash_bytes
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ChunkMissingError, FatalError, IntegrityError, MeshHoldError, UnknownFormatError
from meshhold.model.entry import ObjectVersion, Part, Ref, Space, sealed_to
from meshhold.model.ids import VaultId, short_id
from meshhold.registry.record import Kind, Record
from meshhold.registry.state import Registry
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.walk import walk_refs
from meshhold.replication.chunks.writer import ChunkWriter
from meshhold.replication.index.registers import Registers
from meshhold.sealing.content import Content, open_content
from meshhold.sealing.index_blocks import BlockCutter, IndexRow, decode_block, empty_block
from meshhold.sealing.manifest import decode_refs, encode_refs

EVERY_S: Final = 3600.0
"""What is lost with all index replicas at once is an hour of changes at most."""
SETTLE_S: Final = 300.0
_PAGE: Final = 64  # rows per step on the event loop: 64 inline bodies are 1 MiB at most, and about 1 ms
_LOG: Final = logging.getLogger("meshhold.snapshot")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A vault's index as of `taken_ms` (since 1970): live objects, their `size` in bytes, and where its rows are.

    `former` is where those of the one before it are; `digest` what this node's replica hashed to when it was taken,
    nothing if it did not vote.
    """

    taken_ms: int
    objects: int
    size: int
    content: Content
    former: Content | None
    digest: bytes


class Ledger(Protocol):
    """Whoever signs and keeps records; see `store.directory`."""

    @property
    def registry(self) -> Registry:
        """The records."""

    def vault_record(
        self, keys: VaultKeys, kind: Kind, key: str, *, public: dict[str, Any], private: dict[str, Any]
    ) -> Record:
        """Return a new record signed and sealed by the vault."""

    async def write(self, *records: Record) -> None:
        """Make records durable, then visible."""


class Digests(Protocol):
    """What tells whether an index changed; see `index.contract`."""

    def bucket_digests(self, vault: VaultId) -> bytes:
        """Return the digests of this node's rows."""


class Renewing(Protocol):
    """Whoever lets the age of chunks begin anew; see `store.renewal`."""

    async def renew(self, keys: VaultKeys, content: Content) -> None:
        """Renew every chunk of the content. Errors: `ChunkMissingError`."""


class Snapshots:
    """Takes and reads snapshots. `leads` tells whether it is this node's turn. Resources: borrows its collaborators."""

    def __init__(
        self,
        ledger: Ledger,
        registers: Registers,
        index: Digests,
        writer: ChunkWriter,
        reader: ChunkReader,
        renewal: Renewing,
        now_ms: Callable[[], int],
        *,
        leads: Callable[[VaultId], bool] = lambda _vault: True,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    ) -> None:
        self._ledger = ledger
        self._registers = registers
        self._index = index
        self._writer = writer
        self._reader = reader
        self._renewal = renewal
        self._now_ms = now_ms
        self._leads = leads
        self._sleep = sleep
        self._damaged: set[VaultId] = set()
        self._turn = trio.Lock()

    async def run(self, vaults: Callable[[], Iterable[VaultKeys]]) -> NoReturn:
        """Take one of each vault that this node leads and that changed, every hour, until cancelled."""
        await self._sleep(SETTLE_S)
        while True:
            for keys in list(vaults()):
                if not self._leads(keys.vault_id):
                    continue
                try:
                    await self.take(keys)
                except FatalError:
                    raise
                except MeshHoldError as error:
                    _LOG.warning("no snapshot of the index of vault %s: %s", short_id(keys.vault_id), error)
            await self._sleep(EVERY_S)

    # -- taking -------------------------------------------------------------------------------------------------------

    async def take(self, keys: VaultKeys) -> Snapshot | None:
        """Keep the index as it is now, durable and told to the mesh when this returns; None if it did not change.

        Any trusted member can do so; one whose replica does not vote cannot tell whether it changed, and keeps it.
        Errors: `UnavailableError` if the index cannot be read or the blocks cannot be kept; `IntegrityError`.
        """
        async with self._turn:
            return await self._take(keys)

    async def _take(self, keys: VaultKeys) -> Snapshot | None:
        vault = keys.vault_id
        taken_ms = self._now_ms()
        knows = self._registers.seats.votes(vault)
        digest = hash_bytes(self._index.bucket_digests(vault)) if knows else b""
        newest = self.newest(keys)
        if knows and newest is not None and newest.digest == digest and vault not in self._damaged:
            return None
        with self._writer.in_flight():
            known = {} if newest is None else await self._known_blocks(keys, newest)
            try:
                objects, size, content = await self._keep(keys, known)
            except ChunkMissingError:  # a block that was to be reused is gone: each is kept anew
                objects, size, content = await self._keep(keys, {})
            snapshot = Snapshot(taken_ms, objects, size, content, None if newest is None else newest.content, digest)
            public = {"taken_ms": taken_ms, "objects": objects, "bytes": size}
            record = self._ledger.vault_record(keys, Kind.SNAPSHOT, vault, public=public, private=_private(snapshot))
            await self._ledger.write(record)
        self._damaged.discard(vault)
        return snapshot

    async def _known_blocks(self, keys: VaultKeys, newest: Snapshot) -> dict[bytes, Ref]:
        """Return the blocks of the newest snapshot by their key, which is a hash of what they hold."""
        if keys.vault_id in self._damaged:
            return {}
        try:
            return {ref.key: ref async for ref in walk_refs(self._reader, keys, newest.content) if ref.depth == 0}
        except IntegrityError:
            return {}

    async def _keep(self, keys: VaultKeys, known: dict[bytes, Ref]) -> tuple[int, int, Content]:
        """Keep every block; return live objects, their bytes and where the rows are."""
        refs: list[Ref] = []
        objects = size = 0
        cutter = BlockCutter()

        async def keep(blocks: list[bytes]) -> None:
            for block in blocks:
                ref = known.get(keys.content_key(block))
                refs.append(ref or await self._writer.store_block(keys, block))

        async for row in self._rows(keys.vault_id):
            if row.space is Space.OBJECTS and isinstance(row.entry.value, ObjectVersion):
                objects += 1
                size += row.entry.value.size
            await keep(cutter.feed(row))
        await keep(cutter.finish() or ([] if refs else [empty_block()]))
        content = await self._writer.pack(keys, refs)
        await self._renewal.renew(keys, content)
        return objects, size, content

    async def _rows(self, vault: VaultId) -> AsyncIterator[IndexRow]:
        for space in (Space.UPLOADS, Space.PARTS, Space.OBJECTS, Space.VERSIONS):
            after = b""
            while page := await self._registers.scan(vault, space, after, b"", _PAGE):
                for key, entry in page:
                    if entry.value is not None:
                        yield IndexRow(space, key, entry)
                after = page[-1][0]
                await trio.lowlevel.checkpoint()

    # -- reading ------------------------------------------------------------------------------------------------------

    def newest(self, keys: VaultKeys) -> Snapshot | None:
        """Return the newest snapshot that the mesh knows of, or None if there is none that this node can open."""
        record = self._ledger.registry.get(Kind.SNAPSHOT, keys.vault_id)
        if record is None:
            return None
        try:
            return _open(record, keys)
        except IntegrityError as error:
            _LOG.warning("the snapshot of vault %s cannot be opened: %s", short_id(keys.vault_id), error)
            return None

    async def blocks(self, keys: VaultKeys, snapshot: Snapshot) -> AsyncIterator[Ref]:
        """Yield every chunk that a snapshot is made of. Errors: as `read`."""
        async for ref in walk_refs(self._reader, keys, snapshot.content):
            yield ref

    async def read(self, keys: VaultKeys, snapshot: Snapshot) -> AsyncIterator[list[IndexRow]]:
        """Yield a snapshot's rows, block by block. Errors: `IntegrityError`, `UnavailableError` of the chunks."""
        async for ref in walk_refs(self._reader, keys, snapshot.content):
            if ref.depth == 0:
                yield await self._block(keys, ref)

    async def _block(self, keys: VaultKeys, ref: Ref) -> list[IndexRow]:
        pieces: list[bytes] = []

        async def sink(piece: bytes) -> None:
            pieces.append(piece)

        await self._reader.copy(keys, Content(None, (ref,)), 0, ref.span, sink)
        return decode_block(b"".join(pieces))

    async def refs(self, keys: VaultKeys) -> AsyncIterator[Ref]:
        """Yield what the newest snapshot and the one before it need, and what the rows of the newest refer to.

        A damaged snapshot is no reason to keep everything for ever: what can be read of it is told, and the next one
        is taken whole. Errors: `UnavailableError` while chunks are elsewhere.
        """
        snapshot = self.newest(keys)
        if snapshot is None:
            return
        try:
            async for ref in walk_refs(self._reader, keys, snapshot.content):
                yield ref
                if ref.depth == 0:
                    for row in await self._block(keys, ref):
                        async for each in self._refs_of(keys, row):
                            yield each
        except IntegrityError as error:
            self._damaged.add(keys.vault_id)
            _LOG.warning("the snapshot of vault %s is damaged: %s", short_id(keys.vault_id), error)
        if snapshot.former is not None:
            try:
                async for ref in walk_refs(self._reader, keys, snapshot.former):
                    yield ref
            except IntegrityError as error:
                _LOG.info("the former snapshot of vault %s is damaged: %s", short_id(keys.vault_id), error)

    async def _refs_of(self, keys: VaultKeys, row: IndexRow) -> AsyncIterator[Ref]:
        """Yield what one row refers to, as far as it can be read."""
        if not isinstance(row.entry.value, ObjectVersion | Part):
            return
        try:
            content = open_content(keys, sealed_to(row.space, row.key), row.entry.value.content)
            async for ref in walk_refs(self._reader, keys, content):
                yield ref
        except IntegrityError as error:
            _LOG.debug("a row of a snapshot: %s", error)


def _private(snapshot: Snapshot) -> dict[str, Any]:
    former = b"" if snapshot.former is None else encode_refs(snapshot.former.refs)
    return {"content": encode_refs(snapshot.content.refs), "former": former, "digest": snapshot.digest}


def _open(record: Record, keys: VaultKeys) -> Snapshot:
    """Undo what the record seals. Errors: `IntegrityError`."""
    sealed = keys.open_small("registry", f"{record.kind}/{record.key}".encode(), record.private)
    try:
        fields = msgpack.unpackb(sealed)
        content, former, digest = fields["content"], fields["former"], bytes(fields["digest"])
    except Exception as error:  # whatever msgpack says about what a trusted member sealed
        raise UnknownFormatError(f"a snapshot's record cannot be read: {type(error).__name__}") from error
    public = record.public
    return Snapshot(
        taken_ms=public["taken_ms"],
        objects=public["objects"],
        size=public["bytes"],
        content=Content(None, decode_refs(content)),
        former=Content(None, decode_refs(former)) if former else None,
        digest=digest,
    )
