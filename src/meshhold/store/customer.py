"""Content under a key that only its client has: hidden on its way in, shown on its way out. Knows no HTTP.

The key is held for one request and kept nowhere. Who holds the vault's secret alone sees how long the content is.
"""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from meshhold.crypto.customer import Keystream, hidden_etag, proof_of
from meshhold.crypto.random import new_salt
from meshhold.errors import CustomerKeyError
from meshhold.model.entry import Checksums, CustomerSeal
from meshhold.replication.chunks.reader import Sink
from meshhold.replication.chunks.writer import Source
from meshhold.sealing.content import PartRow
from meshhold.store.contract import Body, Digested


@dataclass(frozen=True, slots=True)
class CustomerKey:
    """A client's 32-byte key for one request, and its MD5 (base64), by which the client knows it."""

    key: bytes
    md5: str

    def __repr__(self) -> str:
        return f"CustomerKey({self.md5})"  # a key that is printed is a key that is lost


@dataclass(frozen=True, slots=True)
class Hiding:
    """How new content is hidden: its key stream, the salt of that, and what its ETag is made with.

    Parts of one upload share `etag_salt`, so that a part that is sent again has the same ETag as before.
    """

    customer: CustomerKey
    salt: bytes
    etag_salt: bytes
    stream: Keystream

    def etag(self, md5: str) -> str:
        """Return the ETag of content that has this MD5."""
        return hidden_etag(self.customer.key, self.etag_salt, md5)


def new_hiding(customer: CustomerKey, etag_salt: bytes | None = None) -> Hiding:
    """Return how to hide one content, under a fresh salt."""
    salt = new_salt()
    return Hiding(customer, salt, salt if etag_salt is None else etag_salt, Keystream(customer.key, salt))


class Hidden(Protocol):
    """What hides bytes and shows them again."""

    def apply(self, offset: int, block: bytes) -> bytes:
        """Return the bytes from `offset` on the other way round."""


def seal_of(hiding: Hiding) -> CustomerSeal:
    """Return what is kept beside hidden content: its salt, and how to recognise the key."""
    return CustomerSeal(hiding.customer.md5, hiding.salt, proof_of(hiding.customer.key, hiding.salt))


def check_key(seal: CustomerSeal | None, customer: CustomerKey | None) -> None:
    """Let a request go on that shows the key of what it is about, and none for what has none.

    Errors: `CustomerKeyError`.
    """
    if seal is None:
        if customer is not None:
            raise CustomerKeyError("The encryption parameters are not applicable to this object: send no key.")
        return
    if customer is None:
        raise CustomerKeyError(
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to "
            "retrieve the object: send the key that it was written with."
        )
    if not hmac.compare_digest(seal.proof, proof_of(customer.key, seal.salt)):
        raise CustomerKeyError("The key is not the one that the object was written with.")


class PartStreams:
    """Shows content that was put together of parts, each under a salt of its own."""

    def __init__(self, customer: CustomerKey, rows: Iterable[PartRow]) -> None:
        parts = [row for row in rows if row.size]
        self._starts = [0, *accumulate(row.size for row in parts)]
        self._streams = [Keystream(customer.key, row.salt) for row in parts]

    def apply(self, offset: int, block: bytes) -> bytes:
        """Return the bytes from `offset` on the other way round, however many parts they are of."""
        pieces = []
        while block:
            at = bisect_right(self._starts, offset) - 1
            taken = block[: self._starts[at + 1] - offset]
            pieces.append(self._streams[at].apply(offset - self._starts[at], taken))
            offset += len(taken)
            block = block[len(taken) :]
        return b"".join(pieces)


def shown_to(sink: Sink, hidden: Hidden, start: int) -> Sink:
    """Return a sink for hidden bytes from offset `start` on, in order, that hands them on as they are."""
    position = start

    async def show(piece: bytes) -> None:
        nonlocal position
        offset, position = position, position + len(piece)
        await sink(hidden.apply(offset, piece))

    return show


class Recoded:
    """Bytes of a source on their way into content: shown, if they are hidden, then hidden anew, or either alone.

    `start` is where in what `shown_by` shows the source begins. Digests that the source takes are of the bytes as they
    are shown.
    """

    def __init__(
        self, source: Source, *, shown_by: Hidden | None = None, start: int = 0, hiding: Hiding | None = None
    ) -> None:
        self._source = source
        self._shown_by = shown_by
        self._hiding = hiding
        self._read = start
        self._written = 0
        self._digested = 0

    async def receive(self) -> bytes:
        """Return the next piece, `b""` at the end."""
        piece = await self._source.receive()
        if self._shown_by is not None and piece:
            piece, self._read = self._shown_by.apply(self._read, piece), self._read + len(piece)
        if self._hiding is not None and piece:
            piece, self._written = self._hiding.stream.apply(self._written, piece), self._written + len(piece)
        return piece

    def digest(self, block: bytes) -> None:
        """Hash a block as it was before it was hidden."""
        if self._hiding is not None:
            block, self._digested = self._hiding.stream.apply(self._digested, block), self._digested + len(block)
        self.take(block)

    def take(self, block: bytes) -> None:
        """Take the next bytes as they are shown."""
        self._source.digest(block)

    def told(self, digested: Digested) -> Digested:
        """Return the digests of the bytes as the vault may know them: the MD5 of hidden ones tells too much."""
        return digested if self._hiding is None else Digested(self._hiding.etag(digested.etag), digested.checksums)


class HiddenBody(Recoded):
    """A body that is hidden as it comes; fulfils `contract.Body`."""

    def __init__(self, body: Body, hiding: Hiding) -> None:
        super().__init__(body, hiding=hiding)
        self._body = body

    def finish(self) -> Digested:
        """Return an ETag that tells nothing, and the checksums that the client asked for."""
        return self.told(self._body.finish())


class RecodedCopy(Recoded):
    """The bytes of an object that become another one; fulfils `contract.Body`."""

    def __init__(self, source: Source, checksums: Checksums, *, shown_by: Hidden | None, hiding: Hiding | None) -> None:
        super().__init__(source, shown_by=shown_by, hiding=hiding)
        self._checksums = checksums
        self._md5 = hashlib.md5(usedforsecurity=False)

    def take(self, block: bytes) -> None:
        """Hash the next bytes."""
        self._md5.update(block)

    def finish(self) -> Digested:
        """Return the ETag of the copy, and the source's checksums."""
        return self.told(Digested(self._md5.hexdigest(), self._checksums))
