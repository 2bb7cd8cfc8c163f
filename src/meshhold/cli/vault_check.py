"""`vault check` and `vault repair`: what is lost or at risk, what to do about each, and how far that is.

Takes the reports of the control socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from meshhold.cli.output import duration_text, printable, size_text, table_lines, time_text
from meshhold.cli.session import Session, client_options
from meshhold.cli.watching import watch_lines

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
        parts.append("all whole")
    if totals.get("misplaced"):
        parts.append(f"{totals['misplaced']} misplaced")
    return ", ".join(parts)


@click.command()
@click.argument("vault_ref", metavar="[VAULT]", required=False)
@click.option("--watch", is_flag=True, help="Show how far it is every 2 s, until Ctrl-C.")
@client_options
@click.pass_obj
def repair(session: Session, vault_ref: str | None, watch: bool) -> None:
    """Let repair look at a vault now, or at all, and show how far it is. It runs by itself, too.

    Each machine repairs what it keeps: what the others do, they show.
    """
    if watch and session.as_json:
        raise click.UsageError("--watch draws for people; a script repeats `meshhold vault repair --json`")
    found = session.call("vault.repair", {"vault": vault_ref, "start": True})
    if watch:
        watch_lines(lambda: repair_lines(session.call("vault.repair", {"vault": vault_ref, "start": False})))
        return
    session.show(found, lambda: print("\n".join(repair_lines(found)) or "there is no vault to repair"))


def repair_lines(views: Sequence[Report]) -> list[str]:
    """Return the table of repairs, and who is in the way. One machine alone has nothing to repair from."""
    if not views:
        return []
    rows = [(view["vault"], *_repair_cells(view)) for view in views]
    headers = ("REPAIR OF", "COPIES", "SHORT", "STATE", "DONE", "LEFT", "RATE", "TIME LEFT", "LAST PASS")
    lines = table_lines(headers, rows)
    for view in views:
        reasons = [view["waiting"]] if view["waiting"] else []
        reasons += [f"{name} does not answer" for name in view["away"] if name not in view["out"]]
        reasons += [f"{name} is out: others stand in for it" for name in view["out"]]
        lines += [printable(f"{view['vault']}: {reason}") for reason in reasons]
    return lines


def _repair_cells(view: Report) -> tuple[str, ...]:
    is_moving, is_known = view["phase"] == "moving", view["bytes_left"] > 0
    eta_s = view["eta_s"]
    left = f"{view['chunks_left']} chunks" + (f", {size_text(view['bytes_left'])}" if is_known else "")
    copies = str(view["factor"])
    return (
        copies if view["wanted"] >= view["factor"] else f"{view['wanted']} of {copies}",
        str(view["short"]),
        view["phase"],
        f"{view['chunks_done']} chunks, {size_text(view['bytes_done'])}",
        left,
        f"{size_text(view['bytes_per_s'])}/s" if view["bytes_per_s"] else "-",
        "-" if not view["chunks_left"] else "?" if eta_s is None else duration_text(eta_s),
        "in progress" if is_moving else "none yet" if view["finished_at"] is None else _pass_text(view),
    )


def _pass_text(view: Report) -> str:
    return time_text(round(view["finished_at"] * 1000)) + ("" if view["complete"] else ", not complete")
