"""What do a request's path and query name? Decodes each exactly once; knows no operation and no storage.

Keys are bytes: `//`, `..`, `%2F`, `+` and spaces stay what they are; nothing is normalised.
"""

from __future__ import annotations

from typing import Final

from meshhold.s3.errors import S3Error

KEY_SIZE_MAX: Final = 1024  # S3's limit, in bytes of UTF-8
PAIRS_MAX: Final = 512  # S3 operations take under 20; a request line of 64 KiB could hold 30,000

_HEX_DIGITS: Final = "0123456789abcdefABCDEF"
_OCTETS: Final = {(a + b).encode(): bytes([int(a + b, 16)]) for a in _HEX_DIGITS for b in _HEX_DIGITS}
_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PATH_SAFE: Final = _UNRESERVED + b"/"
_LISTING_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._*/"


def _encoder(safe: bytes) -> list[bytes]:
    return [bytes([octet]) if octet in safe else b"%%%02X" % octet for octet in range(256)]


_ENCODED: Final = _encoder(_UNRESERVED)
_PATH_ENCODED: Final = _encoder(_PATH_SAFE)
_LISTING_ENCODED: Final = _encoder(_LISTING_SAFE)


def percent_decode(raw: bytes) -> bytes:
    """Return `raw` with each `%XX` replaced once. Errors: `InvalidURI` for a `%` without two hex digits."""
    if b"%" not in raw:
        return raw
    first, *rest = raw.split(b"%")
    try:
        return first + b"".join([_OCTETS[piece[:2]] + piece[2:] for piece in rest])
    except KeyError:
        raise S3Error(
            "InvalidURI", "Couldn't parse the specified URI: each % must be followed by two hex digits."
        ) from None


def percent_encode(raw: bytes) -> bytes:
    """Return `raw` with all but A-Z a-z 0-9 - . _ ~ as `%XX`: the encoding of SigV4's canonical query."""
    if not raw.translate(None, _UNRESERVED):
        return raw
    return b"".join([_ENCODED[octet] for octet in raw])


def canonical_path(raw_path: bytes) -> bytes:
    """Return SigV4's canonical URI: decoded once, encoded once, `/` kept, never normalised."""
    if not raw_path.translate(None, _PATH_SAFE):
        return raw_path
    return b"".join([_PATH_ENCODED[octet] for octet in percent_decode(raw_path)])


def canonical_query(raw: bytes, without: bytes = b"") -> bytes:
    """Return SigV4's canonical query: names and values encoded once, sorted by name then value.

    `without` is a name that is left out (the signature itself). A `+` is a space, as S3 reads it.
    """
    if not raw:
        return b""
    pairs = []
    for piece in raw.split(b"&"):
        if not piece:
            continue
        name, _, text = piece.partition(b"=")
        if name == without:
            continue
        pairs.append((_recoded(name), _recoded(text)))
    pairs.sort()
    return b"&".join([b"%b=%b" % pair for pair in pairs])


def _recoded(piece: bytes) -> bytes:
    if not piece.translate(None, _UNRESERVED):
        return piece
    return percent_encode(percent_decode(piece.replace(b"+", b" ")))


def parse_query(raw: bytes) -> list[tuple[str, str]]:
    """Return the query's names and values in order; a name without `=` has the value `""`.

    Errors: `InvalidURI` for a bad escape, bad UTF-8 or too many parameters.
    """
    if not raw:
        return []
    pieces = raw.split(b"&")
    if len(pieces) > PAIRS_MAX:
        raise S3Error("InvalidURI", f"The request has {len(pieces)} query parameters; {PAIRS_MAX} are allowed.")
    pairs = []
    try:
        for piece in pieces:
            if piece:
                name, _, text = piece.replace(b"+", b" ").partition(b"=")
                pairs.append((percent_decode(name).decode(), percent_decode(text).decode()))
    except UnicodeDecodeError:
        raise S3Error("InvalidURI", "Couldn't parse the specified URI: a query parameter is not UTF-8.") from None
    return pairs


