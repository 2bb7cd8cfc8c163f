"""Where in the file is each value, and is it given once? Reads YAML's node tree; knows no key's meaning.

Aliases cannot blow up: values are visited along the schema, which has a fixed depth, and never expanded as a whole.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import yaml

from meshhold.errors import ConfigError

FILE_BYTES_MAX: Final = 256 * 1024  # a hand-written file has a few KiB; this bounds what the parser may cost
LIST_LENGTH_MAX: Final = 256  # bootstrap peers: a few suffice, since the mesh tells a node about the rest
_TAG: Final = "tag:yaml.org,2002:"
_KINDS: Final = {"map": "a mapping", "seq": "a list", "null": "nothing", "float": "a number with a fraction"}
_INTEGER: Final = re.compile(r"-?(?:0|[1-9]\d{0,20})\Z", re.ASCII)
_BOOLEANS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SHOWN_MAX: Final = 60
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Value:
    """One value with its place. Its readers raise `ConfigError` unless it is what they promise."""

    source: Path
    key: str
    node: yaml.Node

    def refused(self, found: str, allowed: str, fix: str = "") -> ConfigError:
        """Return the error that names file, line, key, what was found and what is allowed."""
        line = self.node.start_mark.line + 1
        place = f"{self.key} is" if self.key else "the document is"
        return ConfigError(f"{self.source}, line {line}: {place} {found}; allowed: {allowed}", fix)

    @property
    def kind(self) -> str:
        """`str`, `int`, `bool`, `float`, `null`, `seq`, `map`, or a foreign tag."""
        return str(self.node.tag).removeprefix(_TAG)

    @property
    def found(self) -> str:
        """What stands there, as an error shows it."""
        if not isinstance(self.node, yaml.ScalarNode) or self.kind == "null":
            return _KINDS.get(self.kind, f"a {self.kind}")
        text = self.node.value if len(self.node.value) <= _SHOWN_MAX else self.node.value[:_SHOWN_MAX] + "…"
        return repr(text)

    def text(self, allowed: str = "a text") -> str:
        """Return a text; what YAML takes for another type must be quoted."""
        if isinstance(self.node, yaml.ScalarNode) and self.kind == "str":
            return str(self.node.value)
        fix = f'write "{self.node.value}" in quotes' if self.kind in ("bool", "int", "float", "timestamp") else ""
        raise self.refused(f"{self.found} (YAML reads {_KINDS.get(self.kind, self.kind)})", allowed, fix)

    def boolean(self) -> bool:
        """Return true or false."""
        if isinstance(self.node, yaml.ScalarNode) and self.kind == "bool":
            found = _BOOLEANS.get(str(self.node.value).lower())
            if found is not None:
                return found
        raise self.refused(self.found, "true, false")

    def plain(self, allowed: str) -> str:
        """Return an unquoted number or a text, as it was written."""
        if isinstance(self.node, yaml.ScalarNode) and self.kind in ("str", "int", "float"):
            return str(self.node.value)
        raise self.refused(self.found, allowed)

    def read(self, reader: Callable[[str], _T], text: str, allowed: str) -> _T:
        """Return `reader(text)`, its `ValueError` turned into the full message."""
        try:
            return reader(text)
        except ValueError as error:
            raise self.refused(str(error), allowed) from None

    def items(self, allowed: str) -> list[Value]:
        """Return the members of a list."""
        if not isinstance(self.node, yaml.SequenceNode) or self.kind != "seq":
            raise self.refused(self.found, allowed)
        if len(self.node.value) > LIST_LENGTH_MAX:
            raise self.refused(f"a list of {len(self.node.value)}", f"at most {LIST_LENGTH_MAX}")
        return [Value(self.source, f"{self.key}[{at}]", node) for at, node in enumerate(self.node.value)]

    def pairs(self, allowed: str) -> list[tuple[Value, Value]]:
        """Return names and values of a mapping whose names are free; whether one is given twice is not judged."""
        if not isinstance(self.node, yaml.MappingNode) or self.kind != "map":
            raise self.refused(self.found, allowed)
        if len(self.node.value) > LIST_LENGTH_MAX:
            raise self.refused(f"a mapping of {len(self.node.value)}", f"at most {LIST_LENGTH_MAX}")
        return [
            (Value(self.source, f"{self.key}: a name", name), Value(self.source, f"{self.key}[{_shown(name)}]", node))
            for name, node in self.node.value
        ]


def _shown(node: yaml.Node) -> str:
    return str(node.value)[:_SHOWN_MAX] if isinstance(node, yaml.ScalarNode) else "?"


class Section:
    """One mapping whose keys are all allowed and given once. An empty value counts as an absent key."""

    def __init__(self, value: Value | None, allowed: Iterable[str], hints: dict[str, str] | None = None) -> None:
        self._values: dict[str, Value] = {}
        if value is None or value.kind == "null":
            return
        names = sorted(allowed)
        if not isinstance(value.node, yaml.MappingNode) or value.kind != "map":
            raise value.refused(value.found, f"a mapping with the keys {', '.join(names)}")
        prefix = f"{value.key}." if value.key else ""
        lines: dict[str, int] = {}
        for key_node, node in value.node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            place = f"{value.source}, line {key_node.start_mark.line + 1}: {prefix}{name[:_SHOWN_MAX]}"
            if name in lines:
                raise ConfigError(f"{place} is given twice (first on line {lines[name]})", "keep one of them")
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                fix = (hints or {}).get(name) or (f"did you mean {prefix}{near[0]}?" if near else "")
                raise ConfigError(f"{place} is not a known key; allowed: {', '.join(names)}", fix)
            lines[name] = key_node.start_mark.line + 1
            if str(node.tag) != f"{_TAG}null":
                self._values[name] = Value(value.source, prefix + name, node)

    def get(self, name: str) -> Value | None:
        """Return the value of `name`, None where it is absent or empty."""
        return self._values.get(name)


def parse_integer(text: str) -> int:
    """Return a decimal integer. Octal, hex and sexagesimal spellings are refused: they surprise people."""
    if not _INTEGER.match(text):
        raise ValueError(f"{text[:_SHOWN_MAX]!r}")
    return int(text)


def open_document(source: Path) -> Value | None:
    """Read one YAML document; None where it is empty.

    Errors: `ConfigError` with the line for bytes that are not UTF-8 or not YAML, and for a file that cannot be read.
    """
    try:
        with source.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(f"{source}: there is no such file", "create a node with: meshhold init") from None
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{source} is larger than {FILE_BYTES_MAX} bytes", "this is not a configuration of MeshHold")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}, line {line}: found a byte that is not UTF-8", "save the file as UTF-8") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}, line {line}: this is not YAML: {error.problem}", _yaml_hint(text)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source}, line {line}: found a control character, which YAML forbids") from None
    except RecursionError:
        raise ConfigError(f"{source} is nested too deeply", "a configuration has three levels") from None
    return Value(source, "", node) if node is not None else None


def _yaml_hint(text: str) -> str:
    return "indent with spaces, YAML takes no tabs" if "\t" in text else "check the indentation and quotes near it"
