"""Handshakes: who becomes whose peer, and what is refused, with whose fault it was."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from nacl.exceptions import UnavailableError

from meshhold.crypto import noise
from meshhold.crypto.hashing import derive_key
from meshhold.crypto.identity import Identity
from meshhold.crypto.noise import AES_GCM, CHACHA_POLY, Suite, public_of
from meshhold.errors import ChannelBrokenError, HandshakeRefusedError
from meshhold.wire.channel import Channel
from meshhold.wire.handshake import MESSAGE_SIZES, Handshake, swarm_id
from meshhold.wire.noise import NoiseXX

SWARM, OLD_SWARM = b"k" * 32, b"o" * 32
ANN, BEN = Identity(b"A" * 32), Identity(b"B" * 32)


def make(side: str, **changes: Any) -> Handshake:
    """Return one side: Ann initiates, Ben responds."""
    initiator = side == "initiator"
    defaults: dict[str, Any] = {
        "initiator": initiator,
        "swarm_key": SWARM,
        "identity": ANN if initiator else BEN,
        "static_secret": (b"a" if initiator else b"b") * 32,
        "ephemeral_secret": (b"x" if initiator else b"y") * 32,
    }
    return Handshake(**{**defaults, **changes})


def messages_between(initiator: Handshake, responder: Handshake) -> list[bytes]:
    """Run the handshake to its end; return what went over the wire."""
    sent: list[bytes] = []
    writer, reader = initiator, responder
    while (message := writer.next_message()) is not None:
        sent.append(message)
        reader.receive(message)
        writer, reader = reader, writer
    return sent


def check_refused(
    run: Callable[[], object], reason: str, culprit: str = "remote", *sides: Handshake
) -> HandshakeRefusedError:
    """Expect a refusal that names the reason and the culprit and leaves nothing usable behind on `sides`."""
    with pytest.raises(HandshakeRefusedError, match=reason) as caught:
        run()
    assert caught.value.culprit == culprit
    for side in sides:
        assert not side.done
        for call in (side.next_message, side.channel, partial(side.receive, b"")):
            with pytest.raises(HandshakeRefusedError):
                call()
    return caught.value


# -- it works -------------------------------------------------------------------------------------------------------


def test_two_nodes_of_one_swarm_become_peers_in_three_messages() -> None:
    ann, ben = make("initiator"), make("responder")
    assert ben.next_message() is None
    assert tuple(map(len, messages_between(ann, ben))) == MESSAGE_SIZES
    assert ann.done
    assert ben.done
    assert (ann.peer, ben.peer) == (BEN.node_id, ANN.node_id)
    assert ann.next_message() is None
    assert ben.next_message() is None
    here, there = ann.channel(), ben.channel()
    assert here.handshake_hash == there.handshake_hash
    assert there.open(here.seal(b"hello Ben")) == b"hello Ben"
    assert here.open(there.seal(b"hello Ann")) == b"hello Ann"


def test_the_channel_is_one_since_two_would_repeat_nonces() -> None:
    ann, ben = make("initiator"), make("responder")
    messages_between(ann, ben)
    assert ann.channel() is ann.channel()


def test_both_learn_the_version_and_each_others_nonce() -> None:
    ann = make("initiator", versions=(1, 3), nonce=b"n" * 16)
    ben = make("responder", versions=(2, 5))
    messages_between(ann, ben)
    assert (ann.version, ben.version) == (3, 3)
    assert ben.peer_nonce == b"n" * 16
    assert len(ann.peer_nonce) == 16


@pytest.mark.parametrize("highest", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_frames_are_sealed_by_aes_where_both_sides_are_quick_at_it(highest: tuple[int, int]) -> None:
    """Version 2 needs both; its keys are derived from Noise's, so that no key serves two ciphers."""
    ann, ben = make("initiator", versions=(1, highest[0])), make("responder", versions=(1, highest[1]))
    messages_between(ann, ben)
    here, there = ann.channel(), ben.channel()
    frame = here.seal(b"photo")
    ours, _ = ann._noise.split()
    has_aes = highest == (2, 2)
    suite: Suite = AES_GCM if has_aes else CHACHA_POLY
    key = derive_key(ours, "MeshHold wire 2 AES-256-GCM key") if has_aes else ours
    assert frame == suite.new_cipher(key).encrypt(suite.pack_nonce(0), b"photo", b"")
    assert there.open(frame) == b"photo"
    assert here.open(there.seal_rekey(0.0)) == b""
    assert here.open(there.seal(b"back")) == b"back"


