"""How much may a vault hold: how it is typed and shown. Takes views of the control socket."""

from __future__ import annotations

from typing import Any, Final

import click

from meshhold.cli.output import size_text
from meshhold.cli.values import read_capacity

NONE: Final = "none"
OBJECTS_MAX: Final = 10**12
WARN_PERCENT: Final = 90


def read_limit(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Read `500GiB`, or `none` as 0, which takes the limit away. Errors: `click.BadParameter`."""
    if text is None or text.strip().lower() == NONE:
        return None if text is None else 0
    size = read_capacity(context, parameter, text)
    if not size:
        raise click.BadParameter(f"{text!r} is no limit; use a size such as 500GiB, or {NONE}")
    return size


def read_count(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Read a number of objects, or `none` as 0, which takes the limit away. Errors: `click.BadParameter`."""
    if text is None or text.strip().lower() == NONE:
        return None if text is None else 0
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 13 or not 1 <= int(digits) <= OBJECTS_MAX:
        raise click.BadParameter(f"{text!r} is no limit; use a number of objects, 1 to {OBJECTS_MAX}, or {NONE}")
    return int(digits)


def quota_fields(view: dict[str, Any]) -> list[tuple[str, object]]:
    """Return a line for each limit that the vault has, with how much of it is used."""
    fields: list[tuple[str, object]] = []
    if view.get("quota_bytes") is not None:
        fields.append(("quota of bytes", size_text(view["quota_bytes"]) + _used(view["bytes"], view["quota_bytes"])))
    if view.get("quota_objects") is not None:
        fields.append(("quota of objects", f"{view['quota_objects']}" + _used(view["objects"], view["quota_objects"])))
    return fields


def quota_warnings(views: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each vault that has used 90 % of a limit of its quota."""
    return [
        f"vault {view['name']} has used {view['percent']} % of its quota; see meshhold vault show {view['vault'][:8]}"
        for view in views
        if view["percent"] >= WARN_PERCENT
    ]


def _used(used: int | None, limit: int) -> str:
    return "" if used is None else f" ({used * 100 // limit} % used)"
