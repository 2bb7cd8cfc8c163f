"""`vault export|import|snapshot|recover`: its secrets in a safe place, its index before and after a disaster."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from meshhold.cli.output import SHORT_LENGTH, printable, size_text, time_text
from meshhold.cli.session import Session, client_options
from meshhold.errors import RefusedError

_MORE_MACHINES: Final = "More machines of the mesh, or disks that were in them, may bring back more: add those first."
_WARNING: Final = "Whoever has this word can read and change everything in the vault. Keep it off these machines."


@click.command("export")
@click.argument("vault_ref", metavar="VAULT")
@client_options
@click.pass_obj
def export_vault(session: Session, vault_ref: str) -> None:
    """Print a vault's secrets, to be kept where no machine of the mesh can be lost with them."""
    found = session.call("vault.export", {"vault": vault_ref})

    def people() -> None:
        print(_WARNING, file=sys.stderr)
        print(found["secrets"])

    session.show(found, people)


@click.command("import")
@click.argument("secrets", metavar="SECRETS")
@client_options
@click.pass_obj
def import_vault(session: Session, secrets: str) -> None:
    """Make this node a trusted member of a vault by its exported secrets; - reads them from standard input."""
    word = sys.stdin.read() if secrets == "-" else secrets
    found = session.call("vault.import", {"secrets": "".join(word.split())})

    def people() -> None:
        print(printable(f"this node is a trusted member of vault {found['name']} ({found['id'][:SHORT_LENGTH]})"))
        if found["objects"] is None:
            for line in _index_lines(found):
                click.echo(printable(line), err=True)

    session.show(found, people)


def _index_lines(found: dict[str, Any]) -> list[str]:
    """Return what to do where nobody tells what is in a vault."""
    taken_ms, short = found["snapshot_ms"], found["id"][:SHORT_LENGTH]
    if taken_ms is None:
        return ["Nobody who keeps its index answers yet, and no snapshot of it is known here.", _MORE_MACHINES]
    return [
        f"Nobody who keeps its index answers yet; a snapshot of {time_text(taken_ms)} is known here.",
        _MORE_MACHINES,
        f"If those that kept the index are gone for good: meshhold vault recover {short}",
    ]


@click.command()
@click.argument("vault_ref", metavar="VAULT")
@client_options
@click.pass_obj
def snapshot(session: Session, vault_ref: str) -> int:
    """Keep a vault's index as chunks now, as the daemon does every hour, and wait until these have all their copies.

    Exits with 1 if some of them have not, and nothing comes nearer to that for a minute.
    """
    taken = session.call("vault.snapshot", {"vault": vault_ref}, long=True)
    session.show(taken, lambda: print("\n".join(map(printable, _snapshot_lines(taken)))))
    return 1 if taken["lacking"] else 0


def _snapshot_lines(taken: dict[str, Any]) -> list[str]:
    """Return when it was taken, what it covers, where it is, and how it is used."""
    short, chunks = taken["vault"][:SHORT_LENGTH], taken["chunks"]
    what = "snapshot" if taken["is_new"] else "nothing has changed since the snapshot"
    when, size = time_text(taken["taken_ms"]), size_text(taken["bytes"])
    lines = [f"vault {taken['name']}: {what} of {when}, {taken['objects']} objects, {size}"]
    if taken["lacking"]:
        of_them = f"{taken['lacking']} of its {chunks} chunks" if chunks > 1 else "its one chunk"
        lines.append(f"not yet on {_machines(taken['wanted'])}: {of_them}; on how many at least: {taken['copies']}")
        lines += [f"not asked: {node}: {reason}" for node, reason in taken["silent"].items()]
        lines.append("repair goes on by itself: meshhold status")
    else:
        of_them = f"each of its {chunks} chunks" if chunks > 1 else "its one chunk"
        lines.append(f"{of_them} is on {_machines(taken['copies'])}")
    if taken["wanted"] < taken["factor"]:
        lines.append(
            f"{taken['factor']} copies are wanted, and there is no more than {_machines(taken['wanted'])} for them: "
            f"meshhold vault add-member {short} NODE"
        )
    return [
        *lines,
        f"when those that keep the index are lost: meshhold vault recover {short}",
        f"when all trusted ones are lost: first meshhold vault import, with what meshhold vault export {short} prints",
        "step by step: docs/operations.md, Disaster recovery; why: docs/recovery.md",
    ]


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count} machines"


@click.command()
@click.argument("vault_ref", metavar="VAULT")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
@click.pass_obj
def recover(session: Session, vault_ref: str, yes: bool) -> int:
    """Found a vault's index anew on this node, from its newest snapshot, when those that kept it are gone for good.

    Exits with 1 if an object that came back is damaged.
    """
    plan = session.call("vault.recovery", {"vault": vault_ref})
    if not yes and not _confirmed(plan):
        raise RefusedError("nothing was changed", "answer y, or use --yes in scripts")
    done = session.call("vault.recover", {"vault": plan["vault"]}, long=True)
    reports = session.call("vault.check", {"vault": plan["vault"], "deep": False}, long=True)
    damaged = sum(report["damaged"] for report in reports)

    def people() -> None:
        print(printable(f"vault {done['name']}: its index is kept by this node now, {done['rows']} rows were put back"))
        print(f"it is as of {time_text(done['taken_ms'])}: what was written later is lost, deleted objects may be back")
        objects = sum(report["objects"] for report in reports)
        print(f"{objects} objects, {damaged} of them damaged")
        if damaged:
            print(f"which ones: meshhold vault check {done['vault'][:SHORT_LENGTH]}")

    session.show({**done, "damaged": damaged}, people)
    return 1 if damaged else 0


def _confirmed(plan: dict[str, Any]) -> bool:
    names = ", ".join(plan["replicas"]) or "nobody known"
    lines = [
        f"The index of vault {plan['name']} was kept by {names}; no majority of them answers.",
        f"Its newest snapshot: {time_text(plan['taken_ms'])}, {plan['objects']} objects, {size_text(plan['bytes'])}.",
        "What was written later is lost. Machines that come back afterwards drop what they have of this index.",
        "If one of them can be started again, do that instead.",
    ]
    if plan["keeps_rows"]:
        lines.insert(2, "This node kept it too: what it has stays, and may be newer.")
    print("\n".join(printable(line) for line in lines), file=sys.stderr)
    try:
        return click.confirm("found the index anew here?", err=True)
    except click.Abort:  # nobody is there to answer
        print(file=sys.stderr)
        return False


RECOVERY_COMMANDS: Final = (export_vault, import_vault, snapshot, recover)
