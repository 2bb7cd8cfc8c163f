"""What a register holds: versions, uploads, parts, configurations, tombstones; their stored form. Knows no disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import msgpack

from meshhold.errors import UnknownFormatError
from meshhold.model.configuration import Configuration, unpack_configuration
from meshhold.model.ids import ChunkId, OpId

ANCESTORS_KEPT: Final = 16  # design limit: a retry that more than 16 later changes overtook has an unknown outcome
INLINE_SIZE_MAX: Final = 16 * 1024  # an object up to this size lives in its entry: one index write, no file
INLINE_WHERE_DEAR_MAX: Final = 4 * 1024
"""The same where an entry is on more machines than a chunk would be: above a page, the third copy costs more than a
file of its own does (measured with pictures of 5 to 300 KiB: docs/benchmarks.md)."""
ENTRY_VERSION: Final = 1


class Space(IntEnum):
    """Which kind of register a key names inside its vault. Stored: never renumber."""

    OBJECTS = 0
    """key = the object's key"""
    UPLOADS = 1
    """key = the object's key, 0x00, the 16-byte upload id"""
    PARTS = 2
    """key = the 16-byte upload id, the part's number (2 bytes, big endian)"""
    CONFIGURATION = 3
    """one register, its key empty: which nodes keep the vault's index"""
    CONFLICTS = 4
    """key = the object's key, 0x00, the 16-byte op id of the change that lost to a concurrent one"""
    VERSIONS = 5
    """key = the object's key, 0x00, the 16-byte id of the version, inverted so that newer ones come first"""


_ID_SIZE: Final = 16  # of uploads, operations and versions inside keys
_KEYED_BY_ID: Final = {
    Space.UPLOADS: "an upload",
    Space.CONFLICTS: "a version that lost",
    Space.VERSIONS: "an earlier version",
}


def sealed_to(space: Space, key: bytes) -> bytes:
    """Return the key that the content of a row is sealed to: what was put aside keeps the content that it had."""
    return key[: -_ID_SIZE - 1] if space in (Space.CONFLICTS, Space.VERSIONS) else key


def describe_key(space: Space, key: bytes) -> str:
    """Return what a register is called in messages to people."""
    match space:
        case Space.PARTS:
            return f"part {int.from_bytes(key[_ID_SIZE:], 'big')} of upload {key[:_ID_SIZE].hex()}"
        case Space.UPLOADS | Space.CONFLICTS | Space.VERSIONS:
            what = _KEYED_BY_ID[space]
            return f"{what} of {describe_key(Space.OBJECTS, key[: -_ID_SIZE - 1])}"
        case Space.CONFIGURATION:
            return "the index replicas"
        case _:
            return repr(key.decode("utf-8", "backslashreplace"))


@dataclass(frozen=True, slots=True)
class Ref:
    """Where `span` plaintext bytes are: a sealed chunk and the key that opens it.

    `depth` 0 is data; a chunk of depth d > 0 holds refs of smaller depth, whose spans add up to its own.
    """

    depth: int
    chunk: ChunkId
    key: bytes
    span: int


@dataclass(frozen=True, slots=True)
class Checksums:
    """The `x-amz-checksum-*` values that a client gave or asked for: algorithm in upper case → base64 value.

    `kind` is `FULL_OBJECT` or `COMPOSITE`; a composite value ends in `-N` as S3 shows it.
    """

    kind: str = "FULL_OBJECT"
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lock:
    """What keeps one version from being deleted: until when, in which mode, and whether a legal hold is on it.

    `mode` is `GOVERNANCE`, `COMPLIANCE`, or `""` without a retention (then `until_ms`, since 1970, is 0).
    """

    mode: str = ""
    until_ms: int = 0
    legal_hold: bool = False


@dataclass(frozen=True, slots=True)
class CustomerSeal:
    """That a client seals this content with a key of its own (SSE-C), and how to recognise the key.

    `key_md5` is what the client calls the key by (base64); `salt` makes `proof`, a keyed hash that only this key gives.
    """

    key_md5: str
    salt: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class Extras:
    """What few objects have: tags, a lock, a client's own key; and what versioning needs to know.

    `version` is the 16-byte id of the version, `b""` for one that came before its bucket was ever versioned. S3 calls
    it `null` where `is_null`. `revision` counts the changes of the stack of versions whose top this is, and `gone`
    holds the ids of versions that are deleted although their rows may not say so yet; see `rules.stack`.
    """

    version: bytes = b""
    is_null: bool = True
    revision: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    lock: Lock | None = None
    customer: CustomerSeal | None = None
    gone: tuple[bytes, ...] = ()


PLAIN: Final = Extras()
"""The extras of most objects."""


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One object. `content` is sealed (see `sealing.content`): the bytes themselves or the refs of the manifest.

    `headers` are those that S3 gives back (lowercase names, without `x-amz-meta-`), `user` the user metadata
    (names without the prefix). `etag` is without quotes. `parts_count` is 0 for an object that was put in one piece;
    otherwise the part table is inside the sealed content.
    """

    size: int
    etag: str
    modified_ms: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    user: dict[str, str] = field(default_factory=dict)
    checksums: Checksums = field(default_factory=Checksums)
    parts_count: int = 0
    extras: Extras = PLAIN


@dataclass(frozen=True, slots=True)
class DeleteMarker:
    """The top of a stack of versions whose object is deleted while its versions are kept. `extras` has no tags."""

    modified_ms: int
    extras: Extras = PLAIN


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload in progress. `checksum` is `""` or the algorithm that was announced.

    `extras` are those that the object will have.
    """

    initiated_ms: int
    initiator: str
    headers: dict[str, str] = field(default_factory=dict)
    user: dict[str, str] = field(default_factory=dict)
    checksum: str = ""
    checksum_kind: str = ""
    extras: Extras = PLAIN


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an upload; `content` as in `ObjectVersion`. `salt` is that of a client's own key, else empty."""

    size: int
    etag: str
    modified_ms: int
    content: bytes
    checksums: Checksums = field(default_factory=Checksums)
    salt: bytes = b""


