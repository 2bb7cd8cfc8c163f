"""How is a vault shared, so that another one can be made like it? Decides nothing; knows no link and no objects."""

from __future__ import annotations

from dataclasses import dataclass

from meshhold.model.configuration import Configuration, Mode
from meshhold.model.ids import NodeId
from meshhold.registry.record import Kind
from meshhold.store.directory import TRUSTED, Bucket, Directory
from meshhold.store.nodes import Nodes


@dataclass(frozen=True, slots=True)
class Likeness:
    """What a new vault takes from an older one: members with their roles, factor, and who keeps its index, and how.

    `pinned`: people chose `replicas`, and nothing but they changes them.
    """

    replication_factor: int
    members: tuple[tuple[NodeId, str], ...] = ()
    replicas: tuple[NodeId, ...] = ()
    mode: Mode = Mode.LINEARIZABLE
    pinned: bool = False


def likeness_of(directory: Directory, nodes: Nodes, bucket: Bucket, configuration: Configuration) -> Likeness:
    """Return how a vault is shared; who is leaving it or banned takes no part in what is made now."""
    members = [
        (NodeId(record.key.split("/", 1)[1]), str(record.public["role"]))
        for record in directory.registry.live(Kind.MEMBER)
        if record.scope == bucket.id and record.public.get("leaving") is not True
    ]
    members = [(node, role) for node, role in members if not nodes.is_banned(node)]
    trusted = {node for node, role in members if role == TRUSTED}
    return Likeness(
        bucket.replication_factor,
        tuple(members),
        tuple(node for node in configuration.members if node in trusted),
        configuration.mode,
        bucket.index_pinned,
    )
