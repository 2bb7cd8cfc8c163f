"""`vault lifecycle`: which rules end objects of a vault, what is due, what the last walks did. Judges nothing."""

from __future__ import annotations

from typing import Any

import click

from meshhold.cli.output import print_fields, print_table, size_text, time_text
from meshhold.cli.session import Session, client_options
from meshhold.errors import UnavailableError


@click.command()
@click.argument("vault_ref", metavar="VAULT")
@click.option("--run", is_flag=True, help="Remove what is due now, not only once an hour.")
@click.option("--dry-run", is_flag=True, help="Show what is due, and remove nothing.")
@client_options
@click.pass_obj
def lifecycle(session: Session, vault_ref: str, run: bool, dry_run: bool) -> None:
    """Show a vault's lifecycle rules and what they did, or follow them now."""
    if run and dry_run:
        raise click.UsageError("--run removes what is due and --dry-run does not; use one of them")
    if run or dry_run:
        reports = session.call("vault.expire", {"vault": vault_ref, "dry_run": dry_run}, long=True)
        session.show(reports, lambda: _print_reports(reports))
        failed = [report["error"] for report in reports if report["error"]]
        if failed:
            raise UnavailableError(failed[0], "what was left is looked at again the next time")
        return
    found = session.call("vault.lifecycle", {"vault": vault_ref})
    session.show(found, lambda: _print_views(found))


def _print_views(views: list[dict[str, Any]]) -> None:
    for view in views:
        rows = [
            (rule["id"], "on" if rule["enabled"] else "off", rule["applies_to"], rule["does"]) for rule in view["rules"]
        ]
        print_table(("RULE", "STATE", "APPLIES TO", "DOES"), rows, empty="there is no rule")
        print()
        where = "on this node" if view["here"] else "on another node that keeps the index"
        fields: list[tuple[str, object]] = [("followed", f"once an hour, {where}")]
        if view["here"] and view["next_ms"] is not None:
            fields.append(("next walk", time_text(view["next_ms"])))
        last = view["last"]
        fields.append(("last walk", "none since the daemon started" if last is None else _report_text(last)))
        print_fields(fields)


def _print_reports(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        rows = [(due["what"], due["key"], due["rule"], time_text(due["due_ms"])) for due in report["examples"]]
        print_table(("WHAT", "KEY", "RULE", "DUE SINCE"), rows, empty="nothing is due")
        print(("would remove: " if report["dry_run"] else "removed: ") + _counts_text(report))


def _report_text(report: dict[str, Any]) -> str:
    text = f"{time_text(report['ended_ms'])}: removed {_counts_text(report)}"
    return f"{text}; not ended: {report['error']}" if report["error"] else text


def _counts_text(report: dict[str, Any]) -> str:
    text = ", ".join(f"{report[what]} {what}" for what in ("objects", "versions", "markers", "uploads"))
    text += f" ({size_text(report['bytes'])}) of {report['looked_at']} rows looked at"
    kept = [(report["locked"], "under a lock"), (report["changed"], "changed meanwhile"), (report["failed"], "failed")]
    return text + "".join(f", {count} {why}" for count, why in kept if count)