Value = ObjectVersion | DeleteMarker | Upload | Part | Configuration
_TOMBSTONE: Final = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What one register holds after one change. `value` None is a tombstone.

    `op` names the change, `ancestors` the up to 16 changes before it (newest first), `generation` counts all changes:
    by them a retrying writer can tell whether its change took effect (see `register.lineage`).
    """

    op: OpId
    value: Value | None
    generation: int = 1
    ancestors: tuple[OpId, ...] = ()


def encode_entry(entry: Entry) -> bytes:
    """Return the stored form: msgpack `[version, op, generation, ancestors joined, kind, fields…]`."""
    head: list[Any] = [ENTRY_VERSION, entry.op, entry.generation, b"".join(entry.ancestors)]
    value = entry.value
    if isinstance(value, ObjectVersion):
        head += [
            1, value.size, value.etag, value.modified_ms, value.content, value.headers, value.user,
            value.checksums.kind, value.checksums.values, value.parts_count, *_pack_extras(value.extras),
        ]  # fmt: skip
    elif isinstance(value, Upload):
        head += [
            2, value.initiated_ms, value.initiator, value.headers, value.user, value.checksum, value.checksum_kind,
            *_pack_extras(value.extras),
        ]  # fmt: skip
    elif isinstance(value, Part):
        head += [
            3, value.size, value.etag, value.modified_ms, value.content, value.checksums.kind, value.checksums.values,
            *([value.salt] if value.salt else []),
        ]  # fmt: skip
    elif isinstance(value, Configuration):
        head += [4, value.pack()]
    elif isinstance(value, DeleteMarker):
        head += [5, value.modified_ms, *_pack_extras(value.extras)]
    else:
        head.append(_TOMBSTONE)
    packed: bytes = msgpack.packb(head)
    return packed


def decode_entry(raw: bytes) -> Entry:
    """Undo `encode_entry`. Errors: `UnknownFormatError` names the version or kind; hostile bytes raise nothing else."""
    try:
        fields = msgpack.unpackb(raw, strict_map_key=False)
        version, op, generation, joined, kind = fields[:5]
        if version != ENTRY_VERSION:
            raise UnknownFormatError(f"index entry version {version!r} is not known", "use a newer meshhold")
        ancestors = tuple(OpId(joined[at : at + 16]) for at in range(0, len(joined), 16))
        return Entry(OpId(op), _decode_value(kind, fields[5:]), generation, ancestors)
    except UnknownFormatError:
        raise
    except Exception as error:  # whatever msgpack or unpacking says about hostile bytes
        raise UnknownFormatError(f"an index entry cannot be read: {type(error).__name__}") from error


def _decode_value(kind: int, fields: list[Any]) -> Value | None:
    match kind:
        case 0:
            return None
        case 1:
            size, etag, modified_ms, content, headers, user, checksum_kind, checksums, parts_count, *extras = fields
            sums = Checksums(checksum_kind, checksums)
            return ObjectVersion(
                size, etag, modified_ms, content, headers, user, sums, parts_count, _unpack_extras(extras)
            )
        case 2:
            initiated_ms, initiator, headers, user, checksum, checksum_kind, *extras = fields
            return Upload(initiated_ms, initiator, headers, user, checksum, checksum_kind, _unpack_extras(extras))
        case 3:
            size, etag, modified_ms, content, checksum_kind, checksums, *salt = fields
            return Part(size, etag, modified_ms, content, Checksums(checksum_kind, checksums), *salt)
        case 4:
            (packed,) = fields
            return unpack_configuration(packed)
        case 5:
            modified_ms, *extras = fields
            return DeleteMarker(modified_ms, _unpack_extras(extras))
        case _:
            raise UnknownFormatError(f"index entry kind {kind!r} is not known", "use a newer meshhold")


def _pack_extras(extras: Extras) -> list[dict[int, Any]]:
    """Return the extras as the last field of an entry, or no field where there are none: most objects pay nothing."""
    if extras == PLAIN:
        return []
    packed: dict[int, Any] = {0: extras.version, 1: extras.is_null, 2: extras.revision}
    if extras.tags:
        packed[3] = extras.tags
    if extras.lock is not None:
        packed[4] = [extras.lock.mode, extras.lock.until_ms, extras.lock.legal_hold]
    if extras.customer is not None:
        packed[5] = [extras.customer.key_md5, extras.customer.salt, extras.customer.proof]
    if extras.gone:
        packed[6] = list(extras.gone)
    return [packed]


def _unpack_extras(fields: list[Any]) -> Extras:
    if not fields:
        return PLAIN
    (packed,) = fields
    unknown = packed.keys() - range(7)
    if unknown:
        raise UnknownFormatError(f"an index entry has the fields {sorted(unknown)}, not known", "use a newer meshhold")
    return Extras(
        version=packed[0],
        is_null=packed[1],
        revision=packed[2],
        tags=packed.get(3, {}),
        lock=Lock(*packed[4]) if 4 in packed else None,
        customer=CustomerSeal(*packed[5]) if 5 in packed else None,
        gone=tuple(packed.get(6, ())),
    )
