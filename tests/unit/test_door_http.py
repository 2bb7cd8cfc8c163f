"""HTTP itself: broken framing, slow and vanishing clients, 100-continue, upgrades. The door stays healthy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
from tests.door import DEADLINE_S, KEPT, UNSIGNED, Answer, DoorUnderTest, Wire, open_door, render

Build = Callable[[DoorUnderTest], bytes]
GET = ("GET", "/bucket/kept")
MIB = 2**20


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        yield opened


def put(body: bytes, *headers: tuple[str, str]) -> Build:
    """Return a PUT whose framing headers are these and no others."""

    def build(door: DoorUnderTest) -> bytes:
        signed = door.sign("PUT", "/bucket/new", payload=UNSIGNED)
        del signed["Content-Length"]
        return render("PUT", "/bucket/new", [*signed.items(), *headers], body)

    return build


def raw(text: str) -> Build:
    return lambda door: text.replace("HOST", door.signer.host).replace("\n", "\r\n").encode("latin-1")


CHUNKS = b"4\r\nbody\r\n0\r\n\r\n"
BROKEN: dict[str, tuple[int, str, Build]] = {
    "length and transfer encoding": (
        400, "BadRequest", put(CHUNKS, ("Content-Length", "4"), ("Transfer-Encoding", "chunked")),
    ),
    "transfer encoding and length": (
        400, "BadRequest", put(CHUNKS, ("Transfer-Encoding", "chunked"), ("Content-Length", str(len(CHUNKS)))),
    ),
    "two lengths": (400, "BadRequest", put(b"body", ("Content-Length", "4"), ("Content-Length", "5"))),
    "two lengths in one": (400, "BadRequest", put(b"body", ("Content-Length", "4, 5"))),
    "negative length": (400, "BadRequest", put(b"body", ("Content-Length", "-4"))),
    "signed length": (400, "BadRequest", put(b"body", ("Content-Length", "+4"))),
    "length of no digits": (400, "BadRequest", put(b"body", ("Content-Length", "four"))),
    "length in hex": (400, "BadRequest", put(b"body", ("Content-Length", "0x4"))),
    "empty length": (400, "BadRequest", put(b"", ("Content-Length", ""))),
    "gzip transfer": (501, "NotImplemented", put(CHUNKS, ("Transfer-Encoding", "gzip"))),
    "gzip and chunked transfer": (501, "NotImplemented", put(CHUNKS, ("Transfer-Encoding", "gzip, chunked"))),
    "two transfer encodings": (
        501, "NotImplemented", put(CHUNKS, ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")),
    ),
    "chunk size of no hex": (400, "BadRequest", put(b"four\r\nbody\r\n0\r\n\r\n", ("Transfer-Encoding", "chunked"))),
    "chunk size without end": (400, "BadRequest", put(b"4;" + b"x" * 80_000, ("Transfer-Encoding", "chunked"))),
    "chunk longer than announced": (
        400, "BadRequest", put(b"3\r\nbody\r\n0\r\n\r\n", ("Transfer-Encoding", "chunked")),
    ),
    "no host": (400, "BadRequest", raw("GET /bucket/kept HTTP/1.1\n\n")),
    "two hosts": (400, "BadRequest", raw("GET /bucket/kept HTTP/1.1\nHost: HOST\nHost: elsewhere\n\n")),
    "no version": (400, "BadRequest", raw("GET /bucket/kept\nHost: HOST\n\n")),
    "unknown version": (400, "BadRequest", raw("GET /bucket/kept HTTP/3.0\nHost: HOST\n\n")),
    "not HTTP": (400, "BadRequest", raw("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n")),
    "a blank in the target": (400, "BadRequest", raw("GET /bucket/a b HTTP/1.1\nHost: HOST\n\n")),
    "bytes beyond ASCII in the target": (400, "BadRequest", raw("GET /bucket/\xe4 HTTP/1.1\nHost: HOST\n\n")),
    "NUL in the target": (400, "BadRequest", raw("GET /bucket/\x00 HTTP/1.1\nHost: HOST\n\n")),
    "NUL in a header": (400, "BadRequest", raw("GET /bucket/kept HTTP/1.1\nHost: HOST\nx-a: \x00\n\n")),
    "a blank in a header's name": (400, "BadRequest", raw("GET /bucket/kept HTTP/1.1\nHost: HOST\nx a: b\n\n")),
    "a blank before the colon": (400, "BadRequest", raw("GET /bucket/kept HTTP/1.1\nHost : HOST\n\n")),
    "a header without a colon": (400, "BadRequest", raw("GET /bucket/kept HTTP/1.1\nHost: HOST\nnothing\n\n")),
    "headers of 70 KiB": (
        400, "RequestHeaderSectionTooLarge",
        raw("GET /bucket/kept HTTP/1.1\nHost: HOST\n" + ("x-a: " + "b" * 1000 + "\n") * 71),
    ),
    "one header of 1 MiB": (
        400, "RequestHeaderSectionTooLarge", raw("GET /bucket/kept HTTP/1.1\nHost: HOST\nx-a: " + "b" * MIB),
    ),
    "a request line of 70 KiB": (
        400, "RequestHeaderSectionTooLarge", raw("GET /bucket/" + "a" * 70_000),
    ),
    "two authorizations": (
        400, "BadRequest",
        lambda door: render(*GET, [*door.sign(*GET).items(), ("Authorization", "AWS4-HMAC-SHA256 x")]),
    ),
    "HTTP/2 preface": (400, "BadRequest", raw("PRI * HTTP/2.0\n\nSM\n\n")),
    "chunked in HTTP/1.0": (
        400, "BadRequest",
        lambda door: put(CHUNKS, ("Transfer-Encoding", "chunked"))(door).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ),
    "a method in lower case": (405, "MethodNotAllowed", lambda door: door.signed("get", "/bucket/kept")),
    "an unknown method": (405, "MethodNotAllowed", lambda door: door.signed("FROB", "/bucket/kept")),
    "PATCH": (405, "MethodNotAllowed", lambda door: door.signed("PATCH", "/bucket/kept", b"x")),
    "TRACE": (405, "MethodNotAllowed", lambda door: door.signed("TRACE", "/bucket/kept")),
    "CONNECT": (400, "InvalidURI", raw("CONNECT elsewhere:443 HTTP/1.1\nHost: HOST\n\n")),
    "a target of another form": (400, "InvalidURI", raw("GET * HTTP/1.1\nHost: HOST\n\n")),
    "another scheme": (400, "InvalidURI", raw("GET ftp://HOST/bucket/kept HTTP/1.1\nHost: HOST\n\n")),
}  # fmt: skip


@pytest.mark.parametrize(("status", "code", "build"), BROKEN.values(), ids=BROKEN)
async def test_broken(door: DoorUnderTest, status: int, code: str, build: Build) -> None:
    await door.check_refused(build(door), status, code)


SMUGGLED = "\r\n\r\nDELETE /bucket/kept HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", str(len(CHUNKS))), ("Transfer-Encoding", "chunked")],
        [("Content-Length", "4"), ("Content-Length", "400")],
        [("Transfer-Encoding", "gzip")],
    ],
)
async def test_after_doubtful_framing_nothing_more_is_read_as_a_request(
    door: DoorUnderTest, headers: list[tuple[str, str]]
) -> None:
    async with door.connect() as wire:
        await wire.send(put(CHUNKS, *headers)(door) + door.signed("DELETE", "/bucket/kept"))
        answer = await wire.answer()
        assert answer.status >= 400
        assert answer.headers["connection"] == "close"
        assert await wire.ended()
    assert await door.stored() == ["kept"]


# -- what is allowed ------------------------------------------------------------------------------------------------


async def test_requests_in_one_packet_are_answered_in_order(door: DoorUnderTest) -> None:
    async with door.connect() as wire:
        await wire.send(
            door.signed("PUT", "/bucket/a", b"first")
            + door.signed("GET", "/bucket/a")
            + door.signed("GET", "/bucket/none")
            + door.signed("HEAD", "/bucket/a")
            + door.signed("DELETE", "/bucket/a")
            + door.signed(*GET)
        )
        assert (await wire.answer()).status == 200
        assert (await wire.answer()).body == b"first"
        assert (await wire.answer()).code == "NoSuchKey"
        assert (await wire.answer("HEAD")).headers["content-length"] == "5"
        assert (await wire.answer()).status == 204
        assert (await wire.answer()).body == KEPT


async def test_a_request_byte_by_byte(door: DoorUnderTest) -> None:
    async with door.connect() as wire:
        for octet in door.signed("PUT", "/bucket/slow", b"slowly"):
            await wire.send(bytes([octet]))
        answer = await wire.answer()
        assert answer.status == 200
        await door.check_health(wire, answer)


async def test_http_1_0_ends_after_its_answer(door: DoorUnderTest) -> None:
    async with door.connect() as wire:
        await wire.send(door.signed(*GET).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await wire.answer()
        assert (answer.status, answer.body) == (200, KEPT)
        assert await wire.ended()


async def test_connection_close_is_obeyed(door: DoorUnderTest) -> None:
    async with door.connect() as wire:
        await wire.send(door.signed(*GET, b"", {"Connection": "close"}))
        assert (await wire.answer()).headers["connection"] == "close"
        assert await wire.ended()


async def test_a_body_on_a_get_is_read_past(door: DoorUnderTest) -> None:
    async with door.connect() as wire:
        await wire.send(door.signed(*GET, b"a body that nobody asked for"))
        answer = await wire.answer()
        assert (answer.status, answer.body) == (200, KEPT)
        assert "connection" not in answer.headers
        await door.check_health(wire, answer)


async def test_chunked_transfer_of_a_plain_body(door: DoorUnderTest) -> None:
    answer = await door.exchange(put(CHUNKS, ("Transfer-Encoding", "chunked"))(door))
    assert answer.status == 200
    assert (await door.call("GET", "/bucket/new")).body == b"body"


async def test_the_absolute_form_of_a_target(door: DoorUnderTest) -> None:
    signed = door.sign(*GET)
    assert (await door.exchange(render("GET", f"http://{door.signer.host}/bucket/kept", signed))).body == KEPT


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "HTTP/2.0", "TLS/1.2"])
async def test_an_upgrade_is_ignored(door: DoorUnderTest, protocol: str) -> None:
    headers = {
        "Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMAAABkAAQAAP__",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13",
    }  # fmt: skip
    async with door.connect() as wire:
        await wire.send(door.signed(*GET, b"", headers))
        answer = await wire.answer()
        assert (answer.status, answer.body, answer.interim) == (200, KEPT, ())
        await door.check_health(wire, answer)


# -- 100-continue ---------------------------------------------------------------------------------------------------


async def test_a_wanted_body_is_called_for(door: DoorUnderTest) -> None:
    async with door.connect() as wire:
        head = door.sign("PUT", "/bucket/new", b"body", {"Expect": "100-continue"})
        await wire.send(render("PUT", "/bucket/new", head))
        with trio.fail_after(DEADLINE_S):
            assert await wire.stream.receive_some(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"body")
        answer = await wire.answer()
        assert answer.status == 200
        await door.check_health(wire, answer)


@pytest.mark.parametrize(
    ("claims", "headers", "code"),
    [
        ({"secret": "x" * 40}, {}, "SignatureDoesNotMatch"),
        ({}, {"If-None-Match": "*"}, "PreconditionFailed"),
        ({}, {"Content-MD5": "nonsense"}, "InvalidDigest"),
        ({}, {"Content-Length": str(2**43)}, "EntityTooLarge"),
    ],
)
async def test_an_unwanted_body_is_never_called_for(
    door: DoorUnderTest, claims: dict[str, str], headers: dict[str, str], code: str
) -> None:
    sent = {"Expect": "100-continue", "Content-Length": "4", **headers}
    signed = door.sign("PUT", "/bucket/kept", b"body", sent, **claims)
    answer = await door.check_refused(render("PUT", "/bucket/kept", signed), _status(code), code)
    assert answer.interim == ()
    assert answer.headers["connection"] == "close"


def _status(code: str) -> int:
    return {"SignatureDoesNotMatch": 403, "PreconditionFailed": 412}.get(code, 400)


async def test_an_answer_has_a_reason_phrase(door: DoorUnderTest) -> None:
    """Botocore takes a refusal that comes instead of 100 Continue for an answer only then."""
    async with door.connect() as wire:
        await wire.send(render("GET", "/bucket/kept", {"Host": door.signer.host}))
        with trio.fail_after(DEADLINE_S):
            assert (await wire.stream.receive_some(64)).startswith(b"HTTP/1.1 403 Forbidden\r\n")


async def test_an_empty_body_is_called_for_at_once(door: DoorUnderTest) -> None:
    """Aws-cli mixes up answers on a connection where a final one came instead of 100 Continue."""
    async with door.connect() as wire:
        for secret, status in ((door.signer.secret, 200), ("x" * 40, 403)):
            await wire.send(door.signed("PUT", "/bucket/new", b"", {"Expect": "100-continue"}, secret=secret))
            answer = await wire.answer()
            assert (answer.status, answer.interim) == (status, (100,))
            assert "connection" not in answer.headers
        await door.check_health(wire, answer)


async def test_a_refused_body_that_came_unasked_is_read_past(door: DoorUnderTest) -> None:
    signed = door.sign("PUT", "/bucket/kept", b"body", {"Expect": "100-continue"}, secret="x" * 40)
    answer = await door.check_refused(render("PUT", "/bucket/kept", signed, b"body"), 403, "SignatureDoesNotMatch")
    assert "connection" not in answer.headers


@pytest.mark.parametrize("expectation", ["200", "", "100-Continue"])
async def test_other_expectations_change_nothing(door: DoorUnderTest, expectation: str) -> None:
    answer = await door.call("PUT", "/bucket/new", b"body", {"Expect": expectation})
    assert answer.status == 200


# -- slow and vanishing clients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /bucket/kept HTTP/1.1\r\nHost: x\r\nx-a:"], ids=["nothing", "half a head"])
async def test_a_head_that_does_not_come(tmp_path: Path, sent: bytes) -> None:
    async with open_door(tmp_path, idle_s=0.05) as door, door.connect() as wire:
        await wire.send(sent)
        if sent:
            answer = await wire.answer()
            assert (answer.status, answer.code) == (400, "RequestTimeout")
        assert await wire.ended()
        assert await door.stored() == ["kept"]


async def test_a_trickling_head_does_not_hold_the_connection(tmp_path: Path) -> None:
    async with open_door(tmp_path, idle_s=0.05) as door, door.connect() as wire, trio.open_nursery() as nursery:

        async def trickle() -> None:
            while True:
                await wire.send(b"a")
                await trio.sleep(0.005)

        await wire.send(b"GET /bucket/kept HTTP/1.1\r\nx-a: ")
        nursery.start_soon(trickle)
        assert (await wire.answer()).code == "RequestTimeout"
        nursery.cancel_scope.cancel()


async def test_a_body_that_does_not_come(tmp_path: Path) -> None:
    async with open_door(tmp_path, stall_s=0.05) as door:
        signed = door.sign("PUT", "/bucket/new", b"body of which half comes")
        raw = render("PUT", "/bucket/new", signed, b"body of which")
        answer = await door.check_refused(raw, 400, "RequestTimeout")
        assert answer.headers["connection"] == "close"


async def test_a_refusal_does_not_wait_for_a_body_that_does_not_come(
    door: DoorUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshhold.s3.http.conversation._DRAIN_S", 0.02)
    signed = door.sign("PUT", "/bucket/new", b"body", secret="x" * 40)
    answer = await door.check_refused(render("PUT", "/bucket/new", signed), 403, "SignatureDoesNotMatch")
    assert answer.headers["connection"] == "close"


async def test_a_body_that_ends_early(door: DoorUnderTest) -> None:
    signed = door.sign("PUT", "/bucket/new", b"body of which half comes")
    async with door.connect() as wire:
        await wire.send(render("PUT", "/bucket/new", signed, b"body of which"))
        await wire.stream.send_eof()
        answer = await wire.answer()
        assert (answer.status, answer.code) == (400, "IncompleteBody")
        assert await wire.ended()
    await door.settle()
    assert await door.stored() == ["kept"]


@pytest.mark.parametrize("sent", [0, 100, 3 * MIB])
async def test_an_upload_whose_client_vanishes(door: DoorUnderTest, sent: int) -> None:
    signed = door.sign("PUT", "/bucket/new", payload=UNSIGNED, headers={"Content-Length": str(8 * MIB)})
    async with door.connect() as wire:
        await wire.send(render("PUT", "/bucket/new", signed, bytes(sent)))
    await door.settle()
    assert await door.stored() == ["kept"]


async def _put_large(door: DoorUnderTest, size: int) -> None:
    assert (await door.call("PUT", "/bucket/large", bytes(size), payload=UNSIGNED)).status == 200


async def test_a_download_whose_client_vanishes(door: DoorUnderTest) -> None:
    await _put_large(door, 24 * MIB)
    async with door.connect() as wire:
        await wire.send(door.signed("GET", "/bucket/large"))
        with trio.fail_after(DEADLINE_S):
            assert await wire.stream.receive_some(1000)
    await door.settle()
    assert (await door.call(*GET)).body == KEPT


async def test_a_download_whose_client_takes_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path, stall_s=0.05) as door:
        await _put_large(door, 24 * MIB)
        async with door.connect() as wire:
            await wire.send(door.signed("GET", "/bucket/large"))
            with trio.fail_after(DEADLINE_S):
                assert await wire.stream.receive_some(1)
            await door.settle()
            received = 0
            with trio.fail_after(DEADLINE_S), suppress(trio.BrokenResourceError):
                while piece := await wire.stream.receive_some(MIB):
                    received += len(piece)
            assert received < 24 * MIB  # only what the kernel had taken already
        assert (await door.call(*GET)).body == KEPT


async def test_a_refused_large_body_is_answered_although_it_is_not_read(door: DoorUnderTest) -> None:
    body = bytes(24 * MIB)
    async with door.connect() as wire:
        signed = door.sign(
            "PUT", "/bucket/new", payload=UNSIGNED, headers={"Content-Length": str(len(body))}, secret="x"
        )
        await wire.send(render("PUT", "/bucket/new", signed, body))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
        assert await wire.ended()
    await door.settle()
    assert await door.stored() == ["kept"]


async def test_more_requests_at_once_than_allowed(tmp_path: Path) -> None:
    async with open_door(tmp_path, requests_max=2) as door, door.connect() as one, door.connect() as two:
        await _hold(door, one)
        await _hold(door, two)
        async with door.connect() as three:
            await three.send(door.signed(*GET))
            answer = await three.answer()
            assert (answer.status, answer.code) == (503, "SlowDown")
            for wire in (one, two):
                await wire.send(b"y")
                assert (await wire.answer()).status == 200
            await door.check_health(three, answer)


async def _hold(door: DoorUnderTest, wire: Wire) -> None:
    """Begin a PUT of two bytes and send one of them; the door is busy with it when this returns."""
    before = door.app._in_flight
    signed = door.sign("PUT", "/bucket/held", b"xy", payload=UNSIGNED)
    await wire.send(render("PUT", "/bucket/held", signed, b"x"))
    with trio.fail_after(DEADLINE_S):
        while door.app._in_flight == before:  # noqa: ASYNC110 - the app counts; nobody but tests would wait for it
            await trio.sleep(0.001)


async def test_the_oldest_idle_connection_makes_room(tmp_path: Path) -> None:
    async with open_door(tmp_path, connections_max=3) as door, AsyncExitStack() as stack:
        wires = []
        for _ in range(4):
            wires.append(await stack.enter_async_context(door.connect()))
            await wires[-1].send(door.signed(*GET))
            assert (await wires[-1].answer()).body == KEPT
        assert await wires.pop(0).ended()
        for wire in wires:
            await wire.send(door.signed(*GET))
            assert (await wire.answer()).body == KEPT


async def test_a_connection_too_many_is_turned_away(tmp_path: Path) -> None:
    async with open_door(tmp_path, connections_max=2) as door, door.connect() as one, door.connect() as two:
        for wire in (one, two):
            await _hold(door, wire)
        async with door.connect() as three:
            await three.send(door.signed(*GET))
            answer = await three.answer()
            assert (answer.status, answer.code, answer.headers["connection"]) == (503, "SlowDown", "close")
            assert await three.ended()
        for wire in (one, two):
            await wire.send(b"y")
            assert (await wire.answer()).status == 200


async def test_a_stop_lets_a_request_end(door: DoorUnderTest) -> None:
    async with door.connect() as idle, door.connect() as wire:
        await _hold(door, wire)
        door.stop.set()
        assert await idle.ended()
        await wire.send(b"y")
        answer: Answer = await wire.answer()
        assert answer.status == 200
        assert await wire.ended()
