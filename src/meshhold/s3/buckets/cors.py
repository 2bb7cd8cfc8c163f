"""GetBucketCors, PutBucketCors, DeleteBucketCors: the document. What its rules mean is decided elsewhere."""

from __future__ import annotations

from typing import Final

from meshhold.errors import InvalidError
from meshhold.rules.bucket import Aspect
from meshhold.rules.cors import RULES_MAX, CorsRule, check_rule
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import RULE_SIZE_MAX, read_document
from meshhold.s3.syntax.options import check_options
from meshhold.s3.syntax.xml import Element, document, malformed, parse, tag

_MANY: Final = {"AllowedOrigin": "origins", "AllowedMethod": "methods", "AllowedHeader": "headers",
                "ExposeHeader": "exposed"}  # fmt: skip
_ONE: Final = ("ID", "MaxAgeSeconds")


async def get_cors(door: Door, request: Request) -> Response:
    """Show the rules. Errors: `NoSuchCORSConfiguration`."""
    bucket = door.allow(request, "s3:GetBucketCORS")
    if not bucket.rules.cors:
        raise S3Error(
            "NoSuchCORSConfiguration",
            "The CORS configuration does not exist",
            fields={"BucketName": request.bucket_name},
        )
    return xml_response(document("CORSConfiguration", "".join(map(_render, bucket.rules.cors))))


async def put_cors(door: Door, request: Request) -> Response:
    """Let these rules replace all that were set."""
    bucket = door.allow(request, "s3:PutBucketCORS")
    check_options(request)
    rules = parse_cors(await read_document(request, door.settings, size_max=RULE_SIZE_MAX))
    await door.rules.set(bucket, Aspect.CORS, rules)
    return Response(200)


async def delete_cors(door: Door, request: Request) -> Response:
    """Set no rule; 204 whether or not there was one."""
    bucket = door.allow(request, "s3:PutBucketCORS")
    check_options(request)
    await door.rules.set(bucket, Aspect.CORS, ())
    return Response(204)


def parse_cors(raw: bytes) -> tuple[CorsRule, ...]:
    """Read a CORSConfiguration. Errors: `MalformedXML`, `InvalidRequest`."""
    elements = parse(raw, "CORSConfiguration").children
    if not 0 < len(elements) <= RULES_MAX:
        malformed(f"a CORS configuration has 1 to {RULES_MAX} rules, not {len(elements)}")
    return tuple(map(_rule, elements))


def _rule(element: Element) -> CorsRule:
    if element.name != "CORSRule":
        malformed(f"<{element.name}> is not known in <CORSConfiguration>")
    lists: dict[str, list[str]] = {field: [] for field in _MANY.values()}
    single: dict[str, str] = {}
    for child in element.children:
        if child.name in _MANY:
            lists[_MANY[child.name]].append(child.value().strip())
        elif child.name in _ONE and child.name not in single:
            single[child.name] = child.value().strip()
        else:
            malformed(f"<{child.name}> is repeated or not known in <CORSRule>")
    if not lists["origins"] or not lists["methods"]:
        malformed("a <CORSRule> has an <AllowedOrigin> and an <AllowedMethod>")
    age = single.get("MaxAgeSeconds")
    if age is not None and not (age.isascii() and age.isdigit() and len(age) <= 10):
        malformed("<MaxAgeSeconds> is a number of seconds")
    try:
        return check_rule(
            CorsRule(
                **{field: tuple(values) for field, values in lists.items()},
                max_age_s=None if age is None else int(age),
                id=single.get("ID", ""),
            )
        )
    except InvalidError as error:
        raise S3Error("InvalidRequest", error.message) from error


def _render(rule: CorsRule) -> str:
    inner = tag("ID", rule.id) if rule.id else ""
    for name, field in _MANY.items():
        values: tuple[str, ...] = getattr(rule, field)
        inner += "".join(tag(name, value) for value in values)
    if rule.max_age_s is not None:
        inner += tag("MaxAgeSeconds", str(rule.max_age_s))
    return f"<CORSRule>{inner}</CORSRule>"
