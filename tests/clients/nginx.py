"""nginx from Debian around one server block, on ports of its own, and plain requests to it."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Final

from tests.clients.programs import debian_program, note_version

_READY_S: Final = 10.0


def make_certificate(folder: Path, host: str) -> Path:
    """Make a certificate that signs itself, for `host` and 127.0.0.1; its key is beside it as `.key`."""
    certificate = folder / f"{host}.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
            "2", "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host},IP:127.0.0.1",
            "-keyout", str(folder / f"{host}.key"), "-out", str(certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate


@contextmanager
def running_nginx(folder: Path, server_block: str, port: int) -> Iterator[None]:
    """Run nginx with this server block alone until the block ends; `port` is where it listens, on loopback."""
    program = debian_program("nginx", "nginx-light")
    note_version(program, "-v")
    # root's workers would be another user, who may not read a test's folder
    user = "user root;" if os.geteuid() == 0 else ""
    places = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n{user}\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}\n{server_block}\n}}\n"
    )
    words = [program, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait_for(port, process)
            yield
        finally:
            process.terminate()
            process.communicate(timeout=_READY_S)


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.02)  # between two looks at a port
        else:
            return


def ask(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    ca: Path | None = None,
) -> tuple[int, Message, bytes]:
    """Send a request as a browser would; return status, headers and body, of an error too."""
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers or {}))  # noqa: S310 -- a test's
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:  # noqa: S310 -- a test's
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()
