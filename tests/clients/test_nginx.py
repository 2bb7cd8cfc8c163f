"""nginx from Debian with examples/nginx: browsers read by grant, apps write by signature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from tests.clients.nginx import ask, make_certificate, running_nginx
from tests.clients.site import MIB, Site
from tests.cluster.daemons import free_port

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

PUBLIC = {"Host": "media.example.com"}


@dataclass(frozen=True)
class Front:
    """nginx's address, the certificate to trust, and what is behind it."""

    url: str
    ca: Path
    site: Site

    def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any, bytes]:
        """Send a request without a signature, under the public name."""
        headers = PUBLIC | dict(more.pop("headers", {}))
        return ask(method, self.url + path, headers=headers, ca=self.ca, **more)

    def s3(self, endpoint: str) -> Any:
        """Return boto3 with the site's key."""
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="meshhold",
            verify=str(self.ca),
            aws_access_key_id=self.site.key["access_key_id"],
            aws_secret_access_key=self.site.key["secret_access_key"],
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )


@pytest.fixture(scope="module")
def front(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Run nginx with the example's server block; media-bucket is public, app-bucket is not."""
    folder = tmp_path_factory.mktemp("nginx")
    ca, port = make_certificate(folder, "media.example.com"), free_port()
    site.bucket("media-bucket", public=True)
    site.bucket("app-bucket")
    block = (
        site.example("nginx/media.conf")
        .replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        .replace("/etc/ssl/", f"{folder}/")
    )
    with running_nginx(folder, block, port):
        yield Front(f"https://127.0.0.1:{port}", ca, site)


@pytest.fixture(scope="module")
def video(front: Front) -> bytes:
    """Put a video where everybody may see it."""
    body = front.site.sample("video", 3 * MIB + 17).read_bytes()
    s3 = front.s3(front.site.node.endpoint)
    s3.put_object(Bucket="media-bucket", Key="a/vidéo 1.mp4", Body=body, ContentType="video/mp4")
    return body


def test_anonymous_reads(front: Front, video: bytes) -> None:
    """GET and HEAD without a signature are served where the grant says so."""
    status, headers, body = front.ask("GET", "/media-bucket/a/vid%C3%A9o%201.mp4")
    assert (status, headers["Content-Type"], body) == (200, "video/mp4", video)
    status, headers, body = front.ask("HEAD", "/media-bucket/a/vid%C3%A9o%201.mp4")
    assert (status, headers["Content-Length"], body) == (200, str(len(video)), b"")
    assert front.ask("GET", "/media-bucket/a/vid%C3%A9o%201.mp4", headers={"If-None-Match": headers["ETag"]})[0] == 304


@pytest.mark.parametrize("text", ["bytes=0-99", "bytes=1048000-1049000", "bytes=-7", "bytes=3145700-"])
def test_anonymous_ranges(front: Front, video: bytes, text: str) -> None:
    """A player seeks: each range is the bytes of the whole."""
    status, headers, body = front.ask("GET", "/media-bucket/a/vid%C3%A9o%201.mp4", headers={"Range": text})
    first, _, last = text.removeprefix("bytes=").partition("-")
    start = int(first) if first else len(video) - int(last)
    stop = int(last) + 1 if first and last else len(video)
    assert (status, headers["Content-Range"]) == (206, f"bytes {start}-{stop - 1}/{len(video)}")
    assert body == video[start:stop]


def test_a_foreign_authorization_is_stripped(front: Front, video: bytes) -> None:
    """A browser that sends credentials of its own still reads."""
    assert front.ask("GET", "/media-bucket/a/vid%C3%A9o%201.mp4", headers={"Authorization": "Basic eDp5"})[2] == video


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/media-bucket/a/new"),
        ("DELETE", "/media-bucket/a/vid%C3%A9o%201.mp4"),
        ("POST", "/media-bucket/?delete"),
        ("GET", "/media-bucket/"),
        ("GET", "/media-bucket/?list-type=2"),
        ("GET", "/media-bucket/?uploads"),
        ("GET", "/media-bucket/no-such-key"),
        ("GET", "/app-bucket/anything"),
        ("PUT", "/app-bucket/anything"),
    ],
)
def test_what_anonymous_requests_may_not(front: Front, video: bytes, method: str, path: str) -> None:
    """Writing and listing are refused, so is learning which names exist, and the private bucket altogether."""
    assert front.ask(method, path, body=b"x" if method in ("PUT", "POST") else None)[0] == 403
    assert front.ask("GET", "/media-bucket/a/vid%C3%A9o%201.mp4")[2] == video


def test_writes_are_refused_behind_nginx_too(front: Front, video: bytes) -> None:
    """MeshHold itself refuses what nginx does, for a front that is set up wrongly."""
    direct = f"{front.site.node.endpoint}/media-bucket/a/vid%C3%A9o%201.mp4"
    assert ask("GET", direct)[2] == video
    for method, url in (("PUT", direct), ("DELETE", direct), ("GET", f"{front.site.node.endpoint}/media-bucket/")):
        status, _, said = ask(method, url, body=b"x" if method == "PUT" else None)
        assert (status, b"<Code>AccessDenied</Code>" in said) == (403, True)


def test_signed_writes_through_the_second_location(front: Front) -> None:
    """An app elsewhere uses nginx as its endpoint: one PUT, parts, a listing, a presigned read."""
    s3, body = front.s3(front.url), front.site.sample("app", 20 * MIB + 1).read_bytes()
    s3.put_object(Bucket="app-bucket", Key="signed ü", Body=body)
    assert s3.get_object(Bucket="app-bucket", Key="signed ü")["Body"].read() == body
    s3.upload_file(str(front.site.folder / "app"), "app-bucket", "parts")
    assert s3.get_object(Bucket="app-bucket", Key="parts")["Body"].read() == body
    assert [o["Key"] for o in s3.list_objects_v2(Bucket="app-bucket")["Contents"]] == ["parts", "signed ü"]
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "app-bucket", "Key": "parts"})
    assert ask("GET", url, ca=front.ca)[2] == body
