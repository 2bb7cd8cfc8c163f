"""One node's S3 door as clients of a consistency test use it: a request is sent once, and what is heard is judged.

A client that retries by itself would make two requests of one operation, so nothing is retried here. A 409 counts as
"nothing was done", as S3 promises; a 5xx and silence as "nobody knows".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, EndpointConnectionError
from tests.cluster.consistency_history import History, Kind, Operation, Outcome, finish
from tests.cluster.meshes import MeshNode
from tests.cluster.one_try import client_that_asks_once
from urllib3.exceptions import HTTPError

ANSWER_S: Final = 6.0
CONNECTIONS: Final = 64  # more than the threads of all workloads together: none waits for another's connection
_NEVER_SENT: Final = (EndpointConnectionError, ConnectTimeoutError)
_NO_ANSWER: Final = (BotoCoreError, HTTPError, OSError)
_SIZES: Final = (24, 700, 4096, 16_000)  # all inside the entry


def content_of(value: str) -> bytes:
    """Return an object's bytes: they begin with the value, and their length and rest follow from it."""
    digest = hashlib.sha256(value.encode()).digest()
    size = _SIZES[digest[0] % len(_SIZES)]
    return (value.encode() + b"\n" + digest * (size // len(digest) + 1))[: max(size, len(value) + 1)]


def value_of(content: bytes) -> str:
    """Return the value of an object's bytes; one that no client wrote if a byte of it is not as written."""
    value = content.partition(b"\n")[0].decode(errors="replace")
    return value if content_of(value) == content else f"damaged:{hashlib.sha256(content).hexdigest()[:16]}"


@lru_cache(100_000)
def etag_of(value: str) -> str:
    """Return the ETag, quoted, that the object of a value has."""
    return f'"{hashlib.md5(content_of(value), usedforsecurity=False).hexdigest()}"'


class Door:
    """Asks one node, and notes each question and answer in a history. Threads may share it."""

    def __init__(self, node: MeshNode, key: Mapping[str, str], bucket: str, history: History) -> None:
        self.name = node.name
        self._host = node.host
        self._bucket = bucket
        self._history = history
        self._client = client_that_asks_once(node, key, answer_s=ANSWER_S, connections=CONNECTIONS)

    def put(self, client: str, key: str, value: str) -> Operation:
        """Put an object, whatever is there."""
        return self._write(Operation(client, self.name, Kind.PUT, key, value))

    def create(self, client: str, key: str, value: str) -> Operation:
        """Put an object if none is there."""
        return self._write(Operation(client, self.name, Kind.CREATE, key, value), IfNoneMatch="*")

    def swap(self, client: str, key: str, expected: str, value: str) -> Operation:
        """Put an object in place of the one expected."""
        return self._write(Operation(client, self.name, Kind.SWAP, key, value, expected), IfMatch=etag_of(expected))

    def delete(self, client: str, key: str) -> Operation:
        """Delete an object."""
        operation = Operation(client, self.name, Kind.DELETE, key)
        return self._ask(operation, lambda: self._client.delete_object(Bucket=self._bucket, Key=key))

    def delete_if(self, client: str, key: str, expected: str) -> Operation:
        """Delete an object if it is the one expected."""
        operation = Operation(client, self.name, Kind.DELETE_IF, key, None, expected)
        words = {"Bucket": self._bucket, "Key": key, "IfMatch": etag_of(expected)}
        return self._ask(operation, lambda: self._client.delete_object(**words))

    def get(self, client: str, key: str) -> Operation:
        """Read an object."""
        operation = Operation(client, self.name, Kind.GET, key)

        def read() -> None:
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            operation.seen = value_of(answer["Body"].read())
            if answer["ETag"] != etag_of(operation.seen):
                operation.seen = f"damaged: ETag {answer['ETag']} of {operation.seen}"

        return self._ask(operation, read)

    def list(self, client: str, prefix: str, value_at: Callable[[str], str], page: int = 1000) -> Operation:
        """List all keys below a prefix, page by page. `value_at` tells which value belongs at a key."""
        operation = Operation(client, self.name, Kind.LIST, prefix)

        def read() -> None:
            token: dict[str, str] = {}
            while True:
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=page, **token)
                for row in answer.get("Contents", ()):
                    value = value_at(row["Key"])
                    operation.listed[row["Key"]] = value if row["ETag"] == etag_of(value) else f"ETag {row['ETag']}"
                if not answer["IsTruncated"]:
                    return
                token = {"ContinuationToken": answer["NextContinuationToken"]}

        return self._ask(operation, read)

    def modified_s(self, key: str) -> float:
        """Return an object's time of modification, in seconds since 1970. Errors: `ClientError`."""
        with self._entered():
            found: float = self._client.head_object(Bucket=self._bucket, Key=key)["LastModified"].timestamp()
            return found

    def _entered(self) -> AbstractContextManager[None]:
        return nullcontext() if self._host is None else self._host.entered()

    def _write(self, operation: Operation, **condition: str) -> Operation:
        assert operation.value is not None
        words = {"Bucket": self._bucket, "Key": operation.key, "Body": content_of(operation.value), **condition}
        return self._ask(operation, lambda: self._client.put_object(**words))

    def _ask(self, operation: Operation, request: Callable[[], object]) -> Operation:
        with self._entered():
            self._history.begin(operation)
            try:
                request()
            except ClientError as error:
                return finish(operation, *_judged(error, operation.kind))
            except _NEVER_SENT as error:
                return finish(operation, Outcome.FAILED, type(error).__name__)
            except _NO_ANSWER as error:
                return finish(operation, Outcome.UNKNOWN, type(error).__name__)
            return finish(operation, Outcome.OK)


def _judged(error: ClientError, kind: Kind) -> tuple[Outcome, str]:
    """Return what an error answer means, and what it says."""
    status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
    code: str = error.response["Error"]["Code"]
    said = f"{status} {code}"
    if status >= 500:
        return Outcome.UNKNOWN, f"{said}: {error.response['Error'].get('Message', '')[:160]}"
    if code == "NoSuchKey" and kind is Kind.GET:
        return Outcome.OK, said
    if code == "PreconditionFailed" or (code == "NoSuchKey" and kind in {Kind.SWAP, Kind.DELETE_IF}):
        return Outcome.REFUSED, said
    return Outcome.FAILED, said
