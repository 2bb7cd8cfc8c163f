"""How are tags written, in XML and in a header? Knows no object; which tags are allowed is `rules.tags`'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meshhold.rules.tags import OBJECT_TAGS_MAX, check_tags
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request
from meshhold.s3.syntax.query import parse_query
from meshhold.s3.syntax.xml import Element, document, malformed, parse, tag, text_fields

HEADER: Final = b"x-amz-tagging"


def parse_tagging(raw: bytes, count_max: int = OBJECT_TAGS_MAX) -> dict[str, str]:
    """Read a `<Tagging>` document: a request's body, or the field `tagging` of a form.

    Errors: `MalformedXML`; `InvalidTagError` for tags that S3 does not take.
    """
    children = parse(raw, "Tagging").children
    if len(children) != 1 or children[0].name != "TagSet":
        malformed("<Tagging> holds one <TagSet>")
    return check_tags([_pair(child) for child in children[0].children], count_max)


def _pair(element: Element) -> tuple[str, str]:
    if element.name != "Tag":
        malformed(f"<{element.name}> is not known in <TagSet>")
    found = text_fields(element, {"Key", "Value"})
    if len(found) != 2:
        malformed("a <Tag> has a <Key> and a <Value>")
    return found["Key"], found["Value"]


def render_tagging(tags: Mapping[str, str]) -> bytes:
    """Return the `<Tagging>` document of these tags."""
    rows = "".join(f"<Tag>{tag('Key', name)}{tag('Value', value)}</Tag>" for name, value in tags.items())
    return document("Tagging", f"<TagSet>{rows}</TagSet>")


def tags_of(request: Request) -> dict[str, str]:
    """Return the tags that the header `x-amz-tagging` names, `a=b&c=d` with both sides URL-encoded; none without it.

    Errors: `InvalidArgument` for what is not of that form or names a key twice; `InvalidTagError`.
    """
    raw = request.headers.get(HEADER)
    if not raw:
        return {}
    try:
        pairs = parse_query(raw)
    except S3Error:
        raise _bad_header() from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise _bad_header()
    return check_tags(pairs, OBJECT_TAGS_MAX)


def _bad_header() -> S3Error:
    return S3Error(
        "InvalidArgument",
        "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name "
        "duplicates.",
        fields={"ArgumentName": "x-amz-tagging"},
    )
