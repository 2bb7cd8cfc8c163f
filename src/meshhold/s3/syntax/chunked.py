"""What did the client send inside aws-chunked framing? Decodes and verifies; knows no socket and no storage.

A chunk's bytes are handed on as they arrive and its signature is checked at its end, so memory is bounded by one line,
and nothing may be committed before `finish` has returned. Source: Amazon S3 API reference, "Signature calculations:
transferring payload in multiple chunks" and "including trailing headers".
"""

from __future__ import annotations

import hmac
import string
from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import sha256
from typing import Final

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax import sigv4

DECODED_LENGTH: Final = b"x-amz-decoded-content-length"
CHUNK_SIZE_MIN: Final = 8192  # S3's own rule for every chunk but the last: it bounds the cost of signatures
CHUNK_SIZE_MAX: Final = 5 * 1024**3  # the largest body that S3 takes in one request
CHUNK_LINE_MAX: Final = 256  # 16 hex digits and a signature take 98 bytes
TRAILER_LINE_MAX: Final = 1024  # a checksum's name and value take under 120 bytes
TRAILERS_MAX: Final = 8  # clients send a checksum and its signature

_HEX: Final = frozenset(string.hexdigits.encode())
_EMPTY_SHA256: Final = sha256(b"").hexdigest()
_SIGNATURE: Final = b"chunk-signature="


class Form(Enum):
    """How the body is framed. PLAIN is `Content-Encoding: aws-chunked` without a streaming payload literal."""

    SIGNED = sigv4.STREAMING_SIGNED
    SIGNED_TRAILER = sigv4.STREAMING_SIGNED_TRAILER
    UNSIGNED_TRAILER = sigv4.STREAMING_UNSIGNED_TRAILER
    PLAIN = "aws-chunked"


def form_of(payload_hash: str, headers: Mapping[bytes, bytes]) -> Form | None:
    """Return the form that these headers (lowercase names) announce, or None for a body without framing.

    `aws-chunked` among the content encodings is not enough: without a decoded length the body is what it is.
    """
    if payload_hash.startswith("STREAMING-"):
        return Form(payload_hash)
    if DECODED_LENGTH not in headers:
        return None
    tokens = [token.strip().lower() for token in headers.get(b"content-encoding", b"").split(b",")]
    return Form.PLAIN if b"aws-chunked" in tokens else None


class _State(Enum):
    HEADER = 0
    DATA = 1
    DATA_END = 2
    TRAILER = 3
    DONE = 4


