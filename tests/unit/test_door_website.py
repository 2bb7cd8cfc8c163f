"""Buckets as web sites: which host is which bucket, what a browser gets, and that grants decide."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from tests.door import Answer, DoorUnderTest, Wire, open_door, render

from meshhold.model.grant import Permission
from meshhold.s3.http.server import open_listeners, run_s3
from meshhold.web.app import WebApp
from meshhold.web.hosts import bucket_of

ALL = Permission.READ | Permission.WRITE | Permission.OWN
SITE = """<WebsiteConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<IndexDocument><Suffix>index.html</Suffix></IndexDocument><ErrorDocument><Key>errors/404.html</Key></ErrorDocument>
<RoutingRules>
<RoutingRule><Condition><KeyPrefixEquals>old/</KeyPrefixEquals></Condition>
<Redirect><ReplaceKeyPrefixWith>new/</ReplaceKeyPrefixWith></Redirect></RoutingRule>
<RoutingRule><Condition><KeyPrefixEquals>app/</KeyPrefixEquals>
<HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals></Condition>
<Redirect><HostName>app.example.com</HostName><Protocol>https</Protocol><ReplaceKeyWith>start</ReplaceKeyWith>
<HttpRedirectCode>307</HttpRedirectCode></Redirect></RoutingRule>
</RoutingRules></WebsiteConfiguration>"""
PAGES = {
    "index.html": b"<h1>home</h1>",
    "blog/index.html": b"<h1>blog</h1>",
    "errors/404.html": b"<h1>lost</h1>",
    "media/a b.bin": bytes(range(256)) * 100,
}


class Browser:
    """Asks the web listener, by default for the site of the bucket `bucket`."""

    def __init__(self, door: DoorUnderTest, port: int) -> None:
        self.door = door
        self._port = port

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None, host: str = "bucket") -> Answer:
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            wire = Wire(stream)
            await wire.send(render(method, path, {"Host": host, **(headers or {})}))
            return await wire.answer(method)

    async def get(self, path: str, headers: dict[str, str] | None = None, host: str = "bucket") -> Answer:
        return await self.ask("GET", path, headers, host)


@asynccontextmanager
async def open_web(door: DoorUnderTest) -> AsyncIterator[Browser]:
    def refuse(error: BaseException) -> None:
        raise AssertionError from error

    hosts = {"www.example.com": "bucket"}
    app = WebApp(door.node.door, "tests", hosts=hosts, root_domain="sites.example.com", on_fatal=refuse)
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(run_s3, app, listeners, door.stop)
        yield Browser(door, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Browser]:
    async with open_door(tmp_path) as door, open_web(door) as browser:
        await door.grant(door.signer.key_id, ALL)
        await door.grant("anonymous", Permission.READ)
        for key, page in PAGES.items():
            kind = "text/html" if key.endswith("html") else "application/octet-stream"
            headers = {"Content-Type": kind, "Cache-Control": "max-age=60"}
            assert (await door.call("PUT", f"/bucket/{key.replace(' ', '%20')}", page, headers)).status == 200
        assert (await door.call("PUT", "/bucket?website", SITE.encode())).status == 200
        yield browser


async def test_folders_show_their_index(web: Browser) -> None:
    for path, key in (("/", "index.html"), ("/blog/", "blog/index.html"), ("/?utm=1", "index.html")):
        answer = await web.get(path)
        assert (answer.status, answer.body) == (200, PAGES[key])
        assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("text/html", "max-age=60")
    answer = await web.get("/blog?page=2")
    assert (answer.status, answer.headers["location"]) == (302, "/blog/?page=2")


async def test_hosts_name_buckets(web: Browser) -> None:
    for host in ("bucket", "BUCKET:3902", "bucket.", "bucket.sites.example.com", "www.example.com:80"):
        assert (await web.get("/", host=host)).status == 200, host
    for host in ("other", "example.com", "a.bucket.sites.example.com", "sites.example.com", "127.0.0.1:3902", ""):
        answer = await web.get("/", host=host)
        assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8"), host
        assert "NoSuchBucket" in answer.text


async def test_ranges_and_conditions(web: Browser) -> None:
    whole = PAGES["media/a b.bin"]
    part = await web.get("/media/a%20b.bin", {"Range": "bytes=100-1099"})
    assert (part.status, part.body) == (206, whole[100:1100])
    assert part.headers["content-range"] == f"bytes 100-1099/{len(whole)}"
    etag = part.headers["etag"]
    assert (await web.get("/media/a%20b.bin", {"If-None-Match": etag})).status == 304
    assert (await web.get("/media/a%20b.bin", {"If-Match": '"x"'})).status == 412
    assert (await web.get("/media/a%20b.bin", {"Range": "bytes=99999-"})).status == 416
    head = await web.ask("HEAD", "/media/a%20b.bin")
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(whole)), b"")


async def test_what_is_not_there_gets_the_error_document(web: Browser) -> None:
    answer = await web.get("/nothing", {"If-None-Match": "*", "Range": "bytes=0-1"})
    assert (answer.status, answer.body) == (404, PAGES["errors/404.html"])
    assert "etag" not in answer.headers
    assert "cache-control" not in answer.headers
    head = await web.ask("HEAD", "/nothing")
    assert (head.status, head.body) == (404, b"")
    assert (await web.door.call("DELETE", "/bucket/errors/404.html")).status == 204
    plain = await web.get("/%3Cscript%3E")
    assert (plain.status, "NoSuchKey" in plain.text, "<script>" in plain.text) == (404, True, False)


async def test_rules_redirect(web: Browser) -> None:
    old = await web.get("/old/a?q=1")
    assert (old.status, old.headers["location"], old.body) == (301, "/new/a?q=1", b"")
    lost = await web.get("/app/x/y")
    assert (lost.status, lost.headers["location"]) == (307, "https://app.example.com/start")


async def test_an_object_can_be_a_redirect(web: Browser) -> None:
    door = web.door
    location = {"x-amz-website-redirect-location": "https://example.com/new"}
    assert (await door.call("PUT", "/bucket/moved", b"", location)).status == 200
    answer = await web.get("/moved")
    assert (answer.status, answer.headers["location"]) == (301, "https://example.com/new")
    told = await door.call("HEAD", "/bucket/moved")
    assert told.headers["x-amz-website-redirect-location"] == "https://example.com/new"
    copied = await door.call("PUT", "/bucket/copy", b"", {"x-amz-copy-source": "/bucket/moved"})
    assert copied.status == 200
    assert "x-amz-website-redirect-location" not in (await door.call("HEAD", "/bucket/copy")).headers
    given = {"x-amz-copy-source": "/bucket/kept", "x-amz-website-redirect-location": "/there"}
    assert (await door.call("PUT", "/bucket/copy", b"", given)).status == 200
    assert (await web.get("/copy")).headers["location"] == "/there"
    wrong = await door.call("PUT", "/bucket/moved", b"", {"x-amz-website-redirect-location": "ftp://x"})
    assert (wrong.status, wrong.code) == (400, "InvalidRedirectLocation")


async def test_grants_decide(web: Browser) -> None:
    await web.door.node.access.revoke("anonymous", "bucket")
    answer = await web.get("/")
    assert answer.status == 403
    assert "AccessDenied" in answer.text
    signed = web.door.sign("GET", "/index.html")
    assert (await web.get("/index.html", signed | {"Host": "bucket"})).status == 403
    presigned = web.door.signer.presign("GET", "/bucket/index.html").removeprefix("/bucket")
    assert (await web.get(presigned)).status == 403


async def test_a_website_is_only_read(web: Browser) -> None:
    for method in ("PUT", "POST", "DELETE", "PATCH", "get"):
        answer = await web.ask(method, "/index.html")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (await web.get("/?list-type=2")).body == PAGES["index.html"]
    assert (await web.get("/index.html?acl&versionId=x&response-content-type=text/plain")).body == PAGES["index.html"]


async def test_a_bucket_without_a_website_serves_its_objects_alone(web: Browser) -> None:
    assert (await web.door.call("DELETE", "/bucket?website")).status == 204
    assert (await web.get("/index.html")).body == PAGES["index.html"]
    for path in ("/", "/blog/", "/blog"):
        assert (await web.get(path)).status == 404


async def test_pages_of_other_origins(web: Browser) -> None:
    rule = "<CORSRule><AllowedOrigin>https://a</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule>"
    raw = f"<CORSConfiguration>{rule}</CORSConfiguration>".encode()
    assert (await web.door.call("PUT", "/bucket?cors", raw)).status == 200
    wish = {"Origin": "https://a", "Access-Control-Request-Method": "GET"}
    for answer in (
        await web.ask("OPTIONS", "/x", wish),
        await web.get("/", wish),
        await web.get("/old/a", wish),
        await web.get("/none", wish),
        await web.ask("PUT", "/x", wish),
    ):
        assert answer.headers["access-control-allow-origin"] == "https://a"
        assert "Origin" in answer.headers["vary"]
    assert (await web.ask("OPTIONS", "/x", wish | {"Origin": "https://b"})).status == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [("/%zz", 400), ("/%00", 400), ("/%ff", 400), ("/" + "k" * 1025, 400), ("nowhere", 400), ("//evil", 404)],
)
async def test_names_that_no_object_can_have(web: Browser, path: str, status: int) -> None:
    assert (await web.get(path)).status == status


async def test_the_document_is_shown_as_it_was_set(web: Browser) -> None:
    shown = await web.door.call("GET", "/bucket?website")
    assert (shown.tag("Suffix"), shown.tag("Key")) == ("index.html", "errors/404.html")
    assert shown.tags("HttpRedirectCode") == ["301", "307"]
    assert (await web.door.call("PUT", "/bucket?website", shown.body)).status == 200
    assert (await web.door.call("GET", "/bucket?website")).body == shown.body
    assert (await web.door.call("DELETE", "/bucket?website")).status == 204
    gone = await web.door.call("GET", "/bucket?website")
    assert (gone.status, gone.code) == (404, "NoSuchWebsiteConfiguration")


INDEX = "<IndexDocument><Suffix>i</Suffix></IndexDocument>"


@pytest.mark.parametrize(
    ("inner", "code"),
    [
        ("", "InvalidArgument"),
        ("<IndexDocument/>", "MalformedXML"),
        ("<IndexDocument><Suffix>a/b</Suffix></IndexDocument>", "InvalidArgument"),
        (INDEX * 2, "MalformedXML"),
        (f"{INDEX}<Other/>", "MalformedXML"),
        (f"{INDEX}<RoutingRules><RoutingRule/></RoutingRules>", "MalformedXML"),
        (f"{INDEX}<RoutingRules><RoutingRule><Redirect/></RoutingRule></RoutingRules>", "MalformedXML"),
        (f"{INDEX}<RedirectAllRequestsTo><HostName>h</HostName></RedirectAllRequestsTo>", "InvalidArgument"),
        ("<RedirectAllRequestsTo><HostName>a b</HostName></RedirectAllRequestsTo>", "InvalidArgument"),
    ],
)
async def test_documents_that_s3_does_not_take(web: Browser, inner: str, code: str) -> None:
    raw = f"<WebsiteConfiguration>{inner}</WebsiteConfiguration>".encode()
    answer = await web.door.call("PUT", "/bucket?website", raw)
    assert (answer.status, answer.code) == (400, code)


async def test_a_whole_site_can_be_elsewhere(web: Browser) -> None:
    everywhere = (
        "<RedirectAllRequestsTo><HostName>www.example.com</HostName><Protocol>https</Protocol></RedirectAllRequestsTo>"
    )
    raw = f"<WebsiteConfiguration>{everywhere}</WebsiteConfiguration>".encode()
    assert (await web.door.call("PUT", "/bucket?website", raw)).status == 200
    for path in ("/", "/a/b%20c?q=1", "/index.html"):
        answer = await web.get(path)
        assert (answer.status, answer.headers["location"]) == (301, f"https://www.example.com{path}")


def test_a_mapped_host_goes_before_a_bucket_of_that_name() -> None:
    assert bucket_of("Site:80", {"site": "mapped"}, "", lambda _: True) == "mapped"
    assert bucket_of("[::1]:3902", {}, "", lambda _: False) == ""
    assert bucket_of(".root", {}, "root", lambda _: False) == ""
