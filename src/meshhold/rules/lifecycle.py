"""Which objects, versions and uploads have had their time? Judges by rules, facts and `now`; reads no clock.

Times are in milliseconds since 1970. A rule's days are counted from when a version was written, became noncurrent or an
upload began, and the end is rounded up to the next midnight UTC. Source: Amazon S3 User Guide, "Lifecycle configuration
elements" and "Expiring objects".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

DAY_MS: Final = 86_400_000
RULES_MAX: Final = 1_000  # these three are S3's limits
ID_LENGTH_MAX: Final = 255
DAYS_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; it holds for what fulfils all of `prefix`, `tags`, `size_above` and `size_below` (both exclusive).

    `days` or `date_ms` end current objects; `alone_markers` removes delete markers that hide nothing any more.
    `noncurrent_days` ends earlier versions, save the `newer_kept` newest of them; `abort_days` ends uploads.
    `has_filter` only remembers in which of its two forms the prefix was written.
    """

    id: str
    enabled: bool = True
    prefix: bytes = b""
    tags: tuple[tuple[str, str], ...] = ()
    size_above: int | None = None
    size_below: int | None = None
    has_filter: bool = True
    days: int | None = None
    date_ms: int | None = None
    alone_markers: bool | None = None
    noncurrent_days: int | None = None
    newer_kept: int | None = None
    abort_days: int | None = None

    def fits(self, key: bytes, size: int, tags: Mapping[str, str]) -> bool:
        """Tell whether an object's version is one that the rule speaks of."""
        return (
            key.startswith(self.prefix)
            and (self.size_above is None or size > self.size_above)
            and (self.size_below is None or size < self.size_below)
            and all(tags.get(name) == value for name, value in self.tags)
        )

    @property
    def is_picky(self) -> bool:
        """Whether it asks for what delete markers and uploads do not have: tags or a size."""
        return bool(self.tags) or self.size_above is not None or self.size_below is not None


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The rules of one bucket, in the order in which they were given."""

    rules: tuple[Rule, ...]


class Due(NamedTuple):
    """When something ends, and by which rule."""

    at_ms: int
    rule: str


def end_ms(since_ms: int, days: int, day_ms: int = DAY_MS) -> int:
    """Return when `days` after `since_ms` are over. Days of another length are for tests, and have no midnight."""
    at_ms = since_ms + days * day_ms
    return -(-at_ms // DAY_MS) * DAY_MS if day_ms == DAY_MS else at_ms


# -- what is due ----------------------------------------------------------------------------------------------------


def object_due(
    lifecycle: Lifecycle, key: bytes, size: int, tags: Mapping[str, str], modified_ms: int, day_ms: int = DAY_MS
) -> Due | None:
    """Return when a current object ends: by the earliest of the rules that speak of it; None if it stays."""
    found = (
        Due(_rule_end(rule, modified_ms, day_ms), rule.id)
        for rule in lifecycle.rules
        if rule.enabled and _ends_objects(rule) and rule.fits(key, size, tags)
    )
    return min(found, key=_moment, default=None)


def version_due(
    lifecycle: Lifecycle,
    key: bytes,
    size: int | None,
    tags: Mapping[str, str],
    noncurrent_since_ms: int,
    newer: int,
    day_ms: int = DAY_MS,
) -> Due | None:
    """Return when an earlier version ends; None if it stays.

    `size` None is that of a delete marker; `newer` counts the noncurrent versions that are newer than this one.
    """
    found = (
        Due(end_ms(noncurrent_since_ms, rule.noncurrent_days, day_ms), rule.id)
        for rule in lifecycle.rules
        if rule.enabled
        and rule.noncurrent_days is not None
        and newer >= (rule.newer_kept or 0)
        and (_fits_bare(rule, key) if size is None else rule.fits(key, size, tags))
    )
    return min(found, key=_moment, default=None)


def marker_due(lifecycle: Lifecycle, key: bytes, modified_ms: int, day_ms: int = DAY_MS) -> Due | None:
    """Return when a delete marker that hides no version any more ends: at once by a rule for such, else by age."""
    found = (
        Due(modified_ms if rule.alone_markers else _rule_end(rule, modified_ms, day_ms), rule.id)
        for rule in lifecycle.rules
        if rule.enabled and (rule.alone_markers or _ends_objects(rule)) and _fits_bare(rule, key)
    )
    return min(found, key=_moment, default=None)


def upload_due(lifecycle: Lifecycle, key: bytes, initiated_ms: int, day_ms: int = DAY_MS) -> Due | None:
    """Return when an unfinished upload is aborted; None if it stays."""
    found = (
        Due(end_ms(initiated_ms, rule.abort_days, day_ms), rule.id)
        for rule in lifecycle.rules
        if rule.enabled and rule.abort_days is not None and _fits_bare(rule, key)
    )
    return min(found, key=_moment, default=None)


def object_prefixes(lifecycle: Lifecycle) -> list[bytes]:
    """Return the beginnings of the keys that have to be looked at, in order, none of them within another."""
    return _outermost(r.prefix for r in lifecycle.rules if r.enabled and (_ends_objects(r) or _ends_versions(r)))


def upload_prefixes(lifecycle: Lifecycle) -> list[bytes]:
    """Return the beginnings of the keys whose uploads have to be looked at, as `object_prefixes`."""
    return _outermost(rule.prefix for rule in lifecycle.rules if rule.enabled and rule.abort_days is not None)


def _outermost(prefixes: Iterable[bytes]) -> list[bytes]:
    found: list[bytes] = []
    for prefix in sorted(set(prefixes)):
        if not found or not prefix.startswith(found[-1]):
            found.append(prefix)
    return found


def _ends_objects(rule: Rule) -> bool:
    return rule.days is not None or rule.date_ms is not None


def _ends_versions(rule: Rule) -> bool:
    return rule.noncurrent_days is not None or rule.alone_markers is True


def _fits_bare(rule: Rule, key: bytes) -> bool:
    return key.startswith(rule.prefix) and not rule.is_picky


def _rule_end(rule: Rule, modified_ms: int, day_ms: int) -> int:
    if rule.date_ms is not None:
        return rule.date_ms
    return end_ms(modified_ms, rule.days or 0, day_ms)


def _moment(due: Due) -> int:
    return due.at_ms


# -- stored form ----------------------------------------------------------------------------------------------------

_WHOLE: Final = {
    "above": "size_above", "below": "size_below", "days": "days", "date": "date_ms",
    "earlier": "noncurrent_days", "kept": "newer_kept", "abort": "abort_days",
}  # fmt: skip
_KNOWN: Final = frozenset(("id", "on", "prefix", "tags", "filter", "markers", *_WHOLE))


def pack_lifecycle(lifecycle: Lifecycle) -> list[dict[str, Any]]:
    """Return the rules as plain values; what a rule does not say takes no room. The names are never used anew."""
    return [_pack(rule) for rule in lifecycle.rules]


def _pack(rule: Rule) -> dict[str, Any]:
    packed: dict[str, Any] = {"id": rule.id}
    if not rule.enabled:
        packed["on"] = False
    if not rule.has_filter:
        packed["filter"] = False
    if rule.prefix:
        packed["prefix"] = rule.prefix
    if rule.tags:
        packed["tags"] = [list(pair) for pair in rule.tags]
    if rule.alone_markers is not None:
        packed["markers"] = rule.alone_markers
    packed |= {short: value for short, name in _WHOLE.items() if (value := getattr(rule, name)) is not None}
    return packed


def unpack_lifecycle(packed: Any) -> Lifecycle:
    """Undo `pack_lifecycle`. Errors: `ValueError`, or whatever a value of another shape makes of unpacking."""
    if not 0 < len(packed) <= RULES_MAX:
        raise ValueError(f"{len(packed)} rules")
    return Lifecycle(tuple(_unpack(fields) for fields in packed))


def _unpack(fields: dict[str, Any]) -> Rule:
    unknown = fields.keys() - _KNOWN
    if unknown:
        raise ValueError(f"fields {sorted(unknown)} are not known")  # a rule half understood could end too much
    whole = {name: _of(int, fields[short]) for short, name in _WHOLE.items() if short in fields}
    return Rule(
        id=_of(str, fields["id"]),
        enabled=_of(bool, fields.get("on", True)),
        prefix=_of(bytes, fields.get("prefix", b"")),
        tags=_tags(fields.get("tags", ())),
        has_filter=_of(bool, fields.get("filter", True)),
        alone_markers=_of(bool, fields["markers"]) if "markers" in fields else None,
        **whole,
    )


def _tags(packed: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    return tuple((_of(str, name), _of(str, value)) for name, value in packed)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value
