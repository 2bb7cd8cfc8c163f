"""`s3-perm …`: which key may do what with which vault."""

from __future__ import annotations

from typing import Any

import click

from meshhold.cli.output import SHORT_LENGTH, print_table, time_text
from meshhold.cli.session import Session, client_options


@click.group("s3-perm")
def s3_perm() -> None:
    """Grant, list and revoke what keys may do."""


@s3_perm.command()
@click.argument("access_key_id")
@click.argument("vault_ref", metavar="VAULT")
@click.argument("permissions", metavar="PERMS")
@click.option("--list", "allow_list", is_flag=True, help="Let anonymous requests list the bucket too.")
@click.option("--prefix", "prefixes", multiple=True, metavar="PREFIX", help="Only keys that begin so; may be repeated.")
@client_options
@click.pass_obj
def grant(
    session: Session,
    access_key_id: str,
    vault_ref: str,
    permissions: str,
    allow_list: bool,
    prefixes: tuple[str, ...],
) -> None:
    """Let a key use a vault. PERMS: read, write, own, several with commas, or r, w, o, rw, rwo.

    The access key id `anonymous` stands for requests without a signature. A grant replaces an earlier one of the same
    key and vault.
    """
    args = {"access_key_id": access_key_id, "vault": vault_ref, "permissions": permissions, "allow_list": allow_list}
    made = session.call("grant.set", {**args, "prefixes": list(prefixes) or None})
    name = made["alias"] or made["vault_name"]
    session.show(made, lambda: print(f"{made['access_key_id']} may {_may(made)} on {name}"))


def _may(grant: dict[str, Any]) -> str:
    """Return what a grant allows, with all that narrows it."""
    text = str(grant["permissions"])
    if grant["prefixes"]:
        text += f" under {', '.join(grant['prefixes'])}"
    if grant["expires_ms"]:
        text += f"{', ended' if grant['expired'] else ' until'} {time_text(grant['expires_ms'])}"
    if grant["blocked"]:
        text += " (does not count: the bucket's public access block)"
    return text


@s3_perm.command("list")
@client_options
@click.pass_obj
def list_grants(session: Session) -> None:
    """List the grants."""
    grants = session.call("grant.list")
    rows = [
        (
            g["access_key_id"],
            g["label"] or "-",
            g["vault_id"][:SHORT_LENGTH],
            g["vault_name"],
            g["alias"] or "-",
            _may(g),
        )
        for g in grants
    ]
    empty = "there is no grant; add one with: meshhold s3-perm grant ACCESS_KEY_ID VAULT read,write"
    session.show(
        grants, lambda: print_table(("ACCESS KEY", "LABEL", "VAULT", "NAME", "BUCKET", "MAY"), rows, empty=empty)
    )


@s3_perm.command()
@click.argument("access_key_id")
@click.argument("vault_ref", metavar="VAULT")
@client_options
@click.pass_obj
def revoke(session: Session, access_key_id: str, vault_ref: str) -> None:
    """Drop a grant."""
    session.call("grant.revoke", {"access_key_id": access_key_id, "vault": vault_ref})
    result = {"access_key_id": access_key_id, "vault": vault_ref}
    session.show(result, lambda: print(f"{access_key_id} may no longer use {vault_ref}"))
