"""GetBucketWebsite, PutBucketWebsite, DeleteBucketWebsite: the document. The website itself is served elsewhere."""

from __future__ import annotations

from typing import Final

from meshhold.errors import InvalidError
from meshhold.rules.bucket import Aspect
from meshhold.rules.website import Redirect, RoutingRule, Website, check_website
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import RULE_SIZE_MAX, read_document
from meshhold.s3.syntax.options import check_options
from meshhold.s3.syntax.xml import Element, document, malformed, parse, tag, text_fields

_REDIRECT: Final = {"HostName", "Protocol", "ReplaceKeyPrefixWith", "ReplaceKeyWith", "HttpRedirectCode"}
_CONDITION: Final = {"KeyPrefixEquals", "HttpErrorCodeReturnedEquals"}


async def get_website(door: Door, request: Request) -> Response:
    """Show what is set. Errors: `NoSuchWebsiteConfiguration`."""
    bucket = door.allow(request, "s3:GetBucketWebsite")
    if bucket.rules.website is None:
        raise S3Error(
            "NoSuchWebsiteConfiguration",
            "The specified bucket does not have a website configuration",
            fields={"BucketName": request.bucket_name},
        )
    return xml_response(document("WebsiteConfiguration", _render(bucket.rules.website)))


async def put_website(door: Door, request: Request) -> Response:
    """Make the bucket a website: the node's web listener serves it to everybody who may read it."""
    bucket = door.allow(request, "s3:PutBucketWebsite")
    check_options(request)
    site = parse_website(await read_document(request, door.settings, size_max=RULE_SIZE_MAX))
    await door.rules.set(bucket, Aspect.WEBSITE, site)
    return Response(200)


async def delete_website(door: Door, request: Request) -> Response:
    """Make it no website any more; 204 whether or not it was one."""
    bucket = door.allow(request, "s3:DeleteBucketWebsite")
    check_options(request)
    await door.rules.set(bucket, Aspect.WEBSITE, None)
    return Response(204)


def parse_website(raw: bytes) -> Website:
    """Read a WebsiteConfiguration. Errors: `MalformedXML`, `InvalidArgument`."""
    found: dict[str, Element] = {}
    for child in parse(raw, "WebsiteConfiguration").children:
        if child.name not in ("IndexDocument", "ErrorDocument", "RedirectAllRequestsTo", "RoutingRules"):
            malformed(f"<{child.name}> is not known in <WebsiteConfiguration>")
        if child.name in found:
            malformed(f"<{child.name}> is repeated in <WebsiteConfiguration>")
        found[child.name] = child
    everywhere = found.get("RedirectAllRequestsTo")
    rules = found.get("RoutingRules")
    site = Website(
        index=_only(found.get("IndexDocument"), "Suffix"),
        error=_only(found.get("ErrorDocument"), "Key"),
        everywhere=None if everywhere is None else _redirect(everywhere, {"HostName", "Protocol"}),
        rules=() if rules is None else tuple(map(_rule, rules.children)),
    )
    try:
        return check_website(site)
    except InvalidError as error:
        raise S3Error("InvalidArgument", error.message) from error


def _only(element: Element | None, name: str) -> str:
    if element is None:
        return ""
    value = text_fields(element, {name}).get(name, "")
    if not value:
        malformed(f"<{element.name}> has a <{name}>")
    return value


def _rule(element: Element) -> RoutingRule:
    if element.name != "RoutingRule":
        malformed(f"<{element.name}> is not known in <RoutingRules>")
    parts = {child.name: child for child in element.children}
    if len(parts) != len(element.children) or not parts.keys() <= {"Condition", "Redirect"} or "Redirect" not in parts:
        malformed("a <RoutingRule> has one <Redirect> and at most one <Condition>")
    condition = text_fields(parts["Condition"], _CONDITION) if "Condition" in parts else {}
    if "Condition" in parts and not condition:
        malformed("a <Condition> has a <KeyPrefixEquals> or a <HttpErrorCodeReturnedEquals>")
    error = condition.get("HttpErrorCodeReturnedEquals")
    return RoutingRule(
        _redirect(parts["Redirect"], _REDIRECT),
        condition.get("KeyPrefixEquals", ""),
        0 if error is None else _status(error),
    )


def _redirect(element: Element, known: set[str]) -> Redirect:
    found = text_fields(element, known)
    if not found:
        malformed(f"<{element.name}> says where to")
    return Redirect(
        host=found.get("HostName", "").strip(),
        protocol=found.get("Protocol", "").strip(),
        key=found.get("ReplaceKeyWith"),
        key_prefix=found.get("ReplaceKeyPrefixWith"),
        status=_status(found["HttpRedirectCode"]) if "HttpRedirectCode" in found else 301,
    )


def _status(text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) == 3 and digits[0] != "0"):
        malformed("an HTTP status has three digits")
    return int(digits)


def _render(site: Website) -> str:
    inner = ""
    if site.everywhere is not None:
        inner += f"<RedirectAllRequestsTo>{_render_redirect(site.everywhere, whole=False)}</RedirectAllRequestsTo>"
    if site.index:
        inner += f"<IndexDocument>{tag('Suffix', site.index)}</IndexDocument>"
    if site.error:
        inner += f"<ErrorDocument>{tag('Key', site.error)}</ErrorDocument>"
    if site.rules:
        inner += f"<RoutingRules>{''.join(map(_render_rule, site.rules))}</RoutingRules>"
    return inner


def _render_rule(rule: RoutingRule) -> str:
    condition = tag("KeyPrefixEquals", rule.prefix) if rule.prefix else ""
    condition += tag("HttpErrorCodeReturnedEquals", str(rule.error)) if rule.error else ""
    shown = f"<Condition>{condition}</Condition>" if condition else ""
    return f"<RoutingRule>{shown}<Redirect>{_render_redirect(rule.redirect, whole=True)}</Redirect></RoutingRule>"


def _render_redirect(redirect: Redirect, *, whole: bool) -> str:
    inner = tag("HostName", redirect.host) if redirect.host else ""
    inner += tag("Protocol", redirect.protocol) if redirect.protocol else ""
    if redirect.key_prefix is not None:
        inner += tag("ReplaceKeyPrefixWith", redirect.key_prefix)
    if redirect.key is not None:
        inner += tag("ReplaceKeyWith", redirect.key)
    return inner + (tag("HttpRedirectCode", str(redirect.status)) if whole else "")
