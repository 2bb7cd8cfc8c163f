"""Clients that put and get objects of many chunks, and note what they sent and what was acknowledged.

A request is sent once. An object's bytes follow from a name of their own, so no chunk is shared by chance, and what is
read is known whole. What is read and was never sent is a violation at once, whatever goes wrong meanwhile.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Self

from botocore.exceptions import BotoCoreError, ClientError
from tests.cluster.meshes import MeshNode, wait_until
from tests.cluster.one_try import client_that_asks_once
from tests.faults.node_journal import ABSENT, Journal
from tests.faults.node_load import PART_SIZE, content_of, digest_of
from urllib3.exceptions import HTTPError

ANSWER_S: Final = 30.0
"""Longer than any answer may take: what comes later than a test allows is seen as a slow answer, not as none."""
CONNECTIONS: Final = 32
SIZES: Final = (20_000, 20_000, 90_000, 90_000, 400_000, 2**20 + 1, 3 * 2**20 + 17)
PAUSE_S: Final = 0.05
READ_S: Final = 60.0  # how long the last reading of all tries again for what is refused
READERS: Final = 2  # for each node, at the last reading
_NO_ANSWER: Final = (BotoCoreError, HTTPError, OSError)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: through which node, for what, when it began (monotonic), how long it took, and what was said."""

    door: str
    kind: str
    key: str
    began_s: float
    took_s: float
    is_done: bool
    said: str


class Client:
    """Asks one node. Threads may share it. `asked` are its requests, `violations` what no store may do."""

    def __init__(self, node: MeshNode, key: Mapping[str, str], bucket: str, journal: Journal) -> None:
        self.name = node.name
        self.journal = journal
        self.asked: list[Asked] = []
        self.violations: list[str] = []
        self._host = node.host
        self._bucket = bucket
        self._s3 = client_that_asks_once(node, key, answer_s=ANSWER_S, connections=CONNECTIONS)

    def put(self, key: str, content: bytes, **words: Any) -> bool:
        """Put an object; tell whether that was acknowledged."""
        change = self.journal.began(key, digest_of(content))
        is_done, _ = self._ask(
            "put", key, lambda: self._s3.put_object(Bucket=self._bucket, Key=key, Body=content, **words)
        )
        if is_done:
            self.journal.ended(change)
        return is_done

    def put_parts(self, key: str, content: bytes, part_size: int = PART_SIZE) -> bool:
        """Put an object as a multipart upload; tell whether its end was acknowledged."""
        target = {"Bucket": self._bucket, "Key": key}
        is_done, answer = self._ask("create", key, lambda: self._s3.create_multipart_upload(**target))
        if not is_done:
            return False
        upload, parts = answer["UploadId"], []
        for number, at in enumerate(range(0, len(content), part_size), 1):
            words = {**target, "UploadId": upload, "PartNumber": number, "Body": content[at : at + part_size]}
            is_done, answer = self._ask("part", key, lambda words=words: self._s3.upload_part(**words))  # type: ignore[misc]  # mypy knows no defaults of lambdas
            if not is_done:
                return False
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        change = self.journal.began(key, digest_of(content))
        words = {**target, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
        is_done, _ = self._ask("complete", key, lambda: self._s3.complete_multipart_upload(**words))
        if is_done:
            self.journal.ended(change)
        return is_done

    def get(self, key: str) -> str:
        """Read an object; return its digest, `ABSENT`, or in words why there was no whole answer.

        A digest of what nobody sent, and absence of what was acknowledged, are violations; nothing is deleted here.
        """
        must_be_there = ABSENT not in self.journal.allowed(key)
        is_done, found = self._ask("get", key, lambda: self._read(key))
        if not is_done:
            return str(found)
        if found == ABSENT and must_be_there:
            self.violations.append(f"{key} through {self.name}: acknowledged, and absent")
        elif found != ABSENT and found not in self.sent(key):
            self.violations.append(f"{key} through {self.name}: bytes that nobody wrote, {found}")
        return str(found)

    def sent(self, key: str) -> set[str]:
        """Return the digests of all that was ever sent for a key."""
        with self.journal._lock:
            return {change.state for change in self.journal._changes[key]}

    def wait_serving(self, patience_s: float) -> None:
        """Wait until a put of a chunk and its get work."""
        content = content_of(f"probe {self.name} {time.monotonic_ns()}", 20_000)

        def serves() -> bool:
            return self.put(f"probe/{self.name}", content) and self.get(f"probe/{self.name}") == digest_of(content)

        try:
            wait_until(serves, patience_s, f"{self.name} serves")
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.asked[-1:]}") from None

    @staticmethod
    def read_all(clients: Sequence[Client], keys: Sequence[str], patience_s: float = READ_S) -> list[dict[str, str]]:
        """Return states by key, client by client; what is refused is asked for again for so long."""
        deadline = time.monotonic() + patience_s

        def read(client: Client, key: str) -> str:
            while True:
                known = client.journal.allowed(key)
                state = client.get(key)
                if state in known or state == ABSENT or len(state) == 64 or time.monotonic() > deadline:
                    return state
                time.sleep(PAUSE_S)

        def read_them(client: Client) -> dict[str, str]:
            with ThreadPoolExecutor(READERS) as pool:
                return dict(zip(keys, pool.map(lambda key: read(client, key), keys), strict=True))

        with ThreadPoolExecutor(len(clients)) as pool:
            found = list(pool.map(read_them, clients))
        violations = [violation for client in clients for violation in client.violations]
        assert violations == [], violations[:10]
        return found

    def _read(self, key: str) -> str:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return ABSENT
            raise
        return digest_of(answer["Body"].read())

    def _entered(self) -> AbstractContextManager[None]:
        return nullcontext() if self._host is None else self._host.entered()

    def _ask(self, kind: str, key: str, request: Callable[[], Any]) -> tuple[bool, Any]:
        """Send a request; return whether it was done, and its answer or what went wrong."""
        began_s = time.monotonic()
        answer: Any
        said = ""
        with self._entered():
            try:
                answer = request()
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                answer = said = f"{status} {error.response['Error'].get('Message', error)}"
            except _NO_ANSWER as error:
                answer = said = f"no answer: {type(error).__name__}"
        self.asked.append(Asked(self.name, kind, key, began_s, time.monotonic() - began_s, not said, said))
        return not said, answer


