"""What does a bucket's policy say about an action: allow, deny or nothing? Knows no grant, no request and no clock.

Source: IAM user guide, "IAM JSON policy language"; Amazon S3 user guide, "Policies and permissions in Amazon S3".
What cannot be judged is refused when a policy is set, never passed over when it is asked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from meshhold.errors import InvalidError
from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS
from meshhold.rules.actions import ACTIONS, OBJECT_ACTIONS, OWNER_ACTIONS, UNOFFERED
from meshhold.rules.globs import Glob
from meshhold.rules.policy_conditions import (
    EXISTING_TAG,
    Condition,
    Facts,
    check_variables,
    fill_variables,
    parse_conditions,
)

SIZE_MAX: Final = 20 * 1024  # S3's own limit, in bytes of UTF-8
ARN: Final = "arn:aws:s3:::"
VARIABLES_SINCE: Final = "2012-10-17"
_VERSIONS: Final = ("2008-10-17", VARIABLES_SINCE)
_KEY: Final = re.compile(r"(?:arn:aws:iam::(?:meshhold)?:user/)?(GK[0-9a-f]{24})\Z")
_FOREIGN: Final = re.compile(r"(?:\d{12}|arn:aws:iam::(?!meshhold:)[^:/]+:root)\Z")
_NOBODY: Final = "nobody"


class Verdict(Enum):
    """What a policy says about one question."""

    ALLOWS = "allows"
    DENIES = "denies"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Question:
    """Whether `sender` (an access key id, or `anonymous`) may do `action`, one of `ACTIONS`.

    To `key`, or with None to the bucket. `facts` answers what conditions ask, and is called only for those that decide.
    """

    sender: str
    action: str
    key: str | None
    facts: Facts


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `senders` None means everybody; `others` turns it round: all but the senders."""

    allows: bool
    senders: frozenset[str] | None
    others: bool
    actions: frozenset[str]
    resources: tuple[_Resource, ...]
    spared: bool
    conditions: tuple[Condition, ...]

    def concerns(self, question: Question, bucket: str) -> bool:
        """Tell whether the statement is about the question."""
        if question.action not in self.actions:
            return False
        if self.senders is not None and (question.sender in self.senders) is self.others:
            return False
        if self.allows and self.senders is None and not _may_be_for_everybody(question):
            return False
        name = bucket if question.key is None else f"{bucket}/{question.key}"
        if any(resource.matches(name, question.facts) for resource in self.resources) is self.spared:
            return False
        return all(condition.holds(question.facts) for condition in self.conditions)

    @property
    def is_public(self) -> bool:
        """Tell whether it allows something to whoever asks."""
        is_for_all = self.allows and self.senders is None
        return is_for_all and not any(condition.pins_sender for condition in self.conditions)


def _may_be_for_everybody(question: Question) -> bool:
    """Nobody writes without a signature, and to whom the policy itself is open must be named."""
    if question.action in OWNER_ACTIONS:
        return False
    return question.sender != ANONYMOUS or not is_write(question.action)


def is_write(action: str) -> bool:
    """Tell whether an action changes something, or is for owners alone."""
    return bool(ACTIONS[action] & (Permission.WRITE | Permission.OWN))


@dataclass(frozen=True, slots=True)
class _Resource:
    """A pattern over `bucket` and `bucket/key`."""

    pattern: str
    has_variables: bool
    glob: Glob

    def matches(self, name: str, facts: Facts) -> bool:
        if not self.has_variables:
            return self.glob.matches(name)
        filled = fill_variables(self.pattern, facts)
        return filled is not None and Glob(filled).matches(name)


