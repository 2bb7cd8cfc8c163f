"""Keys, ciphers, identities: what opens, what must not, and the values that stored data depends on."""

from __future__ import annotations

import pytest

from meshhold.crypto import bulk, hashing, random
from meshhold.crypto.identity import Identity, seal_to, verify
from meshhold.crypto.vault_keys import VaultKeys, verify_vault
from meshhold.errors import InvalidError, SealBrokenError, UnknownFormatError
from meshhold.model.ids import NodeId, decode_id

KEY = bytes(range(32))
SECRET = b"s" * 32
SALT = b"0123456789abcdef"


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


# -- hashing ----------------------------------------------------------------------------------------------------------


def test_hash_is_blake3() -> None:
    """Source: the test vectors of the BLAKE3 reference implementation (empty input)."""
    assert hashing.hash_bytes(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    key = b"whats the Elvish word for friend"
    assert hashing.keyed_hash(key, b"").hex() == "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"


def test_derived_keys_differ_by_context_and_secret() -> None:
    keys = {hashing.derive_key(secret, context) for secret in (b"a" * 32, b"b" * 32) for context in ("x", "y")}
    assert len(keys) == 4


# -- bulk cipher ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20])
def test_bulk_round_trip(size: int) -> None:
    plaintext = bytes(size)
    sealed = bulk.seal_once(KEY, plaintext)
    assert sealed[0] == bulk.SUITE_AES_256_GCM
    assert len(sealed) == size + bulk.SEAL_OVERHEAD
    assert bulk.open_once(KEY, sealed) == plaintext


def test_bulk_refuses_every_altered_byte() -> None:
    sealed = bulk.seal_once(KEY, b"photo")
    for at in range(1, len(sealed)):
        with pytest.raises(SealBrokenError):
            bulk.open_once(KEY, flipped(sealed, at))


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x02" + bytes(40)])
def test_bulk_names_an_unknown_suite(raw: bytes) -> None:
    with pytest.raises(UnknownFormatError, match="suite"):
        bulk.open_once(KEY, raw)


@pytest.mark.parametrize("length", [1, 2, 16])
def test_bulk_refuses_what_is_cut_short(length: int) -> None:
    with pytest.raises(SealBrokenError):
        bulk.open_once(KEY, bulk.seal_once(KEY, b"photo")[:length])


def test_bulk_binds_its_authenticated_data() -> None:
    sealed = bulk.seal_once(KEY, b"photo", b"here")
    assert bulk.open_once(KEY, sealed, b"here") == b"photo"
    with pytest.raises(SealBrokenError):
        bulk.open_once(KEY, sealed, b"there")


# -- identity ---------------------------------------------------------------------------------------------------------


def test_a_node_is_named_by_its_public_key() -> None:
    """Source: RFC 8032, section 7.1, test 1 (secret and public key)."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    node = Identity(seed)
    assert decode_id(node.node_id) == public
    assert node.stamp_node == public[:8]
    assert node.seed == seed
    assert len(node.node_id) == 52


def test_signature_is_bound_to_node_and_message() -> None:
    node, other = Identity(b"1" * 32), Identity(b"2" * 32)
    signature = node.sign(b"hello")
    assert verify(node.node_id, b"hello", signature)
    assert not verify(node.node_id, b"hullo", signature)
    assert not verify(other.node_id, b"hello", signature)


@pytest.mark.parametrize("node_id", ["", "x", "!" * 52, "A" * 52, "a" * 51, "a" * 60])
def test_malformed_names_verify_nothing_and_seal_nothing(node_id: str) -> None:
    assert not verify(NodeId(node_id), b"m", bytes(64))
    with pytest.raises(InvalidError, match=r"node id|identifier"):
        seal_to(NodeId(node_id), b"secret")


def test_a_malformed_signature_verifies_nothing() -> None:
    node = Identity(b"1" * 32)
    assert not verify(node.node_id, b"m", b"")
    assert not verify(node.node_id, b"m", node.sign(b"m") + b"\x00")


def test_a_secret_opens_for_its_node_only() -> None:
    node, other = Identity(b"1" * 32), Identity(b"2" * 32)
    box = seal_to(node.node_id, SECRET)
    assert node.open_sealed(box) == SECRET
    for reader, raw in ((other, box), (node, flipped(box, 40)), (node, b""), (node, box[:20])):
        with pytest.raises(SealBrokenError):
            reader.open_sealed(raw)


# -- vault keys -------------------------------------------------------------------------------------------------------


def test_derived_values_are_those_that_stored_data_was_made_with() -> None:
    """A change here makes every existing vault unreadable."""
    keys = VaultKeys(SECRET)
    found = (keys.vault_id, keys.convergence.hex()[:16], keys.wrap_key(1).hex()[:16], keys.content_key(b"x").hex()[:16])
    assert found == ("4mhknxrio243nvzlwangrxhwebxfdkhy", "8926a6ac5cf1d754", "d4bbddb88b63df76", "83d33c844852ab55")


def test_every_derived_key_is_its_own() -> None:
    keys = VaultKeys(SECRET, {2: b"e" * 32})
    derived = {keys.convergence, keys.wrap_key(1), keys.wrap_key(2), keys.signing_public, SECRET, keys.content_key(b"")}
    assert len(derived) == 6


def test_a_vault_certifies_itself() -> None:
    keys, other = VaultKeys(SECRET), VaultKeys(b"t" * 32)
    signature = keys.sign(b"record")
    assert verify_vault(keys.vault_id, keys.signing_public, b"record", signature)
    assert not verify_vault(keys.vault_id, keys.signing_public, b"forged", signature)
    assert not verify_vault(keys.vault_id, other.signing_public, b"record", other.sign(b"record"))
    assert not verify_vault(other.vault_id, keys.signing_public, b"record", signature)
    assert not verify_vault(keys.vault_id, b"short", b"record", signature)


def test_small_values_open_with_the_same_purpose_aad_and_vault_only() -> None:
    keys = VaultKeys(SECRET)
    sealed = keys.seal_small("alias", b"aad", SALT, b"value")
    assert VaultKeys(SECRET).open_small("alias", b"aad", sealed) == b"value"
    for opener, purpose, aad in (
        (keys, "grant", b"aad"),
        (keys, "alias", b""),
        (VaultKeys(b"t" * 32), "alias", b"aad"),
    ):
        with pytest.raises(SealBrokenError):
            opener.open_small(purpose, aad, sealed)


def test_small_values_refuse_every_altered_byte() -> None:
    keys = VaultKeys(SECRET)
    sealed = keys.seal_small("alias", b"", SALT, b"value")
    for at in range(len(sealed)):
        with pytest.raises((SealBrokenError, UnknownFormatError)):
            keys.open_small("alias", b"", flipped(sealed, at))
        with pytest.raises((SealBrokenError, UnknownFormatError)):
            keys.open_small("alias", b"", sealed[:at])


def test_small_values_survive_a_rotation() -> None:
    old, new = VaultKeys(SECRET), VaultKeys(SECRET, {2: b"e" * 32})
    assert new.open_small("p", b"", old.seal_small("p", b"", SALT, b"v")) == b"v"
    assert old.seal_small("p", b"", SALT, b"v") != new.seal_small("p", b"", SALT, b"v")


def test_a_member_of_before_a_rotation_opens_nothing_sealed_after_it() -> None:
    removed, new = VaultKeys(SECRET), VaultKeys(SECRET, {2: b"e" * 32})
    with pytest.raises(SealBrokenError, match="epoch 2"):
        removed.open_small("p", b"", new.seal_small("p", b"", SALT, b"v"))


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(InvalidError, match="32 bytes"):
        VaultKeys(b"short")
    with pytest.raises(InvalidError, match="epoch"):
        VaultKeys(SECRET, {0: SECRET})
    with pytest.raises(InvalidError, match="salt"):
        VaultKeys(SECRET).seal_small("p", b"", b"short", b"")


# -- randomness and swarm keys ----------------------------------------------------------------------------------------


def test_fresh_values_have_their_shapes() -> None:
    secret = random.new_key_secret()
    assert len(bytes.fromhex(secret)) == 32
    assert len(random.new_secret()) == 32
    assert len(random.new_salt()) == 16
    assert random.new_secret() != random.new_secret()


def test_a_swarm_key_file_is_read_back() -> None:
    text = random.new_swarm_key_file()
    assert text.startswith("/key/swarm/psk/1.0.0/\n/base16/\n")
    key = random.parse_swarm_key(text)
    assert len(key) == 32
    assert random.parse_swarm_key(text.replace("\n", "\r\n")) == key
    assert random.parse_swarm_key(key.hex().upper() + "\n") == key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "three lines"),
        ("ab" * 31, "64 hex digits"),
        ("zz" * 32, "64 hex digits"),
        ("/key/swarm/psk/2.0.0/\n/base16/\n" + "ab" * 32, "first"),
        ("/key/swarm/psk/1.0.0/\n/base64/\n" + "ab" * 32, "second line"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + "ab" * 33, "64 hex digits"),
        ("/key/swarm/psk/1.0.0/\n/base16/", "three lines"),
        ("/key/swarm/psk/1.0.0/", "three lines"),
    ],
)
def test_a_malformed_swarm_key_is_refused_and_not_repeated(text: str, said: str) -> None:
    with pytest.raises(InvalidError, match=said) as caught:
        random.parse_swarm_key(text)
    assert "abab" not in str(caught.value)