class Load:
    """Writers and readers, some of each for every client, from the block's beginning to its end.

    Each writer has keys of its own, which it overwrites in turn; readers read any. What is asked follows from `seed`,
    when does not. The end of the block fails if anything was read that no store may show.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        seed: int,
        *,
        name: str = "load",
        writers: int = 1,
        readers: int = 1,
        keys: int = 30,
        sizes: Sequence[int] = SIZES,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.clients = list(clients)
        self.stop = threading.Event()
        self._name = name
        self._seed = seed
        self._keys = keys
        self._sizes = sizes
        self._pause_s = pause_s
        self._threads = [
            threading.Thread(target=run, args=(client, number), daemon=True)
            for client in self.clients
            for run, count in ((self._write, writers), (self._get, readers))
            for number in range(count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(4 * ANSWER_S)
        assert not any(thread.is_alive() for thread in self._threads), "a client does not end"
        violations = [violation for client in self.clients for violation in client.violations]
        assert violations == [], violations[:10]

    def done(self, kind: str) -> int:
        """Return how many requests of a kind were done so far."""
        return sum(asked.is_done and asked.kind == kind for client in self.clients for asked in list(client.asked))

    def wait_more(self, count: int, patience_s: float = ANSWER_S) -> None:
        """Wait until so many more puts are acknowledged."""
        known = self.done("put")
        wait_until(lambda: self.done("put") >= known + count, patience_s, f"{count} more puts are acknowledged")

    def _write(self, client: Client, number: int) -> None:
        rng = random.Random(f"{self._seed} {self._name} {client.name} {number} writes")
        turn = 0
        while not self.stop.wait(rng.uniform(0, self._pause_s)):
            key = f"{self._name}/{client.name}/{number}/{turn % self._keys}"
            content = content_of(f"{self._seed} {key} {turn}", rng.choice(self._sizes))
            put = client.put_parts if turn % 10 == 9 else client.put
            if not put(key, content):
                self.stop.wait(PAUSE_S)
            turn += 1

    def _get(self, client: Client, number: int) -> None:
        rng = random.Random(f"{self._seed} {self._name} {client.name} {number} reads")
        while not self.stop.wait(rng.uniform(0, self._pause_s)):
            keys = [key for key in client.journal.names() if key.startswith(self._name)]
            if keys:
                client.get(rng.choice(keys))


def told(clients: Sequence[Client]) -> str:
    """Return how many requests there were of each kind, how many were done, and how long they took, as a table."""
    asked = [each for client in clients for each in client.asked]
    lines = []
    for kind in sorted({each.kind for each in asked}):
        took = sorted(each.took_s for each in asked if each.kind == kind)
        done = sum(each.is_done for each in asked if each.kind == kind)
        lines.append(
            f"{kind:<9} {len(took):>6}, {done:>6} done, median {median(took):6.3f} s, at most {took[-1]:6.2f} s"
        )
    failures = sorted({each.said for each in asked if each.said})
    return "\n".join([*lines, *(f"said: {said[:160]}" for said in failures[:8])])