@dataclass(frozen=True, slots=True)
class Policy:
    """A bucket's policy as it was set, for a bucket that had the name `bucket` then: it goes with a bucket renamed.

    One without statements is one that this program cannot read: it denies everything but what owners may always do.
    """

    document: str
    bucket: str
    statements: tuple[Statement, ...] = field(compare=False)
    asks_for_tags: bool = field(init=False, compare=False, default=False)
    """Whether some condition asks for the tags that an object has."""

    def __post_init__(self) -> None:
        keys = (condition.key for statement in self.statements for condition in statement.conditions)
        object.__setattr__(self, "asks_for_tags", any(key.startswith(EXISTING_TAG) for key in keys))

    def judge(self, question: Question) -> Verdict:
        """Answer a question: a denial beats everything else."""
        if not self.statements:
            return Verdict.DENIES
        verdict = Verdict.SILENT
        for statement in self.statements:
            if (verdict is Verdict.SILENT or not statement.allows) and statement.concerns(question, self.bucket):
                if not statement.allows:
                    return Verdict.DENIES
                verdict = Verdict.ALLOWS
        return verdict

    @property
    def is_public(self) -> bool:
        """Tell whether it allows something to whoever asks."""
        return any(statement.is_public for statement in self.statements)


# -- stored form ----------------------------------------------------------------------------------------------------


def pack_policy(policy: Policy) -> dict[str, str]:
    """Return what is stored of a policy: plain values."""
    return {"document": policy.document, "bucket": policy.bucket}


def unpack_policy(packed: Any) -> Policy:
    """Undo `pack_policy`. What cannot be read denies: a newer program may have denied something with it."""
    try:
        return parse_policy(packed["document"], packed["bucket"])
    except Exception:  # noqa: BLE001 - whatever it is: a policy that nobody here can read must not let anything pass
        document = packed.get("document") if isinstance(packed, dict) else None
        return Policy(document if isinstance(document, str) else "{}", "", ())


# -- reading --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)  # records are opened anew at each change of the registry
def parse_policy(document: str, bucket: str) -> Policy:
    """Read a policy for the bucket of this name.

    Errors: `InvalidError` names what is malformed or cannot be judged.
    """
    if len(document.encode()) > SIZE_MAX:
        raise InvalidError(f"the policy has more than {SIZE_MAX} bytes", "make it shorter")
    try:
        raw = json.loads(document, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"the policy is no JSON: {error or type(error).__name__}") from None
    if not isinstance(raw, dict):
        raise InvalidError("the policy is a JSON object")
    _check_names(raw, {"Version", "Id", "Statement"}, "the policy")
    version = raw.get("Version", _VERSIONS[0])
    if version not in _VERSIONS:
        raise InvalidError(f"the policy's Version is {' or '.join(_VERSIONS)}")
    if not isinstance(raw.get("Id", ""), str):
        raise InvalidError("the policy's Id is a text")
    rows = raw.get("Statement")
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidError("the policy's Statement is an object or a list of objects, one at least")
    sids = [row["Sid"] for row in rows if "Sid" in row]
    if not all(isinstance(sid, str) for sid in sids) or len(set(sids)) != len(sids):
        raise InvalidError("each Sid is a text, and no two are the same")
    has_variables = version == VARIABLES_SINCE
    return Policy(document, bucket, tuple(_statement(row, bucket, has_variables=has_variables) for row in rows))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _check_names(found: dict[str, Any], known: set[str], where: str) -> None:
    for name in found:
        if name not in known:
            raise InvalidError(f"{name!r} is not known in {where}", f"it takes {', '.join(sorted(known))}")


_NAMES: Final = {
    "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition",
}  # fmt: skip


def _statement(raw: dict[str, Any], bucket: str, *, has_variables: bool) -> Statement:
    _check_names(raw, _NAMES, "a statement")
    effect = raw.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise InvalidError("a statement's Effect is Allow or Deny")
    allows = effect == "Allow"
    name, value = _one_of(raw, "Principal", "NotPrincipal")
    others = name == "NotPrincipal"
    if others and allows:
        raise InvalidError("Allow with NotPrincipal would allow all but a few, requests without a signature too")
    senders = _senders(value, allows=allows)
    if others and senders is None:
        raise InvalidError("NotPrincipal * means nobody")
    actions = _actions(*_one_of(raw, "Action", "NotAction"))
    name, value = _one_of(raw, "Resource", "NotResource")
    spared = name == "NotResource"
    resources = tuple(_resource(text, bucket, has_variables=has_variables) for text in _texts(value, name))
    if not allows and not spared:
        _check_reach(actions, resources)
    if allows and _is_bare(raw) and any(map(is_write, actions - OWNER_ACTIONS)):
        raise InvalidError(
            'Principal "*" with an action that writes would let requests without a signature write, which nothing does',
            'allow reads to everybody, and write "Principal": {"AWS": "*"} for all who sign with a key',
        )
    conditions = parse_conditions(raw["Condition"], has_variables=has_variables) if "Condition" in raw else ()
    return Statement(allows, senders, others, actions, resources, spared, conditions)


