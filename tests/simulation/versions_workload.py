"""What simulated clients ask of a bucket that keeps versions, and what they write down. Knows no fault and no replica.

A version is called by its id, which whoever made it or saw it knows; what a listing shows counts as one look for each
version that it speaks of, and one at the current one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from tests.simulation.index_node import BUCKET, Run
from tests.simulation.index_workload import Client, History, Mix
from tests.simulation.versions_judge import Ledger

from meshhold.errors import (
    DeleteMarkerError,
    MeshHoldError,
    NoSuchObjectError,
    NoSuchVersionError,
    UnavailableError,
)
from meshhold.model.entry import ObjectVersion
from meshhold.rules.bucket import BucketRules
from meshhold.rules.versioning import Versioning
from meshhold.store.contract import Deleted, Metadata
from meshhold.store.versions import ShownVersion, Versions

VERSIONED: Final = replace(BUCKET, rules=BucketRules(versioning=Versioning.ENABLED))
WEIGHTS: Final = {"put": 20, "delete": 8, "remove": 14, "remove_top": 10, "get": 12, "find": 8, "list": 8, "tag": 6}
_PAGES_MAX: Final = 50
_WHOLE: Final = 1000


class VersionsClient(Client):
    """A program that keeps versions, looks at them and removes some."""

    def __init__(
        self,
        name: str,
        chance: random.Random,
        history: History,
        mix: Mix,
        running: Callable[[], list[Run]],
        ledger: Ledger,
    ) -> None:
        super().__init__(name, chance, history, mix, running)
        self._ledger = ledger
        self._actions = {
            "put": self._push,
            "delete": self._mark,
            "remove": self._remove,
            "remove_top": self._remove_top,
            "get": self._look,
            "find": self._find,
            "list": self._list_versions,
            "tag": self._tag,
        }

    # -- putting ------------------------------------------------------------------------------------------------------

    async def _push(self, key: str) -> None:
        value = self._history.new_value()
        content = self._history.contents[value] = self.make_content(value, is_part=False)
        invoked = self._history.now()
        body = self.make_body(value, content)
        answer = await self._ask(lambda run: run.objects.put(VERSIONED, key.encode(), body, Metadata()))
        if isinstance(answer, ObjectVersion):
            self._ledger.pushed(key, answer.extras.version.hex(), value, invoked, self._history.now())
        self._check_refusal(key, answer)

    async def _mark(self, key: str) -> None:
        invoked = self._history.now()
        answer = await self._ask(lambda run: run.objects.delete(VERSIONED, key.encode()))
        if isinstance(answer, Deleted):
            self._ledger.pushed(key, answer.version, "", invoked, self._history.now())
        self._check_refusal(key, answer)

    def _check_refusal(self, key: str, answer: Any) -> None:
        if isinstance(answer, MeshHoldError) and not isinstance(answer, UnavailableError):
            self._history.accuse(f"{self.name} was refused {key!r}: {answer!r}")

    # -- taking away --------------------------------------------------------------------------------------------------

    async def _remove(self, key: str) -> None:
        known = self._ledger.ids(key)
        if known:
            await self._remove_one(key, self._chance.choice(known))

    async def _remove_top(self, key: str) -> None:
        """Remove what is current, or was when it was looked at: that is how versions become current again."""
        version = await self._look(key)
        if version:
            await self._remove_one(key, version)

    async def _remove_one(self, key: str, version: str) -> None:
        removal = self._ledger.removing(key, version, self._history.now())
        answer = await self._ask(lambda run: run.objects.delete(VERSIONED, key.encode(), version=version))
        if isinstance(answer, Deleted):
            removal.returned = self._history.now()
        self._check_refusal(key, answer)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _look(self, key: str, run: Run | None = None) -> str:
        """Read what is current; return its id, `""` if there is nothing or no answer."""
        invoked = self._history.now()
        answer = await self._ask(lambda run: self._fetch(run, key, None), run)
        returned = self._history.now()
        match answer:
            case ObjectVersion():
                version = answer.extras.version.hex()
                self._ledger.seen_on_top(key, version, answer.etag, invoked, returned, self.name)
                self._check_tag(answer, invoked)
                return version
            case DeleteMarkerError():
                self._ledger.seen_on_top(key, answer.version, "", invoked, returned, self.name)
                return answer.version
            case NoSuchObjectError():
                self._ledger.seen_on_top(key, "", "", invoked, returned, self.name)
            case None | UnavailableError():
                pass
            case other:
                self._history.accuse(f"{self.name} cannot read {key!r}: {other!r}")
        return ""

    async def _find(self, key: str) -> None:
        known = self._ledger.ids(key)
        if known:
            await self._find_one(key, self._chance.choice(known))

    async def _find_one(self, key: str, version: str, run: Run | None = None) -> bool:
        invoked = self._history.now()
        answer = await self._ask(lambda run: self._fetch(run, key, version), run)
        returned = self._history.now()
        match answer:
            case ObjectVersion():
                self._ledger.seen(key, version, answer.etag, invoked, returned, self.name)
                self._check_tag(answer, invoked)
            case DeleteMarkerError():
                self._ledger.seen(key, version, "", invoked, returned, self.name)
            case NoSuchVersionError():
                self._ledger.missed(key, version, invoked, returned, self.name)
            case None | UnavailableError():
                return False
            case other:
                self._history.accuse(f"{self.name} cannot find {version} of {key!r}: {other!r}")
        return True

    async def _fetch(self, run: Run, key: str, version: str | None) -> ObjectVersion:
        found = await run.objects.find(VERSIONED, key.encode(), version)
        pieces: list[bytes] = []

        async def sink(piece: bytes) -> None:
            pieces.append(bytes(piece))

        await run.objects.send(VERSIONED, key.encode(), found, 0, found.size, sink)
        if b"".join(pieces) != self._history.contents[found.etag]:
            self._history.accuse(f"{self.name} got other bytes than those of {found.etag} as {key!r}")
        return found

    async def _list_versions(self, key: str, run: Run | None = None, *, limit: int = 0) -> bool:
        """List all versions of a key; return whether there was an answer."""
        known = self._ledger.ids(key)
        limit = limit or self._chance.choice([1, 2, 3, _WHOLE])
        invoked = self._history.now()
        shown = await self._ask(lambda run: _list_all(run, key, limit), run)
        returned = self._history.now()
        if not isinstance(shown, list):
            if shown is not None and not isinstance(shown, UnavailableError):
                self._history.accuse(f"{self.name} cannot list versions: {shown!r}")
            return False
        if limit == _WHOLE:  # one look: successive pages are successive looks
            self._check_order(key, shown)
            version, etag = (shown[0].id, _etag(shown[0])) if shown else ("", "")
            self._ledger.seen_on_top(key, version, etag, invoked, returned, f"{self.name} list")
        ids = {item.id for item in shown}
        for version in known:
            if version not in ids:
                self._ledger.missed(key, version, invoked, returned, f"{self.name} list")
        for item in shown:
            self._ledger.seen(key, item.id, _etag(item), invoked, returned, f"{self.name} list")
        return True

    def _check_order(self, key: str, shown: Sequence[ShownVersion]) -> None:
        ids = [item.id for item in shown]
        latest = [item.is_latest for item in shown]
        if ids != sorted(set(ids), reverse=True) or latest != [True] * bool(ids) + [False] * (len(ids) - 1):
            self._history.accuse(f"{self.name} was shown versions of {key!r} in this order: {ids}, {latest}")

    # -- tags ---------------------------------------------------------------------------------------------------------

    async def _tag(self, key: str) -> None:
        untagged = [each for each in self._ledger.ids(key) if each not in self._ledger.tagged]
        if not untagged:
            return
        version = self._chance.choice(untagged)
        self._ledger.tagged[version] = float("inf")

        def change(found: ObjectVersion) -> ObjectVersion:
            return replace(found, extras=replace(found.extras, tags={"id": version}))

        answer = await self._ask(lambda run: run.objects.amend(VERSIONED, key.encode(), version, change))
        if isinstance(answer, ObjectVersion):
            self._ledger.tagged[version] = self._history.now()
        elif not isinstance(answer, NoSuchVersionError):
            self._check_refusal(key, answer)

    def _check_tag(self, found: ObjectVersion, invoked: float) -> None:
        """Accuse a look that does not show a tag which was acknowledged before it began."""
        version = found.extras.version.hex()
        if self._ledger.tagged.get(version, invoked) < invoked and found.extras.tags != {"id": version}:
            self._history.accuse(f"{self.name} sees the tags {found.extras.tags} on {version}")

    # -- the end ------------------------------------------------------------------------------------------------------

    async def read_all(self, run: Run, keys: Sequence[str]) -> bool:
        """Look at every version through one node; return whether all was answered."""
        answered = True
        for key in keys:
            await self._look(key, run)
            answered &= await self._list_versions(key, run, limit=_WHOLE)
            for version in self._ledger.ids(key):
                answered &= await self._find_one(key, version, run)
        return answered


def _etag(item: ShownVersion) -> str:
    return item.version.etag if isinstance(item.version, ObjectVersion) else ""


async def _list_all(run: Run, key: str, limit: int) -> list[ShownVersion]:
    """Return the versions of a key over all pages of a listing."""
    versions = Versions(run.registers, run.objects.stacks)
    found: list[ShownVersion] = []
    after, mark = b"", ""
    for _ in range(_PAGES_MAX):
        page = await versions.page(VERSIONED, key.encode(), b"", after, mark, limit)
        found += [item for item in page.items if item.key == key.encode()]
        if not page.truncated:
            return found
        after, mark = page.next_key, page.next_version
    raise AssertionError("a listing of a few versions does not end")
