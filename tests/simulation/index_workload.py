"""What simulated clients ask of the store and what they write down. Knows no fault and no replica.

Every value is written once and is its object's ETag, so that a history tells what each read saw. A client that gets no
answer, for whatever reason, does not know the outcome: so says the history.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from traceback import extract_tb
from typing import Any, Final

import trio
from tests.simulation.index_node import BUCKET, Run
from tests.simulation.linearizability import Kind, Operation, Outcome

from meshhold.errors import (
    ContentionError,
    InvalidPartError,
    MeshHoldError,
    NoSuchObjectError,
    NoSuchUploadError,
    PreconditionFailedError,
    UnavailableError,
)
from meshhold.model.entry import Checksums, Upload
from meshhold.store.contract import ALWAYS, Digested, Metadata, WriteCondition
from meshhold.store.directory import Bucket
from meshhold.store.uploads import PartClaim
from meshhold.store.versions import Versions

KEYS: Final = ("a", "b", "d/x", "d/y")
_TICK_S: Final = 1e-9
_PAGES_MAX: Final = 20
_KNOCK_S: Final = 0.5


@dataclass(slots=True)
class Mix:
    """How often clients ask for what (weights), how long they think and how long they wait, in seconds."""

    weights: dict[str, int] = field(
        default_factory=lambda: {
            "put": 20, "create": 12, "match": 14, "delete": 12, "delete_match": 5, "swap": 6, "get": 16, "head": 6,
            "list": 10, "multipart": 6,
        }
    )  # fmt: skip
    keys: Sequence[str] = KEYS
    think_s: float = 1.0
    patience_s: float = 15.0
    faithful: float = 0.5
    """Chance to stay with the node that was asked last."""
    bucket: Bucket = BUCKET


class History:
    """All that was asked, in one order of moments, and what no answer may ever be."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.violations: list[str] = []
        self.contents: dict[str, bytes] = {}
        self.count = 0
        self._last_s = 0.0

    def now(self) -> float:
        """Return a moment after every earlier one."""
        self._last_s = max(self._last_s + _TICK_S, trio.current_time())
        return self._last_s

    def new_value(self) -> str:
        """Return a value that nobody has written yet."""
        self.count += 1
        return f"v{self.count}"

    def begin(self, process: str, kind: Kind, key: str, value: str | None = None, expected: str | None = None) -> Asked:
        """Write down that something is asked."""
        at = len(self.operations)
        moment = self.now()
        self.operations.append(Operation(key, kind, moment, moment, Outcome.UNKNOWN, value, expected, process))
        return Asked(self, at)

    def accuse(self, text: str) -> None:
        """Write down an answer that is wrong by itself."""
        self.violations.append(f"at {trio.current_time():.3f}: {text}")


class Asked:
    """An operation under way."""

    def __init__(self, history: History, at: int) -> None:
        self._history = history
        self._at = at

    def answer(self, outcome: Outcome, *, kind: Kind | None = None, value: str | None = None) -> None:
        """Write down the answer; `kind` READ makes of a refusal what it told: that the key had `value`."""
        was = self._history.operations[self._at]
        if kind is Kind.READ or was.kind is Kind.READ:
            was = Operation(was.key, Kind.READ, was.invoked, 0.0, outcome, value, None, was.process)
        self._history.operations[self._at] = Operation(
            was.key, was.kind, was.invoked, self._history.now(), outcome, was.value, was.expected, was.process
        )


class ValueBody:
    """A body whose ETag is the value that it stands for."""

    def __init__(self, value: str, content: bytes) -> None:
        self._value = value
        self._content = content

    async def receive(self) -> bytes:
        """Return all, then the end."""
        await trio.lowlevel.checkpoint()
        content, self._content = self._content, b""
        return content

    def digest(self, block: bytes) -> None:
        """Hash nothing: the ETag is known."""

    def finish(self) -> Digested:
        """Return the value as ETag."""
        return Digested(self._value, Checksums())


