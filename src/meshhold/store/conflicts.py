"""What lost when both sides of a vault had written the same object: list it, bring it back. Knows no merging."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from meshhold.errors import ChunkMissingError, InvalidError, NotFoundError
from meshhold.model.entry import ObjectVersion, Space, decode_entry
from meshhold.model.ids import encode_id, short_id
from meshhold.model.stamp import unpack_stamp
from meshhold.replication.index.merging import CONFLICT_GRACE_MS, split_conflict_key
from meshhold.replication.index.registers import Registers, Write
from meshhold.store.directory import Bucket
from meshhold.store.objects import Objects
from meshhold.store.vaults import Vaults

SHOWN_MAX: Final = 1_000
"""As many as a page of S3's; who has more cleans up by listing again."""
_PAGE: Final = 64  # rows per step: 1 MiB at most


@dataclass(frozen=True, slots=True)
class ConflictView:
    """One version that lost. `node` is the short id of the node that wrote it; times in milliseconds since 1970."""

    id: str
    key: str
    size: int
    etag: str
    modified_ms: int
    kept_until_ms: int
    node: str


@dataclass(frozen=True, slots=True)
class _Kept:
    name: bytes
    key: bytes
    version: ObjectVersion
    view: ConflictView


class Conflicts:
    """The versions that vaults keep aside. Resources: borrows its collaborators."""

    def __init__(self, vaults: Vaults, registers: Registers, objects: Objects) -> None:
        self._vaults = vaults
        self._registers = registers
        self._objects = objects

    async def views(self, ref: str, /) -> list[ConflictView]:
        """Return the first `SHOWN_MAX` versions that a vault keeps aside, by key. Errors: `NoSuchVaultError`."""
        found: list[ConflictView] = []
        async for kept in self._walk(self._vaults.find(ref)):
            found.append(kept.view)
            if len(found) == SHOWN_MAX:
                break
        return found

    async def restore(self, ref: str, identifier: str, /) -> ConflictView:
        """Make a kept version the current one, as a PUT would, and keep it aside no more; return what it was.

        `identifier` is the beginning of its id. Errors: `NoSuchVaultError`; `NotFoundError` where no version has it, or
        its content is on another machine; `InvalidError` where several have it.
        """
        bucket = self._vaults.find(ref)
        wanted = identifier.lower()
        found = [kept async for kept in self._walk(bucket) if wanted and kept.view.id.startswith(wanted)]
        if not found:
            raise NotFoundError(
                f"vault {bucket.name} keeps no version {identifier!r} aside",
                f"see `meshhold vault conflicts {bucket.name}`",
            )
        if len(found) > 1:
            raise InvalidError(f"{len(found)} versions begin with {identifier!r}", "give more of the id")
        kept = found[0]
        try:
            await self._objects.put_again(bucket, kept.key, kept.version)
        except ChunkMissingError as error:
            raise NotFoundError(
                f"the content of {kept.view.key} as of {kept.view.id} is not on this machine",
                f"restore it on node {kept.view.node}, which wrote it",
            ) from error
        await self._registers.change(bucket.id, Space.CONFLICTS, kept.name, lambda _: Write(None))
        return kept.view

    async def _walk(self, bucket: Bucket) -> AsyncIterator[_Kept]:
        after = b""
        while page := await self._registers.kept_aside(bucket.id, after, _PAGE):
            for name, row in page:
                entry = decode_entry(row.entry)
                if isinstance(entry.value, ObjectVersion):
                    key, op = split_conflict_key(name)
                    view = ConflictView(
                        id=op.hex(),
                        key=key.decode("utf-8", "backslashreplace"),
                        size=entry.value.size,
                        etag=entry.value.etag,
                        modified_ms=entry.value.modified_ms,
                        kept_until_ms=row.accepted.wall_ms + CONFLICT_GRACE_MS,
                        node=short_id(encode_id(unpack_stamp(op).node)),
                    )
                    yield _Kept(name, key, entry.value, view)
            after = page[-1][0]
