"""May this vault hold more? Asks the index what is there; the judgement is `rules.quota`. Knows no request.

What counts are current objects and their plaintext bytes, as the index counts them: not copies, not earlier versions,
not parts that wait for their completion. The counts are those of the moment in which a write asks, so writes that run
side by side may together exceed a quota by what they bring. A part counts with those of its own upload that are there;
what all parts make is judged again when they become an object.
"""

from __future__ import annotations

import shlex
from collections import OrderedDict
from typing import Final

from meshhold.errors import QuotaExceededError
from meshhold.model.entry import ObjectVersion, Part, Space, Value
from meshhold.replication.index.registers import Registers
from meshhold.rules.quota import Lack, Room
from meshhold.store.directory import Bucket

UPLOADS_REMEMBERED: Final = 1_000
"""Uploads whose parts' bytes are remembered, some 100 KiB; one that is forgotten is counted anew from its rows."""
_PAGE: Final = 500


class Quotas:
    """What vaults with a quota have room for. Resources: borrows the registers."""

    def __init__(self, registers: Registers) -> None:
        self._registers = registers
        self._uploaded: OrderedDict[bytes, int] = OrderedDict()  # at least the bytes of the upload's parts

    async def room(self, bucket: Bucket) -> Room | None:
        """Return what is used of the vault's quota now; None without one, and while no replica tells the counts."""
        quota = bucket.rules.quota
        counts = None if quota is None else await self._registers.counts(bucket.id)
        return None if quota is None or counts is None else Room(quota, counts.bytes, counts.objects)

    async def admit(self, bucket: Bucket, key: bytes, size: int) -> None:
        """Let a write of `size` bytes begin, so that one that could not end does not carry its bytes first.

        Errors: `QuotaExceededError`; those of reading what is there.
        """
        room = await self.room(bucket)
        if room is None or not room.lacks(size, 1):
            return
        entry = await self._registers.read(bucket.id, Space.OBJECTS, key)
        check_room(room, bucket, None if entry is None else entry.value, size)

    async def admit_part(self, bucket: Bucket, upload_id: str, number: int, size: int) -> None:
        """Let part `number`, of `size` bytes, begin: with the others of its upload, which was found, it must fit.

        Errors: `QuotaExceededError`; those of reading what is there.
        """
        room = await self.room(bucket)
        if room is None:
            return
        upload = bytes.fromhex(upload_id)
        known = self._uploaded.pop(upload, None)
        if known is None or room.lacks(known + size, 0):
            known = await self._count(bucket, upload, number)  # a part that was sent again had been counted twice
        lack = room.lacks(known + size, 0)
        if lack is not None:
            raise _refusal(bucket, lack._replace(text=f"{lack.text}, with the {known} bytes of its other parts"))
        self._uploaded[upload] = known + size
        if len(self._uploaded) > UPLOADS_REMEMBERED:
            self._uploaded.popitem(last=False)

    async def _count(self, bucket: Bucket, upload: bytes, number: int) -> int:
        """Return the bytes of the upload's parts but this one."""
        total, after, own = 0, b"", upload + number.to_bytes(2, "big")
        while page := await self._registers.scan(bucket.id, Space.PARTS, after, upload, _PAGE):
            total += sum(entry.value.size for name, entry in page if isinstance(entry.value, Part) and name != own)
            after = page[-1][0]
        return total


def check_room(room: Room, bucket: Bucket, current: Value | None, size: int) -> None:
    """Let an object of `size` bytes take the place of `current`. Errors: `QuotaExceededError`."""
    replaced = current if isinstance(current, ObjectVersion) else None
    lack = room.lacks(size, 1) if replaced is None else room.lacks(size - replaced.size, 0)
    if lack is not None:
        raise _refusal(bucket, lack)


def _refusal(bucket: Bucket, lack: Lack) -> QuotaExceededError:
    option = "--quota-bytes SIZE" if lack.limit == "bytes" else "--quota-objects N"
    return QuotaExceededError(
        f"the quota of vault {bucket.name!r} is used up: {lack.text}",
        f"delete objects, or raise it with `meshhold vault set {shlex.quote(bucket.name)} {option}`",
    )
