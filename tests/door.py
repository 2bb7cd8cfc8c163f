"""A node and its S3 door inside the test's own event loop, and a client that can send what no library would.

The client signs by itself: nothing of the code under test makes a request or reads an answer.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import trio

from meshhold.config import Config, NodeConfig, S3Config
from meshhold.model.grant import Permission
from meshhold.node.assembly import Node, open_node
from meshhold.s3.app import S3App
from meshhold.s3.http.server import open_listeners, run_s3

BUCKET: Final = "bucket"
REGION: Final = "meshhold"
KEPT: Final = b"what must survive every bad request"
DEADLINE_S: Final = 15.0  # no step of a test takes a second; a hang ends here with its place
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
UNSIGNED: Final = "UNSIGNED-PAYLOAD"

Headers = Mapping[str, str]


# -- signing --------------------------------------------------------------------------------------------------------


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _encoded(text: bytes | str, safe: str = "~") -> str:
    return quote(text, safe=safe)


@dataclass(frozen=True)
class Signer:
    """AWS Signature Version 4 as the published description has it; every claim in it can be made a wrong one."""

    key_id: str
    secret: str
    host: str
    region: str = REGION
    service: str = "s3"
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def stamp(self) -> str:
        return self.at.strftime("%Y%m%dT%H%M%SZ")

    @property
    def scope(self) -> str:
        return f"{self.stamp[:8]}/{self.region}/{self.service}/aws4_request"

    @property
    def key(self) -> bytes:
        key = b"AWS4" + self.secret.encode()
        for step in self.scope.split("/"):
            key = _hmac(key, step)
        return key

    def signature(self, method: str, target: str, headers: Headers, names: Iterable[str], payload: str) -> str:
        path, _, query = target.partition("?")
        pairs = sorted((_encoded(n), _encoded(v)) for n, v in parse_qsl(query, keep_blank_values=True))
        low = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
        canonical = "\n".join(
            [
                method,
                _encoded(unquote_to_bytes(path), "/~"),
                "&".join(f"{n}={v}" for n, v in pairs),
                *(f"{name}:{low.get(name, '')}" for name in names),
                "",
                ";".join(names),
                payload,
            ]
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return _hmac(self.key, f"AWS4-HMAC-SHA256\n{self.stamp}\n{self.scope}\n{digest}").hex()

    def sign(self, method: str, target: str, headers: Headers, payload: str) -> dict[str, str]:
        """Return `headers` with what signs them all."""
        full = {"Host": self.host, "x-amz-date": self.stamp, "x-amz-content-sha256": payload, **headers}
        names = sorted({name.lower() for name in full} - {"content-length", "transfer-encoding", "expect"})
        signature = self.signature(method, target, full, names, payload)
        credential = f"Credential={self.key_id}/{self.scope}"
        full["Authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={';'.join(names)}, Signature={signature}"
        return full

    def presign(
        self, method: str, target: str, expires: str = "600", signed: Headers | None = None, names: str = ""
    ) -> str:
        """Return `target` with a signature in its query, over the host and the headers in `signed`."""
        headers = {"host": self.host, **(signed or {})}
        chosen = names or ";".join(sorted(name.lower() for name in headers))
        credential = _encoded(f"{self.key_id}/{self.scope}")
        target += "&" if "?" in target else "?"
        target += (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={self.stamp}"
            f"&X-Amz-Expires={expires}&X-Amz-SignedHeaders={_encoded(chosen)}"
        )
        return f"{target}&X-Amz-Signature={self.signature(method, target, headers, chosen.split(';'), UNSIGNED)}"

    # -- aws-chunked ------------------------------------------------------------------------------------------------

    def chunk_signature(self, previous: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        head = f"AWS4-HMAC-SHA256-PAYLOAD\n{self.stamp}\n{self.scope}"
        return _hmac(self.key, f"{head}\n{previous}\n{EMPTY_SHA256}\n{digest}").hex()

    def trailer_signature(self, previous: str, trailer: str) -> str:
        digest = hashlib.sha256(trailer.encode()).hexdigest()
        head = f"AWS4-HMAC-SHA256-TRAILER\n{self.stamp}\n{self.scope}"
        return _hmac(self.key, f"{head}\n{previous}\n{digest}").hex()


# -- talking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One answer; header names in lower case. `interim` are the statuses of 1xx answers before it."""

    status: int
    headers: dict[str, str]
    body: bytes
    interim: tuple[int, ...] = ()

    @property
    def code(self) -> str:
        """The error document's code, `""` where the body is none."""
        return self.tag("Code") if b"<Error>" in self.body else ""

    @property
    def text(self) -> str:
        return self.body.decode()

    def tag(self, name: str) -> str:
        found = re.search(rf"<{name}>(.*?)</{name}>", self.text, re.DOTALL)
        return found[1] if found else ""

    def tags(self, name: str) -> list[str]:
        return re.findall(rf"<{name}>(.*?)</{name}>", self.text, re.DOTALL)


