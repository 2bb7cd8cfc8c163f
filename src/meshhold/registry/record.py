"""What is one registry record, and which of two wins? Signed, versioned, last writer by stamp. Knows no clock, no disk.

A record of kind `vault`, `member`, `alias` or `grant` is signed by its vault's key, which the vault's id certifies; the
others by the node that states them. What outsiders must not read is inside `private`, sealed by the author.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import msgpack

from meshhold.crypto.hashing import hash_bytes
from meshhold.crypto.identity import Identity, verify
from meshhold.crypto.vault_keys import VaultKeys, verify_vault
from meshhold.errors import IntegrityError, UnknownFormatError
from meshhold.model.ids import AccessKeyId, NodeId, VaultId
from meshhold.model.stamp import Stamp, unpack_stamp

RECORD_VERSION: Final = 1
RECORD_SIZE_MAX: Final = 64 * 1024  # a record names one thing; anything larger is hostile


class Kind(StrEnum):
    """What a record is about. Stored: never rename."""

    VAULT = "vault"
    """key = vault id; private: name, created_ms; public: replication_factor, index_replicas (those it began with), and
    where people chose the present ones index_pinned, with index_awaited (those of their choice still to come)"""
    INDEX = "index"
    """key = vault id; public: configuration, the packed one of its index replicas. A hint where to ask: what binds them
    is the register that they keep of it"""
    MEMBER = "member"
    """key = vault id/node id; public: role and, for a trusted member, the secret of each epoch sealed to the node"""
    ALIAS = "alias"
    """key = vault id; private: the bucket name"""
    GRANT = "grant"
    """key = access key id/vault id; public: nothing; private: permissions, the key's secret and label; of one with
    prefixes, an end or a key that only reads, `limited` says all that, and `permissions` none"""
    KEY = "key"
    """key = access key id; public: the nonce that makes it this node's, and a commitment to the secret, so that others
    know which grants carry the right one; sealed to the node: secret, label, created_ms, create_buckets, where they
    are set may_publish, limited and like (a vault id: what the key creates is shared as that is)"""
    NODE = "node"
    """key = node id, signed by it; public: name, addresses, zone, capacity, reliable"""
    SNAPSHOT = "snapshot"
    """key = vault id; public: taken_ms, objects, bytes of the index as kept in chunks; private: where these are"""
    RULES = "rules"
    """key = vault id/aspect; private: value, what is set on the bucket in that respect"""
    BAN = "ban"
    """key = node id; public: the banning node. A deletion lifts the ban"""
    SWARM = "swarm"
    """key = "key"; public: the next swarm key sealed to each node that stays, and until when the old one is taken"""


@dataclass(frozen=True, slots=True)
class Record:
    """One signed fact. `signer` is the 32-byte public key whose signature stands in `signature`."""

    kind: Kind
    key: str
    stamp: Stamp
    deleted: bool
    public: dict[str, Any]
    private: bytes
    signer: bytes = b""
    signature: bytes = b""

    @property
    def scope(self) -> str:
        """The vault or access key id that the record is about."""
        return self.key.rsplit("/", 1)[-1] if self.kind is Kind.GRANT else self.key.split("/", 1)[0]

    def signed_bytes(self) -> bytes:
        """Return what the signature covers: everything but itself."""
        packed: bytes = msgpack.packb(
            [
                "meshhold record",
                RECORD_VERSION,
                self.kind,
                self.key,
                self.stamp.pack(),
                self.deleted,
                sorted(self.public.items()),
                self.private,
            ]
        )
        return packed


def sign_by_vault(record: Record, keys: VaultKeys) -> Record:
    """Return the record with the vault's signature."""
    return replace(record, signer=keys.signing_public, signature=keys.sign(record.signed_bytes()))


def sign_by_node(record: Record, identity: Identity) -> Record:
    """Return the record with the node's signature; the signer stays implicit in the `node` field of `public`."""
    record = replace(record, public={**record.public, "node": identity.node_id})
    return replace(record, signature=identity.sign(record.signed_bytes()))


