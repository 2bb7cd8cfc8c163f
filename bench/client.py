"""A plain S3 client over presigned requests, for preparing and checking. Not for measuring small requests."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from bench.failures import BenchError
from bench.presign import Endpoint, Presigner

_TIMEOUT_S: Final = 120.0
_TRIES: Final = 5
_PAUSE_S: Final = 0.2


def signer_now(endpoint: Endpoint) -> Presigner:
    """Return a signer as of this moment."""
    return Presigner(endpoint, datetime.now(UTC))


class Client:
    """One connection to one endpoint; `signer` signs as of the client's start."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.signer = signer_now(endpoint)
        self._endpoint = endpoint
        self._connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=_TIMEOUT_S)

    def put(self, key: str, body: bytes) -> None:
        """Store an object; a refusal that may pass is tried a few times. Errors: `BenchError`."""
        self._call("PUT", self.signer.target("PUT", key), body)

    def get(self, key: str) -> bytes:
        """Return an object. Errors: `BenchError`."""
        return self._call("GET", self.signer.target("GET", key), None)

    def get_target(self, target: str) -> bytes:
        """Return the answer to a signed request target. Errors: `BenchError`."""
        return self._call("GET", target, None)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _call(self, method: str, target: str, body: bytes | None) -> bytes:
        failure = ""
        for _ in range(_TRIES):
            try:
                self._connection.request(method, target, body=body)
                answer = self._connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                failure = repr(error)
            else:
                if answer.status < 300:
                    return content
                failure = f"{answer.status} {content[:150]!r}"
                if answer.status < 500:
                    break
            time.sleep(_PAUSE_S)
        raise BenchError(f"{method} {target.partition('?')[0]}: {failure}")


@contextmanager
def open_client(endpoint: Endpoint) -> Iterator[Client]:
    """Give a client and close it afterwards."""
    client = Client(endpoint)
    try:
        yield client
    finally:
        client.close()