def _is_bare(raw: dict[str, Any]) -> bool:
    """Tell whether a statement is for everybody whoever that is: with a signature or without one."""
    return raw.get("Principal") == "*"


def _one_of(raw: dict[str, Any], one: str, other: str) -> tuple[str, Any]:
    if (one in raw) is (other in raw):
        raise InvalidError(f"a statement has either {one} or {other}")
    return (one, raw[one]) if one in raw else (other, raw[other])


def _texts(raw: Any, name: str) -> list[str]:
    found = [raw] if isinstance(raw, str) else raw
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise InvalidError(f"{name} is a text or a list of texts, one at least")
    return found


def _senders(raw: Any, *, allows: bool) -> frozenset[str] | None:
    """Return who is meant, None for everybody. Errors: `InvalidError` for whoever cannot be recognised."""
    if raw == "*":
        return None
    if not isinstance(raw, dict) or set(raw) != {"AWS"}:
        raise InvalidError('a principal is "*" or {"AWS": access key ids}: only keys sign requests here')
    found = set()
    for text in _texts(raw["AWS"], "Principal"):
        if text == "*":
            return None
        shape = _KEY.match(text)
        if shape is not None:
            found.add(shape[1])
        elif allows and _FOREIGN.match(text):
            found.add(_NOBODY)  # another account: none of its requests can come here, so nothing is allowed
        else:
            raise InvalidError(
                f"Invalid principal in policy: {text!r} names no access key",
                "write arn:aws:iam:::user/ACCESS_KEY_ID, or the bare id",
            )
    return frozenset(found)


def _actions(name: str, raw: Any) -> frozenset[str]:
    """Return the actions meant. Errors: `InvalidError` for a pattern that fits no action of S3."""
    found: set[str] = set()
    for text in _texts(raw, name):
        glob = Glob(text.lower())
        fits = {action for action in (*ACTIONS, *UNOFFERED) if glob.matches(action.lower())}
        if not fits:
            raise InvalidError(f"Policy has invalid action: {text!r} fits no action that is known here")
        found |= fits
    chosen = found & ACTIONS.keys()
    return frozenset(ACTIONS.keys() - chosen if name == "NotAction" else chosen)


def _resource(text: str, bucket: str, *, has_variables: bool) -> _Resource:
    pattern = text.removeprefix(ARN)
    if pattern == text and text != "*":
        raise InvalidError(f"Policy has invalid resource: {text!r} does not begin with {ARN}")
    head = pattern.partition("/")[0]
    if not Glob(head).matches(bucket) and not ("*" in head and bucket.startswith(head.partition("*")[0])):
        raise InvalidError(
            f"Policy has invalid resource: {text!r} is not in this bucket", f"write {ARN}{bucket} or {ARN}{bucket}/KEY"
        )
    return _Resource(pattern, has_variables and check_variables(pattern), Glob(pattern))


def _check_reach(actions: frozenset[str], resources: tuple[_Resource, ...]) -> None:
    """Refuse a denial that could never deny: whoever sets it believes in it."""
    on_objects = any("/" in each.pattern or "*" in each.pattern for each in resources)
    on_bucket = any("/" not in each.pattern for each in resources)
    if not (on_objects and actions & OBJECT_ACTIONS) and not (on_bucket and actions - OBJECT_ACTIONS):
        raise InvalidError(
            "Action does not apply to any resource(s) in statement",
            f"actions on objects need {ARN}BUCKET/*, others {ARN}BUCKET",
        )
