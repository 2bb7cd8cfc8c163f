"""How are S3's XML documents written and read? Knows their forms; knows no request and no storage.

Reading refuses document types and entities (so nothing expands) and bounds size, depth and the number of elements.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NoReturn
from xml.parsers import expat

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.escape import escape
from meshhold.store.uploads import PartClaim

__all__ = [
    "DELETE_KEYS_MAX", "DOCUMENT_SIZE_MAX", "PARTS_MAX", "DeleteRequest", "DeleteTarget", "Element", "PartClaim",
    "boolean", "document", "escape", "malformed", "parse", "parse_complete", "parse_create_bucket", "parse_delete",
    "tag", "text_fields",
]  # fmt: skip

XMLNS: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
DELETE_KEYS_MAX: Final = 1000  # S3's own limit
PARTS_MAX: Final = 10_000  # S3's own limit
DOCUMENT_SIZE_MAX: Final = 8 * 1024 * 1024  # 1,000 keys of 1,024 bytes, each byte as `&quot;`, is 6 MiB
_DEPTH_MAX: Final = 6  # the deepest document, DeleteObjects, has 3
_ELEMENTS_MAX: Final = 100_001  # 10,000 parts of ten elements each, and the root

_CHECKSUM_ELEMENTS: Final = {f"Checksum{name}": name for name in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")}


# -- writing --------------------------------------------------------------------------------------------------------


def tag(name: str, text: str) -> str:
    """Return one element that holds text."""
    return f"<{name}>{escape(text)}</{name}>"


def document(root: str, inner: str) -> bytes:
    """Return the whole answer: `inner` is markup already escaped."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{XMLNS}">{inner}</{root}>'.encode()


# -- reading --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Element:
    """One element; `name` is without its namespace."""

    name: str
    text: list[str] = field(default_factory=list)
    children: list[Element] = field(default_factory=list)

    def value(self) -> str:
        """Return its text. Errors: `MalformedXML` if it holds elements."""
        if self.children:
            malformed(f"<{self.name}> holds text, not elements")
        return "".join(self.text)


class _Reader:
    def __init__(self) -> None:
        self._open: list[Element] = []
        self._count = 0
        self.root: Element | None = None

    def start(self, name: str, _attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > _ELEMENTS_MAX or len(self._open) >= _DEPTH_MAX:
            malformed("it has too many or too deeply nested elements")
        element = Element(name.rpartition(" ")[2])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _name: str) -> None:
        self._open.pop()

    def text(self, text: str) -> None:
        self._open[-1].text.append(text)


def malformed(why: str) -> NoReturn:
    """Errors: `MalformedXML`, with what is wrong."""
    raise S3Error(
        "MalformedXML",
        f"The XML you provided was not well-formed or did not validate against our published schema: {why}.",
    )


def _refuse_declaration(*_: object) -> None:
    malformed("document types and entities are refused")


