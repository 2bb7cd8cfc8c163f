"""Throw hostile requests at the S3 door and at websites: `python -m tests.fuzz_s3 N SEED KIND`.

N inputs, a million unless told; one kind (heads, targets, headers, chunked, documents, forms, pages), or all of them in
turn. Input number n of a seed is always the same, though the door keeps what earlier ones stored; a failure prints
both. The laws: no answer is a 500, each is valid HTTP, a signature over any target is understood, and of a body in
chunks either every byte is kept or none.
"""

from __future__ import annotations

import logging
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import h11
import trio
from tests.door import BUCKET, DEADLINE_S, DoorUnderTest, open_door, render
from tests.fuzz_program import Pace, arguments, say, show
from tests.fuzz_s3_inputs import (
    METHODS,
    PARAMETERS,
    Input,
    make_chunked,
    make_document,
    make_form,
    make_head,
    odd_headers,
    odd_target,
    odd_text,
)

from meshhold.model.grant import Permission
from meshhold.s3.http.application import Application
from meshhold.s3.http.head import RequestHead
from meshhold.web.app import WebApp

REPORT_EVERY: Final = 50_000
_BODILESS: Final = (204, 304)


class _Stream:
    """A client that has sent a body already, and takes whatever comes."""

    stall_s = DEADLINE_S
    closing = broken = False
    rest = b""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.sent = b""

    def receive_now(self, size: int) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        assert len(piece) <= size, "more is read than the body"
        return piece

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += data


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def code(self) -> str:
        return self.body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode()


async def ask(app: Application, given: Input, port: int) -> _Answer:
    """Hand one request to an application as a server would, and check that its answer is valid HTTP."""
    path, _, query = given.target.partition("?")
    headers = [(name.lower().encode(), value.encode()) for name, value in given.headers.items()]
    if given.body and b"content-length" not in dict(headers):
        headers.append((b"content-length", b"%d" % len(given.body)))
    announced = int(dict(headers).get(b"content-length", b"0"))
    head = RequestHead(
        given.method, path.encode(), query.encode(), headers, peer="127.0.0.5", port=port, length=announced
    )
    stream: Any = _Stream([piece for piece in (given.body[:1000], given.body[1000:]) if piece])
    with trio.fail_after(DEADLINE_S):
        await app.serve(head, stream)
    answer = _read_answer(stream.sent, given.method)
    assert answer.status != 500, answer.body.decode()
    length = dict(answer.headers).get(b"content-length")
    if given.method != "HEAD" and answer.status not in _BODILESS:
        assert length == b"%d" % len(answer.body), "the answer's length is not what it says"
    return answer


