"""Where do chunks, and what lies beside them, have their folders? Names only: reads and writes nothing."""

from __future__ import annotations

import re
from typing import Final

from meshhold.errors import InvalidError
from meshhold.model.ids import VaultId

_TEMPORARY: Final = "tmp"
_CACHE: Final = "cache"
_VAULT_NAME: Final = re.compile(r"[a-z2-7]{32}\Z")


def vault_folder(root: str, vault: VaultId) -> str:
    """Return the folder of a vault. Errors: `InvalidError` for what is no vault's id, and could lead elsewhere."""
    if not is_vault_name(vault):
        raise InvalidError(f"{vault!r} is not a vault id")
    return f"{root}/{vault}"


def is_vault_name(name: str) -> bool:
    """Tell whether a folder of this name is a vault's."""
    return _VAULT_NAME.match(name) is not None


def temporary_folder(root: str) -> str:
    """Return where files are written before they have their name; what is in it at start belongs to nobody."""
    return f"{root}/{_TEMPORARY}"


def cache_folder(root: str) -> str:
    """Return where copies for reading only are; beside the chunks, since they live in the room that those leave."""
    return f"{root}/{_CACHE}"
