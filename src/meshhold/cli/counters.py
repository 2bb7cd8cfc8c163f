"""`status --counters`: what each key and each bucket was asked for. Knows how it looks to people."""

from __future__ import annotations

from typing import Any

from meshhold.cli.output import size_text, table_lines, time_text


def counter_lines(found: dict[str, Any]) -> list[str]:
    """Return a table of keys and one of buckets, each with its operations."""
    lines = [f"requests since {time_text(found['since_ms'])}"]
    for header, series in (("ACCESS KEY", found["keys"]), ("BUCKET", found["buckets"])):
        lines += ["", *_table(header, series)] if series else ["", f"no request by {header.lower()} yet"]
    return lines


def _table(header: str, series: list[dict[str, Any]]) -> list[str]:
    rows: list[tuple[object, ...]] = []
    for one in series:
        rows.append((one["name"], one["total"], size_text(one["bytes_in"]), size_text(one["bytes_out"]), ""))
        for operation, classes in sorted(one["requests"].items(), key=lambda item: -sum(item[1].values())):
            told = ", ".join(f"{count} {status}" for status, count in classes.items())
            rows.append(("", sum(classes.values()), "", "", f"{operation}: {told}"))
    return table_lines((header, "REQUESTS", "IN", "OUT", "OPERATIONS"), rows)
