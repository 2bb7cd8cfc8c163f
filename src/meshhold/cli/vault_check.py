"""`vault check`: what is lost, what is at risk, and what to do about each. Takes the reports of the control socket."""

from __future__ import annotations

from typing import Any, Final

import click

from meshhold.cli.output import printable, size_text, table_lines
from meshhold.cli.session import Session, client_options

Report = dict[str, Any]
LOST: Final = ("missing", "corrupt")
AT_RISK: Final = ("unreachable", "under_replicated")
_REMEDIES: Final = {
    "missing": "missing: no machine has some chunk of it: put it again, or bring back a machine or backup that had it",
    "corrupt": "corrupt: the only copy of some chunk is damaged: put it again, or bring back a machine that had it",
    "unreachable": "unreachable: nobody who answers has some chunk of it: start the machines that do not answer",
    "under_replicated": "under-replicated: it has fewer copies than wanted: repair makes more while machines are up",
    "misplaced": "misplaced: enough copies, not all where they belong: repair moves them, nothing is at risk",
}


@click.command()
@click.argument("vault_ref", metavar="[VAULT]", required=False)
@click.option("--deep", is_flag=True, help="Let every machine read and verify its chunks too.")
@client_options
@click.pass_obj
def check(session: Session, vault_ref: str | None, deep: bool) -> int:
    """Tell whether every object is whole and on enough machines; exits with 1 if one is lost or at risk.

    Every machine that holds the vault is asked. What has too few copies is given to repair at once.
    """
    reports = session.call("vault.check", {"vault": vault_ref, "deep": deep}, long=True)

    def people() -> None:
        for report in reports:
            print("\n".join(check_lines(report)))
        if not reports:
            print("there is no vault to check")

    session.show(reports, people)
    return 1 if any(map(is_bad, reports)) else 0


def is_bad(report: Report) -> bool:
    """Tell whether anything is lost, or so near to it that somebody should know."""
    return bool(report["damaged"]) or any(report["totals"].get(kind) for kind in AT_RISK)


def check_lines(report: Report) -> list[str]:
    """Return the objects that are not well, what to do, and one line that sums up."""
    kinds = [kind for kind in _REMEDIES if report[kind]]
    named = [(kind.replace("_", "-"), name) for kind in kinds for name in report[kind]]
    headers = ("LOST", "OBJECT") if all(kind in LOST for kind in kinds) else ("STATE", "OBJECT")
    lines = table_lines(headers, named) if named else []
    unnamed = sum(report["totals"].get(kind, 0) for kind in kinds) - len(named)
    if unnamed > 0:
        lines.append(f"… and {unnamed} more")
    lines += [_REMEDIES[kind] for kind in kinds]
    lines += [printable(f"{name} does not answer: {why}") for name, why in report["silent"].items()]
    if report["damaged_copies"] and report["members"] > 1:
        lines.append(f"{report['damaged_copies']} damaged copies were put aside; good ones are fetched in their place")
    if report["elsewhere"]:
        away = f"{report['elsewhere']} have their content elsewhere, on the machine they were put on"
        lines.append(f"{away}: run this there too, since nothing of it is checked here")
    counts = f"{report['objects']} objects, {report['chunks']} chunks, {size_text(report['bytes'])}"
    uploads = f"{report['uploads']} unfinished uploads"
    return [*lines, f"{printable(report['vault'])}: {counts}, {uploads}{_copies(report)}: {_verdict(report)}"]


def _copies(report: Report) -> str:
    """Return how many copies there are, where there could be more than one."""
    if report["members"] < 2:
        return ""
    each = report["copies"] / report["chunks"] if report["chunks"] else report["wanted"]
    short = report["factor"] - report["wanted"]
    lack = f" (not {report['factor']}: {short} more machines are needed for that)" if short > 0 else ""
    return f", {each:.2f} copies of {report['wanted']}{lack}"


def _verdict(report: Report) -> str:
    totals = report["totals"]
    parts = [f"{report['damaged']} damaged"] if report["damaged"] else []
    parts += [f"{totals[kind]} {kind.replace('_', '-')}" for kind in AT_RISK if totals.get(kind)]
    if not parts:
        parts.append("what is here is whole" if report["elsewhere"] else "all whole")
    if totals.get("misplaced"):
        parts.append(f"{totals['misplaced']} misplaced")
    return ", ".join(parts)