@pytest.mark.parametrize("bit", range(32))
def test_nobody_on_the_way_talks_two_nodes_into_another_cipher(bit: int) -> None:
    """The versions travel sealed: whoever alters them ends the handshake."""
    ann, ben = make("initiator", versions=(1, 2)), make("responder", versions=(1, 2))
    ben.receive(ann.next_message() or b"")
    answer = bytearray(ben.next_message() or b"")
    answer[32 + 32 + 16 + bit // 8] ^= 1 << bit % 8  # behind two keys, the second one sealed
    check_refused(lambda: ann.receive(bytes(answer)), "does not open", "remote", ann)


def test_processors_without_instructions_for_aes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> bytes:
        raise UnavailableError

    monkeypatch.setattr(noise, "crypto_aead_aes256gcm_encrypt", refuse)
    assert not noise.has_aes_instructions()
    monkeypatch.setattr(noise, "crypto_aead_aes256gcm_encrypt", lambda *_arguments: bytes(16))
    assert noise.has_aes_instructions()


def test_a_nonce_of_its_own_differs_with_each_handshake() -> None:
    nonces = set()
    for number in range(3):
        ann, ben = make("initiator", ephemeral_secret=bytes([number]) * 32), make("responder")
        messages_between(ann, ben)
        nonces.add(ben.peer_nonce)
    assert len(nonces) == 3


def test_the_peer_is_known_before_the_initiator_proves_itself() -> None:
    ann, ben = make("initiator"), make("responder")
    check_refused(lambda: ann.peer, "not proven", "local")
    ben.receive(ann.next_message() or b"")
    ann.receive(ben.next_message() or b"")
    assert ann.peer == BEN.node_id
    assert not ann.done


def test_no_name_is_readable_on_the_wire() -> None:
    on_wire = b"".join(messages_between(make("initiator"), make("responder")))
    for identity, static in ((ANN, b"a" * 32), (BEN, b"b" * 32)):
        assert identity.node_id.encode() not in on_wire
        assert public_of(static) not in on_wire
    assert swarm_id(SWARM) not in on_wire


def test_a_swarm_id_names_the_key_without_revealing_it() -> None:
    assert swarm_id(SWARM) == derive_key(SWARM, "MeshHold swarm 2025-01 id")[:16]
    assert swarm_id(SWARM) != swarm_id(OLD_SWARM)


# -- rotation of the swarm key --------------------------------------------------------------------------------------


def test_a_responder_takes_older_keys_while_a_rotation_lasts() -> None:
    for key in (SWARM, OLD_SWARM):
        ann, ben = make("initiator", swarm_key=key), make("responder", accept_keys=[b"u" * 32, OLD_SWARM])
        messages_between(ann, ben)
        assert ben.peer == ANN.node_id
        assert ben.swarm == ann.swarm == swarm_id(key)


def test_an_initiator_dials_with_its_own_key_only() -> None:
    ann, ben = make("initiator", accept_keys=[OLD_SWARM]), make("responder", swarm_key=OLD_SWARM)
    check_refused(lambda: messages_between(ann, ben), "no swarm key", "remote", ben)


# -- it is refused --------------------------------------------------------------------------------------------------


def test_a_wrong_swarm_key_is_refused_at_message_1() -> None:
    ann, ben = make("initiator", swarm_key=OLD_SWARM), make("responder")
    refusal = check_refused(lambda: messages_between(ann, ben), "no swarm key of this node opens", "remote", ben)
    assert "same swarm key" in refusal.fix


def test_a_stranger_with_the_swarm_id_but_no_key_is_refused() -> None:
    stranger = NoiseXX(
        "Noise_XXpsk0+psk3_25519_ChaChaPoly_BLAKE2b",
        initiator=True,
        prologue=b"meshhold/1" + swarm_id(SWARM),
        psks=[bytes(32), bytes(32)],
        static_secret=b"z" * 32,
        ephemeral_secret=b"w" * 32,
    )
    ben = make("responder")
    check_refused(lambda: ben.receive(stranger.write(b"")), "no swarm key", "remote", ben)


@pytest.mark.parametrize("turn", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1, 47, 49, 65_535])
def test_a_message_of_another_size_is_refused(turn: int, size: int) -> None:
    sides = [make("initiator"), make("responder")]
    for number in range(turn):
        sides[1 - number % 2].receive(sides[number % 2].next_message() or b"")
    reader = sides[1 - turn % 2]
    sides[turn % 2].next_message()
    check_refused(lambda: reader.receive(bytes(size)), f"message {turn + 1} has a wrong size", "remote", reader)


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_flipped_bit_anywhere_is_refused(turn: int) -> None:
    for bit in range(0, MESSAGE_SIZES[turn] * 8, 37):
        sides = [make("initiator"), make("responder")]
        for number in range(turn):
            sides[1 - number % 2].receive(sides[number % 2].next_message() or b"")
        message = bytearray(sides[turn % 2].next_message() or b"")
        message[bit // 8] ^= 1 << bit % 8
        reader = sides[1 - turn % 2]
        reason = "no swarm key" if turn == 0 else f"message {turn + 1}: "
        check_refused(partial(reader.receive, bytes(message)), reason, "remote", reader)


def test_a_replayed_handshake_gets_no_further_than_message_2() -> None:
    recorded = messages_between(make("initiator"), make("responder"))
    ben = make("responder", ephemeral_secret=b"fresh secret of another handshake"[:32])
    ben.receive(recorded[0])
    assert ben.next_message() not in (None, recorded[1])
    check_refused(lambda: ben.receive(recorded[2]), "message 3: ", "remote", ben)


def test_ones_own_message_reflected_is_refused() -> None:
    ann = make("initiator")
    message = ann.next_message() or b""
    check_refused(lambda: ann.receive(message), "wrong size", "remote", ann)


def test_a_node_that_reaches_itself_says_so() -> None:
    ann, mirror = make("initiator"), make("responder", identity=ANN)
    check_refused(lambda: messages_between(ann, mirror), "this node itself", "local", ann)


@pytest.mark.parametrize("initiator_lies", [True, False])
def test_a_proof_signed_by_another_identity_is_refused(initiator_lies: bool) -> None:
    class Liar(Identity):
        """Claims Ben's or Ann's name, and signs with a key of its own."""

        def sign(self, message: bytes) -> bytes:
            return Identity(b"L" * 32).sign(message)

    ann = make("initiator", identity=Liar(b"A" * 32)) if initiator_lies else make("initiator")
    ben = make("responder") if initiator_lies else make("responder", identity=Liar(b"B" * 32))
    fooled = ben if initiator_lies else ann
    check_refused(lambda: messages_between(ann, ben), "does not prove the identity", "remote", fooled)


def test_a_proof_of_another_handshake_or_role_is_refused() -> None:
    signed: list[bytes] = []

    class Thief(Identity):
        """Has the swarm key, and replays the proof that Ben once gave it; Ann shall take it for Ben."""

        def sign(self, message: bytes) -> bytes:
            signed.append(message)
            return stolen

    class Witness(Identity):
        def sign(self, message: bytes) -> bytes:
            given.append(super().sign(message))
            return given[-1]

    given: list[bytes] = []
    messages_between(make("initiator"), make("responder", identity=Witness(b"B" * 32)))
    stolen = given[0]
    ann = make("initiator", ephemeral_secret=b"v" * 32)
    thief = make("responder", identity=Thief(b"B" * 32))
    check_refused(lambda: messages_between(ann, thief), "does not prove", "remote", ann)
    ben = make("responder", identity=Identity(b"C" * 32))
    check_refused(
        lambda: messages_between(make("initiator", identity=Thief(b"B" * 32)), ben), "does not prove", "remote", ben
    )
    assert all(message.startswith(b"MeshHold wire 1 identity of the ") for message in signed)


def test_a_key_of_low_order_is_refused_even_from_a_member() -> None:
    """A member of the mesh sends the zero point as its ephemeral key: nothing is derived from it."""
    ann, ben = make("initiator"), make("responder")
    ann._noise._publics["e"] = bytes(32)
    ben.receive(ann.next_message() or b"")
    check_refused(ben.next_message, "low order", "remote", ben)


@pytest.mark.parametrize(("theirs", "ours"), [((2, 4), (1, 1)), ((1, 1), (2, 2)), ((3, 2), (3, 3))])
def test_no_common_version_is_refused_by_number(theirs: tuple[int, int], ours: tuple[int, int]) -> None:
    ann, ben = make("initiator", versions=ours), make("responder", versions=theirs)
    refusal = check_refused(lambda: messages_between(ann, ben), "no version", "remote", ann)
    assert f"the peer speaks {theirs[0]} to {theirs[1]}, this node {ours[0]} to {ours[1]}" in refusal.fix


def test_messages_out_of_turn_or_after_the_last_are_refused() -> None:
    ann, ben = make("initiator"), make("responder")
    check_refused(lambda: ann.receive(bytes(48)), "out of turn", "remote", ann)
    ann = make("initiator")
    sent = messages_between(ann, ben)
    check_refused(lambda: ben.receive(sent[2]), "after the last", "remote", ben)


def test_a_channel_is_not_given_early() -> None:
    check_refused(make("initiator").channel, "not finished", "local")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"swarm_key": b"short"}, "32 bytes"),
        ({"accept_keys": [b""]}, "32 bytes"),
        ({"accept_keys": [bytes([n]) * 32 for n in range(5)]}, "more than 4"),
        ({"nonce": b"n"}, "16 bytes"),
    ],
)
def test_wrong_arguments_are_faults_of_this_side(changes: dict[str, Any], reason: str) -> None:
    check_refused(lambda: make("responder", **changes), reason, "local")


