"""`scrub`, `collect`: the store rehashes itself and drops what nothing refers to."""

from __future__ import annotations

import click

from meshhold.cli.output import print_table, size_text
from meshhold.cli.session import Session, client_options


@click.command()
@click.argument("vault_ref", metavar="[VAULT]", required=False)
@client_options
@click.pass_obj
def scrub(session: Session, vault_ref: str | None) -> int:
    """Rehash every stored chunk now; exits with 1 if one is corrupt and no other machine has it.

    A corrupt copy is put aside and fetched anew from another machine that holds the vault.
    """
    report = session.call("scrub", {"vault": vault_ref}, long=True)

    def people() -> None:
        if report["corrupt"]:
            print_table(("CORRUPT",), [(chunk,) for chunk in report["corrupt"]], empty="")
        corrupt = f"{len(report['corrupt'])} corrupt"
        if report["repaired"]:
            corrupt += f", {report['repaired']} of them fetched anew from other machines"
        print(f"rehashed {report['chunks']} chunks, {size_text(report['bytes'])}: {corrupt}")
        if report["corrupt"] and lost:
            print(f"of {lost} no other machine has a good copy now; meshhold vault check names what they belong to")

    lost = len(report["corrupt"]) - report["repaired"]
    session.show(report, people)
    return 1 if lost else 0


@click.command()
@click.argument("vault_ref", metavar="[VAULT]", required=False)
@client_options
@click.pass_obj
def collect(session: Session, vault_ref: str | None) -> None:
    """Delete chunks that nothing refers to and whose grace is over."""
    report = session.call("collect", {"vault": vault_ref}, long=True)
    session.show(report, lambda: print(f"removed {report['removed']} chunks, {size_text(report['bytes'])}"))
