"""`status`: how is this node, and how does it see its mesh? Knows terminals a little, to redraw with `--watch`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import click

from meshhold.cli.output import SHORT_LENGTH, duration_text, field_lines, printable, size_text, table_lines
from meshhold.cli.roster import roster_lines
from meshhold.cli.session import Session, client_options
from meshhold.errors import DaemonUnreachableError

WATCH_S: Final = 2.0  # the mesh probes its members once a second: more often shows nothing new


@click.command()
@click.option("--watch", is_flag=True, help="Draw it again every 2 s, until Ctrl-C.")
@client_options
@click.pass_obj
def status(session: Session, watch: bool) -> None:
    """Show the running node and its mesh."""
    if watch and session.as_json:
        raise click.UsageError("--watch draws for people; a script repeats `meshhold status --json`")
    if watch:
        _watch(session)
        return
    found = session.call("status")
    session.show(found, lambda: print("\n".join(status_lines(found))))


def status_lines(found: dict[str, Any]) -> list[str]:
    """Return the node's own state, then the mesh's members where there are others."""
    lines = field_lines(
        [
            ("node", f"{found['name']} ({found['node_id'][:SHORT_LENGTH]})"),
            ("version", found["version"]),
            ("up for", duration_text(found["uptime_s"])),
            ("data", found["data_dir"]),
            ("S3 endpoint", f"http://{found['s3_addr']}" if found["s3_addr"] else "off"),
            ("region", found["region"]),
            ("disk", f"{size_text(found['disk_free'])} free of {size_text(found['disk_total'])}"),
            ("vaults", found["vaults"]),
            ("objects", found["objects"]),
            ("mesh", found["mesh"]),
        ]
    )
    if found["indexes"]:
        lines += ["", *_index_lines(found["indexes"])]
    return [*lines, "", *roster_lines(found["nodes"])] if len(found["nodes"]) > 1 else lines


def _index_lines(indexes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of the indexes that this node keeps, with how far each is that lacks rows."""
    rows = [(index["name"], index["vault"][:SHORT_LENGTH], index["state"], *_progress(index)) for index in indexes]
    is_behind = any(any(row[3:]) for row in rows)
    headers = ("INDEX OF", "VAULT", "STATE", "ROWS BEHIND", "ROWS/S", "TIME LEFT")
    return table_lines(headers, rows) if is_behind else table_lines(headers[:3], [row[:3] for row in rows])


def _progress(index: dict[str, Any]) -> tuple[str, str, str]:
    """Return rows behind, rows a second and time left; `""` for a replica that lacks none, as far as it knows."""
    behind = index.get("rows_behind", 0)
    if not behind:
        return "", "", ""
    eta_s = index["eta_s"]
    return str(behind), f"{index['rows_per_s']:g}", "?" if not eta_s else duration_text(eta_s)


def _watch(session: Session) -> None:
    """Draw until Ctrl-C. A daemon that stops meanwhile is waited for; one that never answered is an error."""
    on_terminal = sys.stdout.isatty()
    lines = status_lines(session.call("status"))
    try:
        if on_terminal:
            sys.stdout.write("\x1b[2J")
        while True:
            sys.stdout.write(_drawn(lines) if on_terminal else "\n".join([*lines, "", ""]))
            sys.stdout.flush()
            time.sleep(WATCH_S)
            try:
                lines = status_lines(session.call("status"))
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
