"""A request's body on its way in: transfer form, limits, digests. Knows no object and no storage."""

from __future__ import annotations

from collections import deque
from typing import Final

from meshhold.model.entry import Checksums
from meshhold.s3.door import Settings
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request
from meshhold.s3.syntax.checksums import DEFAULT_ALGORITHM, Announced, BodyDigests, announced, body_digests
from meshhold.s3.syntax.chunked import DECODED_LENGTH, ChunkedDecoder, Form, form_of
from meshhold.s3.syntax.xml import DOCUMENT_SIZE_MAX
from meshhold.store.contract import Digested

_UNSIGNED: Final = "UNSIGNED-PAYLOAD"
RULE_SIZE_MAX: Final = 60 * 1024
"""Bytes of a document that is set on a bucket: it goes into one sealed record of 64 KiB."""


class RequestBody:
    """The payload of one request, decoded; fulfils `store.contract.Body`.

    Errors of `receive` and `finish`: `S3Error` for everything that is wrong with the body.
    """

    def __init__(
        self,
        request: Request,
        digests: BodyDigests,
        decoder: ChunkedDecoder | None,
        length: int | None,
        size_max: int,
    ) -> None:
        self._request = request
        self._digests = digests
        self._decoder = decoder
        self._length = length
        self._size_max = size_max
        self._received = 0
        self._ready: deque[bytes] = deque()

    @property
    def length(self) -> int:
        """The payload's announced length in bytes; 0 where it is not known before its end."""
        return self._length or 0

    async def receive(self) -> bytes:
        """Return the next piece of payload, `b""` at its end."""
        if self._decoder is None:
            piece = await self._request.receive()
        else:
            while not self._ready:
                raw = await self._request.receive()
                if not raw:
                    return b""
                self._ready.extend(self._decoder.feed(raw))
            piece = self._ready.popleft()
        self._received += len(piece)
        if self._received > self._size_max:
            raise too_large(self._received, self._size_max)
        return piece

    def digest(self, block: bytes) -> None:
        """Hash a block."""
        self._digests.update(block)

    def finish(self) -> Digested:
        """Compare what came with what was announced; return ETag and the checksums to keep."""
        trailers = {} if self._decoder is None else self._decoder.finish()
        if self._length is not None and self._received != self._length:
            raise S3Error(
                "IncompleteBody",
                f"The request announced {self._length} bytes and sent {self._received}; send it again.",
            )
        found = self._digests.finish(trailers)
        return Digested(found.md5_hex, Checksums("FULL_OBJECT", found.checksums))


def open_body(
    request: Request, settings: Settings, said: Announced | None = None, *, algorithm: str = ""
) -> RequestBody:
    """Return the request's payload with every limit and digest that its headers announce.

    `said` is what they announce, where the caller knows it. `algorithm` is a checksum that is wanted besides.
    Errors: `MissingContentLength`, `EntityTooLarge` (naming the setting), and what the headers' own rules refuse.
    """
    payload_hash = request.claim.payload_hash if request.claim is not None else _UNSIGNED
    form = form_of(payload_hash, request.headers)
    if said is None:
        said = announced(request.headers)
    decoder = None
    if form is None:
        length = request.content_length
        if length is None and b"transfer-encoding" not in request.headers:
            raise S3Error("MissingContentLength", "You must provide the Content-Length HTTP header.")
    else:
        length = _decoded_length(request)
        decoder = _decoder(request, form, length, said.trailer_names)
    if length is not None and length > settings.put_size_max:
        raise too_large(length, settings.put_size_max)
    digests = body_digests(said, payload_hash, algorithm=algorithm)
    return RequestBody(request, digests, decoder, length, settings.put_size_max)


def wanted_algorithm(said: Announced) -> str:
    """Return the checksum to keep of a body besides what is announced: S3's default where nothing is."""
    return "" if said.algorithm else DEFAULT_ALGORITHM


def _decoded_length(request: Request) -> int:
    raw = request.headers.get(DECODED_LENGTH)
    if raw is None:
        raise S3Error("MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.")
    if not raw.isdigit() or len(raw) > 18:
        raise S3Error("InvalidArgument", "x-amz-decoded-content-length must be a number of bytes.")
    return int(raw)


def _decoder(request: Request, form: Form, length: int | None, trailer_names: tuple[str, ...]) -> ChunkedDecoder:
    claim = request.claim
    if claim is None:
        return ChunkedDecoder(form, length, trailer_names=trailer_names)
    return ChunkedDecoder(
        form,
        length,
        seed_signature=claim.signature,
        signing_key=request.signing_key,
        timestamp=claim.timestamp,
        scope=claim.scope,
        trailer_names=trailer_names,
    )


def too_large(size: int, size_max: int) -> S3Error:
    """Return the refusal of a body, naming the setting and the way around it."""
    return S3Error(
        "EntityTooLarge",
        f"Your proposed upload of {size} bytes exceeds the maximum allowed size of {size_max} bytes for one request "
        "(node.s3.max_put_bytes in config.yaml). Use a multipart upload, or raise the setting.",
        fields={"ProposedSize": str(size), "MaxSizeAllowed": str(size_max)},
    )


async def read_document(
    request: Request,
    settings: Settings,
    *,
    digest_required: bool = False,
    says_of_object: bool = False,
    size_max: int = DOCUMENT_SIZE_MAX,
) -> bytes:
    """Return a short body (an XML document), verified against what was announced; `b""` without a body.

    `says_of_object`: the request's `x-amz-checksum-*` headers are not about this document (CompleteMultipartUpload).
    Errors: `MaxMessageLengthExceeded` above `size_max` bytes; `InvalidRequest` where a digest is asked for and missing.
    """
    if not request.has_body:
        return b""
    if digest_required:
        said = announced(request.headers)
        if said.md5 is None and not said.algorithm:
            raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
    body = open_body(request, settings, Announced() if says_of_object else None)
    pieces: list[bytes] = []
    size = 0
    while piece := await body.receive():
        size += len(piece)
        if size > size_max:
            raise S3Error("MaxMessageLengthExceeded", f"The request's document exceeds {size_max} bytes.")
        body.digest(piece)
        pieces.append(piece)
    body.finish()
    return b"".join(pieces)


class PartDigests:
    """Hashes bytes that come from a stored object, as a part's body would be hashed."""

    def __init__(self, algorithm: str) -> None:
        self._digests = BodyDigests(checksums={algorithm: None} if algorithm else {})
        self.update = self._digests.update

    def digested(self) -> Digested:
        """Return the part's ETag and checksum."""
        found = self._digests.finish()
        return Digested(found.md5_hex, Checksums("FULL_OBJECT", found.checksums))
