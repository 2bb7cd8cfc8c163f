"""Objects like those of a social network's media folder, and a client that puts them. Knows no server.

Sizes are log-uniform from 5 to 300 KiB: as many avatars and thumbnails from 5 to 10 KiB as pictures from 150 to 300.
Every body is another one: 16 bytes that name it, then a piece of one pool of random bytes.
"""

from __future__ import annotations

import http.client
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.cases import KIB
from bench.client import signer_now
from bench.failures import BenchError
from bench.presign import Endpoint, Presigner

SIZE_MIN: Final = 5 * KIB
SIZE_MAX: Final = 300 * KIB
_POOL: Final = 4 * SIZE_MAX
_TIMEOUT_S: Final = 60.0
_TRIES: Final = 5
_PAUSE_S: Final = 0.5


class Media:
    """`count` objects, the same for the same seed."""

    def __init__(self, count: int, seed: int) -> None:
        chance = random.Random(seed)
        self._pool = chance.randbytes(_POOL)
        self._seed = seed
        self.sizes = [round(SIZE_MIN * math.exp(chance.random() * math.log(SIZE_MAX / SIZE_MIN))) for _ in range(count)]

    @property
    def payload(self) -> int:
        """Bytes of all objects."""
        return sum(self.sizes)

    def key(self, number: int) -> str:
        """Return a key in the form that Mastodon gives them: digits in folders of three."""
        digits = f"{number:012d}"
        folders = "/".join(digits[at : at + 3] for at in range(0, 12, 3))
        return f"media_attachments/files/{folders}/original/{digits}.jpeg"

    def body(self, number: int) -> bytes:
        """Return an object's bytes."""
        name = self._seed.to_bytes(8, "big") + number.to_bytes(8, "big")
        start = number * 4_093 % (_POOL - SIZE_MAX)
        return name + self._pool[start : start + self.sizes[number] - len(name)]


@dataclass(frozen=True, slots=True)
class Fed:
    """What feeding took: seconds, the client's own share of a processor, retries, and bytes a second in tenths."""

    seconds: float
    client_cpu: float
    retries: int
    tenths: tuple[float, ...]


def feed(endpoint: Endpoint, media: Media, connections: int, say: Callable[[int], None]) -> Fed:
    """Put all objects over so many connections. Errors: `BenchError` with the first refusal that did not pass."""
    numbers = iter(range(len(media.sizes)))
    feeder = _Feeder(endpoint, media, numbers, say)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    threads = [threading.Thread(target=feeder.run, name=f"feed-{at}") for at in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if feeder.failure:
        raise BenchError(feeder.failure)
    spent_s = time.monotonic() - began_s
    return Fed(spent_s, (time.process_time() - began_cpu_s) / spent_s, feeder.retries, feeder.tenths(began_s))


class _Feeder:
    def __init__(self, endpoint: Endpoint, media: Media, numbers: Iterator[int], say: Callable[[int], None]) -> None:
        self.failure = ""
        self.retries = 0
        self._endpoint = endpoint
        self._media = media
        self._numbers = numbers
        self._say = say
        self._lock = threading.Lock()
        self._done = 0
        self._marks: list[tuple[float, int]] = []
        self._bytes = 0

    def run(self) -> None:
        """Put objects until there are no more, or one is refused for good."""
        connection = http.client.HTTPConnection("127.0.0.1", self._endpoint.port, timeout=_TIMEOUT_S)
        signer = signer_now(self._endpoint)
        try:
            while not self.failure and (number := self._next()) is not None:
                self._put(connection, signer, number)
        except BenchError as error:
            self.failure = str(error)
        finally:
            connection.close()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def _put(self, connection: http.client.HTTPConnection, signer: Presigner, number: int) -> None:
        target, body = signer.target("PUT", self._media.key(number)), self._media.body(number)
        failure = ""
        for _ in range(_TRIES):
            try:
                connection.request("PUT", target, body=body)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                failure = repr(error)
            else:
                if answer.status == 200:
                    self._count(len(body))
                    return
                failure = f"{answer.status} {content[:150]!r}"
            self.retries += 1
            time.sleep(_PAUSE_S)
        raise BenchError(f"object {number}: {failure}")

    def _count(self, size: int) -> None:
        with self._lock:
            self._done += 1
            self._bytes += size
            if self._done % max(1, len(self._media.sizes) // 10) == 0:
                self._marks.append((time.monotonic(), self._bytes))
                self._say(self._done)

    def tenths(self, began_s: float) -> tuple[float, ...]:
        """Return bytes a second of each tenth of the objects: they fall where a vault gets slower as it fills."""
        before = (began_s, 0)
        found = []
        for mark in self._marks:
            found.append((mark[1] - before[1]) / max(mark[0] - before[0], 1e-9))
            before = mark
        return tuple(found)
