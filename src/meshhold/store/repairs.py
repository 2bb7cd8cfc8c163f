"""How far is the repair of each vault, and who is missing? For people; decides nothing and moves nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio

from meshhold.model.ids import NodeId, VaultId
from meshhold.store.directory import Bucket, Directory
from meshhold.store.fellows import Present
from meshhold.store.vaults import Vaults


class Progress(Protocol):
    """How far the repair of one vault is."""

    def show(self, now_s: float) -> dict[str, Any]:
        """Return the form that people and scripts are shown."""


class Repair(Protocol):
    """Whoever repairs the vaults of this node."""

    def soon(self, vault: VaultId) -> None:
        """Let a pass over a vault begin."""

    def progress(self) -> Mapping[VaultId, Progress]:
        """Return how far each vault is."""


class Repairs:
    """The repair of vaults as people see it. `name_of` gives a node's name. Resources: borrows its collaborators.

    A view is a dict: `vault`, `vault_id`, `factor` (copies that are wanted), `wanted` (copies that the present machines
    can have), `members` (a number), `away` and `out` (names of machines that do not answer, and of those that are stood
    in for since they did not for so long), and what `Progress.show` tells: `phase`, `chunks_done`, `bytes_done`,
    `chunks_left`, `bytes_left`, `bytes_per_s`, `eta_s` (None: unknown), `finished_at` (seconds since 1970; None: no
    pass has ended yet), `complete`, `waiting` (why, or `""`), `surplus`, `removed`, `short` (chunks that lack a copy).
    """

    def __init__(
        self,
        directory: Directory,
        vaults: Vaults,
        fellows: Present,
        repair: Repair,
        name_of: Callable[[NodeId], str],
        *,
        now_s: Callable[[], float] = trio.current_time,
    ) -> None:
        self._directory = directory
        self._vaults = vaults
        self._fellows = fellows
        self._repair = repair
        self._name_of = name_of
        self._now_s = now_s

    def start(self, vault: str | None) -> list[dict[str, Any]]:
        """Let a pass begin over one vault, or over all; return how far they are. Errors: `NoSuchVaultError`."""
        chosen = self._chosen(vault)
        for bucket in chosen:
            self._repair.soon(bucket.id)
        return [self._view(bucket) for bucket in chosen]

    def views(self, vault: str | None = None) -> list[dict[str, Any]]:
        """Return how far each vault is, by name. Errors: `NoSuchVaultError`."""
        return [self._view(bucket) for bucket in self._chosen(vault)]

    def _chosen(self, vault: str | None) -> list[Bucket]:
        if vault is not None:
            return [self._vaults.find(vault)]
        return sorted(self._directory.by_id.values(), key=lambda bucket: (bucket.name, bucket.id))

    def _view(self, bucket: Bucket) -> dict[str, Any]:
        view, progress = self._fellows.view(bucket.id), self._repair.progress().get(bucket.id)
        members = () if view is None else view.members
        shown = dict(_NOT_BEGUN) if progress is None else progress.show(self._now_s())
        return {
            "vault": bucket.name,
            "vault_id": bucket.id,
            "factor": bucket.replication_factor,
            "wanted": 1 if view is None else view.wanted,
            "members": len(members),
            "away": [self._name_of(node) for node in members if not self._fellows.is_live(node)],
            "out": [] if view is None else sorted(map(self._name_of, view.out)),
            **shown,
        }


_NOT_BEGUN: dict[str, Any] = {
    "phase": "idle",
    "chunks_done": 0,
    "bytes_done": 0,
    "chunks_left": 0,
    "bytes_left": 0,
    "bytes_per_s": 0,
    "eta_s": None,
    "finished_at": None,
    "complete": False,
    "waiting": "",
    "surplus": 0,
    "removed": 0,
    "short": 0,
}
