"""What the control socket asks of the node, as contracts. Knows no adapter; the node hands in what fulfils them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from meshhold.model.grant import Permission

ReportProgress = Callable[[dict[str, Any]], Awaitable[None]]


class Vaults(Protocol):
    """Vaults by reference: a unique id prefix, a name or an alias. Views are dataclasses of plain values."""

    async def create(self, name: str, /, *, replication_factor: int = 3) -> Any:
        """Make a vault; return its view."""

    async def views(self) -> Sequence[Any]:
        """Return every vault's view."""

    async def view(self, ref: str, /) -> Any:
        """Return one view. Errors: `NoSuchVaultError`; `InvalidError` where `ref` fits several."""

    async def delete(self, ref: str, /, *, force: bool, break_locks: bool) -> None:
        """Remove a vault. Errors: `BucketNotEmptyError` unless `force`."""

    async def set_alias(self, ref: str, alias: str, /) -> Any:
        """Map a bucket name to the vault, `""` clears it; return its view. Errors: `AliasTakenError`."""

    async def set_factor(self, ref: str, replication_factor: int, /) -> Any:
        """Change on how many machines chunks are kept; return the vault's view."""

    async def set_quota(self, ref: str, most_bytes: int | None, most_objects: int | None, /) -> Any:
        """Change how much it may hold: None leaves a limit as it is, 0 takes it away; return the vault's view."""


class Founding(Protocol):
    """Vaults that are shared as others are."""

    async def create(self, name: str, /, *, like: str) -> Any:
        """Make a vault with the members, factor, consistency and index replicas of `like`; return its view.

        Errors: `UnavailableError` if too few of these answer: there is no vault then.
        """


class Access(Protocol):
    """Access keys and what they may do. A secret leaves it once, in the answer of `add_key`."""

    async def add_key(
        self, label: str, *, create_buckets: bool, may_publish: bool, read_only: bool, expires_s: int, like: str
    ) -> Any:
        """Mint a key; return `access_key_id`, `secret_access_key` and `label`. `expires_s` 0: it does not end.

        `like`: the vault whose members share the buckets that it creates, `""` for this node alone.
        """

    def keys(self) -> Sequence[Any]:
        """Return every key's view, without secrets."""

    async def remove_key(self, access_key_id: str, /) -> None:
        """Remove a key and its grants. Errors: `NoSuchAccessKeyError`."""

    async def grant(
        self,
        access_key_id: str,
        vault_ref: str,
        permissions: Permission,
        /,
        *,
        allow_list: bool = False,
        prefixes: Sequence[str] = (),
    ) -> Any:
        """Set what a key may do with a vault, or with keys that begin with a prefix; return the grant's view."""

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


@dataclass(slots=True)
class NodeView:
    """One node of the mesh as this one sees it.

    `state` is alive, suspect, dead or left; `route` is `direct`, `relayed via NAME`, `listening` (this node itself,
    when others can dial it) or `none`. `rtt_ms` is the round trip in milliseconds, None where it was not measured.
    `capacity` is in bytes, 0 for whatever the node's disk has. `last_seen_s` is how many seconds ago it was heard of,
    None for never and for this node. `suspected_by` are the short ids of the nodes that suspect
    it.
    """

    id: str
    name: str
    state: str
    is_me: bool
    route: str
    rtt_ms: float | None
    zone: str
    capacity: int
    reliable: bool
    version: str
    addresses: tuple[str, ...]
    last_seen_s: float | None
    suspected_by: tuple[str, ...]


class Mesh(Protocol):
    """The nodes that share this one's swarm key. A node is named by its name or a unique prefix of its id."""

    async def invite(self, *, expires_s: int = 0, single_use: bool = False) -> str:
        """Return a token that lets a node in, 0 for one that does not expire; a single node becomes a mesh by it."""

    async def join(self, token: str, /) -> dict[str, Any]:
        """Enter the mesh of a token; return `node_id` and `name` of the node that let this one in.

        Errors: `InvalidError` for a word that is no token; `ConflictError` in another mesh already.
        """

    def nodes(self) -> Sequence[NodeView]:
        """Return every node's view, this one's among them."""

    def node(self, ref: str, /) -> NodeView:
        """Return one view. Errors: `NotFoundError`; `InvalidError` where `ref` fits several."""

    async def set_facts(
        self, *, name: str | None, zone: str | None, capacity: int | None, reliable: bool | None
    ) -> NodeView:
        """Change what this node says of itself, durably; None leaves a fact as it is. Return the view."""

    async def ban(self, ref: str, /, *, lift: bool) -> None:
        """Refuse a node everywhere in the mesh, or with `lift` let it in again."""

    async def leave(self) -> None:
        """Say farewell and forget the swarm key; what is stored here stays."""

    async def rotate(self, *, window_s: int) -> dict[str, Any]:
        """Give the mesh a new swarm key; return `accepted_until_ms`, the end of the time in which both are taken."""


