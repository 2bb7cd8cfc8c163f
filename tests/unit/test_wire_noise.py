"""Noise XX with pre-shared keys: published vectors, an independent implementation as oracle, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from noise.backends.default.ciphers import AESGCMCipher
from noise.connection import Keypair, NoiseConnection

from meshhold.crypto.noise import AES_GCM, exchange, new_cipher, pack_nonce, public_of
from meshhold.errors import InvalidError, SealBrokenError
from meshhold.wire.noise import NoiseXX, rekeyed

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "noise_vectors.json").read_text())[
    "vectors"
]
PSK03 = "Noise_XXpsk0+psk3_25519_ChaChaPoly_BLAKE2b"
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
"""Every point of low order, and values that are one modulo the field's prime (https://cr.yp.to/ecdh.html)."""


def make(
    side: str, protocol: str = PSK03, *, psks: list[bytes] | None = None, prologue: bytes = b"test", seed: int = 0
) -> NoiseXX:
    """Return one side with secrets of its own, the same each time."""
    first = side[0].encode()
    return NoiseXX(
        protocol,
        initiator=side == "initiator",
        prologue=prologue,
        psks=[b"p" * 32, b"q" * 32] if psks is None else psks,
        static_secret=first + bytes([seed]) * 31,
        ephemeral_secret=first + bytes([seed + 1]) * 31,
    )


def shake(initiator: NoiseXX, responder: NoiseXX) -> None:
    writer, reader = initiator, responder
    while not initiator.finished:
        assert reader.read(writer.write(b"hello")) == b"hello"
        writer, reader = reader, writer


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['source']} {v['protocol']}" for v in VECTORS])
def test_published_vectors_hold_byte_for_byte(vector: dict[str, Any]) -> None:
    def side(name: str) -> NoiseXX:
        return NoiseXX(
            vector["protocol"],
            initiator=name == "initiator",
            prologue=bytes.fromhex(vector["prologue"]),
            psks=[bytes.fromhex(psk) for psk in vector["psks"]],
            static_secret=bytes.fromhex(vector[name]["static"]),
            ephemeral_secret=bytes.fromhex(vector[name]["ephemeral"]),
        )

    sides = [side("initiator"), side("responder")]
    counters = [0, 0]
    for number, (payload_hex, wire_hex) in enumerate(vector["messages"]):
        payload, on_wire = bytes.fromhex(payload_hex), bytes.fromhex(wire_hex)
        writer, reader = sides[number % 2], sides[1 - number % 2]
        if number < 3:
            assert writer.write(payload) == on_wire
            assert reader.read(on_wire) == payload
            continue
        nonce = pack_nonce(counters[number % 2])
        counters[number % 2] += 1
        assert new_cipher(writer.split()[0]).encrypt(nonce, payload, b"") == on_wire
        assert new_cipher(reader.split()[1]).decrypt(nonce, on_wire, b"") == payload
    assert sides[0].hash == sides[1].hash
    if vector["handshake_hash"]:
        assert sides[0].hash.hex() == vector["handshake_hash"]


def test_the_vectors_cover_each_place_of_a_pre_shared_key() -> None:
    names = {vector["protocol"].split("_")[1] for vector in VECTORS}
    assert names == {"XX", "XXpsk3", "XXpsk0+psk1", "XXpsk0+psk2", "XXpsk0+psk3", "XXpsk0+psk1+psk2+psk3"}


@pytest.mark.parametrize("we_initiate", [True, False])
@pytest.mark.parametrize("modifiers", ["psk0", "psk1", "psk2", "psk3", "psk0+psk3"])
def test_an_independent_implementation_agrees_with_both_roles(modifiers: str, we_initiate: bool) -> None:
    protocol = f"Noise_XX{modifiers}_25519_ChaChaPoly_BLAKE2b"
    psks = [bytes([number]) * 32 for number in range(1, 2 + modifiers.count("+"))]
    oracle = NoiseConnection.from_name(protocol.encode())
    oracle.set_psks(psks=psks)
    oracle.set_prologue(b"test")
    oracle.set_keypair_from_private_bytes(Keypair.STATIC, b"o" * 32)
    if we_initiate:
        oracle.set_as_responder()
    else:
        oracle.set_as_initiator()
    oracle.start_handshake()
    ours = make("initiator" if we_initiate else "responder", protocol, psks=psks)
    for turn in range(3):
        payload = b"payload %d" % turn
        if ours.writes_next:
            assert bytes(oracle.read_message(ours.write(payload))) == payload
        else:
            assert ours.read(bytes(oracle.write_message(payload))) == payload
    assert ours.finished
    assert bytes(oracle.get_handshake_hash()) == ours.hash
    assert ours.remote_static == public_of(b"o" * 32)
    sending, receiving = ours.split()
    for count in range(3):
        assert bytes(oracle.decrypt(new_cipher(sending).encrypt(pack_nonce(count), b"to", b""))) == b"to"
        assert new_cipher(receiving).decrypt(pack_nonce(count), bytes(oracle.encrypt(b"fro")), b"") == b"fro"
    oracle.rekey_outbound_cipher()
    assert new_cipher(rekeyed(receiving)).decrypt(pack_nonce(3), bytes(oracle.encrypt(b"fro")), b"") == b"fro"


