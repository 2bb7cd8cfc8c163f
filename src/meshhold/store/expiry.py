"""Follows the lifecycles of vaults: whose turn it is, what the last walks found. The work is `expiry_walk`'s."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from meshhold.errors import ConflictError, FatalError, MeshHoldError, NotFoundError
from meshhold.model.ids import VaultId
from meshhold.rules.lifecycle import Lifecycle, Rule
from meshhold.store.directory import Bucket, Directory
from meshhold.store.expiry_walk import ExpiryReport, Progress, Stores, Walk
from meshhold.store.vaults import Vaults

_LOG: Final = logging.getLogger("meshhold.lifecycle")


@dataclass(frozen=True, slots=True)
class LifecycleView:
    """The lifecycle of one vault as people see it: its rules, whose turn it is, the last walk, when the next begins."""

    vault: VaultId
    name: str
    rules: list[dict[str, Any]]
    here: bool
    last: ExpiryReport | None
    next_ms: int | None


class Expiry:
    """Walks vaults that have a lifecycle, and removes what is due.

    `leads` tells whether a vault is this node's to walk by itself, so that of several nodes one does. `now_ms` is a
    clock that does not jump ahead: what a wrong date ends, nothing brings back. Resources: borrows its collaborators;
    one walk at a time.
    """

    def __init__(
        self,
        directory: Directory,
        vaults: Vaults,
        stores: Stores,
        *,
        leads: Callable[[VaultId], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._directory = directory
        self._vaults = vaults
        self._stores = stores
        self._leads = leads
        self._now_ms = now_ms
        self._walking = False
        self._last: dict[VaultId, ExpiryReport] = {}
        self.next_ms: int | None = None  # when the next walk begins by itself; set by whoever keeps the schedule

    def views(self, reference: str | None = None) -> list[LifecycleView]:
        """Return the lifecycle of one vault, or of all that have one.

        Errors: `NoSuchVaultError`; `NotFoundError` for a vault without one.
        """
        return [
            LifecycleView(
                bucket.id,
                bucket.name,
                [describe_rule(rule) for rule in lifecycle.rules],
                self._leads(bucket.id),
                self._last.get(bucket.id),
                self.next_ms,
            )
            for bucket, lifecycle in self._chosen(reference)
        ]

    async def run(
        self, reference: str | None, progress: Progress | None = None, *, dry_run: bool = False
    ) -> list[ExpiryReport]:
        """Walk one vault, or all whose turn is this node's, and remove what is due; return what was found.

        A vault that cannot be walked to its end is named in its report; the others go on. Errors: as `views`;
        `ConflictError` while another walk removes things.
        """
        chosen = self._chosen(reference)
        if reference is None:
            chosen = [(bucket, lifecycle) for bucket, lifecycle in chosen if self._leads(bucket.id)]
        if dry_run:
            return [await self._walk(bucket, lifecycle, progress, dry_run=True) for bucket, lifecycle in chosen]
        if self._walking:
            raise ConflictError("lifecycles are being followed right now", "try again when that has ended")
        self._walking = True
        try:
            return [await self._walk(bucket, lifecycle, progress, dry_run=False) for bucket, lifecycle in chosen]
        finally:
            self._walking = False

    async def _walk(
        self, bucket: Bucket, lifecycle: Lifecycle, progress: Progress | None, *, dry_run: bool
    ) -> ExpiryReport:
        report = ExpiryReport(bucket.id, bucket.name, dry_run, self._now_ms())
        try:
            holds = partial(self._holds, bucket)
            await Walk(self._stores, bucket, lifecycle, report, holds=holds, progress=progress).run()
        except FatalError:
            raise
        except MeshHoldError as error:
            report.error = str(error)
            _LOG.error("the lifecycle of vault %s was not followed to its end: %s", bucket.name, error)
        report.ended_ms = self._now_ms()
        if not dry_run:
            self._last[bucket.id] = report
        return report

    def _holds(self, bucket: Bucket) -> bool:
        """Tell whether the rules with which a walk began are still in force: a long one must not outlive them."""
        known = self._directory.by_id.get(bucket.id)
        return known is not None and (known.rules.lifecycle, known.rules.versioning) == (
            bucket.rules.lifecycle,
            bucket.rules.versioning,
        )

    def _chosen(self, reference: str | None) -> list[tuple[Bucket, Lifecycle]]:
        buckets = list(self._directory.by_id.values()) if reference is None else [self._vaults.find(reference)]
        found = [(bucket, bucket.rules.lifecycle) for bucket in buckets if bucket.rules.lifecycle is not None]
        if reference is not None and not found:
            raise NotFoundError(
                f"vault {buckets[0].name!r} has no lifecycle", "set one with PutBucketLifecycleConfiguration"
            )
        return [(bucket, lifecycle) for bucket, lifecycle in found if lifecycle is not None]


def describe_rule(rule: Rule) -> dict[str, Any]:
    """Return a rule as people and scripts see it: `id`, `enabled`, and sentences for `applies_to` and `does`."""
    reach = [f"keys that begin with {rule.prefix.decode('utf-8', 'replace')!r}" if rule.prefix else "all keys"]
    reach += [f"tagged {name}={value}" for name, value in rule.tags]
    if rule.size_above is not None:
        reach.append(f"over {rule.size_above} bytes")
    if rule.size_below is not None:
        reach.append(f"under {rule.size_below} bytes")
    does = []
    if rule.days is not None:
        does.append(f"objects end after {_days(rule.days)}")
    if rule.date_ms is not None:
        does.append(f"objects end on {datetime.fromtimestamp(rule.date_ms / 1000, UTC):%Y-%m-%d}")
    if rule.alone_markers:
        does.append("delete markers end that hide nothing")
    if rule.noncurrent_days is not None:
        kept = "" if rule.newer_kept is None else f", save the {rule.newer_kept} newest"
        does.append(f"earlier versions end after {_days(rule.noncurrent_days)}{kept}")
    if rule.abort_days is not None:
        does.append(f"unfinished uploads end after {_days(rule.abort_days)}")
    return {"id": rule.id, "enabled": rule.enabled, "applies_to": ", ".join(reach), "does": "; ".join(does)}


def _days(days: int) -> str:
    return "1 day" if days == 1 else f"{days} days"
