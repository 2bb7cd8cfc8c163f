"""What the control socket asks of the node, as contracts. Knows no adapter; the node hands in what fulfils them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from meshhold.model.grant import Permission

ReportProgress = Callable[[dict[str, Any]], Awaitable[None]]


class Vaults(Protocol):
    """Vaults by reference: a unique id prefix, a name or an alias. Views are dataclasses of plain values."""

    async def create(self, name: str, /, *, replication_factor: int = 3) -> Any:
        """Make a vault; return its view."""

    def views(self) -> Sequence[Any]:
        """Return every vault's view."""

    def view(self, ref: str, /) -> Any:
        """Return one view. Errors: `NoSuchVaultError`; `InvalidError` where `ref` fits several."""

    async def delete(self, ref: str, /, *, force: bool) -> None:
        """Remove a vault. Errors: `BucketNotEmptyError` unless `force`."""

    async def set_alias(self, ref: str, alias: str, /) -> Any:
        """Map a bucket name to the vault, `""` clears it; return its view. Errors: `AliasTakenError`."""


class Access(Protocol):
    """Access keys and what they may do. A secret leaves it once, in the answer of `add_key`."""

    async def add_key(self, label: str, /, *, create_buckets: bool) -> Any:
        """Mint a key; return `access_key_id`, `secret_access_key` and `label`."""

    def keys(self) -> Sequence[Any]:
        """Return every key's view, without secrets."""

    async def remove_key(self, access_key_id: str, /) -> None:
        """Remove a key and its grants. Errors: `NoSuchAccessKeyError`."""

    async def grant(
        self, access_key_id: str, vault_ref: str, permissions: Permission, /, *, allow_list: bool = False
    ) -> Any:
        """Set what a key may do with a vault; return the grant's view."""

    def grants(self) -> Sequence[Any]:
        """Return every grant's view."""

    async def revoke(self, access_key_id: str, vault_ref: str, /) -> None:
        """Remove a grant."""


class Care(Protocol):
    """Whether what is stored is whole. `vault_ref` None means every vault."""

    async def check(self, vault_ref: str | None, progress: ReportProgress, /, *, deep: bool = False) -> Sequence[Any]:
        """Compare the index with the chunks, with `deep` read each; return a report for each vault."""

    async def scrub(self, vault_ref: str | None, progress: ReportProgress, /) -> Any:
        """Rehash every chunk; return the report."""

    async def collect(self, vault_ref: str | None, /) -> Any:
        """Delete chunks that nothing refers to; return the report."""


Status = Callable[[], dict[str, Any]]
"""Returns node_id, name, version, uptime_s, data_dir, s3_addr (`""` when off), region, disk_total, disk_free (bytes),
vaults, objects (counts) and mesh (a sentence)."""
