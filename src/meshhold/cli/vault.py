"""`vault …`: the encrypted data sets and the bucket names they go by."""

from __future__ import annotations

import sys
from typing import Any

import click

from meshhold.cli.output import (
    SHORT_LENGTH,
    print_fields,
    print_table,
    printable,
    size_text,
    time_text,
)
from meshhold.cli.quota import quota_fields
from meshhold.cli.session import Session, client_options
from meshhold.cli.vault_check import check, repair
from meshhold.cli.vault_conflicts import conflicts
from meshhold.cli.vault_index import ask_index, index_lines, set_vault
from meshhold.cli.vault_lifecycle import lifecycle
from meshhold.cli.vault_members import MEMBER_COMMANDS
from meshhold.cli.vault_recovery import RECOVERY_COMMANDS
from meshhold.errors import RefusedError


@click.group()
def vault() -> None:
    """Create, list, map, share and check vaults. VAULT is an id, its unique beginning, a name or an alias."""


for _command in (*MEMBER_COMMANDS, *RECOVERY_COMMANDS, set_vault, lifecycle, conflicts, check, repair):
    vault.add_command(_command)


@vault.command()
@click.argument("name")
@click.option("--replication-factor", type=click.IntRange(min=1), help="Copies; 3 if nothing is said.")
@click.option("--like", metavar="VAULT", help="Share it as this one is: members, copies, index replicas.")
@client_options
@click.pass_obj
def create(session: Session, name: str, replication_factor: int | None, like: str | None) -> None:
    """Create a vault."""
    args = {"replication_factor": replication_factor, "like": like}
    made = session.call("vault.create", {"name": name} | {key: value for key, value in args.items() if value})

    def people() -> None:
        print(f"created vault {made['id']}")
        print(f"give it a bucket name with: meshhold vault s3-alias {made['id'][:SHORT_LENGTH]} BUCKET")

    session.show(made, people)


@vault.command("list")
@client_options
@click.pass_obj
def list_vaults(session: Session) -> None:
    """List the vaults."""
    vaults = session.call("vault.list")
    rows = [
        (
            v["id"][:SHORT_LENGTH],
            v["name"],
            shown_alias(v),
            _count_text(v["objects"]),
            _size_text(v["bytes"]),
            v["replication_factor"],
        )
        for v in vaults
    ]
    headers = ("ID", "NAME", "BUCKET", "OBJECTS", "SIZE", "COPIES")
    empty = "there is no vault; create one with: meshhold vault create NAME"
    session.show(vaults, lambda: print_table(headers, rows, empty=empty))


@vault.command()
@click.argument("vault_ref", metavar="VAULT")
@client_options
@click.pass_obj
def show(session: Session, vault_ref: str) -> None:
    """Show one vault."""
    found = session.call("vault.show", {"vault": vault_ref})

    def people() -> None:
        print_fields(_fields(found))
        print()
        print("\n".join(index_lines(ask_index(session, found["id"]), vault_ref)))

    session.show(found, people)


def _fields(found: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("id", found["id"]),
        ("name", found["name"]),
        ("bucket", shown_alias(found)),
        ("created", time_text(found["created_ms"])),
        ("copies", found["replication_factor"]),
        ("objects", _count_text(found["objects"])),
        ("size", _size_text(found["bytes"])),
        *quota_fields(found),
        ("snapshot", _snapshot_text(found["snapshot_ms"])),
    ]


def _count_text(count: int | None) -> str:
    """Return a number of objects; `?` while no machine that knows it answers."""
    return "?" if count is None else str(count)


def _snapshot_text(taken_ms: int | None) -> str:
    """Return of when `vault recover` would bring the index back."""
    return "none of the index" if taken_ms is None else f"of the index as of {time_text(taken_ms)}"


def _size_text(size: int | None) -> str:
    return "?" if size is None else size_text(size)


@vault.command()
@click.argument("vault_ref", metavar="VAULT")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Delete its objects too.")
@click.option("--break-locks", is_flag=True, help="Delete versions too that compliance or a legal hold keeps.")
@client_options
@click.pass_obj
def delete(session: Session, vault_ref: str, yes: bool, force: bool, break_locks: bool) -> None:
    """Delete a vault. Nothing brings it back."""
    found = session.call("vault.show", {"vault": vault_ref})
    if not yes and not _confirmed(found):
        raise RefusedError("nothing was deleted", "answer y, or use --yes in scripts")
    session.call("vault.delete", {"vault": found["id"], "force": force, "break_locks": break_locks})
    session.show({"id": found["id"]}, lambda: print(f"deleted vault {found['id']}"))


def _confirmed(found: dict[str, Any]) -> bool:
    what = f"{_count_text(found['objects'])} objects, {_size_text(found['bytes'])}"
    question = f"delete vault {printable(found['name'])} ({found['id'][:SHORT_LENGTH]}, {what})?"
    try:
        return click.confirm(question, err=True)
    except click.Abort:  # nobody is there to answer
        print(file=sys.stderr)
        return False


def shown_alias(view: dict[str, Any]) -> str:
    """Return a vault's bucket name, with the vault that S3 shows under it where that is another one."""
    if view.get("alias_conflict"):
        return f"{view['alias']} (conflict: {view['alias_conflict']} claimed it first)"
    return view["alias"] or "-"


@vault.command("s3-alias")
@click.argument("vault_ref", metavar="VAULT")
@click.argument("alias", metavar="BUCKET")
@client_options
@click.pass_obj
def s3_alias(session: Session, vault_ref: str, alias: str) -> None:
    """Map a vault to a bucket name; "" clears it."""
    found = session.call("vault.alias", {"vault": vault_ref, "alias": alias})
    sentence = f"is the bucket {found['alias']}" if found["alias"] else "has no bucket name any more"
    session.show(found, lambda: print(f"vault {found['name']} ({found['id'][:SHORT_LENGTH]}) {sentence}"))
