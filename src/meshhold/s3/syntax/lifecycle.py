"""The LifecycleConfiguration document: how it is read and written, and what S3 refuses in it. Judges nothing due.

Source: Amazon S3 API reference, PutBucketLifecycleConfiguration and LifecycleRule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from meshhold.crypto.random import new_salt
from meshhold.rules.lifecycle import DAY_MS, DAYS_MAX, ID_LENGTH_MAX, RULES_MAX, Lifecycle, Rule
from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.conditions import iso_date
from meshhold.s3.syntax.xml import Element, boolean, document, malformed, parse, tag, text_fields

KEPT_MAX: Final = 100  # S3's limit for NewerNoncurrentVersions
_SIZE_MAX: Final = 5 * 2**40
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:\d\d)?)?\Z", re.ASCII)
_ACTIONS: Final = ("Expiration", "NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload")
_MOVES: Final = ("Transition", "NoncurrentVersionTransition")


# -- reading the document -------------------------------------------------------------------------------------------


def parse_lifecycle(raw: bytes) -> Lifecycle:
    """Read a LifecycleConfiguration; rules without an ID get one.

    Errors: `MalformedXML`, `InvalidArgument` and `InvalidRequest` as S3 gives them; `InvalidStorageClass` for rules
    that move objects to another storage class.
    """
    children = parse(raw, "LifecycleConfiguration").children
    if not 0 < len(children) <= RULES_MAX:
        malformed(f"name 1 to {RULES_MAX} rules, not {len(children)}")
    found = []
    for child in children:
        if child.name != "Rule":
            malformed(f"<{child.name}> is not known in <LifecycleConfiguration>")
        found.append(_rule(child))
    if len({rule.id for rule in found}) < len(found):
        raise _argument("Rule ID must be unique. Found same ID for more than one rule.")
    return Lifecycle(tuple(found))


def _rule(element: Element) -> Rule:
    children = _children(element, {"ID", "Prefix", "Filter", "Status", *_ACTIONS, *_MOVES})
    for name in _MOVES:
        if name in children:
            raise S3Error(
                "InvalidStorageClass",
                f"<{name}> moves objects to another storage class, and there is only one here: leave it out.",
            )
    if ("Prefix" in children) == ("Filter" in children):
        malformed("a <Rule> has either a <Filter> or a <Prefix>")
    fields = _reach(children["Filter"]) if "Filter" in children else {"prefix": _prefix(children["Prefix"])}
    if not any(name in children for name in _ACTIONS):
        raise S3Error("InvalidRequest", "At least one action needs to be specified in a rule.")
    if "Expiration" in children:
        fields |= _expiration(children["Expiration"])
    if "NoncurrentVersionExpiration" in children:
        fields |= _noncurrent(children["NoncurrentVersionExpiration"])
    if "AbortIncompleteMultipartUpload" in children:
        fields |= _abort(children["AbortIncompleteMultipartUpload"])
    rule = Rule(
        id=_id(children.get("ID")),
        enabled=_status(children.get("Status")),
        has_filter="Filter" in children,
        **fields,
    )
    _check_reach(rule)
    return rule


def _check_reach(rule: Rule) -> None:
    """Errors: `InvalidRequest` for an action on what has neither tags nor a size, restricted by them."""
    if rule.size_above is not None and rule.size_below is not None and rule.size_below <= rule.size_above + 1:
        raise S3Error(
            "InvalidRequest", "'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan' plus one."
        )
    for is_set, name in (
        (rule.alone_markers is not None, "ExpiredObjectDeleteMarker"),
        (rule.abort_days is not None, "AbortIncompleteMultipartUpload"),
    ):
        if is_set and rule.is_picky:
            raise S3Error("InvalidRequest", f"{name} cannot be specified with tags or object sizes in its filter.")


def _children(element: Element, known: set[str], repeated: str = "") -> dict[str, Element]:
    found: dict[str, Element] = {}
    for child in element.children:
        if child.name not in known or (child.name in found and child.name != repeated and child.name not in _MOVES):
            malformed(f"<{child.name}> is repeated or not known in <{element.name}>")
        found[child.name] = child
    return found


def _id(element: Element | None) -> str:
    text = "" if element is None else element.value()
    if len(text) > ID_LENGTH_MAX:
        raise _argument(f"ID length should not exceed allowed limit of {ID_LENGTH_MAX}")
    return text or new_salt().hex()


def _status(element: Element | None) -> bool:
    text = "" if element is None else element.value()
    if text not in ("Enabled", "Disabled"):
        malformed("<Status> is Enabled or Disabled")
    return text == "Enabled"


# -- what a rule reaches --------------------------------------------------------------------------------------------

_ALONE: Final = {"Prefix", "ObjectSizeGreaterThan", "ObjectSizeLessThan"}


def _reach(element: Element) -> dict[str, object]:
    """Return what a <Filter> says. Several conditions beside one another hold together, as they do inside <And>."""
    children = _children(element, _ALONE | {"Tag", "And"})
    texts = {name: child for name, child in children.items() if name in _ALONE}
    tags = [children["Tag"]] if "Tag" in children else []
    if "And" in children:
        inner = _children(children["And"], _ALONE | {"Tag"}, repeated="Tag")
        tags += [child for child in children["And"].children if child.name == "Tag"]
        both = texts.keys() & inner.keys() & _ALONE
        if any(texts[name].value() != inner[name].value() and not _nested(texts, inner, name) for name in both):
            malformed(f"<{min(both)}> is given beside <And> and in it")
        texts |= {name: child for name, child in inner.items() if name in _ALONE and _tighter(texts, child)}
    return {
        "prefix": _prefix(texts.get("Prefix")),
        "tags": _tags(tags),
        "size_above": _size(texts.get("ObjectSizeGreaterThan"), 0),
        "size_below": _size(texts.get("ObjectSizeLessThan"), 1),
    }


def _nested(texts: dict[str, Element], inner: dict[str, Element], name: str) -> bool:
    one, other = texts[name].value(), inner[name].value()
    return name == "Prefix" and (one.startswith(other) or other.startswith(one))


def _tighter(texts: dict[str, Element], child: Element) -> bool:
    return child.name not in texts or len(child.value()) > len(texts[child.name].value())


def _prefix(element: Element | None) -> bytes:
    raw = b"" if element is None else element.value().encode()
    if len(raw) > 1024:
        raise S3Error("InvalidRequest", "The maximum size of a prefix is 1024.")
    return raw


def _tags(elements: Sequence[Element]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for element in elements:
        fields = text_fields(element, {"Key", "Value"})
        name, value = fields.get("Key", ""), fields.get("Value")
        if not name or value is None:
            malformed("a <Tag> has a <Key> and a <Value>")
        if len(name) > 128 or len(value) > 256:
            raise S3Error("InvalidTag", "A tag's key has at most 128 characters, its value 256.")
        if name in found:
            raise S3Error("InvalidRequest", "Duplicate Tag Keys are not allowed.")
        found[name] = value
    return tuple(found.items())


def _size(element: Element | None, least: int) -> int | None:
    return None if element is None else _number(element, least, _SIZE_MAX)


# -- what a rule does -----------------------------------------------------------------------------------------------


def _expiration(element: Element) -> dict[str, object]:
    children = _children(element, {"Days", "Date", "ExpiredObjectDeleteMarker"})
    if len(children) != 1:
        malformed("<Expiration> has one of <Days>, <Date> and <ExpiredObjectDeleteMarker>")
    if "Days" in children:
        return {"days": _days(children["Days"], "'Days' for Expiration action")}
    if "Date" in children:
        return {"date_ms": _date(children["Date"])}
    return {"alone_markers": boolean(children["ExpiredObjectDeleteMarker"])}


def _noncurrent(element: Element) -> dict[str, object]:
    children = _children(element, {"NoncurrentDays", "NewerNoncurrentVersions"})
    if "NoncurrentDays" not in children:
        malformed("<NoncurrentVersionExpiration> has <NoncurrentDays>")
    days = _days(children["NoncurrentDays"], "'NoncurrentDays' for NoncurrentVersionExpiration action")
    kept = children.get("NewerNoncurrentVersions")
    return {"noncurrent_days": days, "newer_kept": None if kept is None else _number(kept, 1, KEPT_MAX)}


def _abort(element: Element) -> dict[str, object]:
    children = _children(element, {"DaysAfterInitiation"})
    if not children:
        malformed("<AbortIncompleteMultipartUpload> has <DaysAfterInitiation>")
    what = "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action"
    return {"abort_days": _days(children["DaysAfterInitiation"], what)}


def _days(element: Element, what: str) -> int:
    number = _integer(element)
    if not 1 <= number <= DAYS_MAX:
        raise _argument(f"{what} must be a positive integer")
    return number


def _number(element: Element, least: int, most: int) -> int:
    number = _integer(element)
    if not least <= number <= most:
        raise _argument(f"'{element.name}' must be {least} to {most}")
    return number


def _integer(element: Element) -> int:
    text = element.value().strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        malformed(f"<{element.name}> is a whole number")
    return int(text)


def _date(element: Element) -> int:
    text = element.value().strip()
    try:
        if not _DATE.match(text):
            raise ValueError(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        malformed("<Date> is a date of ISO 8601, such as 2030-01-31T00:00:00Z")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    at_ms = int(moment.timestamp() * 1000)
    if at_ms % DAY_MS:
        raise _argument("'Date' must be at midnight GMT")
    return at_ms


def _argument(message: str) -> S3Error:
    return S3Error("InvalidArgument", message)


# -- writing the document -------------------------------------------------------------------------------------------


def render_lifecycle(lifecycle: Lifecycle) -> bytes:
    """Return the document that says these rules."""
    return document("LifecycleConfiguration", "".join(_render(rule) for rule in lifecycle.rules))


def _render(rule: Rule) -> str:
    prefix = tag("Prefix", rule.prefix.decode("utf-8", "replace"))
    inner = tag("ID", rule.id) + (_render_reach(rule, prefix) if rule.has_filter else prefix)
    inner += tag("Status", "Enabled" if rule.enabled else "Disabled")
    if rule.days is not None:
        inner += f"<Expiration>{tag('Days', str(rule.days))}</Expiration>"
    elif rule.date_ms is not None:
        inner += f"<Expiration>{tag('Date', iso_date(rule.date_ms))}</Expiration>"
    elif rule.alone_markers is not None:
        text = "true" if rule.alone_markers else "false"
        inner += f"<Expiration>{tag('ExpiredObjectDeleteMarker', text)}</Expiration>"
    if rule.noncurrent_days is not None:
        kept = "" if rule.newer_kept is None else tag("NewerNoncurrentVersions", str(rule.newer_kept))
        inner += (
            f"<NoncurrentVersionExpiration>{tag('NoncurrentDays', str(rule.noncurrent_days))}{kept}"
            "</NoncurrentVersionExpiration>"
        )
    if rule.abort_days is not None:
        inner += (
            f"<AbortIncompleteMultipartUpload>{tag('DaysAfterInitiation', str(rule.abort_days))}"
            "</AbortIncompleteMultipartUpload>"
        )
    return f"<Rule>{inner}</Rule>"


def _render_reach(rule: Rule, prefix: str) -> str:
    conditions = [f"<Tag>{tag('Key', name)}{tag('Value', value)}</Tag>" for name, value in rule.tags]
    if rule.size_above is not None:
        conditions.append(tag("ObjectSizeGreaterThan", str(rule.size_above)))
    if rule.size_below is not None:
        conditions.append(tag("ObjectSizeLessThan", str(rule.size_below)))
    if rule.prefix or not conditions:
        conditions.insert(0, prefix)
    inner = "".join(conditions)
    return f"<Filter>{inner if len(conditions) == 1 else f'<And>{inner}</And>'}</Filter>"
