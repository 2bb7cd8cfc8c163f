"""Right requests with a few bytes changed: whatever comes out, the door neither fails nor hangs nor loses anything."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from tests.door import UNSIGNED, DoorUnderTest, Wire, open_door, render

ROUNDS = 40
Mutation = Callable[[random.Random, bytes], bytes]
PIECES = [
    b"\r\n", b"\n", b"\0", b"%", b"%00", b"%ff", b" ", b":", b",", b";", b"=", b"&", b"?", b"/", b"//", b"..", b"+",
    b"-", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"\xff\xfe",
    b"If-Match: *\r\n", b"Range: bytes=1-\r\n", b"a" * 300, b"<", b"<!DOCTYPE x>", b"&a;", b"9" * 21, b"X-Amz-Date",
]  # fmt: skip


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path, stall_s=0.05, idle_s=0.05) as opened:
        yield opened


def requests(door: DoorUnderTest) -> list[bytes]:
    chunked = door.sign("PUT", "/bucket/new", b"", {"Transfer-Encoding": "chunked"}, UNSIGNED)
    streamed = {"Content-Encoding": "aws-chunked", "x-amz-decoded-content-length": "4"}
    body = b"<Delete><Object><Key>none</Key></Object></Delete>"
    return [
        door.signed("GET", "/bucket/kept", b"", {"Range": "bytes=1-5", "If-None-Match": '"x"'}),
        door.signed("PUT", "/bucket/new", b"body", {"x-amz-meta-a": "b", "Content-Type": "text/plain"}, UNSIGNED),
        render(
            "PUT", "/bucket/new", door.sign("PUT", "/bucket/new", b"", chunked, UNSIGNED), b"4\r\nbody\r\n0\r\n\r\n"
        ),
        door.signed("PUT", "/bucket/new", b"4\r\nbody\r\n0\r\n\r\n", streamed, UNSIGNED),
        door.signed("GET", "/bucket?list-type=2&max-keys=2&prefix=k&delimiter=%2F&encoding-type=url"),
        render("GET", door.signer.presign("GET", "/bucket/kept"), {"Host": door.signer.host}),
        door.signed("POST", "/bucket?delete", body, {"x-amz-checksum-crc32": "AAAAAA=="}),
        door.signed("POST", "/bucket/new?uploads"),
        door.signed("PUT", "/bucket/new?partNumber=1&uploadId=" + "0" * 32, b"part"),
        door.signed("PUT", "/bucket/new", b"", {"x-amz-copy-source": "/bucket/kept"}),
    ]


def flip(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]


def insert(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + rng.choice(PIECES) + raw[at:]


def remove(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + raw[at + rng.randrange(1, 40) :]


def drop_line(rng: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\r\n")
    del lines[rng.randrange(len(lines))]
    return b"\r\n".join(lines)


def repeat_line(rng: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join([*lines[:at], lines[at], *lines[at:]])


@pytest.mark.parametrize("mutation", [flip, insert, remove, drop_line, repeat_line])
@pytest.mark.parametrize("seed", range(2))
async def test_a_changed_request_is_answered_or_cut(door: DoorUnderTest, mutation: Mutation, seed: int) -> None:
    rng = random.Random(f"{mutation.__name__} {seed}")
    async with trio.open_nursery() as nursery:
        for _ in range(ROUNDS):
            raw = mutation(rng, rng.choice(requests(door)))
            nursery.start_soon(_send, door, raw)
    await door.settle()
    assert "kept" in await door.stored()


async def _send(door: DoorUnderTest, raw: bytes) -> None:
    method = raw.partition(b" ")[0].decode("latin-1")
    async with door.connect() as wire:
        await wire.send(raw)
        await wire.stream.send_eof()
        with suppress(EOFError):
            await _check(wire, method, raw)


async def _check(wire: Wire, method: str, raw: bytes) -> None:
    """Read answers until the end: a mutation can split one request into two."""
    while True:
        answer = await wire.answer(method)
        assert answer.status < 500 or answer.status == 501, (raw, answer)