class ChunkedDecoder:
    """Takes the framed body piece by piece.

    `decoded_length` is `x-amz-decoded-content-length` (None where it is not known), `scope` the credential scope,
    `timestamp` and `seed_signature` those of the request, `trailer_names` what `x-amz-trailer` announces.
    """

    def __init__(
        self,
        form: Form,
        decoded_length: int | None,
        *,
        seed_signature: str = "",
        signing_key: bytes = b"",
        timestamp: str = "",
        scope: str = "",
        trailer_names: Sequence[str] = (),
    ) -> None:
        self._signed = form in {Form.SIGNED, Form.SIGNED_TRAILER}
        self._form = form
        self._length = decoded_length
        self._previous = seed_signature
        self._key = signing_key
        self._context = f"{timestamp}\n{scope}\n"
        self._announced = frozenset(name.strip().lower() for name in trailer_names)
        self._state = _State.HEADER
        self._partial = b""
        self._number = 0
        self._size = 0
        self._left = 0
        self._total = 0
        self._claimed = b""
        self._hash = sha256()
        self._after_bare_lf = False
        self._trailers: dict[str, str] = {}
        self._trailer_text: list[str] = []
        self._trailer_signature: str | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payload bytes inside `data`, not copied where `data` is payload from end to end.

        Errors: `SignatureDoesNotMatch`, `InvalidChunkSizeError`, `MalformedTrailerError`, `IncompleteBody` for broken
        framing or a wrong decoded length, `InvalidRequest` for bytes after the end. After one, the decoder is spent.
        """
        pieces: list[bytes] = []
        at = 0
        while at < len(data):
            if self._state is _State.DATA:
                piece = data if at == 0 and len(data) <= self._left else data[at : at + self._left]
                at += len(piece)
                self._take(piece)
                pieces.append(piece)
            elif self._state is _State.DONE:
                raise S3Error("InvalidRequest", "The body goes on after its last chunk.")
            else:
                line, at = self._line(data, at)
                if line is not None:
                    self._take_line(line)
        return pieces

    def finish(self) -> dict[str, str]:
        """Return the verified trailers by lowercase name. Errors: `IncompleteBody` if the body has not ended."""
        if self._state is not _State.DONE:
            raise _incomplete()
        return self._trailers

    def _take(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._signed:
            self._hash.update(piece)
        if not self._left:
            self._check_chunk()
            self._state = _State.DATA_END

    def _line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """Return the next line with its end, or None if `data` does not complete one; and where to go on."""
        limit = TRAILER_LINE_MAX if self._state is _State.TRAILER else CHUNK_LINE_MAX
        end = data.find(b"\n", at, at + limit) + 1
        line = self._partial + data[at : end or at + limit]
        if len(line) > limit or (not end and len(data) - at >= limit):
            raise _incomplete()
        if not end:
            self._partial = line
            return None, len(data)
        self._partial = b""
        return line, end

    def _take_line(self, line: bytes) -> None:
        if self._state is _State.TRAILER:
            self._take_trailer(line)
            return
        if line[-2:] != b"\r\n":
            raise _incomplete()
        if self._state is _State.HEADER:
            self._begin_chunk(line[:-2])
        elif line == b"\r\n":
            self._state = _State.HEADER
        else:
            raise _incomplete()

    # -- chunks -----------------------------------------------------------------------------------------------------

    def _begin_chunk(self, line: bytes) -> None:
        digits, semicolon, extension = line.partition(b";")
        if not 0 < len(digits) <= 16 or not _HEX.issuperset(digits):
            raise _incomplete()
        self._check_extension(bool(semicolon), extension)
        size = int(digits, 16)
        self._number += 1
        self._check_size(size)
        self._size = self._left = size
        self._total += size
        if size:
            self._state = _State.DATA
            return
        self._check_chunk()
        if self._length is not None and self._total != self._length:
            raise _incomplete()
        self._state = _State.TRAILER

    def _check_extension(self, present: bool, extension: bytes) -> None:
        if self._signed:
            if extension[: len(_SIGNATURE)] != _SIGNATURE:
                raise _incomplete()
            self._claimed = extension[len(_SIGNATURE) :]
        elif present and self._form is not Form.PLAIN:
            raise _incomplete()

    def _check_size(self, size: int) -> None:
        if size and self._number > 1 and self._size < CHUNK_SIZE_MIN and self._form is not Form.PLAIN:
            raise S3Error(
                "InvalidChunkSizeError",
                f"Only the last chunk is allowed to have a size less than {CHUNK_SIZE_MIN} bytes",
                fields={"Chunk": str(self._number), "BadChunkSize": str(self._size)},
            )
        if size > CHUNK_SIZE_MAX:
            raise S3Error(
                "InvalidChunkSizeError",
                f"A chunk has at most {CHUNK_SIZE_MAX} bytes",
                fields={"Chunk": str(self._number), "BadChunkSize": str(size)},
            )
        if self._length is not None and self._total + size > self._length:
            raise _incomplete()

    def _check_chunk(self) -> None:
        if not self._signed:
            return
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{self._context}{self._previous}\n{_EMPTY_SHA256}\n{self._hash.hexdigest()}"
        self._previous = self._check_signature(text, self._claimed)
        self._hash = sha256()

    def _check_signature(self, text: str, claimed: bytes) -> str:
        expected = hmac.digest(self._key, text.encode(), "sha256").hex()
        if not hmac.compare_digest(expected.encode(), claimed):
            raise S3Error(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. Check your key and "
                f"signing method: the signature of chunk {self._number} or of the trailer is wrong.",
                fields={"StringToSign": text},
            )
        return expected

    # -- trailers ---------------------------------------------------------------------------------------------------

    def _take_trailer(self, line: bytes) -> None:
        """Take one line after the last chunk; an empty one ends the body.

        minio-go ends a trailer with LF and then CRLF, and S3 takes that.
        """
        if line == b"\r\n":
            if not self._after_bare_lf:
                self._end()
            self._after_bare_lf = False
            return
        if self._after_bare_lf or len(self._trailers) >= TRAILERS_MAX or self._trailer_signature is not None:
            raise _bad_trailer()
        self._after_bare_lf = line[-2:] != b"\r\n"
        try:
            raw_name, colon, raw_text = line.decode("ascii").partition(":")
        except UnicodeDecodeError:
            raise _bad_trailer() from None
        name, text = raw_name.strip().lower(), raw_text.strip()
        if not colon:
            raise _bad_trailer()
        if name == "x-amz-trailer-signature" and self._form is Form.SIGNED_TRAILER:
            self._trailer_signature = text
        elif name in self._announced and name not in self._trailers:
            self._trailers[name] = text
            self._trailer_text.append(f"{name}:{text}\n")
        else:
            raise _bad_trailer()

    def _end(self) -> None:
        if self._trailers.keys() != self._announced:
            raise _bad_trailer()
        if self._form is Form.SIGNED_TRAILER and self._trailers:
            if self._trailer_signature is None:
                raise _bad_trailer()
            digest = sha256("".join(self._trailer_text).encode()).hexdigest()
            text = f"AWS4-HMAC-SHA256-TRAILER\n{self._context}{self._previous}\n{digest}"
            self._check_signature(text, self._trailer_signature.encode())
        self._state = _State.DONE


def _incomplete() -> S3Error:
    return S3Error(
        "IncompleteBody",
        "The request body terminated unexpectedly: its aws-chunked framing is broken, or it does not have the number "
        "of bytes that x-amz-decoded-content-length announces.",
    )


def _bad_trailer() -> S3Error:
    return S3Error(
        "MalformedTrailerError",
        "The request contained trailing data that was not well-formed or did not conform to our published schema: send "
        "exactly the trailers that x-amz-trailer names.",
    )
