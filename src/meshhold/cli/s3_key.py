"""`s3-key …`: access keys for S3 clients."""

from __future__ import annotations

from typing import Any, Final

import click

from meshhold.cli.output import SHORT_LENGTH, print_fields, print_table, time_text
from meshhold.cli.session import Session, client_options
from meshhold.cli.values import duration_of

EXPIRES_S_MAX: Final = 3650 * 86_400  # as the daemon takes it


@click.group("s3-key")
def s3_key() -> None:
    """Mint, list and remove S3 access keys."""


@s3_key.command()
@click.option("--label", required=True, help="What the key is for.")
@click.option("--create-buckets", is_flag=True, help="Let it create buckets (each makes a vault).")
@click.option("--like", metavar="VAULT", help="Share what it creates as this vault is; else it is on this node alone.")
@click.option("--may-publish", is_flag=True, help="Let it open buckets that it owns to everybody (ACL public-read).")
@click.option("--read-only", is_flag=True, help="Never let it do more than read, whatever is granted to it later.")
@click.option("--expires", "expires_s", callback=duration_of(1, EXPIRES_S_MAX), metavar="TIME", help="12h, 30d, 8w …")
@client_options
@click.pass_obj
def add(
    session: Session,
    label: str,
    create_buckets: bool,
    like: str | None,
    may_publish: bool,
    read_only: bool,
    expires_s: int | None,
) -> None:
    """Mint a key. Its secret is printed once and can never be shown again."""
    args = {"label": label, "create_buckets": create_buckets, "may_publish": may_publish, "read_only": read_only}
    made = session.call("key.add", {**args, "expires_s": expires_s or 0} | ({"like": like} if like else {}))

    def people() -> None:
        print_fields([(name, made[name]) for name in ("access_key_id", "secret_access_key", "label")])
        click.echo("Copy the secret now: it cannot be shown again.", err=True)
        permissions = "read" if read_only else "read,write"
        click.echo(f"Next: meshhold s3-perm grant {made['access_key_id']} VAULT {permissions}", err=True)

    session.show(made, people)


@s3_key.command("list")
@client_options
@click.pass_obj
def list_keys(session: Session) -> None:
    """List the keys, without their secrets."""
    keys = session.call("key.list")
    rows = [
        (
            k["access_key_id"],
            k["label"],
            time_text(k["created_ms"]),
            _ends(k),
            "yes" if k["read_only"] else "no",
            "yes" if k["may_publish"] else "no",
            _creates(k),
        )
        for k in keys
    ]
    empty = "there is no key; mint one with: meshhold s3-key add --label LABEL"
    headers = ("ACCESS KEY", "LABEL", "CREATED", "ENDS", "READS ONLY", "PUBLISHES", "CREATES BUCKETS")
    session.show(keys, lambda: print_table(headers, rows, empty=empty))


def _creates(key: dict[str, Any]) -> str:
    if not key["create_buckets"]:
        return "no"
    return f"like {key['like_name'] or key['like'][:SHORT_LENGTH] + ' (gone)'}" if key["like"] else "yes"


def _ends(key: dict[str, Any]) -> str:
    if not key["expires_ms"]:
        return "never"
    return f"{time_text(key['expires_ms'])}{' (over)' if key['expired'] else ''}"


@s3_key.command("rm")
@click.argument("access_key_id")
@client_options
@click.pass_obj
def remove(session: Session, access_key_id: str) -> None:
    """Remove a key and all its grants."""
    session.call("key.remove", {"access_key_id": access_key_id})
    session.show({"access_key_id": access_key_id}, lambda: print(f"removed {access_key_id}"))