class Wire:
    """A TCP connection to the door."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def send(self, raw: bytes) -> None:
        """Send bytes; a door that has stopped reading is no error here."""
        try:
            with trio.fail_after(DEADLINE_S):
                await self.stream.send_all(raw)
        except trio.BrokenResourceError:
            pass

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            piece = await self.stream.receive_some(65536)
            if not piece:
                raise EOFError(f"the door closed after {self._rest[:200]!r}")
            self._rest += piece
        found, _, self._rest = self._rest.partition(mark)
        return found

    async def answer(self, method: str = "GET") -> Answer:
        """Read one answer, and the 1xx ones before it."""
        interim: tuple[int, ...] = ()
        with trio.fail_after(DEADLINE_S):
            while True:
                lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                status = int(lines[0].split(" ")[1])
                if status >= 200 or status == 101:
                    break
                interim += (status,)
            headers: dict[str, str] = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                assert name.lower() not in headers, f"{name} is given twice"
                headers[name.lower()] = value.strip()
            length = 0 if method == "HEAD" or status in (101, 204, 304) else int(headers.get("content-length", "0"))
            while len(self._rest) < length:
                piece = await self.stream.receive_some(65536)
                if not piece:
                    raise EOFError(f"{length - len(self._rest)} bytes of the body are missing")
                self._rest += piece
            body, self._rest = self._rest[:length], self._rest[length:]
        return Answer(status, headers, body, interim)

    async def ended(self) -> bool:
        """Tell whether the door closes, having sent nothing more."""
        with trio.fail_after(DEADLINE_S):
            try:
                return not self._rest and not await self.stream.receive_some(1)
            except trio.BrokenResourceError:
                return not self._rest


def render(method: str, target: str, headers: Headers | Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """Return a request's bytes, with nothing added."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    head = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass
class DoorUnderTest:
    """A door that serves `BUCKET`, in which the object `kept` holds `KEPT`."""

    node: Node
    port: int
    signer: Signer
    app: S3App
    stop: trio.Event

    def signed(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Headers | None = None,
        payload: str = "",
        **claims: Any,
    ) -> bytes:
        """Return the bytes of a signed request. `claims` replace fields of the signer."""
        return render(method, target, self.sign(method, target, body, headers, payload, **claims), body)

    def sign(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Headers | None = None,
        payload: str = "",
        **claims: Any,
    ) -> dict[str, str]:
        """Return all headers of a signed request."""
        full = dict(headers or {})
        if (body or method in ("PUT", "POST")) and not {"content-length", "transfer-encoding"} & {
            n.lower() for n in full
        }:
            full["Content-Length"] = str(len(body))
        signer = replace(self.signer, **claims)
        return signer.sign(method, target, full, payload or hashlib.sha256(body).hexdigest())

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Wire]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            yield Wire(stream)

    async def exchange(self, raw: bytes, method: str = "GET") -> Answer:
        """Send bytes on a connection of their own and return the answer."""
        async with self.connect() as wire:
            await wire.send(raw)
            return await wire.answer(method)

    async def call(
        self, method: str, target: str, body: bytes = b"", headers: Headers | None = None, **more: Any
    ) -> Answer:
        """Send one signed request."""
        return await self.exchange(self.signed(method, target, body, headers, **more), method)

    async def check_health(self, wire: Wire, answer: Answer) -> None:
        """Check that the same connection serves the next request, or has ended as announced and a new one does."""
        question = self.signed("GET", f"/{BUCKET}/kept")
        if answer.headers.get("connection") == "close":
            assert await wire.ended()
            found = await self.exchange(question)
        else:
            await wire.send(question)
            found = await wire.answer()
        assert (found.status, found.body) == (200, KEPT)

    async def check_refused(self, raw: bytes, status: int, code: str) -> Answer:
        """Send bytes; the answer must be this refusal, nothing may have changed, and the door must go on."""
        async with self.connect() as wire:
            await wire.send(raw)
            answer = await wire.answer()
            assert (answer.status, answer.code) == (status, code), answer.body
            assert answer.tag("Message")
            assert answer.tag("RequestId") == answer.headers["x-amz-request-id"]
            await self.check_health(wire, answer)
        assert await self.stored() == ["kept"]
        await self.settle()
        return answer

    async def settle(self) -> None:
        """Wait until no request is in progress."""
        with trio.fail_after(DEADLINE_S):
            while self.app._in_flight:  # noqa: ASYNC110 - the app counts; nobody but tests would wait for it
                await trio.sleep(0.001)

    async def grant(self, key: str, permissions: Permission, *, allow_list: bool = False) -> None:
        await self.node.access.grant(key, BUCKET, permissions, allow_list=allow_list)

    async def stored(self) -> list[str]:
        """Return the keys in the bucket."""
        answer = await self.call("GET", f"/{BUCKET}?list-type=2")
        assert answer.status == 200
        return answer.tags("Key")

    def as_other(self, key_id: str, secret: str) -> Self:
        """Return the same door, seen with another key."""
        return replace(self, signer=replace(self.signer, key_id=key_id, secret=secret))


def _refuse_death(error: BaseException) -> None:
    raise AssertionError("the daemon would have ended") from error


@asynccontextmanager
async def open_door(folder: Path, **settings: Any) -> AsyncIterator[DoorUnderTest]:
    """Open a node in `folder`, as the daemon does, and serve it. `settings` replace those of the door.

    Resources: everything ends with the block, requests in flight included.
    """
    config = Config(folder / "config.yaml", None, (), NodeConfig(folder), S3Config(listen_addr="127.0.0.1:0"))
    async with open_node(config) as node:
        door = replace(node.door, settings=replace(node.door.settings, **settings))
        await node.vaults.create("vault", alias=BUCKET)
        key = await node.access.add_key("tests", create_buckets=True)
        await node.access.grant(key.access_key_id, BUCKET, Permission.READ | Permission.WRITE)
        app = S3App(door, "tests", on_fatal=_refuse_death)
        listeners = await open_listeners("127.0.0.1", 0)
        port = listeners[0].socket.getsockname()[1]
        signer = Signer(key.access_key_id, key.secret_access_key, f"127.0.0.1:{port}")
        opened = DoorUnderTest(node, port, signer, app, trio.Event())
        async with trio.open_nursery() as nursery:
            await nursery.start(run_s3, app, listeners, opened.stop)
            put = await opened.call("PUT", f"/{BUCKET}/kept", KEPT)
            assert put.status == 200, put.body
            yield opened
            nursery.cancel_scope.cancel()