def test_both_sides_end_with_the_same_keys_crossed() -> None:
    initiator, responder = make("initiator"), make("responder")
    shake(initiator, responder)
    assert initiator.split() == responder.split()[::-1]
    assert initiator.hash == responder.hash
    assert initiator.remote_static == responder.static_public
    assert responder.remote_static == initiator.static_public


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_points_of_low_order_are_refused(point: bytes) -> None:
    with pytest.raises(InvalidError, match="low order"):
        exchange(b"s" * 32, point)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_public_keys_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(InvalidError, match=f"32 bytes, not {size}"):
        exchange(b"s" * 32, bytes(size))


def test_a_static_key_of_low_order_ends_the_handshake() -> None:
    initiator, responder = make("initiator"), make("responder")
    responder._publics["s"] = bytes(32)
    responder.read(initiator.write(b""))
    with pytest.raises(InvalidError, match="low order"):
        initiator.read(responder.write(b""))


@pytest.mark.parametrize(
    ("psks", "prologue"), [([b"x" * 32, b"q" * 32], b"test"), ([b"p" * 32, b"q" * 32], b"another mesh")]
)
def test_another_first_key_or_prologue_is_seen_at_the_first_message(psks: list[bytes], prologue: bytes) -> None:
    with pytest.raises(SealBrokenError):
        make("responder").read(make("initiator", psks=psks, prologue=prologue).write(b""))


def test_another_last_key_is_seen_at_the_last_message() -> None:
    initiator, responder = make("initiator", psks=[b"p" * 32, b"x" * 32]), make("responder")
    responder.read(initiator.write(b""))
    initiator.read(responder.write(b""))
    with pytest.raises(SealBrokenError):
        responder.read(initiator.write(b""))


def test_every_flipped_bit_of_every_message_is_refused() -> None:
    initiator, responder = make("initiator"), make("responder")
    messages = [initiator.write(b"")]
    responder.read(messages[0])
    messages.append(responder.write(b""))
    initiator.read(messages[1])
    messages.append(initiator.write(b""))
    for number, message in enumerate(messages):
        for at in range(0, len(message) * 8, 13):
            flipped = bytearray(message)
            flipped[at // 8] ^= 1 << at % 8
            reader = make("initiator" if number == 1 else "responder")
            if number == 1:
                reader.write(b"")
            elif number == 2:
                reader.read(messages[0])
                reader.write(b"")
            with pytest.raises((SealBrokenError, InvalidError)):
                reader.read(bytes(flipped))


def test_a_message_cut_anywhere_is_refused() -> None:
    message = make("initiator").write(b"")
    for size in range(len(message)):
        with pytest.raises((SealBrokenError, InvalidError)):
            make("responder").read(message[:size])


def test_messages_out_of_turn_are_refused() -> None:
    initiator, responder = make("initiator"), make("responder")
    for call in (lambda: responder.write(b""), lambda: initiator.read(b""), initiator.split):
        with pytest.raises(InvalidError):
            call()
    shake(initiator, responder)
    for call in (lambda: initiator.write(b""), lambda: responder.read(b"")):
        with pytest.raises(InvalidError, match="out of turn"):
            call()


@pytest.mark.parametrize(
    ("protocol", "psks"),
    [
        ("Noise_NN_25519_ChaChaPoly_BLAKE2b", 0),
        ("Noise_XX_25519_AESGCM_BLAKE2b", 0),
        ("Noise_XXpsk4_25519_ChaChaPoly_BLAKE2b", 1),
        ("Noise_XXpsk3+psk0_25519_ChaChaPoly_BLAKE2b", 2),
        (PSK03, 1),
    ],
)
def test_a_protocol_that_is_not_known_is_refused_by_name(protocol: str, psks: int) -> None:
    with pytest.raises(InvalidError, match=protocol.split("_")[1].replace("+", r"\+")):
        make("initiator", protocol, psks=[b"p" * 32] * psks)


def test_secrets_of_a_wrong_size_are_refused() -> None:
    with pytest.raises(InvalidError, match="32 bytes"):
        make("initiator", psks=[b"short", b"q" * 32])


def test_messages_over_the_bound_are_neither_written_nor_read() -> None:
    initiator = make("initiator")
    with pytest.raises(InvalidError, match="65535"):
        initiator.write(bytes(65_535))
    with pytest.raises(InvalidError, match="65535"):
        make("responder").read(bytes(65_536))


@pytest.mark.parametrize("counter", [0, 1, 255, 2**16, 2**64 - 2])
def test_aes_gcm_is_what_noise_calls_so(counter: int) -> None:
    """The form of nonces and the next key, against an independent implementation."""
    oracle, key = AESGCMCipher(), b"k" * 32
    oracle.initialize(key)
    sealed = AES_GCM.new_cipher(key).encrypt(AES_GCM.pack_nonce(counter), b"photo", b"")
    assert sealed == oracle.encrypt(key, counter, b"", b"photo")
    assert rekeyed(key, AES_GCM) == oracle.rekey(key)
