"""What the registry tells of who keeps a vault's index. Decides no round: what binds is what the replicas chose."""

from __future__ import annotations

from meshhold.errors import NoMajorityError
from meshhold.model.configuration import Configuration, Mode, found_configuration, unpack_configuration
from meshhold.model.ids import NodeId, VaultId
from meshhold.registry.record import Kind
from meshhold.registry.state import Registry
from meshhold.replication.index.seats import Seats


def told_configuration(registry: Registry, vault: VaultId) -> Configuration | None:
    """Return the newest configuration that the records tell of, or None for an unknown vault."""
    hint = registry.get(Kind.INDEX, vault)
    if hint is not None:
        return unpack_configuration(hint.public["configuration"])
    record = registry.get(Kind.VAULT, vault)
    if record is None or not record.public["index_replicas"]:
        return None
    return found_configuration([NodeId(node) for node in record.public["index_replicas"]])


def founded_here(registry: Registry, node: NodeId) -> list[VaultId]:
    """Return the vaults whose index began on this node alone."""
    return [VaultId(record.key) for record in registry.live(Kind.VAULT) if record.public["index_replicas"] == [node]]


def is_trusted_member(registry: Registry, vault: VaultId, node: NodeId) -> bool:
    """Tell whether a node may see and change the index of a vault."""
    member = registry.get(Kind.MEMBER, f"{vault}/{node}")
    return member is not None and member.public["role"] == "trusted"


def keeps_index(seats: Seats, vault: VaultId) -> bool:
    """Tell whether this node keeps the vault's index, as far as it has heard."""
    configuration = _newest(seats, vault)
    return configuration is not None and configuration.seat_of(seats.node) is not None


def count_replicas(seats: Seats, vault: VaultId) -> int:
    """Return on how many nodes the vault's index is, as far as this node has heard; 0 if it has heard of none."""
    configuration = _newest(seats, vault)
    return 0 if configuration is None else len(configuration.members)


def goes_alone(seats: Seats, vault: VaultId) -> bool:
    """Tell whether either side of the vault may write while the other is away."""
    configuration = _newest(seats, vault)
    return configuration is not None and configuration.mode is Mode.AVAILABLE


def known_epoch(seats: Seats, vault: VaultId) -> int:
    """Return the epoch of the newest configuration that this node has heard of; 0 if it has of none."""
    configuration = _newest(seats, vault)
    return 0 if configuration is None else configuration.epoch


def _newest(seats: Seats, vault: VaultId) -> Configuration | None:
    try:
        return seats.configuration(vault)
    except NoMajorityError:
        return None
