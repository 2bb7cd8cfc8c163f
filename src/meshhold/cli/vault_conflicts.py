"""`vault conflicts`: what lost when both sides of a vault had written the same object, and how it comes back."""

from __future__ import annotations

from typing import Final

import click

from meshhold.cli.output import print_table, printable, size_text, time_text
from meshhold.cli.session import Session, client_options

_ID_LENGTH: Final = 16  # a change's time: two are hardly ever equal
_SHOWN_MAX: Final = 1_000  # of one answer


@click.command("conflicts")
@click.argument("vault_ref", metavar="VAULT")
@click.option("--restore", "identifier", metavar="ID", help="Put this version again, over what is current now.")
@client_options
@click.pass_obj
def conflicts(session: Session, vault_ref: str, identifier: str | None) -> None:
    """List what lost when machines that were apart had written the same object.

    Only vaults with `--consistency available` make any. Each is kept for 30 days.
    """
    if identifier is not None:
        found = session.call("vault.restore", {"vault": vault_ref, "id": identifier})
        session.show(
            found, lambda: print(f"{printable(found['key'])} is again as of {time_text(found['modified_ms'])}")
        )
        return
    kept = session.call("vault.conflicts", {"vault": vault_ref})
    rows = [
        (
            c["id"][:_ID_LENGTH],
            c["key"],
            size_text(c["size"]),
            time_text(c["modified_ms"]),
            c["node"],
            time_text(c["kept_until_ms"]),
        )
        for c in kept
    ]

    def people() -> None:
        print_table(("ID", "KEY", "SIZE", "WRITTEN", "BY", "KEPT UNTIL"), rows, empty="nothing is kept aside")
        if len(rows) == _SHOWN_MAX:
            click.echo(f"These are the first {_SHOWN_MAX}.", err=True)

    session.show(kept, people)