class Members(Protocol):
    """Who belongs to a vault, by the vault's and the node's reference. Views carry `node_id` and `role`."""

    def views(self, vault: str, /) -> Sequence[Any]:
        """Return the views of a vault's members."""

    async def add(self, vault: str, node: str, /, *, trusted: bool) -> Any:
        """Make a node a member; return its view. Errors: `ConflictError` if it is one already."""

    async def remove(self, vault: str, node: str, /, *, gone: bool, progress: ReportProgress) -> int:
        """End a membership; after that of a trusted member the vault's keys are rotated.

        What it keeps is moved away first; `progress` is told how much is left. Returns how many chunks lost a copy.
        One that keeps the index is replaced first; `gone` says that it will never come back with its data, so that the
        other one of two need not wait for it. Errors: `UnavailableError` while that is not done.
        """

    async def index_view(self, vault: str, /) -> Any:
        """Return who keeps the vault's index: `replicas`, each with its state, `consistency`, what is under way."""

    async def set_index(self, vault: str, replicas: Sequence[str] | None, consistency: str | None, /) -> bool:
        """Choose the index replicas (`["auto"]`: by itself) and the mode; return whether that is done already."""

    async def rotate(self, vault: str, /) -> int:
        """Give the vault's keys a new epoch; return it."""


class Conflicts(Protocol):
    """What lost when both sides of a vault had written the same object. Views are dataclasses of plain values."""

    async def views(self, ref: str, /) -> Sequence[Any]:
        """Return the versions that a vault keeps aside."""

    async def restore(self, ref: str, identifier: str, /) -> Any:
        """Make a version the current one by the beginning of its id; return what it was. Errors: `NotFoundError`."""


class Rings(Protocol):
    """Who is to keep a vault's chunks. Views are dataclasses of plain values."""

    async def show(self, vault: str | None, /) -> Sequence[Any]:
        """Return the rings of one vault or of all, with what each member is to have and has."""

    async def plan(
        self, vault: str | None, without: Sequence[str], added: Sequence[str], factor: int | None, /
    ) -> Sequence[Any]:
        """Return what would move if nodes went, others came (`NODE[:BYTES[:ZONE]]`) or the factor were another one.

        Errors: `InvalidError` where nothing is to change; `NotFoundError` for a node that is no member.
        """


class Drains(Protocol):
    """Nodes that are to be switched off. The view is a dataclass of plain values."""

    async def run(self, node: str | None, progress: ReportProgress, /, *, undo: bool, force: bool, wait: bool) -> Any:
        """Empty a node, this one if it is None, and with `wait` go on until it is empty; return how far it is.

        Errors: `ConflictError` unless `force` if others cannot take over what it keeps.
        """


class Repairs(Protocol):
    """The repair of vaults. A view is a dict: `vault`, `vault_id`, `factor`, `wanted`, `phase`, `short` and more."""

    def start(self, vault: str | None, /) -> Sequence[dict[str, Any]]:
        """Let a pass begin over one vault or all; return how far they are."""

    def views(self, vault: str | None = None, /) -> Sequence[dict[str, Any]]:
        """Return how far one vault or all are."""


class Secrets(Protocol):
    """Secrets of vaults as one word each; whoever has it can read everything."""

    def export(self, vault: str, /) -> str:
        """Return a vault's secrets."""

    async def take(self, word: str, /) -> Any:
        """Make this node a trusted member of the vault of these secrets; return its view."""


class Expiry(Protocol):
    """What the lifecycles of vaults end. Views and reports are dataclasses of plain values."""

    def views(self, vault: str | None, /) -> Sequence[Any]:
        """Return the rules of one vault, or of all that have some, and what the last walk found."""

    async def run(self, vault: str | None, progress: ReportProgress, /, *, dry_run: bool) -> Sequence[Any]:
        """Remove what is due, or with `dry_run` only tell what that is; return a report for each vault."""


Counts = Callable[[], dict[str, Any]]
"""Returns `since_ms`, and `keys` and `buckets`: what each was asked for since then; see `s3.counters`."""


class Recovery(Protocol):
    """Indexes whose replicas are gone for good, brought back from a snapshot. Views carry `taken_ms` and `objects`."""

    async def plan(self, vault: str, /) -> Any:
        """Tell what would be brought back. Errors: `ConflictError` while the replicas answer; `NotFoundError`."""

    async def recover(self, vault: str, progress: ReportProgress, /) -> Any:
        """Bring it back; return the view with `rows`, those that were put back."""


class Safekeeping(Protocol):
    """Indexes kept as chunks because somebody asks. The view is a dataclass of plain values."""

    async def snapshot(self, vault: str, progress: ReportProgress, /) -> Any:
        """Take a snapshot and wait until it has its copies; the view carries `lacking`, the chunks that do not."""


Status = Callable[[], dict[str, Any]]
"""Returns node_id, name, version, uptime_s, data_dir, s3_addr (`""` when off), region, disk_total, disk_free (bytes),
vaults, objects (counts), mesh (a sentence) and indexes: for each vault whose index this node keeps `vault`, `name` and
`state` (`votes`, or why it does not), and after a comparison with another replica `source`, `rows_behind`,
`rows_per_s`, `eta_s` (None if unknown) and more; pace: `repair_bytes_per_s`, `scrub_bytes_per_s`, `stand_in_after_s`;
given_up: for each vault whose members took this node for lost `vault`, `chunks`, `short` and `waiting`."""
