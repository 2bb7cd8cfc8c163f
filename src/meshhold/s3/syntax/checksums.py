"""Are these the bytes that the client meant? Reads what it announced, hashes as blocks pass, compares at the end.

Knows no socket and no storage. Hashing of a block releases the interpreter's lock, so blocks go through worker
threads, one after the other. Source: S3 user guide, "Checking object integrity"; PutObject's headers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from awscrt.checksums import crc64nvme  # type: ignore[import-untyped] # ships no type information
from crc32c import crc32c

from meshhold.model.entry import Checksums
from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.crc import combine_crc
from meshhold.s3.syntax.xml import tag

Block = bytes | bytearray | memoryview

SIZES: Final = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}
"""The algorithms that are known, and the bytes of their values."""

DEFAULT_ALGORITHM: Final = "CRC64NVME"
"""What S3 keeps of a body whose sender announced no checksum. Source: S3 user guide, "Checking object integrity"."""

HEADERS: Final = {algorithm: f"x-amz-checksum-{algorithm.lower()}" for algorithm in SIZES}
_ALGORITHMS: Final = {header: algorithm for algorithm, header in HEADERS.items()}
_PREFIX: Final = b"x-amz-checksum-"
_NOT_VALUES: Final = frozenset({b"x-amz-checksum-algorithm", b"x-amz-checksum-type", b"x-amz-checksum-mode"})
_POLYNOMIALS: Final = {"CRC32": 0xEDB88320, "CRC32C": 0x82F63B78, "CRC64NVME": 0x9A6C9329AC4BC9B5}
_CRCS: Final[dict[str, Callable[[Block, int], int]]] = {"CRC32": zlib.crc32, "CRC32C": crc32c, "CRC64NVME": crc64nvme}


class Checksum(Protocol):
    """A checksum in the making."""

    def update(self, block: Block) -> None:
        """Take the next bytes."""

    def value(self) -> str:
        """Return the checksum of everything so far as S3 shows it: big endian, base64."""


class _Crc:
    __slots__ = ("_function", "_size", "_state")

    def __init__(self, algorithm: str) -> None:
        self._function = _CRCS[algorithm]
        self._size = SIZES[algorithm]
        self._state = 0

    def update(self, block: Block) -> None:
        self._state = self._function(block, self._state)

    def value(self) -> str:
        return _base64(self._state.to_bytes(self._size, "big"))


class _Sha:
    __slots__ = ("_hash",)

    def __init__(self, algorithm: str) -> None:
        self._hash = hashlib.new(algorithm.lower(), usedforsecurity=algorithm == "SHA256")

    def update(self, block: Block) -> None:
        self._hash.update(block)

    def value(self) -> str:
        return _base64(self._hash.digest())

    def hex(self) -> str:
        return self._hash.hexdigest()


def new_checksum(algorithm: str) -> Checksum:
    """Return a fresh checksum of one of `SIZES`."""
    return _Crc(algorithm) if algorithm in _CRCS else _Sha(algorithm)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def decode_value(algorithm: str, text: str) -> bytes | None:
    """Return the bytes of a base64 checksum, or None unless they are as many as the algorithm has."""
    return _exact(text, SIZES[algorithm])


def _exact(text: str, size: int) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == size and _base64(raw) == text else None


# -- what was announced ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Announced:
    """What the headers of one request say of its body.

    `algorithm` is `""` without a checksum. `value` is its base64 value, or None where it comes as a trailer.
    `md5` is Content-MD5, decoded. `trailer_names` is all that `x-amz-trailer` names, in lower case.
    """

    algorithm: str = ""
    value: str | None = None
    md5: bytes | None = None
    trailer_names: tuple[str, ...] = ()


def announced(headers: Mapping[bytes, bytes]) -> Announced:
    """Return what `headers` (lowercase names) announce.

    Errors: `InvalidRequest` for more than one checksum or an unknown algorithm; `BadDigest` for a value that no body
    has; `InvalidDigest` for a malformed Content-MD5.
    """
    values = {name: raw for name, raw in headers.items() if name.startswith(_PREFIX) and name not in _NOT_VALUES}
    trailer_names = _trailer_names(headers.get(b"x-amz-trailer"))
    if len(values) + len(trailer_names) > 1:
        raise S3Error(
            "InvalidRequest",
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        )
    algorithm, value = "", None
    for name, raw in values.items():
        algorithm = _ALGORITHMS.get(name.decode("latin-1"), "")
        if not algorithm:
            raise S3Error("InvalidRequest", "The algorithm type you specified in x-amz-checksum- header is invalid.")
        value = raw.decode("latin-1").strip()
        if decode_value(algorithm, value) is None:
            raise S3Error(
                "BadDigest",
                f"The {algorithm} you specified did not match what we received: it is no {SIZES[algorithm]} bytes in "
                "base64.",
                fields={"ExpectedDigest": value},
            )
    for trailer in trailer_names:
        algorithm = _ALGORITHMS[trailer]
    _check_sdk_algorithm(headers.get(b"x-amz-sdk-checksum-algorithm"), algorithm)
    return Announced(algorithm, value, _content_md5(headers.get(b"content-md5")), trailer_names)


def _trailer_names(raw: bytes | None) -> tuple[str, ...]:
    if raw is None:
        return ()
    names = tuple(name for part in raw.decode("latin-1").lower().split(",") if (name := part.strip()))
    if any(name not in _ALGORITHMS for name in names):
        raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported")
    return names


def _check_sdk_algorithm(raw: bytes | None, algorithm: str) -> None:
    if raw is None:
        return
    named = raw.decode("latin-1").strip().upper()
    if named not in SIZES:
        raise _invalid_value("x-amz-sdk-checksum-algorithm")
    if not algorithm:
        raise S3Error(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers "
            "were found.",
        )
    if named != algorithm:
        raise _invalid_value("x-amz-sdk-checksum-algorithm")


def _content_md5(raw: bytes | None) -> bytes | None:
    if raw is None:
        return None
    text = raw.decode("latin-1").strip()
    digest = _exact(text, 16)
    if digest is None:
        raise S3Error("InvalidDigest", "The Content-MD5 you specified is not valid.", fields={"Content-MD5": text})
    return digest


def _invalid_value(header: str) -> S3Error:
    return S3Error("InvalidRequest", f"Value for {header} header is invalid.")


def checksum_headers(checksums: Checksums) -> list[tuple[bytes, bytes]]:
    """Return the headers that show checksums; none without any."""
    headers = [(HEADERS[name].encode(), value.encode()) for name, value in checksums.values.items()]
    if headers:
        headers.append((b"x-amz-checksum-type", checksums.kind.encode()))
    return headers


def checksum_elements(checksums: Checksums) -> str:
    """Return the elements that show checksums; none without any."""
    if not checksums.values:
        return ""
    shown = "".join(tag(f"Checksum{name}", value) for name, value in checksums.values.items())
    return shown + tag("ChecksumType", checksums.kind)


# -- the body as it passes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Digests:
    """What a body turned out to be: MD5 in hex (`""` if it was not asked for), checksums by algorithm in base64."""

    md5_hex: str = ""
    checksums: dict[str, str] = field(default_factory=dict)


class BodyDigests:
    """Hashes one body and compares it with what was announced.

    `md5_expected` is Content-MD5 decoded, `sha256_expected` the hex of `x-amz-content-sha256` (None for a literal).
    `checksums` maps each algorithm that is wanted to the announced base64 value, or to None where there is none or it
    comes as a trailer. `update` is called from worker threads, by one at a time and in order.
    """

    def __init__(
        self,
        *,
        md5: bool = True,
        md5_expected: bytes | None = None,
        sha256_expected: str | None = None,
        checksums: Mapping[str, str | None] | None = None,
    ) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 or md5_expected is not None else None
        self._md5_expected = md5_expected
        self._sha256_expected = None if sha256_expected is None else sha256_expected.lower()
        self._expected = dict(checksums or {})
        self._checksums = {algorithm: new_checksum(algorithm) for algorithm in self._expected}
        self._sha256 = None if sha256_expected is None else _Sha("SHA256")
        if self._sha256 is not None and "SHA256" in self._checksums:
            self._checksums["SHA256"] = self._sha256  # hashed once, read twice
        hashes: set[Checksum] = set(self._checksums.values())
        if self._sha256 is not None:
            hashes.add(self._sha256)
        self._updates: list[Callable[[Block], object]] = [each.update for each in hashes]
        if self._md5 is not None:
            self._updates.append(self._md5.update)

    def update(self, block: Block) -> None:
        """Take the next bytes of the body, decoded."""
        for update in self._updates:
            update(block)

    def finish(self, trailers: Mapping[str, str] | None = None) -> Digests:
        """Return the digests after the last block; `trailers` are those that came after the body.

        Errors: `BadDigest`, `XAmzContentSHA256Mismatch`, `InvalidRequest` for a malformed trailer.
        """
        self._check_md5()
        self._check_sha256()
        found = {algorithm: checksum.value() for algorithm, checksum in self._checksums.items()}
        for name, text in (trailers or {}).items():
            algorithm = _ALGORITHMS.get(name, "")
            if algorithm not in found or decode_value(algorithm, text) is None:
                raise S3Error("InvalidRequest", f"Value for {name} trailing header is invalid.")
            self._expected[algorithm] = text
        for algorithm, expected in self._expected.items():
            if expected is not None and expected != found[algorithm]:
                raise _bad_digest(
                    f"The {algorithm} you specified", "the calculated checksum", expected, found[algorithm]
                )
        return Digests("" if self._md5 is None else self._md5.hexdigest(), found)

    def _check_md5(self) -> None:
        if self._md5 is None or self._md5_expected is None:
            return
        digest = self._md5.digest()
        if digest != self._md5_expected:
            expected, found = _base64(self._md5_expected), _base64(digest)
            raise _bad_digest("The Content-MD5 you specified", "what we received", expected, found)

    def _check_sha256(self) -> None:
        if self._sha256 is None or self._sha256.hex() == self._sha256_expected:
            return
        raise S3Error(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
            fields={
                "ClientComputedContentSHA256": self._sha256_expected or "",
                "S3ComputedContentSHA256": self._sha256.hex(),
            },
        )


def _bad_digest(what: str, other: str, expected: str, found: str) -> S3Error:
    return S3Error(
        "BadDigest", f"{what} did not match {other}.", fields={"ExpectedDigest": expected, "CalculatedDigest": found}
    )


def body_digests(said: Announced, payload_hash: str, *, md5: bool = True, algorithm: str = "") -> BodyDigests:
    """Return what checks one request's body: `payload_hash` as the signature claims it (hex or a literal).

    `algorithm` is one more checksum to compute; `md5` False leaves the ETag out.
    """
    wanted: dict[str, str | None] = {algorithm: None} if algorithm else {}
    if said.algorithm:
        wanted[said.algorithm] = said.value
    sha256_expected = payload_hash if len(payload_hash) == 64 else None
    return BodyDigests(md5=md5, md5_expected=said.md5, sha256_expected=sha256_expected, checksums=wanted)


# -- objects made of parts ------------------------------------------------------------------------------------------


def composite(algorithm: str, values: Iterable[str]) -> str:
    """Return the COMPOSITE checksum of parts: the checksum of their checksums, `-`, their number.

    Errors: `InvalidPart` for a value that is not one of the algorithm.
    """
    total = new_checksum(algorithm)
    count = 0
    for text in values:
        total.update(_part_value(algorithm, text))
        count += 1
    return f"{total.value()}-{count}"


def full_object(algorithm: str, parts: Iterable[tuple[str, int]]) -> str:
    """Return the FULL_OBJECT checksum from each part's base64 value and size in bytes; only CRCs can be joined.

    Errors: `InvalidPart` for a value that is not one of the algorithm, `InvalidRequest` for a hash.
    """
    if algorithm not in _POLYNOMIALS:
        raise S3Error(
            "InvalidRequest",
            f"The FULL_OBJECT checksum type cannot be used with the {algorithm.lower()} checksum algorithm.",
        )
    width = SIZES[algorithm] * 8
    total = 0
    for text, size in parts:
        value = int.from_bytes(_part_value(algorithm, text), "big")
        total = combine_crc(width, _POLYNOMIALS[algorithm], total, value, size)
    return _base64(total.to_bytes(SIZES[algorithm], "big"))


def _part_value(algorithm: str, text: str) -> bytes:
    raw = decode_value(algorithm, text)
    if raw is None:
        raise S3Error("InvalidPart", f"A part has no {algorithm} checksum: upload it again with one.")
    return raw
