"""A vault's secrets as one word: taken out to a safe place, and brought back on another node. Knows no link.

Whoever has the word can read and sign for the vault, whatever its records say of members.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgpack

from meshhold.crypto.identity import seal_to
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ConflictError, IntegrityError, InvalidError, NotFoundError
from meshhold.model.ids import VaultId, short_id
from meshhold.model.word import decode_word, encode_word
from meshhold.registry.record import Kind, Record
from meshhold.registry.shape import EPOCHS_MAX
from meshhold.store.directory import TRUSTED, Directory
from meshhold.store.vaults import Vaults, VaultView

PREFIX: Final = "mhv1"
SIZE_MAX: Final = 24 * 1024  # 400 epochs of 40 bytes each, in base64


def encode_secrets(keys: VaultKeys) -> str:
    """Return the secrets of all epochs as one word that survives terminals and paper."""
    packed: bytes = msgpack.packb(sorted(keys.secrets.items()))
    return encode_word(PREFIX, packed)


def decode_secrets(text: str) -> VaultKeys:
    """Undo `encode_secrets`. Errors: `InvalidError` that never repeats the word."""
    try:
        pairs = msgpack.unpackb(decode_word(PREFIX, text, SIZE_MAX))
        if not 1 <= len(pairs) <= EPOCHS_MAX:
            raise ValueError
        secrets: dict[int, bytes] = {}
        for epoch, secret in pairs:
            if type(epoch) is not int or type(secret) is not bytes:
                raise ValueError
            secrets[epoch] = secret
        return VaultKeys(secrets.pop(1), secrets)
    except Exception as error:  # whatever base64, msgpack or unpacking says about a damaged word
        raise InvalidError(
            "these are no vault's secrets, or a part is missing", "copy the whole output of `meshhold vault export`"
        ) from error


class Beside(Protocol):
    """Whoever reads the records that lie beside chunks; see `store.labels`."""

    async def take(self, vault: VaultId) -> int:
        """Learn what lies beside a vault's chunks on this disk; return how many records were news."""


class Secrets:
    """Secrets of the vaults that this node is trusted in. Resources: borrows its collaborators."""

    def __init__(self, directory: Directory, vaults: Vaults, beside: Beside | None = None) -> None:
        self._directory = directory
        self._vaults = vaults
        self._beside = beside

    def export(self, vault: str) -> str:
        """Return a vault's secrets as one word. Errors: `NoSuchVaultError`."""
        return encode_secrets(self._vaults.find(vault).keys)

    async def take(self, word: str) -> VaultView:
        """Make this node a trusted member of the vault that these are the secrets of; return its view.

        What the mesh does not know of it may lie beside its chunks on this disk.
        Errors: `InvalidError` for another word, or one from before the vault's keys were rotated; `NotFoundError` if
        neither this mesh nor this disk knows such a vault; `ConflictError` if this node is trusted already.
        """
        keys = decode_secrets(word)
        vault, node = keys.vault_id, self._directory.identity.node_id
        record = await self._known(vault)
        if vault in self._directory.by_id and keys.epoch <= self._directory.by_id[vault].keys.epoch:
            raise ConflictError(f"this node is a trusted member of vault {short_id(vault)} already")
        try:
            keys.open_small("registry", f"{record.kind}/{record.key}".encode(), record.private)
        except IntegrityError as error:
            raise InvalidError(
                f"the keys of vault {short_id(vault)} were rotated after these secrets were exported",
                "export them again on a trusted member",
            ) from error
        sealed = [[epoch, seal_to(node, secret)] for epoch, secret in sorted(keys.secrets.items())]
        public = {"role": TRUSTED, "secrets": sealed}
        member = self._directory.vault_record(keys, Kind.MEMBER, f"{vault}/{node}", public=public, private={})
        await self._directory.write(member)
        return await self._vaults.view(vault)

    async def _known(self, vault: VaultId) -> Record:
        """Return the vault's own record. Errors: `NotFoundError`."""
        registry = self._directory.registry
        if self._beside is not None and registry.known(Kind.VAULT, vault) is None:
            await self._beside.take(vault)
        record, is_deleted = registry.get(Kind.VAULT, vault), registry.known(Kind.VAULT, vault) is not None
        if record is None and is_deleted:
            raise NotFoundError(f"vault {short_id(vault)} was deleted, and what was kept of it is gone")
        if record is None:
            raise NotFoundError(
                f"no node that this one has met knows vault {short_id(vault)}, and no chunks of it are on this disk",
                "join its mesh first: meshhold join; or stop this node, move the folder chunks/ of a machine that kept "
                f"it, or chunks/{vault} from it, into this one's data directory, and start it again",
            )
        return record
