"""How do results look to people and to scripts? Knows terminals, not what the values mean."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self

SHORT_LENGTH: Final = 8  # as ids are shown to people everywhere
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def print_json(value: Any) -> None:
    """Print `value` as one indented JSON document."""
    print(json.dumps(value, indent=2))


def table_lines(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of an aligned table. Text from elsewhere cannot drive the terminal: controls are escaped."""
    cells = [list(headers)] + [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(headers))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table, or the sentence `empty` where there are no rows."""
    print("\n".join(table_lines(headers, rows)) if rows else empty)


def field_lines(fields: Sequence[tuple[str, object]]) -> list[str]:
    """Return `name  value` lines, aligned."""
    width = max(len(name) for name, _ in fields)
    return [f"{name.ljust(width)}  {printable(str(value))}" for name, value in fields]


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print `name  value` lines, aligned."""
    print("\n".join(field_lines(fields)))


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def size_text(size: int) -> str:
    """Return bytes in the unit that a person would choose."""
    value = float(size)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes every size")


def rate_text(bytes_per_s: int) -> str:
    """Return a rate as a person would have configured it: in units of 1000 where it is a round number of these."""
    for power, unit in enumerate(("GB", "MB", "kB")):
        size, rest = divmod(bytes_per_s, 1000 ** (3 - power))
        if size and not rest:
            return f"{size} {unit}/s"
    return f"{size_text(bytes_per_s)}/s"


def time_text(at_ms: int) -> str:
    """Return a local date and time for milliseconds since 1970."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_ms / 1000))


def duration_text(seconds: float) -> str:
    """Return a duration as its two largest parts."""
    whole = int(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {smaller}"
    return f"{whole} s"


class ProgressLine:
    """One line on a terminal's stderr that each step overwrites; silent where stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, step: dict[str, Any]) -> None:
        """Draw one step."""
        if sys.stderr.isatty():
            parts = (f"{name} {size_text(v) if name == 'bytes' else v}" for name, v in step.items())
            sys.stderr.write(f"\r\x1b[K{printable(', '.join(parts))[:100]}")
            sys.stderr.flush()
            self._shown = True