def parse(raw: bytes, root: str) -> Element:
    """Return a document's root element, which is called `root`. Errors: `MalformedXML`, `MaxMessageLengthExceeded`."""
    if len(raw) > DOCUMENT_SIZE_MAX:
        raise S3Error(
            "MaxMessageLengthExceeded",
            "Your request was too big.",
            fields={"MaxMessageLengthBytes": str(DOCUMENT_SIZE_MAX)},
        )
    reader = _Reader()
    parser = expat.ParserCreate("utf-8", " ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse_declaration
    parser.EntityDeclHandler = _refuse_declaration
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as error:
        malformed(f"{expat.ErrorString(error.code)} in line {error.lineno}")
    if reader.root is None or reader.root.name != root:
        malformed(f"the root element must be <{root}>")
    return reader.root


@dataclass(frozen=True, slots=True)
class DeleteTarget:
    """One object that DeleteObjects names; `etag`, `modified` and `size` are conditions where they are given.

    `key` may be longer than S3 allows, and a condition may be none: that is this key's own error.
    """

    key: bytes
    version_id: str | None = None
    etag: str | None = None
    modified: str | None = None
    size: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """DeleteObjects: what goes, and whether only failures are reported."""

    keys: list[DeleteTarget]
    quiet: bool


def parse_delete(raw: bytes) -> DeleteRequest:
    """Read a DeleteObjects document. Errors: `MalformedXML`, also for no key or more than 1,000."""
    targets = []
    quiet = False
    for child in parse(raw, "Delete").children:
        if child.name == "Quiet":
            quiet = boolean(child)
        elif child.name == "Object":
            targets.append(_target(child))
        else:
            malformed(f"<{child.name}> is not known in <Delete>")
    if not 0 < len(targets) <= DELETE_KEYS_MAX:
        malformed(f"name 1 to {DELETE_KEYS_MAX} objects, not {len(targets)}")
    return DeleteRequest(targets, quiet)


def boolean(element: Element) -> bool:
    """Return what an element of `true` or `false` says. Errors: `MalformedXML`."""
    text = element.value().strip().lower()
    if text not in ("true", "false"):
        malformed(f"<{element.name}> is true or false")
    return text == "true"


def _target(element: Element) -> DeleteTarget:
    found = text_fields(element, {"Key", "VersionId", "ETag", "LastModifiedTime", "Size"})
    if not found.get("Key"):
        malformed("an <Object> has no <Key>")
    etag = found.get("ETag")
    return DeleteTarget(
        found["Key"].encode(),
        found.get("VersionId"),
        None if etag is None else etag.strip().strip('"'),
        found.get("LastModifiedTime"),
        found.get("Size"),
    )


def text_fields(element: Element, known: set[str]) -> dict[str, str]:
    """Return the texts of an element's children by name. Errors: `MalformedXML` for an unknown or repeated one."""
    found: dict[str, str] = {}
    for child in element.children:
        if child.name not in known or child.name in found:
            malformed(f"<{child.name}> is repeated or not known in <{element.name}>")
        found[child.name] = child.value()
    return found


def parse_complete(raw: bytes) -> list[PartClaim]:
    """Read a CompleteMultipartUpload document, in its own order.

    Of a part that is named twice in a row the last mention counts: it was uploaded again.
    Errors: `MalformedXML`, also for no part or more than 10,000; `InvalidArgument` for a number out of 1 to 10,000.
    """
    children = parse(raw, "CompleteMultipartUpload").children
    if not 0 < len(children) <= PARTS_MAX:
        malformed(f"name 1 to {PARTS_MAX} parts, not {len(children)}")
    for child in children:
        if child.name != "Part":
            malformed(f"<{child.name}> is not known in <CompleteMultipartUpload>")
    claims: list[PartClaim] = []
    for child in children:
        claim = _part(child)
        if claims and claims[-1].number == claim.number:
            claims.pop()
        claims.append(claim)
    return claims


_PART_FIELDS: Final = {"PartNumber", "ETag", *_CHECKSUM_ELEMENTS}


def _part(element: Element) -> PartClaim:
    found = text_fields(element, _PART_FIELDS)
    digits = found.get("PartNumber", "").strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9 or not found.get("ETag"):
        malformed("a <Part> has a <PartNumber> and an <ETag>")
    number = int(digits)
    if not 1 <= number <= PARTS_MAX:
        raise S3Error(
            "InvalidArgument",
            "Part number must be an integer between 1 and 10000, inclusive",
            fields={"ArgumentName": "partNumber", "ArgumentValue": digits},
        )
    checksums = {_CHECKSUM_ELEMENTS[name]: text.strip() for name, text in found.items() if name in _CHECKSUM_ELEMENTS}
    return PartClaim(number, found["ETag"].strip().strip('"'), checksums)


def parse_create_bucket(raw: bytes) -> str | None:
    """Return the location constraint of a CreateBucket body, or None without one.

    Errors: `MalformedXML`; `NotImplemented` for directory buckets and tags.
    """
    if not raw.strip():
        return None
    found: str | None = None
    for child in parse(raw, "CreateBucketConfiguration").children:
        if child.name in ("Location", "Bucket", "Tags"):
            raise S3Error("NotImplemented", f"<{child.name}> in CreateBucketConfiguration is not implemented: omit it.")
        if child.name != "LocationConstraint" or found is not None:
            malformed(f"<{child.name}> is repeated or not known in <CreateBucketConfiguration>")
        found = child.value().strip()
    return found or None
