"""Does a record say what its kind must say? Keys, fields, types and bounds that readers rely on. Knows no signature.

Whoever holds a vault's key, or none at all, may sign nonsense: what would stop a reader is refused before it is kept.
Fields that are not named here are nobody's trouble and pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from meshhold.errors import UnknownFormatError
from meshhold.model.configuration import unpack_configuration
from meshhold.registry.record import Kind, Record

FACTOR_MAX: Final = 16  # more copies than any mesh this is made for has reliable machines
INDEX_REPLICAS_MAX: Final = 16
EPOCHS_MAX: Final = 400  # sealed secrets of 80 bytes each, within a record's 64 KiB
BOXES_MAX: Final = 700  # a node id and a sealed key: as many as a record holds
TIME_MS_MAX: Final = 2**53

_NODE: Final = "[a-z2-7]{52}"
_VAULT: Final = "[a-z2-7]{32}"
_ACCESS_KEY: Final = "GK[0-9a-f]{24}"
_KEYS: Final = {
    Kind.VAULT: _VAULT,
    Kind.MEMBER: f"{_VAULT}/{_NODE}",
    Kind.ALIAS: _VAULT,
    Kind.INDEX: _VAULT,
    Kind.SNAPSHOT: _VAULT,
    Kind.GRANT: f"(?:{_ACCESS_KEY}|anonymous)/{_VAULT}",
    Kind.RULES: f"{_VAULT}/[a-z-]{{1,32}}",
    Kind.KEY: _ACCESS_KEY,
    Kind.NODE: _NODE,
    Kind.BAN: _NODE,
    Kind.SWARM: "key",
}


def check_shape(record: Record) -> None:
    """Errors: `UnknownFormatError` names the kind and the part of it that readers could not use."""
    if not re.fullmatch(_KEYS[record.kind], record.key):
        raise UnknownFormatError(f"a registry record of kind {record.kind} has the key {record.key[:100]!r}")
    check = _CHECKS.get(record.kind)
    if not record.deleted and check is not None and not check(record.public):
        raise UnknownFormatError(f"registry record {record.kind} {record.key} lacks a field, or has a wrong one")


def _is_vault(public: dict[str, Any]) -> bool:
    factor, replicas = public.get("replication_factor"), public.get("index_replicas")
    return _is_number(factor, 1, FACTOR_MAX) and _is_list(replicas, INDEX_REPLICAS_MAX, lambda each: type(each) is str)


def _is_index(public: dict[str, Any]) -> bool:
    try:
        unpack_configuration(public.get("configuration"))
    except UnknownFormatError:
        return False
    return True


def _is_member(public: dict[str, Any]) -> bool:
    if public.get("role") != "trusted":
        return public.get("role") == "untrusted"
    secrets = public.get("secrets", [])
    return _is_list(secrets, EPOCHS_MAX, lambda pair: _is_pair(pair, int)) and any(pair[0] == 1 for pair in secrets)


def _is_swarm(public: dict[str, Any]) -> bool:
    until = _is_number(public.get("until_ms"), 0, TIME_MS_MAX)
    return until and _is_list(public.get("boxes"), BOXES_MAX, lambda pair: _is_pair(pair, str))


def _is_snapshot(public: dict[str, Any]) -> bool:
    return all(_is_number(public.get(name), 0, TIME_MS_MAX) for name in ("taken_ms", "objects", "bytes"))


def _is_number(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_list(value: Any, most: int, is_fit: Callable[[Any], bool]) -> bool:
    return type(value) is list and len(value) <= most and all(map(is_fit, value))


def _is_pair(value: Any, first: type) -> bool:
    return type(value) is list and len(value) == 2 and type(value[0]) is first and type(value[1]) is bytes


_CHECKS: Final[dict[Kind, Callable[[dict[str, Any]], bool]]] = {
    Kind.VAULT: _is_vault,
    Kind.INDEX: _is_index,
    Kind.MEMBER: _is_member,
    Kind.SWARM: _is_swarm,
    Kind.SNAPSHOT: _is_snapshot,
}
