"""Which texts on a command line mean a duration or a capacity? Knows no command."""

from __future__ import annotations

from collections.abc import Callable

import click

from meshhold.config.load import CAPACITY_MAX, CAPACITY_MIN
from meshhold.config.values import parse_duration, parse_size

Callback = Callable[[click.Context, click.Parameter, str | None], int | None]


def duration_of(least_s: int, most_s: int) -> Callback:
    """Return an option's callback that reads `90s`, `30min`, `24h`, `7d` or `2w` as whole seconds.

    A bare number is refused, since its unit would be a guess. Errors: `click.BadParameter`.
    """

    def read(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
        if text is None:
            return None
        try:
            seconds = parse_duration(text)
        except ValueError:
            message = f"{text!r} is no duration; use a number with s, min, h, d or w, such as 24h"
            raise click.BadParameter(message) from None
        if not least_s <= seconds <= most_s:
            raise click.BadParameter(f"{text!r} is out of range; use {least_s}s to {most_s // 86_400}d")
        return seconds

    return read


def read_capacity(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Read `500GiB` or plain bytes; `0` stands for whatever the disk has. Errors: `click.BadParameter`."""
    if text is None:
        return None
    try:
        size = parse_size(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no size; use bytes, or a number with a unit, such as 500GiB") from None
    if size and not CAPACITY_MIN <= size <= CAPACITY_MAX:
        raise click.BadParameter(f"{text!r} is out of range; use 1MiB to 1024PiB, or 0 for what the disk has")
    return size