class Client:
    """One program that uses the store, one request after the other, each through some node that runs."""

    def __init__(
        self, name: str, chance: random.Random, history: History, mix: Mix, running: Callable[[], list[Run]]
    ) -> None:
        self.name = name
        self._chance = chance
        self._history = history
        self._mix = mix
        self._running = running
        self._last: Run | None = None
        self._seen: dict[str, str] = {}
        self._actions: dict[str, Callable[[str], Awaitable[object]]] = {
            "put": self._put,
            "create": lambda key: self._put(key, Kind.CREATE),
            "match": lambda key: self._put(key, Kind.MATCH),
            "swap": self._swap,
            "delete": self._delete,
            "delete_match": lambda key: self._delete(key, Kind.DELETE_MATCH),
            "get": self._get,
            "head": lambda key: self._get(key, head=True),
            "list": lambda _: self._list(),
            "multipart": self._multipart,
            "prune": self._prune,
        }

    async def run(self, requests: int) -> None:
        """Make so many requests."""
        names = list(self._mix.weights)
        weights = list(self._mix.weights.values())
        for _ in range(requests):
            await trio.sleep(self._chance.expovariate(1 / self._mix.think_s))
            while not self._running():  # noqa: ASYNC110 - whoever knocks at a closed door knocks again
                await trio.sleep(_KNOCK_S)
            [action] = self._chance.choices(names, weights)
            await self._actions[action](self._chance.choice(self._mix.keys))

    async def read_all(self, run: Run, keys: Sequence[str]) -> bool:
        """Read every key through one node and list them; return whether all was answered."""
        answered = True
        for key in keys:
            answered &= await self._get(key, run=run)
        return answered & await self._list(run=run, prefix="", delimiter="", limit=1000)

    # -- asking ------------------------------------------------------------------------------------------------------

    def _node(self) -> Run | None:
        running = self._running()
        if not running:
            return None
        if self._last not in running or self._chance.random() > self._mix.faithful:
            self._last = self._chance.choice(running)
        return self._last

    async def _ask(
        self, request: Callable[[Run], Awaitable[Any]], run: Run | None = None, patience_s: float = 0.0
    ) -> Any:
        """Return the answer, or the error; None if there was no answer at all."""
        run = run or self._node()
        if run is None:
            return None
        with run.alive() as alive, trio.move_on_after(patience_s or self._mix.patience_s):
            try:
                answer = await request(run)
            except MeshHoldError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - a defect of the store is a finding, not the end of the run
                self._history.accuse(f"{self.name} met {where(error)}")
                return None
            return None if alive.cancel_called else answer
        return None

    def _conditioned(self, key: str, kind: Kind) -> tuple[WriteCondition, str | None]:
        if kind is Kind.CREATE:
            return WriteCondition(if_absent=True), None
        if kind in {Kind.MATCH, Kind.DELETE_MATCH}:
            expected = self._seen.get(key, "v0")
            return WriteCondition(if_match=(expected,)), expected
        return ALWAYS, None

    def _conclude(self, asked: Asked, key: str, answer: Any, value: str | None) -> None:
        """Write down how a write ended."""
        match answer:
            case PreconditionFailedError():
                asked.answer(Outcome.REFUSED)
            case NoSuchObjectError():
                asked.answer(Outcome.DONE, kind=Kind.READ, value=None)
            case ContentionError() | NoSuchUploadError():
                asked.answer(Outcome.FAILED)
            case None | UnavailableError():
                pass
            case MeshHoldError():
                self._history.accuse(f"{self.name} was refused {key!r}: {answer!r}")
            case _:
                asked.answer(Outcome.DONE)
                if value is not None:
                    self._seen[key] = value

    # -- objects -----------------------------------------------------------------------------------------------------

    async def _put(self, key: str, kind: Kind = Kind.PUT) -> None:
        value = self._history.new_value()
        content = self.make_content(value, is_part=False)
        self._history.contents[value] = content
        condition, expected = self._conditioned(key, kind)
        asked = self._history.begin(self.name, kind, key, value, expected)
        answer = await self._ask(
            lambda run: run.objects.put(
                self._mix.bucket, key.encode(), self.make_body(value, content), Metadata(), condition
            )
        )
        self._conclude(asked, key, answer, value)
        self.acknowledged(answer, key)

    def make_content(self, value: str, *, is_part: bool) -> bytes:
        """Return the bytes that a value stands for: now and then too many for an entry."""
        return value.encode() * (4_000 if not is_part and self._chance.random() < 0.03 else 1)

    def make_body(self, value: str, content: bytes) -> ValueBody:
        """Return the body that brings the bytes."""
        return ValueBody(value, content)

    def acknowledged(self, answer: Any, key: str) -> None:
        """Look at what a put or a completion answered."""

    async def _swap(self, key: str) -> None:
        """Read, and put only if nobody else put meanwhile."""
        await self._get(key, head=True)
        await self._put(key, Kind.MATCH)

    async def _delete(self, key: str, kind: Kind = Kind.DELETE) -> None:
        condition, expected = self._conditioned(key, kind)
        asked = self._history.begin(self.name, kind, key, None, expected)

        async def request(run: Run) -> bool:
            await run.objects.delete(self._mix.bucket, key.encode(), condition)
            return True

        self._conclude(asked, key, await self._ask(request), None)

    async def _get(self, key: str, *, head: bool = False, run: Run | None = None) -> bool:
        asked = self._history.begin(self.name, Kind.READ, key)
        run_given = run is not None

        async def request(run: Run) -> str:
            version = await run.objects.find(self._mix.bucket, key.encode())
            if not head:
                pieces: list[bytes] = []
                start, stop = self.choose_range(version.size, run_given=run_given)
                sink = _Sink(pieces)
                await run.objects.send(self._mix.bucket, key.encode(), version, start, stop, sink.take)
                if b"".join(pieces) != self._history.contents[version.etag][start:stop]:
                    self._history.accuse(f"{self.name} got other bytes than those of {version.etag} as {key!r}")
            return version.etag

        match await self._ask(request, run):
            case str() as etag:
                asked.answer(Outcome.DONE, value=etag)
                self._seen[key] = etag
            case NoSuchObjectError():
                asked.answer(Outcome.DONE, value=None)
            case None | UnavailableError():
                return False
            case other:
                self._history.accuse(f"{self.name} cannot read {key!r}: {other!r}")
        return True

    def choose_range(self, size: int, *, run_given: bool) -> tuple[int, int]:
        """Return which bytes of an object to read: all."""
        del run_given
        return 0, size

    async def _list(
        self, *, run: Run | None = None, prefix: str | None = None, delimiter: str | None = None, limit: int = 0
    ) -> bool:
        """List, and take it as one read of each key that the listing speaks of."""
        prefix = self._chance.choice(["", "", "d/"]) if prefix is None else prefix
        delimiter = self._chance.choice(["", "/"]) if delimiter is None else delimiter
        limit = limit or self._chance.choice([1, 2, 1000])
        asked = {
            key: self._history.begin(f"{self.name} list", Kind.READ, key)
            for key in self._mix.keys
            if key.startswith(prefix)
        }
        shown = await self._ask(
            lambda run: _list_all(run, self._mix.bucket, prefix.encode(), delimiter.encode(), limit), run
        )
        if shown is None or isinstance(shown, MeshHoldError):
            if isinstance(shown, MeshHoldError) and not isinstance(shown, UnavailableError):
                self._history.accuse(f"{self.name} cannot list: {shown!r}")
            return False
        items, prefixes = shown
        for key, each in asked.items():
            rest = key[len(prefix) :]
            common = prefix + rest.split("/")[0] + "/" if delimiter and "/" in rest else None
            if common is None or common not in prefixes:  # of what a common prefix hides nothing is known
                each.answer(Outcome.DONE, value=items.get(key))
        if unknown := items.keys() - asked.keys():
            self._history.accuse(f"{self.name} was shown {sorted(unknown)}, which nobody wrote")
        return True

    async def _prune(self, key: str) -> None:
        """Remove some of the versions that are not current: what is current stays as it is."""
        versions = await self._ask(lambda run: _list_earlier(run, self._mix.bucket, key))
        if isinstance(versions, list) and versions:
            for version in self._chance.sample(versions, self._chance.randint(1, len(versions))):
                await self._ask(self._removal(key, version))

    def _removal(self, key: str, version: str) -> Callable[[Run], Awaitable[Any]]:
        return lambda run: run.objects.delete(self._mix.bucket, key.encode(), version=version)

    # -- uploads -----------------------------------------------------------------------------------------------------

    async def _multipart(self, key: str) -> None:
        upload = await self._ask(lambda run: run.uploads.begin(self._mix.bucket, key.encode(), Upload(0, self.name)))
        if not isinstance(upload, str):
            return
        claims: list[PartClaim] = []
        contents: list[bytes] = []
        for number in range(1, self._chance.randint(2, 4)):
            value = self._history.new_value()
            part = await self._ask(self._part_request(key, upload, number, value))
            if isinstance(part, NoSuchUploadError):
                self._history.accuse(f"{self.name} lost the upload {upload} of {key!r}, which nobody ended")
            if part is not None and not isinstance(part, MeshHoldError):
                claims.append(PartClaim(number, value))
                contents.append(self._history.contents[value])
        await self._check_listed(key, upload)
        if not claims or self._chance.random() < 0.25:
            await self._abort(key, upload, claims)
        else:
            await self._complete(key, upload, claims, b"".join(contents))

    def _part_request(self, key: str, upload: str, number: int, value: str) -> Callable[[Run], Awaitable[Any]]:
        content = self._history.contents[value] = self.make_content(value, is_part=True)
        body = self.make_body(value, content)
        return lambda run: run.uploads.put_part(self._mix.bucket, key.encode(), upload, number, body)

    async def _check_listed(self, key: str, upload: str) -> None:
        page = await self._ask(lambda run: run.uploads.page(self._mix.bucket, b"", b"", b"", "", 1000))
        if page is None or isinstance(page, MeshHoldError):
            return
        if (key.encode(), upload) not in [(item.key, item.upload_id) for item in page.items]:
            self._history.accuse(f"{self.name} is not shown the upload {upload} of {key!r}, which nobody ended")

    async def _abort(self, key: str, upload: str, claims: Sequence[PartClaim]) -> None:
        async def request(run: Run) -> bool:
            await run.uploads.abort(self._mix.bucket, key.encode(), upload)
            return True

        answer = await self._ask(request)
        if isinstance(answer, NoSuchUploadError):
            self._history.accuse(f"{self.name} cannot abort {upload} of {key!r}, which nobody ended")
        if answer is True:
            late = await self._ask(self._complete_request(key, upload, claims, "aborted", ALWAYS))
            if late is not None and not isinstance(late, MeshHoldError):
                self._history.accuse(f"{self.name} completed {upload} of {key!r} after it was aborted")

    async def _complete(self, key: str, upload: str, claims: Sequence[PartClaim], content: bytes) -> None:
        """Complete, now and then through two nodes at once; who gets no answer asks again."""
        value = self._history.new_value()
        self._history.contents[value] = content
        kind = self._chance.choice([Kind.PUT, Kind.PUT, Kind.CREATE])
        condition, _ = self._conditioned(key, kind)
        request = self._complete_request(key, upload, claims, value, condition)

        async def attempt(name: str) -> Any:
            asked = self._history.begin(name, kind, key, value)
            answer = await self._ask(request)
            if isinstance(answer, InvalidPartError):
                return answer
            self._conclude(asked, key, answer, value)
            self.acknowledged(getattr(answer, "version", None), key)
            return answer

        if kind is Kind.PUT and self._chance.random() < 0.3:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt, self.name)
                nursery.start_soon(attempt, f"{self.name}'")
            return
        first = await attempt(self.name)
        if isinstance(first, (NoSuchUploadError, InvalidPartError)):
            self._history.accuse(f"{self.name} cannot complete {upload} of {key!r}, which is whole: {first!r}")
        if kind is Kind.PUT and (first is None or isinstance(first, UnavailableError)):
            await attempt(self.name)

    def _complete_request(
        self, key: str, upload: str, claims: Sequence[PartClaim], value: str, condition: WriteCondition
    ) -> Callable[[Run], Awaitable[Any]]:
        digested = Digested(value, Checksums())
        return lambda run: run.uploads.complete(
            self._mix.bucket, key.encode(), upload, claims, lambda _rows, _upload: digested, condition
        )


