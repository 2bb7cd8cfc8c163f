"""What lies beside a vault's chunks, so that one disk and the vault's secrets suffice? Writes labels, and reads them.

A label is msgpack `[1, [record…]]`: the signed records of one vault as every node of the mesh has them, its name, where
the newest snapshot of its index is, its alias, rules and grants, deletions too, and the access keys that are granted.
It tells whoever takes the disk nothing that an untrusted member does not know. Who the members were is left out: of
what a new mesh begins with, none of them need be there.

What a label says goes through the checks that each record from outside goes through, so one that was altered, or is of
another vault, brings nothing in; and a later record, or deletion, that is known already stays.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NoReturn

import msgpack
import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.labels import LABEL_SIZE_MAX, Labels
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import FatalError, MeshHoldError
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.registry.record import Kind, Record, encode_record
from meshhold.registry.state import Registry
from meshhold.replication.records.record_keeper import RecordKeeper

VERSION: Final = 1
SETTLE_S: Final = 1.0
"""Records come in bunches; one write serves them all."""
LOOK_S: Final = 60.0
"""So soon the first chunk of a vault here has its label beside it, and what failed is tried again."""
_ORDER: Final = (Kind.VAULT, Kind.INDEX, Kind.SNAPSHOT, Kind.ALIAS, Kind.RULES, Kind.GRANT)
"""What must not be missing comes first: a label that would be too large ends where it is full."""
_SPARE: Final = 64
"""Bytes that the frame of a label takes at most."""
_LOG: Final = logging.getLogger("meshhold.labels")


def encode_label(records: Iterable[Record]) -> bytes:
    """Return a label of these records, as many as fit."""
    raws: list[bytes] = []
    size = _SPARE
    for record in records:
        raw = encode_record(record)
        size += len(raw) + 5  # msgpack's head of a bin
        if size > LABEL_SIZE_MAX:
            _LOG.warning("a vault has more records than a label holds: %s %s is left out", record.kind, record.key)
            break
        raws.append(raw)
    packed: bytes = msgpack.packb([VERSION, raws])
    return packed


def decode_label(label: bytes) -> list[bytes]:
    """Return the encoded records of a label, unchecked; none for what is no label of a version that is known."""
    try:
        version, raws = msgpack.unpackb(label)
        return [raw for raw in raws if isinstance(raw, bytes)] if version == VERSION else []
    except Exception as error:  # noqa: BLE001 - whatever msgpack or unpacking says about what lay on a disk
        _LOG.warning("a label beside chunks cannot be read: %s", type(error).__name__)
        return []


class Labelling:
    """Keeps the labels of this node's vaults as new as its registry.

    `vaults` names those that this node is a member of, `me` is this node. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        labels: Labels,
        keeper: RecordKeeper,
        run_blocking: RunBlocking,
        vaults: Callable[[], Iterable[VaultId]],
        me: NodeId,
    ) -> None:
        self._labels = labels
        self._keeper = keeper
        self._run_blocking = run_blocking
        self._vaults = vaults
        self._me = me
        self._written: dict[VaultId, bytes] = {}
        self._turn = trio.Lock()
        self._news = trio.Event()
        keeper.follow(self._hear)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def take_unknown(self) -> None:
        """Learn what the labels here tell of vaults that this node has never heard of: disks of another machine.

        Errors: `FatalError`. A label that cannot be read is no reason not to start.
        """
        try:
            for vault in await self._run_blocking(self._labels.labelled):
                if self._keeper.registry.known(Kind.VAULT, vault) is None:
                    await self.take(vault)
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.warning("what lies beside the chunks here could not be read: %s", error)

    async def take(self, vault: VaultId) -> int:
        """Learn what a vault's label tells, if there is one here; return how many records were news.

        Errors: `StorageFailedError`; those of the registry's disk.
        """
        label = await self._run_blocking(self._labels.read, vault)
        if label is None:
            return 0
        news = await self._keeper.receive(decode_label(label), self._me)
        if news:
            _LOG.info("%d records of vault %s were beside its chunks on this disk", news, short_id(vault))
        return news

    # -- writing ------------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Write what is new, until cancelled. Errors: `FatalError`; a full or failing disk is tried again."""
        while True:
            self._news = trio.Event()
            try:
                await self.write()
            except FatalError:
                raise
            except MeshHoldError as error:
                _LOG.warning("the records of a vault could not be put beside its chunks: %s", error)
            with trio.move_on_after(LOOK_S):
                await self._news.wait()
                await trio.sleep(SETTLE_S)

    async def write(self) -> None:
        """Write the labels that are not as they should be, durably. Errors: those of `Labels.write`."""
        async with self._turn:
            vaults = set(self._vaults())
            self._written = {vault: digest for vault, digest in self._written.items() if vault in vaults}
            for vault, records in sorted(_records_of(self._keeper.registry, vaults).items()):
                label = encode_label(records)
                digest = hash_bytes(label)
                if vault not in self._written:
                    there = await self._run_blocking(self._labels.read, vault)
                    self._written[vault] = hash_bytes(there or b"")
                if self._written[vault] != digest and await self._run_blocking(self._labels.write, vault, label):
                    self._written[vault] = digest

    def _hear(self, records: Sequence[Record], _source: NodeId | None) -> None:
        if not records or any(record.kind in {*_ORDER, Kind.KEY, Kind.MEMBER} for record in records):
            self._news.set()


def _records_of(registry: Registry, vaults: set[VaultId]) -> dict[VaultId, list[Record]]:
    """Return what the label of each vault holds."""
    found: dict[VaultId, list[Record]] = defaultdict(list)
    for kind in _ORDER:
        for record in (*registry.live(kind), *registry.deleted(kind)):
            vault = VaultId(record.scope)
            if vault in vaults:
                found[vault].append(record)
                minted = registry.known(Kind.KEY, record.key.split("/", 1)[0]) if kind is Kind.GRANT else None
                if minted is not None:  # without it nobody would believe the grant
                    found[vault].append(minted)
    return dict(found)
