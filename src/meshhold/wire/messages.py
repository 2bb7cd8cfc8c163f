"""What is a message, and does this node know its kind? An envelope of kind, version and body. Knows no kind by itself.

On the wire: msgpack `[kind, version, body]`. Kinds are numbers of the protocol and never reused; a kind's version goes
up when a field that older nodes need changes. Fields that a reader does not know are kept and ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from meshhold.errors import InvalidError, ProtocolError
from meshhold.wire.codec import DEFAULT_LIMITS, Limits, decode, encode

NUMBER_MAX: Final = 2**16 - 1


@dataclass(frozen=True, slots=True)
class Message:
    """One message, before it is encoded or after it is decoded."""

    kind: int
    version: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of message that this program knows. `fields` are those that must be there → the types that each may have.

    Types are exact: `bool` is no `int` here. `versions` holds every version that this program reads.
    """

    number: int
    name: str
    fields: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    versions: frozenset[int] = frozenset({1})


class Catalog:
    """The kinds of one conversation. Errors: `InvalidError` if a number or name comes twice, or is out of range."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds: dict[int, Kind] = {}
        for kind in kinds:
            if kind.number in self._kinds or kind.name in {known.name for known in self._kinds.values()}:
                raise InvalidError(f"message kind {kind.number} ({kind.name}) is defined twice")
            if not 0 <= kind.number <= NUMBER_MAX or not kind.versions:
                raise InvalidError(f"message kind {kind.number} ({kind.name}) is out of range or has no version")
            self._kinds[kind.number] = kind

    def encode(self, message: Message, limits: Limits = DEFAULT_LIMITS) -> bytes:
        """Return the message's bytes. Errors: `ProtocolError` (local) for what `decode` would not take."""
        fault = self._fault(message.kind, message.version, message.body)
        if fault:
            raise ProtocolError(fault, culprit="local")
        return encode([message.kind, message.version, message.body], limits)

    def decode(self, raw: bytes | memoryview, limits: Limits = DEFAULT_LIMITS) -> Message:
        """Undo `encode`. Errors: `ProtocolError` (remote) that names the kind, version or field at fault."""
        value = decode(raw, limits)
        if type(value) is not list or len(value) != 3:
            raise ProtocolError("a message is not [kind, version, body]")
        kind, version, body = value
        fault = self._fault(kind, version, body)
        if fault:
            raise ProtocolError(fault, "run the same version of meshhold on both nodes")
        return Message(kind, version, body)

    def name_of(self, number: int) -> str:
        """Return the kind's name for logs; a number that is not known stands for itself."""
        return self._kinds[number].name if number in self._kinds else f"kind {number}"

    def _fault(self, number: object, version: object, body: object) -> str:
        """Return why this is no message of the catalog; `""` if it is one."""
        if type(number) is not int or not 0 <= number <= NUMBER_MAX:
            return "a message's kind is not a number from 0 to 65535"
        kind = self._kinds.get(number)
        if kind is None:
            return f"message kind {number} is not known"
        if type(version) is not int or version not in kind.versions:
            known = ", ".join(map(str, sorted(kind.versions)))
            shown = str(version) if type(version) is int else "of another type"
            return f"version {shown} of message {kind.name} is not known, only {known}"
        if type(body) is not dict:
            return f"the body of message {kind.name} is not a map"
        for name, types in kind.fields.items():
            if name not in body:
                return f"message {kind.name} lacks the field {name}"
            if type(body[name]) not in types:
                return f"the field {name} of message {kind.name} is of type {type(body[name]).__name__}"
        if any(type(name) is not str for name in body):
            return f"a field of message {kind.name} has a name that is not text"
        return ""
