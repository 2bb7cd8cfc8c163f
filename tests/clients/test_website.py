"""examples/static-site with aws, the web listener and nginx: publish, read as a browser, change, publish again."""

from __future__ import annotations

import shutil
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.clients.nginx import ask, running_nginx
from tests.clients.programs import ROOT, Program, pypi_program
from tests.clients.site import Site, open_site
from tests.cluster.daemons import free_port

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

CONFIG = """\
node:
  s3: {{listen_addr: "127.0.0.1:3900"}}
  web:
    enabled: true
    listen_addr: "127.0.0.1:{port}"
    hosts: {{www.example.com: my-site}}
"""
WWW = {"Host": "www.example.com"}


@dataclass(frozen=True)
class Published:
    """The example's folder, what publishes it, and where its listener is."""

    folder: Path
    publish: Program
    url: str

    @property
    def pages(self) -> Path:
        return self.folder / "_site"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, int]]:
    """Run a node with the web listener; return it with the listener's port."""
    port = free_port()
    with open_site(tmp_path_factory.mktemp("node"), CONFIG.format(port=port)) as opened:
        yield opened, port


@pytest.fixture(scope="module")
def published(site: tuple[Site, int], tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Follow the example: a public bucket, its website, its pages."""
    node, port = site
    node.bucket("my-site", "read,write,own", public=True)
    folder = tmp_path_factory.mktemp("example") / "static-site"
    shutil.copytree(ROOT / "examples" / "static-site", folder)
    script = folder / "publish.sh"
    script.write_text(node.example("static-site/publish.sh"))
    publish = Program(str(script), folder, node.environment())
    aws = pypi_program("aws")
    publish.environment["PATH"] = f"{Path(aws).parent}:{publish.environment['PATH']}"
    Program(aws, folder, node.environment()).run(
        "s3api", "put-bucket-website", "--bucket", "my-site",
        "--website-configuration", f"file://{folder}/website.json",
    )  # fmt: skip
    publish.run()
    return Published(folder, publish, f"http://127.0.0.1:{port}")


def test_a_browser_gets_pages_and_error_pages(published: Published) -> None:
    status, headers, body = ask("GET", f"{published.url}/", headers=WWW)
    assert (status, headers["Content-Type"]) == (200, "text/html")
    assert body == (published.pages / "index.html").read_bytes()
    status, headers, body = ask("GET", f"{published.url}/css/style.css", headers=WWW)
    assert (status, headers["Content-Type"]) == (200, "text/css")
    status, _, body = ask("GET", f"{published.url}/nothing", headers=WWW)
    assert (status, body) == (404, (published.pages / "404.html").read_bytes())
    assert ask("GET", f"{published.url}/", headers={"Host": "my-site"})[0] == 200
    assert ask("GET", f"{published.url}/x", headers={"Host": "my-bucket"})[0] == 403


def test_behind_nginx_what_is_published_anew_is_shown(
    published: Published, site: tuple[Site, int], tmp_path: Path
) -> None:
    port = free_port()
    block = (
        site[0].example("static-site/site.conf")
        .replace("listen 80", f"listen 127.0.0.1:{port}")
        .replace("127.0.0.1:3902", f"127.0.0.1:{site[1]}")
    )  # fmt: skip
    with running_nginx(tmp_path, block, port):
        url = f"http://127.0.0.1:{port}"
        assert ask("GET", f"{url}/", headers=WWW)[0] == 200
        (published.pages / "css" / "style.css").unlink()
        (published.pages / "about").mkdir()
        (published.pages / "about" / "index.html").write_bytes(b"<p>about")
        (published.pages / "über 100% a+b?.html").write_bytes(b"<p>us")
        published.publish.run()
        assert ask("GET", f"{url}/{urllib.parse.quote('über 100% a+b?.html')}", headers=WWW)[2] == b"<p>us"
        assert ask("GET", f"{url}/about/", headers=WWW)[2] == b"<p>about"
        assert ask("GET", f"{url}/about", headers=WWW)[2] == b"<p>about"  # by way of a redirect
        assert ask("GET", f"{url}/css/style.css", headers=WWW)[0] == 404
        assert ask("PUT", f"{url}/x", body=b"x", headers=WWW)[0] == 405
