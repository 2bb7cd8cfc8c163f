"""Do these two nodes trust each other? Three messages from strangers to a channel. Knows no socket, deadline or roster.

States: the initiator sends 1, takes 2, sends 3; the responder takes 1, sends 2, takes 3. Each message has exactly one
size, so a longer or shorter one is refused before any arithmetic.
- Message 1 opens only under a swarm key that the responder accepts: a stranger learns nothing, not even who answers.
- Messages 2 and 3 carry a proof each: who the sender is (Ed25519), signed over its Noise static key and the transcript
  so far, and which versions of the session it speaks. Both sides then settle on the highest that both know.
- Whatever fails ends the handshake for good; nobody is told why over the wire.
It ignores membership: whether the peer is welcome is the caller's question, to be asked before message 3 is sent.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Literal

from meshhold.crypto.hashing import derive_key
from meshhold.crypto.identity import Identity, verify_signature
from meshhold.crypto.noise import AES_GCM, DH_SIZE, KEY_SIZE, TAG_SIZE, has_aes_instructions
from meshhold.errors import HandshakeRefusedError, InvalidError, SealBrokenError
from meshhold.model.ids import NodeId, decode_id, encode_id
from meshhold.wire.channel import Channel
from meshhold.wire.noise import NoiseXX

PROTOCOL: Final = "Noise_XXpsk0+psk3_25519_ChaChaPoly_BLAKE2b"
VERSIONS: Final = (1, 2 if has_aes_instructions() else 1)
"""The lowest and the highest version of the session that this program speaks on this machine.

