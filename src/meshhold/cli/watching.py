"""How is something shown again and again until Ctrl-C? Knows terminals a little, and nothing of what is shown."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from meshhold.cli.output import printable
from meshhold.errors import DaemonUnreachableError

WATCH_S: Final = 2.0  # the mesh probes its members once a second: more often shows nothing new


def watch_lines(ask: Callable[[], list[str]]) -> None:
    """Draw until Ctrl-C. A daemon that stops meanwhile is waited for; one that never answered is an error."""
    on_terminal = sys.stdout.isatty()
    lines = ask()
    try:
        if on_terminal:
            sys.stdout.write("\x1b[2J")
        while True:
            sys.stdout.write(_drawn(lines) if on_terminal else "\n".join([*lines, "", ""]))
            sys.stdout.flush()
            time.sleep(WATCH_S)
            try:
                lines = ask()
            except DaemonUnreachableError as gone:
                lines = [printable(gone.message), "waiting for it; Ctrl-C ends this"]
    except KeyboardInterrupt:
        if on_terminal:
            sys.stdout.write("\n")


def _drawn(lines: Sequence[str]) -> str:
    """Return what draws `lines` over what the screen shows, without flicker and without scrolling."""
    columns, rows = shutil.get_terminal_size()
    room = max(rows - 1, 1)
    if len(lines) > room:
        lines = [*lines[: room - 1], f"… and {len(lines) - room + 1} more lines"]
    return "\x1b[H" + "".join(f"{line[:columns]}\x1b[K\n" for line in lines) + "\x1b[J"