BY_NODES: Final = frozenset({Kind.KEY, Kind.NODE, Kind.BAN, Kind.SWARM})
"""Kinds that a node signs, named in `public["node"]`; the others are signed by their vault."""


def access_key_id(node: str, nonce: bytes) -> AccessKeyId:
    """Return the access key id that a node mints with a nonce: `GK` and 24 hex digits.

    The id is a hash of both, so another node cannot make a record for it: 96 bits of second preimage.
    """
    return AccessKeyId("GK" + hash_bytes(b"meshhold access key" + node.encode() + nonce)[:12].hex())


def secret_commitment(key: str, secret: str) -> bytes:
    """Return 32 bytes that fix an access key's secret and do not help to find it: it has more than 200 random bits."""
    return hash_bytes(b"meshhold access key secret" + key.encode() + secret.encode())


def check_authority(record: Record) -> None:
    """Accept a record only from who may write it: a vault's key for its vault, a node for its own facts and keys.

    Any node of the mesh may ban another one or rotate the swarm key: whoever is let in at all is trusted that far.

    Errors: `IntegrityError` names the record whose signature or authority does not hold.
    """
    message = record.signed_bytes()
    if record.kind in BY_NODES:
        node = record.public.get("node", "")
        named = isinstance(node, str) and _may_name(record, node)
        valid = named and verify(NodeId(node), message, record.signature)
    else:
        valid = verify_vault(VaultId(record.scope), record.signer, message, record.signature)
    if not valid:
        raise IntegrityError(f"registry record {record.kind} {record.key!r} is not signed by who may write it")


def _may_name(record: Record, node: str) -> bool:
    """Tell whether a node may write a record of this key at all."""
    if record.kind is Kind.NODE:
        return record.key == node
    if record.kind is Kind.KEY:
        nonce = record.public.get("nonce")
        return isinstance(nonce, bytes) and record.key == access_key_id(node, nonce)
    return True


def newer(one: Record, other: Record) -> Record:
    """Return the record that wins; commutative, associative, idempotent. Ties fail closed.

    The later stamp wins. With equal stamps a deletion wins, then the smaller encoding: a choice without meaning,
    but the same one everywhere. (One author never gives two records one stamp: such a tie is a forgery or a cloned
    disk.)
    """
    if one.stamp != other.stamp:
        return one if one.stamp > other.stamp else other
    if one.deleted != other.deleted:
        return one if one.deleted else other
    return min(one, other, key=encode_record)


def encode_record(record: Record) -> bytes:
    """Return the stored and wired form."""
    packed: bytes = msgpack.packb(
        [
            RECORD_VERSION,
            record.kind,
            record.key,
            record.stamp.pack(),
            record.deleted,
            sorted(record.public.items()),
            record.private,
            record.signer,
            record.signature,
        ]
    )
    return packed


def decode_record(raw: bytes) -> Record:
    """Undo `encode_record`. Errors: `UnknownFormatError`, and nothing else whatever the bytes are."""
    if len(raw) > RECORD_SIZE_MAX:
        raise UnknownFormatError(f"a registry record of {len(raw)} bytes exceeds {RECORD_SIZE_MAX}")
    try:
        version, kind, key, stamp, deleted, public, private, signer, signature = msgpack.unpackb(raw)
        if version != RECORD_VERSION:
            raise UnknownFormatError(f"registry record version {version!r} is not known", "use a newer meshhold")
        record = Record(
            Kind(kind), key, unpack_stamp(stamp), deleted, dict(map(tuple, public)), private, signer, signature
        )
        texts, blobs = (key, *record.public), (private, signer, signature)
        if not isinstance(deleted, bool) or not all(isinstance(each, str) for each in texts):
            raise UnknownFormatError("a registry record has fields of the wrong type")
        if not all(isinstance(each, bytes) for each in blobs):
            raise UnknownFormatError("a registry record has fields of the wrong type")
    except UnknownFormatError:
        raise
    except Exception as error:  # whatever msgpack or unpacking says about hostile bytes
        raise UnknownFormatError(f"a registry record cannot be read: {type(error).__name__}") from error
    return record