def _read_answer(raw: bytes, method: str) -> _Answer:
    """Return what another implementation of HTTP reads, which must be one whole answer."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD" if method == "HEAD" else "GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    events: list[Any] = [client.next_event()]
    while type(events[-1]) is not h11.EndOfMessage:
        assert events[-1] is not h11.NEED_DATA, f"an answer ends early: {raw!r}"
        events.append(client.next_event())
    finals = [event for event in events if type(event) is h11.Response]
    body = b"".join(bytes(event.data) for event in events if type(event) is h11.Data)
    assert len(finals) == 1, raw
    return _Answer(finals[0].status_code, list(finals[0].headers), body)


class Fuzzer:
    """The door, a website over the same node, and what each kind of input does with them."""

    def __init__(self, door: DoorUnderTest, web: Application, upload_id: str) -> None:
        self._door = door
        self._web = web
        self._upload_id = upload_id
        self._signed_s = 0.0

    @property
    def _signer(self) -> Any:
        if time.monotonic() > self._signed_s + 60:
            self._door.signer = replace(self._door.signer, at=datetime.now(UTC))
            self._signed_s = time.monotonic()
        return self._door.signer

    async def _send(self, given: Input) -> _Answer:
        return await ask(self._door.app, given, self._door.port)

    def _sign(self, given: Input) -> Input:
        signer = self._signer
        headers = self._door.sign(given.method, given.target, given.body, given.headers, at=signer.at)
        return replace(given, headers=headers)

    async def heads(self, rng: random.Random) -> str:
        """Send a spoiled head over a real connection: an answer that is no 500, or the end of the connection."""
        method, target = rng.choice(METHODS[:5]), odd_target(rng)
        signed = self._sign(Input(method, target, odd_headers(rng, 2)))
        raw = make_head(rng, render(method, target, signed.headers))
        try:
            async with self._door.connect() as wire:
                await wire.send(raw)
                await wire.stream.send_eof()
                status = (await wire.answer("HEAD")).status
        except (EOFError, trio.BrokenResourceError):
            return "no answer"
        assert status != 500
        return str(status)

    async def targets(self, rng: random.Random) -> str:
        """Sign any target in ASCII: it is understood as it was signed, whatever comes of it."""
        method = rng.choice(("GET", "HEAD", "DELETE", "GET"))
        target = odd_target(rng).replace("X-Amz-", "x-amz_")
        if rng.random() < 0.3:
            given = Input(method, self._signer.presign(method, target), {"Host": self._signer.host})
        else:
            given = self._sign(Input(method, target))
        answer = await self._send(given)
        if "%" not in target.replace("%2", "").replace("%C3%A9", ""):
            assert answer.code != "SignatureDoesNotMatch", answer.body.decode()
        return answer.code or str(answer.status)

    async def headers(self, rng: random.Random) -> str:
        """Send odd headers and parameters, signed or not; what a write stored can be read."""
        method = rng.choice((*METHODS, "PUT", "PUT", "PUT"))
        key = f"odd{rng.randrange(50)}"
        target = f"/{rng.choice((BUCKET, BUCKET, 'rules'))}/{key if rng.random() < 0.8 else ''}"
        if rng.random() < 0.5:
            target += "?" + "&".join(self._parameter(rng) for _ in range(rng.randint(1, 2)))
        given = Input(method, target, odd_headers(rng), rng.choice((b"", b"body", bytes(20_000))))
        answer = await self._send(self._sign(given) if rng.random() < 0.9 else given)
        if method in ("PUT", "POST") and answer.status == 200:
            for reading in ("GET", "HEAD"):
                await self._send(self._sign(Input(reading, f"/{BUCKET}/{key}")))
            await self._send(self._sign(Input("GET", f"/{BUCKET}?list-type={rng.randrange(3)}&prefix=odd")))
        return answer.code or str(answer.status)

    def _parameter(self, rng: random.Random) -> str:
        value = rng.choice(("", self._upload_id, quote(odd_text(rng)), quote(odd_text(rng))))
        return f"{rng.choice(PARAMETERS)}={value}"

    async def chunked(self, rng: random.Random) -> str:
        """Send a body in chunks: every byte is kept as it was signed, or none."""
        given = make_chunked(rng, self._signer)
        answer = await self._send(given)
        if answer.status == 200:
            kept = await self._send(self._sign(Input("GET", given.target)))
            assert kept.body == given.expected, "an altered body was taken"
        return answer.code or str(answer.status)

    async def documents(self, rng: random.Random) -> str:
        """Set documents of every sub-resource; what was taken can be shown."""
        given = make_document(rng, self._upload_id)
        answer = await self._send(self._sign(given))
        if answer.status == 200 and given.method == "PUT":
            shown = await self._send(self._sign(Input("GET", given.target)))
            assert shown.status < 500, shown.body.decode()
        return answer.code or str(answer.status)

    async def forms(self, rng: random.Random) -> str:
        """Send forms and their policies; what they stored can be read."""
        answer = await self._send(make_form(rng, self._signer))
        if answer.status < 300:
            listed = await self._send(self._sign(Input("GET", f"/{BUCKET}?list-type=2")))
            assert listed.status == 200
            await self._send(self._sign(Input("GET", f"/{BUCKET}/form{rng.randrange(20)}")))
        return answer.code or str(answer.status)

    async def pages(self, rng: random.Random) -> str:
        """Ask as a browser for whatever the other kinds stored and set."""
        host = rng.choice((BUCKET, "rules", "rules", "mapped.example.com", odd_text(rng).strip()))
        path = "/" + odd_target(rng).partition("/")[2].partition("/")[2]
        method = rng.choice(("GET", "GET", "GET", *METHODS))
        given = Input(method, path, odd_headers(rng, 2) | {"host": host})
        return str((await ask(self._web, given, self._door.port)).status)

    @property
    def kinds(self) -> list[Callable[[random.Random], Awaitable[str]]]:
        """What to fuzz, one of them for each input in turn."""
        return [self.heads, self.targets, self.headers, self.chunked, self.documents, self.forms, self.pages]


async def open_fuzzer(stack: AsyncExitStack, folder: Path) -> Fuzzer:
    """Return a fuzzer over a node in `folder`, which ends with the stack."""
    door = await stack.enter_async_context(open_door(folder))
    await door.node.vaults.create("rules", alias="rules")
    for vault in (BUCKET, "rules"):
        key = door.signer.key_id
        await door.node.access.grant(key, vault, Permission.READ | Permission.WRITE | Permission.OWN)
        await door.node.access.grant("anonymous", vault, Permission.READ)
    upload = await door.call("POST", f"/{BUCKET}/multi?uploads")
    hosts = {"mapped.example.com": BUCKET}
    web = WebApp(door.node.door, "tests", hosts=hosts, root_domain="example.com", on_fatal=_refuse_death)
    return Fuzzer(door, web, upload.tag("UploadId"))


def _refuse_death(error: BaseException) -> None:
    raise AssertionError("the daemon would have ended") from error


async def run_fuzz(inputs: int, seed: int, report: Callable[[str], None], folder: Path, only: str = "") -> Counter[str]:
    """Run that many inputs; return how often each kind had which answer. Raises at the first broken law."""
    outcomes: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        fuzzer = await open_fuzzer(stack, folder)
        kinds = [kind for kind in fuzzer.kinds if getattr(kind, "__name__", "").endswith(only)]
        pace = Pace(report, REPORT_EVERY)
        for number in range(inputs):
            kind = kinds[number % len(kinds)]
            name = getattr(kind, "__name__", "")
            try:
                outcomes[f"{name} {await kind(random.Random(f'{seed}:{number}'))}"] += 1
            except BaseException:
                report(f"seed {seed}, input {number}: {name}")
                raise
            pace.passed(number + 1)
    return outcomes


def main() -> None:
    """Read count, seed and kind from the command line; print a table."""
    inputs, seed, only = arguments()
    say(f"fuzzing S3: {inputs} inputs, seed {seed}")
    logging.getLogger("meshhold.s3").setLevel(logging.ERROR)  # each NotImplemented would be a line
    memory = Path("/dev/shm")  # noqa: S108  -- fsync costs nothing there, and what is tested is no disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        outcomes = trio.run(run_fuzz, inputs, seed, say, Path(folder), only)
    show(outcomes)


if __name__ == "__main__":
    main()