def test_a_proof_has_the_layout_that_is_written_down() -> None:
    """Read Ann's proof with a Noise machine of the responder's, knowing only the published layout."""
    ann = make("initiator", nonce=b"n" * 16, versions=(1, 7))
    responder = NoiseXX(
        "Noise_XXpsk0+psk3_25519_ChaChaPoly_BLAKE2b",
        initiator=False,
        prologue=b"meshhold/1" + swarm_id(SWARM),
        psks=[SWARM, SWARM],
        static_secret=b"b" * 32,
        ephemeral_secret=b"y" * 32,
    )
    assert responder.read(ann.next_message() or b"") == b""
    signed = b"MeshHold wire 1 identity of the responder" + responder.hash + responder.static_public
    proof = struct.pack(">HH16s", 1, 1, b"m" * 16) + bytes(BEN._signing.verify_key) + BEN.sign(signed)
    ann.receive(responder.write(proof))
    assert (ann.peer, ann.version, ann.peer_nonce) == (BEN.node_id, 1, b"m" * 16)
    signed = b"MeshHold wire 1 identity of the initiator" + responder.hash
    proof = responder.read(ann.next_message() or b"")
    assert proof[:20] == struct.pack(">HH16s", 1, 7, b"n" * 16)
    assert proof[20:52] == bytes(ANN._signing.verify_key)
    assert proof[52:] == ANN.sign(signed + responder.remote_static)


def test_a_cut_connection_differs_from_an_ended_one() -> None:
    ann, ben = make("initiator"), make("responder")
    messages_between(ann, ben)
    here: Channel = ann.channel()
    there: Channel = ben.channel()
    frames = [here.seal(b"one"), here.seal_end()]
    there.open(frames[0])
    assert not there.ended
    there.open(frames[1])
    assert there.ended
    with pytest.raises(ChannelBrokenError):
        there.open(frames[0])
