"""One side of `trio.SSLStream`: TLS 1.3, a self-signed certificate. Bulk goes one way, small messages are echoed."""

from __future__ import annotations

import datetime as dt
import ssl
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.mesh.side import PIECE, SMALL, Client, drive

_RECEIVE = 128 * 1024


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    signed = made.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed.public_bytes(serialization.Encoding.PEM), private


async def _serve_stream(stream: trio.SSLStream[trio.SocketStream]) -> None:
    mode = await _exactly(stream, 1)
    if mode == b"B":
        while head := await _exactly(stream, 8):
            size = int.from_bytes(head, "big")
            while size:
                size -= len(await stream.receive_some(min(_RECEIVE, size)))
            await stream.send_all(b"!")
    else:
        while request := await _exactly(stream, SMALL):
            await stream.send_all(request)


async def _exactly(stream: trio.SSLStream[trio.SocketStream], size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = bytes(await stream.receive_some(size - len(got)))
        if not more:
            return b""
        got += more
    return got


async def _serve() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        path.write_bytes(b"".join(_certificate()))
        context.load_cert_chain(path)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
        listener = listeners[0].transport_listener
        if isinstance(listener, trio.SocketListener):
            print(f"127.0.0.1:{listener.socket.getsockname()[1]}", flush=True)

        async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
            with suppress(trio.BrokenResourceError):  # a client that is done just leaves
                async with stream:
                    await _serve_stream(stream)

        nursery.start_soon(trio.serve_listeners, serve, listeners)


class TlsClient(Client):
    """One connection for each purpose: TLS does not multiplex."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.partition(":")
        self._bulk: trio.SSLStream[trio.SocketStream] | None = None
        self._small: trio.SSLStream[trio.SocketStream] | None = None

    async def _open(self) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return await trio.open_ssl_over_tcp_stream(
            self._host, int(self._port), ssl_context=context, https_compatible=True
        )

    async def bulk(self, pieces: int) -> None:
        """Send the pieces and wait until they are received."""
        if self._bulk is None:
            self._bulk = await self._open()
            await self._bulk.send_all(b"B")
        await self._bulk.send_all((pieces * len(PIECE)).to_bytes(8, "big"))
        for _ in range(pieces):
            await self._bulk.send_all(PIECE)
        await _exactly(self._bulk, 1)

    async def call(self, request: bytes) -> bytes:
        """Send a request and wait for its echo."""
        if self._small is None:
            self._small = await self._open()
            await self._small.send_all(b"S")
        await self._small.send_all(request)
        return await _exactly(self._small, SMALL)

    async def version(self) -> str:
        """Return what was negotiated."""
        stream = await self._open()
        await stream.do_handshake()
        found = f"{stream.version()} {stream.cipher()[0]}"
        await trio.aclose_forcefully(stream)
        return found


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(_serve)
    else:
        trio.run(drive, TlsClient(sys.argv[2]), False)
