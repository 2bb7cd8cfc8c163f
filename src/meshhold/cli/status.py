"""`status`: how is this node, and how does it see its mesh? Knows how it looks to people, not where it is from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from meshhold.cli.counters import counter_lines
from meshhold.cli.output import SHORT_LENGTH, duration_text, field_lines, printable, rate_text, size_text, table_lines
from meshhold.cli.quota import quota_warnings
from meshhold.cli.roster import roster_lines
from meshhold.cli.session import Session, client_options
from meshhold.cli.vault_check import repair_lines
from meshhold.cli.watching import watch_lines


@click.command()
@click.option("--watch", is_flag=True, help="Draw it again every 2 s, until Ctrl-C.")
@click.option("--counters", is_flag=True, help="Show what each key and bucket was asked for since the start.")
@client_options
@click.pass_obj
def status(session: Session, watch: bool, counters: bool) -> None:
    """Show the running node and its mesh."""
    if counters:
        counted = session.call("counters")
        session.show(counted, lambda: print("\n".join(counter_lines(counted))))
        return
    if watch and session.as_json:
        raise click.UsageError("--watch draws for people; a script repeats `meshhold status --json`")
    if watch:
        watch_lines(lambda: status_lines(session.call("status")))
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
            *([("Websites", f"http://{found['web_addr']}")] if found.get("web_addr") else []),
            ("region", found["region"]),
            ("disk", f"{size_text(found['disk_free'])} free of {size_text(found['disk_total'])}"),
            ("vaults", found["vaults"]),
            ("objects", found["objects"]),
            ("mesh", found["mesh"]),
            *_pace_fields(found.get("pace")),
            *_cache_fields(found.get("read_cache"), is_mesh=len(found["nodes"]) > 1),
        ]
    )
    if found["indexes"]:
        lines += ["", *_index_lines(found["indexes"])]
    warnings = [*quota_warnings(found.get("quotas", [])), *_upkeep_warnings(found), *_given_up_lines(found)]
    if warnings:
        lines += ["", *(printable(line) for line in warnings)]
    shared = [view for view in found.get("repair", ()) if view["members"] > 1]
    if shared:
        lines += ["", *repair_lines(shared)]
    return [*lines, "", *roster_lines(found["nodes"])] if len(found["nodes"]) > 1 else lines


def _pace_fields(pace: dict[str, int] | None) -> list[tuple[str, object]]:
    """Return how fast copies are kept, as the configuration says, where the daemon tells."""
    if pace is None:
        return []
    return [
        ("repair", f"up to {rate_text(pace['repair_bytes_per_s'])}"),
        ("scrub", f"up to {rate_text(pace['scrub_bytes_per_s'])}, once a week"),
        ("stands in", f"for machines that are away for {duration_text(pace['stand_in_after_s'])}"),
    ]


def _cache_fields(cache: dict[str, int] | None, *, is_mesh: bool) -> list[tuple[str, object]]:
    """Return how full the read cache is, where there is one and others have chunks."""
    if cache is None or not cache["bytes_max"] or not is_mesh:
        return []
    return [("read cache", f"{size_text(cache['bytes'])} of {size_text(cache['bytes_max'])}")]


def _upkeep_warnings(found: dict[str, Any]) -> list[str]:
    """Return sentences on what runs by itself and did not end well."""
    lines = [f"lifecycle of vault {one['name']}: {one['error']}" for one in found.get("lifecycle", []) if one["error"]]
    dropped = found.get("access_log_dropped", 0)
    return [*lines, f"access log: {dropped} lines were lost; see the daemon's log"] if dropped else lines


def _given_up_lines(found: dict[str, Any]) -> list[str]:
    """Return what is still here of vaults that took this node for lost."""
    lines = []
    for each in found.get("given_up", []):
        lacking = f", {each['short']} of them nowhere else yet" if each["short"] else ""
        lines += [
            f"vault {each['vault'][:SHORT_LENGTH]}: this node was removed as gone for good, and is back",
            f"  {each['chunks']} chunks of it are here until its members have confirmed them{lacking}",
        ]
        if each["waiting"]:
            lines.append(f"  waiting: {each['waiting']}")
    return lines


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