class Query:
    """A request's query parameters. Of a name that is given twice, the first value counts; `all` shows every one."""

    __slots__ = ("_first", "pairs")

    def __init__(self, raw: bytes) -> None:
        self.pairs = parse_query(raw)
        self._first: dict[str, str] = {}
        for name, text in self.pairs:
            self._first.setdefault(name, text)

    def has(self, name: str) -> bool:
        """Tell whether the parameter is there, with or without a value."""
        return name in self._first

    def get(self, name: str) -> str | None:
        """Return the parameter's first value, `""` where it has none, None where it is absent."""
        return self._first.get(name)

    def all(self, name: str) -> list[str]:
        """Return every value of the parameter, in order."""
        return [text for each, text in self.pairs if each == name]

    def names(self) -> set[str]:
        """Return the names that are there."""
        return set(self._first)

    def hoisted(self) -> dict[str, str]:
        """Return the `x-amz-*` parameters that are not part of the signature, by lowercase name.

        Signers of presigned URLs move headers there, and S3 reads them as the headers that they stand for. Except the
        checksum of nothing: the AWS SDK for JavaScript signs it where it knows no body yet, and means no empty one.
        """
        found = {
            low: text
            for name, text in self._first.items()
            if (low := name.lower()).startswith("x-amz-") and low not in _AUTHENTICATION
        }
        if not _CHECKSUMS_OF_NOTHING.isdisjoint(found.items()):
            dropped = {name for name, _ in _CHECKSUMS_OF_NOTHING} | {"x-amz-sdk-checksum-algorithm"}
            found = {name: text for name, text in found.items() if name not in dropped}
        return found


_CHECKSUMS_OF_NOTHING: Final = frozenset(
    (
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-crc32c", "AAAAAA=="),
        ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
        ("x-amz-checksum-sha1", "2jmj7l5rSw0yVb/vlWAYkK/YBwk="),
        ("x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
    )
)
_AUTHENTICATION: Final = frozenset(
    f"x-amz-{name}"
    for name in (
        "algorithm", "credential", "date", "expires", "signedheaders", "signature", "security-token", "content-sha256",
    )
)  # fmt: skip


def decode_key(raw_path: bytes) -> tuple[str, bytes]:
    """Split `/bucket/key` and decode both once; `("", b"")` for `/`, an empty key for `/bucket` and `/bucket/`.

    Errors: `InvalidURI` for a bad escape, NUL or bad UTF-8; `KeyTooLongError` over 1,024 bytes.
    """
    if raw_path[:1] != b"/":
        raise S3Error("InvalidURI", "Couldn't parse the specified URI: the path must begin with '/'.")
    raw_bucket, _, raw_key = raw_path[1:].partition(b"/")
    bucket = percent_decode(raw_bucket)
    key = percent_decode(raw_key)
    check_key(key)
    try:
        return bucket.decode(), key
    except UnicodeDecodeError:
        raise S3Error("InvalidURI", "Couldn't parse the specified URI: the bucket's name is not UTF-8.") from None


def parse_copy_source(raw: bytes) -> tuple[str, bytes, str | None]:
    """Return bucket, key and version (None for none) that `x-amz-copy-source` names. Errors: `InvalidArgument`."""
    path, _, query = raw.partition(b"?")
    if not path.startswith(b"/"):
        path = b"/" + path
    name, key = decode_key(path.replace(b"+", b" ") if b"%" in path else path)
    if not name or not key:
        raise S3Error("InvalidArgument", "x-amz-copy-source must name a bucket and a key: /bucket/key, URL-encoded.")
    return name, key, dict(parse_query(query)).get("versionId")


def check_key(key: bytes) -> None:
    """Refuse what S3 cannot name: `KeyTooLongError` over 1,024 bytes, `InvalidURI` for NUL or bad UTF-8."""
    if len(key) > KEY_SIZE_MAX:
        fields = {"Size": str(len(key)), "MaxSizeAllowed": str(KEY_SIZE_MAX)}
        raise S3Error("KeyTooLongError", "Your key is too long: shorten it to 1024 bytes of UTF-8.", fields=fields)
    if b"\0" in key:
        raise S3Error("InvalidURI", "Couldn't parse the specified URI: a key cannot hold a NUL character.")
    if not key.isascii():
        try:
            key.decode()
        except UnicodeDecodeError:
            raise S3Error("InvalidURI", "Couldn't parse the specified URI: a key must be UTF-8.") from None


def encode_key(key: bytes) -> str:
    """Return the key as listings show it under `encoding-type=url`.

    A-Z a-z 0-9 - . _ * / stay, other bytes are `%XX`: whoever undoes it as a path or as a form field gets the same key,
    which a `+` for the space would not give.
    Source: ListObjectsV2's example (`test_file(3).png` → `test_file%283%29.png`).
    """
    if not key.translate(None, _LISTING_SAFE):
        return key.decode("ascii")
    return b"".join([_LISTING_ENCODED[octet] for octet in key]).decode("ascii")
