"""Which checksum has an object that is made of parts? What its upload wishes, what its completion expects.

Knows no part's bytes. Source: S3 user guide, "Checking object integrity": the types COMPOSITE and FULL_OBJECT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from meshhold.model.entry import Checksums, Upload
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request
from meshhold.s3.syntax.checksums import DEFAULT_ALGORITHM, HEADERS, SIZES, composite, full_object
from meshhold.sealing.content import PartRow
from meshhold.store.contract import Combine, Digested

_KINDS: Final = {"CRC64NVME": ("FULL_OBJECT",), "SHA1": ("COMPOSITE",), "SHA256": ("COMPOSITE",)}
_BOTH: Final = ("FULL_OBJECT", "COMPOSITE")


def checksum_wish(request: Request) -> tuple[str, str]:
    """Return algorithm and type of the checksum that an upload is to have; empty without a wish."""
    raw = request.header(b"x-amz-checksum-algorithm")
    kind = (request.header(b"x-amz-checksum-type") or "").upper()
    if raw is None:
        if kind:
            raise S3Error("InvalidRequest", "x-amz-checksum-type needs x-amz-checksum-algorithm beside it.")
        return "", ""
    algorithm = raw.upper()
    if algorithm not in SIZES:
        raise S3Error("InvalidRequest", f"Checksum algorithm {raw!r} is not known; use one of {', '.join(SIZES)}.")
    kind = kind or ("FULL_OBJECT" if algorithm == DEFAULT_ALGORITHM else "COMPOSITE")
    if kind not in _KINDS.get(algorithm, _BOTH):
        raise S3Error("InvalidRequest", f"The {kind} checksum type cannot be used with {algorithm}.")
    return algorithm, kind


def part_algorithm(upload: Upload) -> str:
    """Return the checksum that each part gets, asked for or not: S3's default where the upload wished none.

    `""` for none: of parts that a client's own key hides, nothing is told that the client did not tell itself.
    """
    return upload.checksum or ("" if upload.extras.customer is not None else DEFAULT_ALGORITHM)


def check_part(upload: Upload, algorithm: str) -> None:
    """Errors: `InvalidRequest` for a part that announces another algorithm than its upload."""
    if algorithm and upload.checksum and algorithm != upload.checksum:
        raise _mismatch(upload.checksum, algorithm)


def _mismatch(expected: str, actual: str) -> S3Error:
    return S3Error(
        "InvalidRequest",
        f"Checksum Type mismatch occurred, expected checksum Type: {expected.lower()}, "
        f"actual checksum Type: {actual.lower()}",
    )


class _Expected:
    """What a completion's headers say of the object."""

    def __init__(self, request: Request) -> None:
        given = {name: request.header(header.encode()) for name, header in HEADERS.items()}
        self.values = {name: value.strip() for name, value in given.items() if value is not None}
        self.kind = (request.header(b"x-amz-checksum-type") or "").upper()
        self.size = request.header(b"x-amz-mp-object-size")
        if len(self.values) > 1:
            raise S3Error(
                "InvalidRequest",
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            )

    def check(self, algorithm: str, kind: str, value: str) -> None:
        """Compare with what the parts give. A composite value may come with or without the number of parts."""
        if self.kind not in ("", kind):
            raise S3Error("InvalidRequest", f"The upload's checksum type is {kind}, not {self.kind}.")
        for name, expected in self.values.items():
            if name != algorithm:
                raise _mismatch(algorithm, name)
            if expected not in (value, value.partition("-")[0]):
                raise S3Error(
                    "BadDigest",
                    f"The {algorithm} you specified did not match the calculated checksum.",
                    fields={"ExpectedDigest": expected, "CalculatedDigest": value},
                )


def combine_parts(request: Request) -> Combine:
    """Return how parts' digests become the object's, checked against what the completion itself announces.

    Errors of what is returned: `BadDigest`, `InvalidRequest`; `InvalidPart` for a part without the upload's checksum.
    """
    expected = _Expected(request)

    def combine(rows: Sequence[PartRow], upload: Upload | None) -> Digested:
        etag = hashlib.md5(b"".join(bytes.fromhex(row.etag) for row in rows), usedforsecurity=False).hexdigest()
        if expected.size is not None and expected.size != str(sum(row.size for row in rows)):
            raise S3Error("InvalidRequest", "The provided 'x-amz-mp-object-size' header does not match the parts.")
        sums = _combined(rows, upload)
        for algorithm, value in sums.values.items():
            expected.check(algorithm, sums.kind, value)
        return Digested(f"{etag}-{len(rows)}", sums)

    return combine


def _combined(rows: Sequence[PartRow], upload: Upload | None) -> Checksums:
    """Return the object's checksum; none where its parts are older than S3's default."""
    algorithm = (upload.checksum if upload is not None else "") or DEFAULT_ALGORITHM
    kind = (upload.checksum_kind if upload is not None else "") or "FULL_OBJECT"
    wished = upload is not None and upload.checksum != ""
    if not wished and not all(algorithm in row.checksums.values for row in rows):
        return Checksums()
    values = [(row.checksums.values.get(algorithm, ""), row.size) for row in rows]
    if kind == "COMPOSITE":
        return Checksums(kind, {algorithm: composite(algorithm, (text for text, _ in values))})
    return Checksums(kind, {algorithm: full_object(algorithm, values)})