def where(error: BaseException) -> str:
    """Return the error and the places that it came through, inner ones of a group too."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    places = [f"{each.filename.rsplit('/', 1)[-1]}:{each.lineno}" for each in extract_tb(error.__traceback__)]
    return f"{error!r} ({' > '.join(places)})" + "".join(f"\n  {where(each)}" for each in inner)


class _Sink:
    """Collects what is sent."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def take(self, piece: bytes) -> None:
        """Keep a piece."""
        self._pieces.append(bytes(piece))


async def _list_all(
    run: Run, bucket: Bucket, prefix: bytes, delimiter: bytes, limit: int
) -> tuple[dict[str, str], set[str]]:
    """Return what a listing shows over all of its pages: ETag by key, and common prefixes."""
    items: dict[str, str] = {}
    prefixes: set[str] = set()
    after = b""
    for _ in range(_PAGES_MAX):
        page = await run.listing.page(bucket, prefix, delimiter, after, limit)
        items.update({item.key.decode(): item.etag for item in page.items})
        prefixes |= {each.decode() for each in page.prefixes}
        if page.resume_after is None:
            return items, prefixes
        after = page.resume_after
    raise AssertionError("a listing of a few keys does not end")


async def _list_earlier(run: Run, bucket: Bucket, key: str) -> list[str]:
    """Return the versions of a key that lie below its current one."""
    page = await Versions(run.registers, run.objects.stacks).page(bucket, key.encode(), b"", b"", "", 1000)
    return [item.id for item in page.items if item.key == key.encode() and not item.is_latest]
