"""Can one stack of versions have answered all this? Judges what clients wrote down; knows no node and no clock.

A version has an id, and ids of a key sort by age. So it is known of each version from when on it was surely there (its
put was answered, or a look that showed it), until when (a removal was sent), and from when on it is surely gone (a
removal was answered, or a look that missed it). What follows for every look, whatever else was under way:

- it shows no version that was surely gone when the look began, and misses none that was surely there all the time;
- what it shows as current has no newer version above it that was surely there all the time;
- a version has one content for ever, and a put that began after another one's answer has the greater id, unless that
  one was removed meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

_NEVER: Final = float("inf")


@dataclass(slots=True)
class Removal:
    """A removal that was sent, and when it was answered."""

    invoked: float
    returned: float = _NEVER


@dataclass(slots=True)
class _Push:
    invoked: float
    returned: float


@dataclass(frozen=True, slots=True)
class _Look:
    key: str
    version: str
    there: bool
    is_top: bool
    invoked: float
    returned: float
    by: str


@dataclass(slots=True)
class _Version:
    etag: str
    there_from: float = _NEVER
    pushed: _Push | None = None
    removals: list[Removal] = field(default_factory=list)
    gone_from: float = _NEVER

    @property
    def doubted_from(self) -> float:
        return min((removal.invoked for removal in self.removals), default=_NEVER)


class Ledger:
    """What clients were told of versions. `tagged` says from when on a version surely has its tag."""

    def __init__(self) -> None:
        self.tagged: dict[str, float] = {}
        self.requests = 0
        self._versions: defaultdict[str, dict[str, _Version]] = defaultdict(dict)
        self._looks: list[_Look] = []
        self._wrong: list[str] = []

    def ids(self, key: str) -> list[str]:
        """Return the versions of a key that anybody knows, the oldest first."""
        return sorted(self._versions[key])

    def pushed(self, key: str, version: str, etag: str, invoked: float, returned: float) -> None:
        """Note that a put, or a deletion that made a marker (`etag` `""`), was answered."""
        self.requests += 1
        known = self._known(key, version, etag)
        known.pushed = _Push(invoked, returned)
        known.there_from = min(known.there_from, returned)

    def removing(self, key: str, version: str, invoked: float) -> Removal:
        """Note that a removal is sent; the caller says when it was answered."""
        self.requests += 1
        removal = Removal(invoked)
        self._versions[key][version].removals.append(removal)
        return removal

    def seen_on_top(self, key: str, version: str, etag: str, invoked: float, returned: float, by: str) -> None:
        """Note what was current: a version, or with `""` nothing."""
        self.requests += 1
        if version:
            self._shown(key, version, etag, returned)
        self._looks.append(_Look(key, version, bool(version), True, invoked, returned, by))

    def seen(self, key: str, version: str, etag: str, invoked: float, returned: float, by: str) -> None:
        """Note that a version was there."""
        self.requests += 1
        self._shown(key, version, etag, returned)
        self._looks.append(_Look(key, version, True, False, invoked, returned, by))

    def missed(self, key: str, version: str, invoked: float, returned: float, by: str) -> None:
        """Note that a version was not there."""
        self.requests += 1
        known = self._versions[key][version]
        known.gone_from = min(known.gone_from, returned)
        self._looks.append(_Look(key, version, False, False, invoked, returned, by))

    def _known(self, key: str, version: str, etag: str) -> _Version:
        known = self._versions[key].setdefault(version, _Version(etag))
        if known.etag != etag:
            self._wrong.append(f"version {version} of {key!r} was {known.etag!r}, and is {etag!r}")
        return known

    def _shown(self, key: str, version: str, etag: str, returned: float) -> None:
        known = self._known(key, version, etag)
        known.there_from = min(known.there_from, returned)

    def violations(self) -> list[str]:
        """Return what no stack can have answered."""
        found = list(self._wrong)
        for key, versions in self._versions.items():
            for known in versions.values():
                answered = min((removal.returned for removal in known.removals), default=_NEVER)
                known.gone_from = min(known.gone_from, answered)
            found += self._misordered(key, versions)
        for look in self._looks:
            found += self._judge(look, self._versions[look.key])
        return found

    def _misordered(self, key: str, versions: dict[str, _Version]) -> list[str]:
        pushes = sorted((known.pushed.invoked, known.pushed.returned, name) for name, known in versions.items()
                        if known.pushed is not None)  # fmt: skip
        return [
            f"version {later} of {key!r} was put after {earlier} had been answered"
            for at, (invoked, _, later) in enumerate(pushes)
            for _, returned, earlier in pushes[:at]
            if returned < invoked and later < earlier and versions[earlier].doubted_from > versions[later].there_from
        ]

    def _judge(self, look: _Look, versions: dict[str, _Version]) -> list[str]:
        what = f"{look.by} from {look.invoked:.6f} to {look.returned:.6f}, key {look.key!r}"

        def stays(known: _Version) -> bool:
            return known.there_from < look.invoked and known.doubted_from > look.returned

        found: list[str] = []
        known = versions.get(look.version)
        if look.there and known is not None:
            if known.gone_from < look.invoked:
                found.append(f"{what}: {look.version} is there, and was gone at {known.gone_from:.6f}")
            if known.pushed is not None and known.pushed.invoked > look.returned:
                found.append(f"{what}: {look.version} is there, and was put at {known.pushed.invoked:.6f}")
        if not look.there and not look.is_top and known is not None and stays(known):
            found.append(f"{what}: {look.version} is missing, and was there at {known.there_from:.6f}")
        if look.is_top:
            above = [name for name, each in versions.items() if name > look.version and stays(each)]
            if above:
                found.append(f"{what}: {look.version or 'nothing'} is current, below {max(above)}")
        return found
