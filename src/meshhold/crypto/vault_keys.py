"""Which keys follow from a vault's secret, and what each is for. Knows no file, no grant and no randomness.

secret ─┬─ signing key (Ed25519): its public half, hashed, is the vault's id
        ├─ convergence secret: keyed hash of a chunk's plaintext is that chunk's one-use key
        └─ wrapping key of epoch 1: keyed hash of purpose and salt is a small value's one-use key

Later epochs have secrets of their own, random and given only to the members of that time: whoever was removed before
cannot derive them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from nacl.signing import SigningKey

from meshhold.crypto.bulk import open_once, seal_once
from meshhold.crypto.hashing import derive_key, hash_bytes, keyed_hash
from meshhold.crypto.identity import verify_signature
from meshhold.errors import InvalidError, SealBrokenError, UnknownFormatError
from meshhold.model.ids import VAULT_ID_SIZE, VaultId, encode_id

SECRET_SIZE: Final = 32
SALT_SIZE: Final = 16
SMALL_VERSION: Final = 1
_SMALL_HEAD: Final = struct.Struct(">BI16s")  # version, epoch, salt
_EPOCH_MAX: Final = 2**32 - 1
_SIGNING: Final = "MeshHold vault 2025-01 signing key seed"
_CONVERGENCE: Final = "MeshHold vault 2025-01 convergence secret"
_WRAPPING: Final = "MeshHold vault 2025-01 wrapping key of epoch "


class VaultKeys:
    """Everything that a trusted member derives from the vault's 32-byte secret and those of its later epochs.

    `epoch_secrets` maps epochs from 2 on to 32 bytes each; `epoch` is the newest one. Two instances of the same secrets
    are interchangeable. Thread-safe. Errors: `InvalidError` for a wrong size or epoch.
    """

    def __init__(self, secret: bytes, epoch_secrets: Mapping[int, bytes] | None = None) -> None:
        self.secrets = {1: secret, **(epoch_secrets or {})}
        for epoch, each in self.secrets.items():
            if len(each) != SECRET_SIZE:
                raise InvalidError(f"a vault's secret has {SECRET_SIZE} bytes, not {len(each)}")
            if not 1 <= epoch <= _EPOCH_MAX:
                raise InvalidError(f"epoch {epoch} is out of range", f"epochs count from 1 to {_EPOCH_MAX}")
        self.epoch = max(self.secrets)
        self._signing = SigningKey(derive_key(secret, _SIGNING))
        self.signing_public = bytes(self._signing.verify_key)
        self.vault_id = vault_id_of(self.signing_public)
        self.convergence = derive_key(secret, _CONVERGENCE)
        self._wrap_keys = {epoch: derive_key(each, f"{_WRAPPING}{epoch}") for epoch, each in self.secrets.items()}

    def sign(self, message: bytes) -> bytes:
        """Return the vault's 64-byte Ed25519 signature of `message`."""
        return self._signing.sign(message).signature

    def content_key(self, plaintext: bytes) -> bytes:
        """Return the key that seals exactly this plaintext, in this vault."""
        return keyed_hash(self.convergence, plaintext)

    def wrap_key(self, epoch: int) -> bytes:
        """Return the wrapping key of an epoch. Errors: `SealBrokenError` for one whose secret this member lacks."""
        try:
            return self._wrap_keys[epoch]
        except KeyError:
            raise SealBrokenError(f"this node was not given the secret of epoch {epoch}") from None

    def seal_small(self, purpose: str, aad: bytes, salt: bytes, plaintext: bytes) -> bytes:
        """Return `plaintext` sealed under the current epoch for one purpose; opening takes the same `aad`.

        `salt` is 16 random bytes, fresh for each call: two plaintexts under one salt would break both.
        """
        if len(salt) != SALT_SIZE:
            raise InvalidError(f"a salt has {SALT_SIZE} bytes, not {len(salt)}")
        key = keyed_hash(self.wrap_key(self.epoch), purpose.encode() + salt)
        return _SMALL_HEAD.pack(SMALL_VERSION, self.epoch, salt) + seal_once(key, plaintext, aad)

    def open_small(self, purpose: str, aad: bytes, sealed: bytes) -> bytes:
        """Undo `seal_small`, whatever the epoch it was sealed under.

        Errors: `UnknownFormatError` for a version that is not known; `SealBrokenError` for another purpose, vault or
        `aad`, or altered bytes.
        """
        if sealed and sealed[0] != SMALL_VERSION:
            raise UnknownFormatError(f"sealed value version {sealed[0]} is not known", "use a newer meshhold")
        if len(sealed) < _SMALL_HEAD.size:
            raise SealBrokenError(f"a sealed value of {len(sealed)} bytes is cut short")
        _, epoch, salt = _SMALL_HEAD.unpack_from(sealed)
        key = keyed_hash(self.wrap_key(epoch), purpose.encode() + salt)
        return open_once(key, sealed[_SMALL_HEAD.size :], aad)


def vault_id_of(signing_public: bytes) -> VaultId:
    """Return the id that a signing public key certifies."""
    return VaultId(encode_id(hash_bytes(signing_public)[:VAULT_ID_SIZE]))


def verify_vault(vault_id: VaultId, signing_public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether that vault signed `message`: the key must hash to the id, and the signature must be the key's."""
    return vault_id_of(signing_public) == vault_id and verify_signature(signing_public, message, signature)
