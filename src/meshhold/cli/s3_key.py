"""`s3-key …`: access keys for S3 clients."""

from __future__ import annotations

import click

from meshhold.cli.output import print_fields, print_table, time_text
from meshhold.cli.session import Session, client_options


@click.group("s3-key")
def s3_key() -> None:
    """Mint, list and remove S3 access keys."""


@s3_key.command()
@click.option("--label", required=True, help="What the key is for.")
@click.option("--create-buckets", is_flag=True, help="Let it create buckets (each makes a vault).")
@client_options
@click.pass_obj
def add(session: Session, label: str, create_buckets: bool) -> None:
    """Mint a key. Its secret is printed once and can never be shown again."""
    made = session.call("key.add", {"label": label, "create_buckets": create_buckets})

    def people() -> None:
        print_fields([(name, made[name]) for name in ("access_key_id", "secret_access_key", "label")])
        click.echo("Copy the secret now: it cannot be shown again.", err=True)
        click.echo(f"Next: meshhold s3-perm grant {made['access_key_id']} VAULT read,write", err=True)

    session.show(made, people)


@s3_key.command("list")
@client_options
@click.pass_obj
def list_keys(session: Session) -> None:
    """List the keys, without their secrets."""
    keys = session.call("key.list")
    rows = [
        (k["access_key_id"], k["label"], time_text(k["created_ms"]), "yes" if k["create_buckets"] else "no")
        for k in keys
    ]
    empty = "there is no key; mint one with: meshhold s3-key add --label LABEL"
    headers = ("ACCESS KEY", "LABEL", "CREATED", "CREATES BUCKETS")
    session.show(keys, lambda: print_table(headers, rows, empty=empty))


@s3_key.command("rm")
@click.argument("access_key_id")
@client_options
@click.pass_obj
def remove(session: Session, access_key_id: str) -> None:
    """Remove a key and all its grants."""
    session.call("key.remove", {"access_key_id": access_key_id})
    session.show({"access_key_id": access_key_id}, lambda: print(f"removed {access_key_id}"))
