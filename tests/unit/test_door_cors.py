"""Pages of other origins: what is set, what a preflight is told, which headers any other answer has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.door import KEPT, Answer, DoorUnderTest, open_door, render

from meshhold.model.grant import Permission

ALL = Permission.READ | Permission.WRITE | Permission.OWN
RULES = b"""<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<CORSRule><ID>app</ID><AllowedOrigin>https://app.example.com</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>
<AllowedMethod>GET</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>
<MaxAgeSeconds>600</MaxAgeSeconds></CORSRule>
<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule>
</CORSConfiguration>"""
APP = "https://app.example.com"
VARY = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        await opened.grant(opened.signer.key_id, ALL)
        yield opened


def allowed(answer: Answer) -> dict[str, str]:
    start = "access-control-"
    return {name.removeprefix(start): value for name, value in answer.headers.items() if name.startswith(start)}


async def ask(door: DoorUnderTest, headers: dict[str, str], target: str = "/bucket/kept") -> Answer:
    return await door.exchange(render("OPTIONS", target, {"Host": door.signer.host, **headers}))


async def set_rules(door: DoorUnderTest, rules: bytes = RULES) -> None:
    assert (await door.call("PUT", "/bucket?cors", rules)).status == 200


async def test_rules_are_set_shown_and_deleted(door: DoorUnderTest) -> None:
    gone = await door.call("GET", "/bucket?cors")
    assert (gone.status, gone.code) == (404, "NoSuchCORSConfiguration")
    await set_rules(door)
    shown = await door.call("GET", "/bucket?cors")
    assert shown.tags("AllowedOrigin") == [APP, "*"]
    assert (shown.tag("ID"), shown.tag("MaxAgeSeconds"), shown.tag("ExposeHeader")) == ("app", "600", "ETag")
    await set_rules(door, shown.body)
    assert (await door.call("GET", "/bucket?cors")).body == shown.body
    assert (await door.call("DELETE", "/bucket?cors")).status == 204
    assert (await door.call("DELETE", "/bucket?cors")).status == 204
    assert (await door.call("GET", "/bucket?cors")).status == 404


async def test_only_who_owns_the_bucket_sets_them(door: DoorUnderTest) -> None:
    await door.grant(door.signer.key_id, Permission.READ | Permission.WRITE)
    for method in ("PUT", "DELETE"):
        answer = await door.call(method, "/bucket?cors", RULES if method == "PUT" else b"")
        assert (answer.status, answer.code) == (403, "AccessDenied")


async def test_a_preflight_needs_no_signature(door: DoorUnderTest) -> None:
    await set_rules(door)
    wish = {"Origin": APP, "Access-Control-Request-Method": "PUT"}
    answer = await ask(door, wish | {"Access-Control-Request-Headers": "X-Amz-Date, x-amz-meta-a"})
    assert (answer.status, answer.body) == (200, b"")
    assert allowed(answer) == {
        "allow-origin": APP,
        "allow-methods": "PUT, GET",
        "allow-headers": "x-amz-date, x-amz-meta-a",
        "allow-credentials": "true",
        "expose-headers": "ETag",
        "max-age": "600",
    }
    assert answer.headers["vary"] == VARY
    anybody = await ask(door, {"Origin": "https://other", "Access-Control-Request-Method": "GET"}, "/bucket")
    assert allowed(anybody) == {"allow-origin": "*", "allow-methods": "GET"}
    presigned = door.signer.presign("PUT", "/bucket/new")
    assert (await ask(door, wish, presigned)).status == 200


@pytest.mark.parametrize(
    ("headers", "status", "told"),
    [
        ({}, 400, "Insufficient information. Origin request header needed."),
        ({"Origin": APP}, 400, "Invalid Access-Control-Request-Method: null"),
        (
            {"Origin": APP, "Access-Control-Request-Method": "PATCH"},
            400,
            "Invalid Access-Control-Request-Method: PATCH",
        ),
        ({"Origin": "http://x", "Access-Control-Request-Method": "PUT"}, 403, "This CORS request is not allowed"),
        (
            {"Origin": APP, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "range"},
            403,
            "This CORS request is not allowed",
        ),
        (
            {"Origin": APP, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-amz-a," * 65},
            400,
            "more than 64",
        ),
    ],
)
async def test_other_questions(door: DoorUnderTest, headers: dict[str, str], status: int, told: str) -> None:
    await set_rules(door)
    answer = await ask(door, headers)
    assert (answer.status, answer.code) == (status, "BadRequest" if status == 400 else "AccessForbidden")
    assert told in answer.tag("Message")
    assert allowed(answer) == {}


async def test_without_rules_every_question_is_refused(door: DoorUnderTest) -> None:
    wish = {"Origin": APP, "Access-Control-Request-Method": "GET"}
    answer = await ask(door, wish)
    assert (answer.status, answer.code) == (403, "AccessForbidden")
    assert "CORS is not enabled for this bucket" in answer.tag("Message")
    assert (answer.tag("Method"), answer.tag("ResourceType")) == ("GET", "OBJECT")
    assert (await ask(door, wish, "/nowhere/key")).code == "NoSuchBucket"
    plain = await door.call("GET", "/bucket/kept", headers={"Origin": APP})
    assert allowed(plain) == {}
    assert "vary" not in plain.headers


async def test_answers_tell_the_page(door: DoorUnderTest) -> None:
    await set_rules(door)
    read = await door.call("GET", "/bucket/kept", headers={"Origin": "https://other"})
    assert (read.status, read.body, allowed(read)["allow-origin"]) == (200, KEPT, "*")
    write = await door.call("PUT", "/bucket/new", b"x", headers={"Origin": APP})
    assert (write.status, allowed(write)["allow-origin"], allowed(write)["expose-headers"]) == (200, APP, "ETag")
    unfit = await door.call("PUT", "/bucket/new", b"x", headers={"Origin": "https://other"})
    assert (unfit.status, allowed(unfit), unfit.headers["vary"]) == (200, {}, VARY)
    silent = await door.call("GET", "/bucket/kept")
    assert (allowed(silent), silent.headers["vary"]) == ({}, VARY)


async def test_refusals_tell_the_page_too(door: DoorUnderTest) -> None:
    await set_rules(door)
    missing = await door.call("GET", "/bucket/none", headers={"Origin": APP})
    assert (missing.status, allowed(missing)["allow-origin"]) == (404, APP)
    unsigned = render("PUT", "/bucket/new", {"Host": door.signer.host, "Origin": APP, "Content-Length": "0"})
    answer = await door.exchange(unsigned)
    assert (answer.status, allowed(answer)["allow-origin"]) == (403, APP)
    forged = await door.call("GET", "/bucket/kept", headers={"Origin": APP}, secret="x" * 40)
    assert (forged.code, allowed(forged)["allow-origin"]) == ("SignatureDoesNotMatch", APP)


RULE = "<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod>{}</CORSRule>"


@pytest.mark.parametrize(
    ("inner", "code"),
    [
        ("", "MalformedXML"),
        (RULE.format("") * 101, "MalformedXML"),
        ("<CORSRule><AllowedMethod>GET</AllowedMethod></CORSRule>", "MalformedXML"),
        ("<CORSRule><AllowedOrigin>*</AllowedOrigin></CORSRule>", "MalformedXML"),
        (RULE.format("<Other/>"), "MalformedXML"),
        (RULE.format("<ID>a</ID><ID>b</ID>"), "MalformedXML"),
        (RULE.format("<MaxAgeSeconds>soon</MaxAgeSeconds>"), "MalformedXML"),
        (RULE.format("<AllowedMethod>PATCH</AllowedMethod>"), "InvalidRequest"),
        (RULE.format("<AllowedOrigin>http://*.*</AllowedOrigin>"), "InvalidRequest"),
        (RULE.format("<ExposeHeader>*</ExposeHeader>"), "InvalidRequest"),
        (RULE.format(f"<ID>{'i' * 256}</ID>"), "InvalidRequest"),
        (f"<!-- {' ' * 61440} -->{RULE.format('')}", "MaxMessageLengthExceeded"),
    ],
)
async def test_documents_that_s3_does_not_take(door: DoorUnderTest, inner: str, code: str) -> None:
    raw = f"<CORSConfiguration>{inner}</CORSConfiguration>".encode()
    answer = await door.call("PUT", "/bucket?cors", raw)
    assert (answer.status, answer.code) == (400, code)
    assert (await door.call("GET", "/bucket?cors")).status == 404
