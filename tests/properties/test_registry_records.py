"""Laws of registry records: one winner in any order, nothing forged goes in, hostile bytes are refused by name."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshhold.crypto.identity import Identity
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import IntegrityError, UnknownFormatError
from meshhold.model.stamp import Stamp
from meshhold.registry.record import (
    RECORD_SIZE_MAX,
    RECORD_VERSION,
    Kind,
    Record,
    access_key_id,
    decode_record,
    encode_record,
    newer,
    sign_by_node,
    sign_by_vault,
)
from meshhold.registry.state import Registry

KEYS = VaultKeys(b"v" * 32)
OTHER_KEYS = VaultKeys(b"w" * 32)
IDENTITY = Identity(b"i" * 32)
VAULT_KINDS = (Kind.VAULT, Kind.ALIAS, Kind.MEMBER, Kind.GRANT)


def key_of(kind: Kind) -> str:
    vault = KEYS.vault_id
    return {Kind.MEMBER: f"{vault}/node", Kind.GRANT: f"GK0/{vault}"}.get(kind, vault)


# Few values of each, so that equal stamps and equal contents are met often.
STAMPS = st.builds(Stamp, st.integers(0, 2), st.sampled_from([b"a" * 8, b"b" * 8]))
PUBLIC = st.dictionaries(st.sampled_from(["role", "x"]), st.sampled_from([1, "a", b"b"]), max_size=2)


@st.composite
def vault_records(draw: st.DrawFn, kind: Kind | None = None) -> Record:
    kind = kind or draw(st.sampled_from(VAULT_KINDS))
    private = draw(st.sampled_from([b"", b"one", b"two"]))
    record = Record(kind, key_of(kind), draw(STAMPS), draw(st.booleans()), draw(PUBLIC), private)
    return sign_by_vault(record, KEYS)


RIVALS = vault_records(Kind.ALIAS)


@given(RIVALS, RIVALS, RIVALS)
def test_the_winner_does_not_depend_on_the_order(one: Record, two: Record, three: Record) -> None:
    """It commutes, associates and is idempotent."""
    assert newer(one, two) == newer(two, one)
    assert newer(newer(one, two), three) == newer(one, newer(two, three))
    assert newer(one, one) == one
    assert newer(one, two) in (one, two)


@given(RIVALS, RIVALS)
def test_the_later_wins_and_ties_fail_closed(one: Record, two: Record) -> None:
    winner = newer(one, two)
    assert winner.stamp == max(one.stamp, two.stamp)
    if one.stamp == two.stamp:
        assert winner.deleted == (one.deleted or two.deleted)


@given(st.lists(vault_records(), max_size=8), st.randoms(use_true_random=False))
def test_registries_converge(records: list[Record], chance: Any) -> None:
    """Two nodes that hear the same records, in any order and any number of times, know the same."""
    one, two = Registry(), Registry()
    for record in records:
        one.merge(record)
    shuffled = records * 2
    chance.shuffle(shuffled)
    for record in shuffled:
        two.merge(record)
    for kind in VAULT_KINDS:
        assert one.live(kind) == two.live(kind)
        assert one.deleted(kind) == two.deleted(kind)
    assert not any(one.merge(record) for record in shuffled), "nothing heard again is news"


@given(st.lists(st.one_of(vault_records(), st.sampled_from(VAULT_KINDS)), max_size=12))
def test_what_lives_is_what_is_known_and_not_deleted(steps: list[Record | Kind]) -> None:
    """After each record that comes or is forgotten, whatever was asked before."""
    registry = Registry()
    for step in steps:
        if isinstance(step, Record):
            registry.merge(step)
        else:
            registry.forget(step, key_of(step))
        known = sorted(registry.all(), key=lambda record: record.key)
        for kind in VAULT_KINDS:
            assert registry.live(kind) == [r for r in known if r.kind is kind and not r.deleted]
            assert registry.deleted(kind) == [r for r in known if r.kind is kind and r.deleted]


@given(vault_records())
def test_the_stored_form_comes_back(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@given(vault_records())
def test_a_record_signed_by_another_vault_is_refused(record: Record) -> None:
    """Neither another vault's key nor the right key's name beside a wrong signature will do."""
    stolen = sign_by_vault(record, OTHER_KEYS)
    for forged in (stolen, replace(stolen, signer=record.signer), replace(record, signer=OTHER_KEYS.signing_public)):
        registry = Registry()
        with pytest.raises(IntegrityError):
            registry.merge(forged)
        assert registry.live(record.kind) == registry.deleted(record.kind) == []


@given(vault_records(), st.data())
def test_an_altered_record_is_refused(record: Record, data: st.DataObject) -> None:
    """Every field is under the signature: later, revived, renamed, or one byte different."""
    altered = data.draw(
        st.sampled_from(
            [
                replace(record, stamp=Stamp(record.stamp.time + 1, record.stamp.node)),
                replace(record, deleted=not record.deleted),
                replace(record, public={**record.public, "extra": 1}),
                replace(record, private=record.private + b"!"),
                replace(record, kind=Kind.VAULT if record.kind is Kind.ALIAS else Kind.ALIAS, key=KEYS.vault_id),
                replace(record, signature=record.signature[:-1] + bytes([record.signature[-1] ^ 1])),
                replace(record, signature=b""),
                replace(record, signer=b""),
            ]
        ).filter(lambda other: other != record)
    )
    registry = Registry()
    registry.merge(record)
    before = (registry.live(record.kind), registry.deleted(record.kind))
    with pytest.raises(IntegrityError):
        Registry().merge(altered)
    with suppress(IntegrityError):  # an older one is not even looked at
        registry.merge(altered)
    assert (registry.live(record.kind), registry.deleted(record.kind)) == before


@given(STAMPS, st.booleans())
def test_a_nodes_record_is_its_own(stamp: Stamp, deleted: bool) -> None:
    key, public = access_key_id(IDENTITY.node_id, b"nonce"), {"nonce": b"nonce"}
    record = sign_by_node(Record(Kind.KEY, key, stamp, deleted, public, b"sealed"), IDENTITY)
    assert Registry().merge(record)
    other = Identity(b"j" * 32)
    for forged in (
        replace(record, public={**public, "node": other.node_id}),
        sign_by_node(record, other),
        replace(sign_by_node(record, other), public=record.public),
        replace(record, public={}),
        replace(record, public={"node": 7}),
        replace(record, public={"node": "not a node"}),
    ):
        with pytest.raises(IntegrityError):
            Registry().merge(forged)


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def merges_or_refuses(raw: bytes) -> None:
    """Decode and merge: `UnknownFormatError` from the first, `IntegrityError` from the second, and nothing else."""
    try:
        record = decode_record(raw)
    except UnknownFormatError:
        return
    try:
        Registry().merge(record)
    except IntegrityError:
        return


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(msgpack.packb([RECORD_VERSION]))
@example(msgpack.packb([RECORD_VERSION + 1, *[None] * 8]))
@example(b"\x91" * 60_000)
def test_hostile_bytes(raw: bytes) -> None:
    merges_or_refuses(raw)


@given(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from([*Kind, "x"]) | SCALARS,
            "key": st.sampled_from(["", "/", "a/b/c", KEYS.vault_id]) | VALUES,
            "stamp": st.sampled_from([bytes(16), b"\xff" * 16]) | VALUES,
            "deleted": st.booleans() | VALUES,
            "public": st.sampled_from([[], [["node", IDENTITY.node_id]], [["a", 1], [1, 2]], [["a", {}], ["a", []]]])
            | VALUES,
            "private": st.binary() | VALUES,
            "signer": st.sampled_from([KEYS.signing_public]) | VALUES,
            "signature": st.binary(min_size=64, max_size=64) | VALUES,
        }
    )
)
def test_hostile_fields(fields: dict[str, Any]) -> None:
    """A record of the right form whose fields are anything."""
    merges_or_refuses(msgpack.packb([RECORD_VERSION, *fields.values()], default=str))


@given(vault_records(), st.data())
def test_one_flipped_bit(record: Record, data: st.DataObject) -> None:
    """What still decodes is either refused, or it is the record itself."""
    raw = bytearray(encode_record(record))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        altered = decode_record(bytes(raw))
    except UnknownFormatError:
        return
    with pytest.raises(IntegrityError):
        Registry().merge(altered)


def test_an_oversized_record_is_refused() -> None:
    with pytest.raises(UnknownFormatError, match=str(RECORD_SIZE_MAX)):
        decode_record(bytes(RECORD_SIZE_MAX + 1))


def test_a_newer_version_is_named() -> None:
    record = Record(Kind.KEY, "k", Stamp(1, bytes(8)), deleted=False, public={}, private=b"")
    fields = msgpack.unpackb(encode_record(sign_by_node(record, IDENTITY)))
    fields[0] = 7
    with pytest.raises(UnknownFormatError, match="version 7"):
        decode_record(msgpack.packb(fields))