Version 2 is version 1 with frames sealed by AES-256-GCM: for two machines whose processors have instructions for it.
"""

NONCE_SIZE: Final = 16
SWARM_ID_SIZE: Final = 16
ACCEPT_KEYS_MAX: Final = 4  # each costs a stranger's first message about 0.1 ms; a rotation needs one

_PROLOGUE: Final = b"meshhold/1"
_SWARM_ID: Final = "MeshHold swarm 2025-01 id"
_AES_GCM_SINCE: Final = 2
_AES_GCM_KEY: Final = "MeshHold wire 2 AES-256-GCM key"
_SIGNED: Final = b"MeshHold wire 1 identity of the "
_PROOF: Final = struct.Struct(">HH16s32s64s")  # versions from, to; nonce; node's public key; signature
MESSAGE_SIZES: Final = (
    DH_SIZE + TAG_SIZE,
    DH_SIZE + DH_SIZE + TAG_SIZE + _PROOF.size + TAG_SIZE,
    DH_SIZE + TAG_SIZE + _PROOF.size + TAG_SIZE,
)
"""Bytes of the three messages: e; e, s, proof; s, proof (with the tags of what is encrypted)."""


def swarm_id(swarm_key: bytes) -> bytes:
    """Return 16 bytes that name the mesh of a swarm key, may be seen by anyone, and do not help to find the key.

    A one-way derivation of 32 random bytes: guessing the key from it takes as long as guessing it from nothing.
    """
    return derive_key(swarm_key, _SWARM_ID)[:SWARM_ID_SIZE]


class Handshake:
    """One side of one handshake; `ephemeral_secret` is 32 fresh random bytes, never used twice.

    `accept_keys` are older swarm keys that a responder takes too while a rotation lasts (up to 4). `nonce` (16 bytes)
    is shown to the peer, for settling ties; without one it is the ephemeral key's. Errors of every call:
    `HandshakeRefusedError`, after which the handshake is of no use.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        swarm_key: bytes,
        identity: Identity,
        static_secret: bytes,
        ephemeral_secret: bytes,
        accept_keys: Sequence[bytes] = (),
        nonce: bytes = b"",
        versions: tuple[int, int] = VERSIONS,
    ) -> None:
        if any(len(key) != KEY_SIZE for key in (swarm_key, static_secret, ephemeral_secret, *accept_keys)):
            raise HandshakeRefusedError("local", f"swarm keys and secrets have {KEY_SIZE} bytes")
        if len(accept_keys) > ACCEPT_KEYS_MAX:
            raise HandshakeRefusedError("local", f"more than {ACCEPT_KEYS_MAX} older swarm keys", "finish a rotation")
        if len(nonce) not in (0, NONCE_SIZE):
            raise HandshakeRefusedError("local", f"a nonce has {NONCE_SIZE} bytes")
        self._initiator = initiator
        self._identity = identity
        self._versions = versions
        self._secrets = (static_secret, ephemeral_secret)
        self._older_keys = [] if initiator else list(accept_keys)
        self._swarm, self._noise = self._start(swarm_key)
        self._nonce = nonce or self._noise.ephemeral_public[:NONCE_SIZE]
        self._turn = 0
        self._failed = False
        self._peer: NodeId | None = None
        self._version = 0
        self._peer_nonce = b""
        self._channel: Channel | None = None

    @property
    def done(self) -> bool:
        """All three messages are sent and taken: `channel` may be called."""
        return self._noise.finished and not self._failed

    @property
    def incoming_sizes(self) -> tuple[int, ...]:
        """Bytes of the messages that the peer sends, in order: the bounds of the first frames."""
        return MESSAGE_SIZES[1::2] if self._initiator else MESSAGE_SIZES[0::2]

    @property
    def peer(self) -> NodeId:
        """Who is at the other end: proven once the peer's proof is taken."""
        if self._peer is None:
            raise HandshakeRefusedError("local", "the peer has not proven who it is yet")
        return self._peer

    @property
    def version(self) -> int:
        """The session's version that both sides settled on; 0 before the peer's proof is taken."""
        return self._version

    @property
    def peer_nonce(self) -> bytes:
        """The peer's nonce; empty before its proof is taken."""
        return self._peer_nonce

    @property
    def swarm(self) -> bytes:
        """The id of the swarm key in use: a responder knows once it has taken message 1."""
        return self._swarm

    def next_message(self) -> bytes | None:
        """Return what to send now, None if it is the peer's turn or nothing is left."""
        self._check_usable()
        if not self._noise.writes_next:
            return None
        try:
            message = self._noise.write(self._make_proof() if self._turn else b"")
        except InvalidError as error:  # the peer's ephemeral key is of low order
            raise self._refuse(error.message) from error
        self._turn += 1
        return message

    def receive(self, message: bytes) -> None:
        """Take the peer's next message. What it says is proven when this returns."""
        self._check_usable()
        if self._noise.finished:
            raise self._refuse("a message comes after the last one")
        if self._noise.writes_next:
            raise self._refuse("a message comes out of turn")
        if len(message) != MESSAGE_SIZES[self._turn]:
            raise self._refuse(f"message {self._turn + 1} has a wrong size")
        if self._turn == 0:
            self._find_swarm(message)
        else:
            said = self._noise.hash
            try:
                proof = self._noise.read(message)
            except (SealBrokenError, InvalidError) as error:
                raise self._refuse(f"message {self._turn + 1}: {error.message}") from error
            self._check_proof(proof, said)
        self._turn += 1

    def channel(self) -> Channel:
        """Return the channel that the handshake led to: always the same one, since a second would repeat its nonces."""
        if not self.done:
            raise HandshakeRefusedError("local", "the handshake is not finished")
        if self._channel is None:
            self._channel = self._make_channel()
        return self._channel

    def _make_channel(self) -> Channel:
        keys = self._noise.split()
        if self._version < _AES_GCM_SINCE:
            return Channel(self.peer, self._noise.hash, *keys)
        ours, theirs = (derive_key(key, _AES_GCM_KEY) for key in keys)  # no key ever serves two ciphers
        return Channel(self.peer, self._noise.hash, ours, theirs, AES_GCM)

    def _find_swarm(self, message: bytes) -> None:
        for key in (None, *self._older_keys):
            if key is not None:
                self._swarm, self._noise = self._start(key)
            try:
                self._noise.read(message)
            except (SealBrokenError, InvalidError):
                continue
            return
        raise self._refuse("no swarm key of this node opens message 1", "give both nodes the same swarm key")

    def _start(self, key: bytes) -> tuple[bytes, NoiseXX]:
        """Return the id of a swarm key, and a machine that has taken no message yet: a failed one is of no use."""
        swarm = swarm_id(key)
        static, ephemeral = self._secrets
        return swarm, NoiseXX(
            PROTOCOL,
            initiator=self._initiator,
            prologue=_PROLOGUE + swarm,
            psks=[key, key],
            static_secret=static,
            ephemeral_secret=ephemeral,
        )

    def _make_proof(self) -> bytes:
        signed = _signed(self._initiator, self._noise.hash, self._noise.static_public)
        public = decode_id(self._identity.node_id)
        return _PROOF.pack(*self._versions, self._nonce, public, self._identity.sign(signed))

    def _check_proof(self, proof: bytes, transcript: bytes) -> None:
        lowest, highest, nonce, public, signature = _PROOF.unpack(proof)
        signed = _signed(not self._initiator, transcript, self._noise.remote_static)
        if not verify_signature(public, signed, signature):
            raise self._refuse("the peer does not prove the identity that it claims")
        peer = NodeId(encode_id(public))
        if peer == self._identity.node_id:
            raise self._refuse("the peer is this node itself", "dial other nodes only", culprit="local")
        version = min(highest, self._versions[1])
        if version < max(lowest, self._versions[0]):
            ours = f"{self._versions[0]} to {self._versions[1]}"
            fix = f"the peer speaks {lowest} to {highest}, this node {ours}: update the older one"
            raise self._refuse("no version of the session is known to both", fix)
        self._peer, self._version, self._peer_nonce = peer, version, nonce

    def _check_usable(self) -> None:
        if self._failed:
            raise HandshakeRefusedError("local", "the handshake has failed before")

    def _refuse(
        self, reason: str, fix: str = "", culprit: Literal["local", "remote"] = "remote"
    ) -> HandshakeRefusedError:
        self._failed = True
        return HandshakeRefusedError(culprit, reason, fix)


def _signed(by_initiator: bool, transcript: bytes, static_public: bytes) -> bytes:
    """Return what a node signs: its role, the transcript before the message with the proof, its Noise static key."""
    return _SIGNED + (b"initiator" if by_initiator else b"responder") + transcript + static_public
