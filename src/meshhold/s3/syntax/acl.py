"""Which access does an ACL ask for, in a header or a document, and how is one shown? Knows no bucket and no grant.

Source: Amazon S3 user guide, "Access control list (ACL) overview"; API reference, PutBucketAcl and PutObjectAcl.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import decode_header
from meshhold.s3.syntax.xml import XMLNS, Element, malformed, parse, tag, text_fields

OWNER: Final = "owner"
EVERYBODY: Final = "http://acs.amazonaws.com/groups/global/AllUsers"
SIGNED: Final = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
LOGGING: Final = "http://acs.amazonaws.com/groups/s3/LogDelivery"
_MACHINES: Final = "aws-exec-read"  # an account of AWS's own
GRANTS_MAX: Final = 100  # S3's own limit

_ALL: Final = (OWNER, "FULL_CONTROL")
_CANNED: Final[dict[str, frozenset[tuple[str, str]]]] = {
    "private": frozenset({_ALL}),
    "bucket-owner-read": frozenset({_ALL}),
    "bucket-owner-full-control": frozenset({_ALL}),
    "public-read": frozenset({_ALL, (EVERYBODY, "READ")}),
    "public-read-write": frozenset({_ALL, (EVERYBODY, "READ"), (EVERYBODY, "WRITE")}),
    "authenticated-read": frozenset({_ALL, (SIGNED, "READ")}),
    "log-delivery-write": frozenset({_ALL, (LOGGING, "WRITE"), (LOGGING, "READ_ACP")}),
    "aws-exec-read": frozenset({_ALL, (_MACHINES, "READ")}),
}
_GRANT_HEADERS: Final = {
    b"x-amz-grant-read": "READ",
    b"x-amz-grant-write": "WRITE",
    b"x-amz-grant-read-acp": "READ_ACP",
    b"x-amz-grant-write-acp": "WRITE_ACP",
    b"x-amz-grant-full-control": "FULL_CONTROL",
}
_CANNED_HEADER: Final = b"x-amz-acl"
HEADERS: Final = frozenset({_CANNED_HEADER, *_GRANT_HEADERS})
_PERMISSIONS: Final = frozenset(_GRANT_HEADERS.values())
_GRANTEE: Final = re.compile(r'\s*(id|uri|emailaddress)\s*=\s*(?:"([^"]*)"|([^",\s]*))\s*\Z', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Acl:
    """What an ACL asks for: `grants` pairs a grantee (`OWNER`, a group's URI, or another id) with a permission.

    `name` is how the request put it, for messages; `yields_to_owner` says that it is `bucket-owner-full-control`.
    """

    name: str
    grants: frozenset[tuple[str, str]]
    yields_to_owner: bool = False

    @property
    def is_private(self) -> bool:
        """Tell whether it is for the owner alone."""
        return self.grants == {_ALL}

    @property
    def is_public_read(self) -> bool:
        """Tell whether it lets everybody read, and nothing more."""
        return self.grants | {_ALL} == _CANNED["public-read"]

    @property
    def is_public(self) -> bool:
        """Tell whether S3 calls it public: it gives a group of people something."""
        return any(grantee in (EVERYBODY, SIGNED) for grantee, _ in self.grants)

    @property
    def others(self) -> set[str]:
        """Return the ids of single grantees other than the owner."""
        return {grantee for grantee, _ in self.grants} - {OWNER, EVERYBODY, SIGNED, LOGGING, _MACHINES}


def acl_of_headers(headers: Mapping[bytes, bytes], owner: str) -> Acl | None:
    """Return what a request's headers ask for, None for nothing. `owner` is the owner's id.

    Errors: `InvalidArgument`, `InvalidRequest`, `UnresolvableGrantByEmailAddress`.
    """
    named = HEADERS & headers.keys()
    if not named:
        return None
    if _CANNED_HEADER in named:
        if len(named) > 1:
            raise S3Error("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
        name = decode_header(headers[_CANNED_HEADER])
        if name not in _CANNED:
            raise S3Error(
                "InvalidArgument",
                f"x-amz-acl: {name[:64]} is no ACL of S3.",
                fields={"ArgumentName": "x-amz-acl", "ArgumentValue": name[:64]},
            )
        return Acl(f"x-amz-acl: {name}", _CANNED[name], name == "bucket-owner-full-control")
    found: set[tuple[str, str]] = set()
    for header in sorted(named):
        grantees = decode_header(headers[header]).split(",")
        found |= {(_named_grantee(text, owner), _GRANT_HEADERS[header]) for text in grantees}
    _check_count(len(found))
    return Acl(", ".join(name.decode() for name in sorted(named)), frozenset(found))


def _named_grantee(text: str, owner: str) -> str:
    shape = _GRANTEE.match(text)
    if shape is None:
        raise S3Error("InvalidArgument", f"{text.strip()[:64]!r} names no grantee: use id=, uri= or emailAddress=.")
    return _grantee(shape[1].lower(), shape[2] or shape[3] or "", owner)


def _grantee(kind: str, value: str, owner: str) -> str:
    if kind == "emailaddress":
        raise S3Error(
            "UnresolvableGrantByEmailAddress",
            "The e-mail address you provided does not match any account on record: keys here have none.",
        )
    if kind == "uri":
        if value not in (EVERYBODY, SIGNED, LOGGING):
            raise S3Error("InvalidArgument", "Invalid group uri", fields={"ArgumentValue": value[:128]})
        return value
    return OWNER if value == owner else value


def acl_of_document(raw: bytes, owner: str) -> Acl:
    """Read an `<AccessControlPolicy>`. Errors: `MalformedACLError`, `MalformedXML`, and those of `acl_of_headers`."""
    grants: set[tuple[str, str]] = set()
    has_list = False
    for child in parse(raw, "AccessControlPolicy").children:
        if child.name == "Owner":
            found = text_fields(child, {"ID", "DisplayName"})
            if found.get("ID", owner) != owner:
                raise S3Error("AccessDenied", f"Access Denied: the owner is {owner!r}, and an ACL cannot change that.")
        elif child.name == "AccessControlList" and not has_list:
            has_list = True
            _check_count(len(child.children))
            grants |= {_grant(each, owner) for each in child.children}
        else:
            malformed(f"<{child.name}> is repeated or not known in <AccessControlPolicy>")
    if not has_list:
        raise S3Error("MalformedACLError", "The ACL that you provided has no <AccessControlList>.")
    return Acl("this AccessControlPolicy", frozenset(grants))


def _grant(element: Element, owner: str) -> tuple[str, str]:
    if element.name != "Grant":
        malformed(f"<{element.name}> is not known in <AccessControlList>")
    grantee = permission = ""
    for child in element.children:
        if child.name == "Permission":
            permission = child.value().strip()
        elif child.name == "Grantee":
            found = text_fields(child, {"ID", "DisplayName", "URI", "EmailAddress"})
            kinds = [name for name in ("ID", "URI", "EmailAddress") if name in found]
            if len(kinds) != 1:
                raise S3Error("MalformedACLError", "A <Grantee> has one of <ID>, <URI> and <EmailAddress>.")
            grantee = _grantee(kinds[0].lower(), found[kinds[0]].strip(), owner)
        else:
            malformed(f"<{child.name}> is not known in <Grant>")
    if not grantee or permission not in _PERMISSIONS:
        raise S3Error(
            "MalformedACLError", f"A <Grant> has a <Grantee> and a <Permission>: {', '.join(sorted(_PERMISSIONS))}."
        )
    return grantee, permission


def _check_count(count: int) -> None:
    if count > GRANTS_MAX:
        raise S3Error("MalformedACLError", f"An ACL has at most {GRANTS_MAX} grants, not {count}.")


# -- writing --------------------------------------------------------------------------------------------------------

_SCHEMA: Final = "http://www.w3.org/2001/XMLSchema-instance"


def render_acl(owner: str, *, public: bool) -> bytes:
    """Return the document of what holds: the owner may everything, and where it is `public` everybody may read."""
    who = tag("ID", owner) + tag("DisplayName", owner)
    grants = _render_grant("Group", tag("URI", EVERYBODY), "READ") if public else ""
    grants += _render_grant("CanonicalUser", who, "FULL_CONTROL")
    inner = f"<Owner>{who}</Owner><AccessControlList>{grants}</AccessControlList>"
    root = f'<AccessControlPolicy xmlns="{XMLNS}">{inner}</AccessControlPolicy>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{root}'.encode()


def _render_grant(kind: str, grantee: str, permission: str) -> str:
    head = f'<Grantee xmlns:xsi="{_SCHEMA}" xsi:type="{kind}">'
    return f"<Grant>{head}{grantee}</Grantee>{tag('Permission', permission)}</Grant>"
