"""Who is a node? Its Ed25519 key pair: names, signs, and opens what was sealed to it. Knows no file and no mesh."""

from __future__ import annotations

from nacl.bindings import crypto_sign_BYTES, crypto_sign_PUBLICKEYBYTES
from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from meshhold.errors import InvalidError, SealBrokenError
from meshhold.model.ids import NodeId, decode_id, encode_id


class Identity:
    """A node's key pair, made from a 32-byte seed that is kept secret.

    `node_id` is the public key in base32; `stamp_node` its first 8 bytes, which break ties between stamps.
    """

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._signing = SigningKey(seed)
        public = bytes(self._signing.verify_key)
        self.node_id = NodeId(encode_id(public))
        self.stamp_node = public[:8]
        self._box = SealedBox(self._signing.to_curve25519_private_key())

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return self._signing.sign(message).signature

    def open_sealed(self, box: bytes) -> bytes:
        """Undo `seal_to` for this node. Errors: `SealBrokenError` if it was sealed to another node or altered."""
        try:
            return self._box.decrypt(box)
        except (CryptoError, ValueError) as error:
            raise SealBrokenError("a secret does not open: it is sealed to another node, or was altered") from error


def verify(node_id: NodeId, message: bytes, signature: bytes) -> bool:
    """Tell whether that node signed `message`; False also for a malformed id or signature."""
    try:
        key = _public_key(node_id)
    except InvalidError:
        return False
    return verify_signature(bytes(key), message, signature)


def verify_signature(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether the holder of the Ed25519 key `public` signed `message`; False for malformed arguments."""
    if len(public) != crypto_sign_PUBLICKEYBYTES or len(signature) != crypto_sign_BYTES:
        return False
    try:
        VerifyKey(public).verify(message, signature)
    except (CryptoError, ValueError):
        return False
    return True


def seal_to(node_id: NodeId, secret: bytes) -> bytes:
    """Return `secret` so that only that node can open it (X25519 sealed box to its identity key; not deterministic).

    Errors: `InvalidError` if `node_id` is not a node's id.
    """
    try:
        return SealedBox(_public_key(node_id).to_curve25519_public_key()).encrypt(secret)
    except (CryptoError, ValueError, RuntimeError) as error:  # not a point of the curve, or one of small order
        raise InvalidError(f"{node_id!r} is not a node id", "copy it from `meshhold status` on that node") from error


def _public_key(node_id: NodeId) -> VerifyKey:
    public = decode_id(node_id)
    if len(public) != crypto_sign_PUBLICKEYBYTES or encode_id(public) != node_id:
        raise InvalidError(f"{node_id!r} is not a node id", "copy it from `meshhold status` on that node")
    return VerifyKey(public)
