"""`vault set`, and how a vault's index replicas look to people: who keeps the index, in what mode, what that means.

Takes the views of the control socket.
"""

from __future__ import annotations

from typing import Any, Final

import click

from meshhold.cli.output import SHORT_LENGTH, print_fields, printable, table_lines
from meshhold.cli.quota import quota_fields, read_count, read_limit
from meshhold.cli.session import Session, client_options
from meshhold.errors import CallRefusedError

IndexView = dict[str, Any]
LINEARIZABLE: Final = "linearizable"
AVAILABLE: Final = "available"
_MODES: Final = {
    LINEARIZABLE: "linearizable: what one machine was told, the next one reads",
    AVAILABLE: "available: each machine goes on alone, writes are merged when they meet; none can be conditional",
}
_AUTO: Final = "auto"


@click.command("set")
@click.argument("vault_ref", metavar="VAULT")
@click.option("--index-replicas", metavar="NODES", help="Who keeps the index: nodes with commas, or auto.")
@click.option(
    "--consistency", type=click.Choice((LINEARIZABLE, AVAILABLE)), help="What holds while machines are apart."
)
@click.option("--replication-factor", type=click.IntRange(1, 16), help="On how many machines each chunk is to be kept.")
@click.option(
    "--quota-bytes", metavar="SIZE", callback=read_limit, help="How much it may hold, such as 500GiB, or none."
)
@click.option("--quota-objects", metavar="N", callback=read_count, help="How many objects it may hold, or none.")
@client_options
@click.pass_obj
def set_vault(
    session: Session,
    vault_ref: str,
    index_replicas: str | None,
    consistency: str | None,
    replication_factor: int | None,
    quota_bytes: int | None,
    quota_objects: int | None,
) -> None:
    """Change who keeps a vault's index, its consistency, how many copies it has, or how much it may hold."""
    changes: dict[str, Any] = {
        "consistency": consistency,
        "replication_factor": replication_factor,
        "quota_bytes": quota_bytes,
        "quota_objects": quota_objects,
    }
    if index_replicas is None and all(value is None for value in changes.values()):
        raise click.UsageError(
            "nothing to set; use --index-replicas, --consistency, --replication-factor, --quota-bytes or "
            "--quota-objects"
        )
    if index_replicas is not None:
        changes["index_replicas"] = [name.strip() for name in index_replicas.split(",")]
    found = session.call("vault.set", {"vault": vault_ref} | changes)

    def people() -> None:
        print(printable(f"vault {found['name']} ({found['id'][:SHORT_LENGTH]}): {found['replication_factor']} copies"))
        limits = quota_fields(found)
        if limits:
            print_fields(limits)
        print("\n".join(index_lines(ask_index(session, found["id"]), vault_ref)))

    session.show(found, people)


def ask_index(session: Session, vault_ref: str) -> IndexView | str:
    """Return who keeps a vault's index, or the sentence that says why nobody can tell."""
    try:
        view: IndexView = session.call("vault.replicas", {"vault": vault_ref})
    except CallRefusedError as refused:
        return str(refused)
    return view


def index_lines(view: IndexView | str, vault_ref: str) -> list[str]:
    """Return the table of the replicas, and below it what people should know or do."""
    if isinstance(view, str):
        return [printable(f"index: {view}")]
    rows = [_row(replica, "") for replica in view["replicas"]]
    rows += [_row(replica, " (until the change has ended)") for replica in view["leaving"]]
    lines = table_lines(("INDEX REPLICA", "NAME", "ZONE", "STATE"), rows)
    lines.append(f"consistency {_MODES.get(view['consistency'], view['consistency'])}")
    return lines + [printable(line) for line in (*_pending_lines(view, vault_ref), *advice_lines(view, vault_ref))]


def advice_lines(view: IndexView, vault_ref: str) -> list[str]:
    """Return what the number of replicas means for people."""
    names = [replica["name"] for replica in view["replicas"]]
    if view["consistency"] != LINEARIZABLE or len(names) < 2:
        return []
    if len(names) > 2:
        spare = (len(names) - 1) // 2
        return [f"{spare} of these {len(names)} may be off at any time; with more off, objects wait (503)."]
    lines = [
        f"Both {names[0]} and {names[1]} must be up: while one is off, the other can neither read nor write (503).",
        f"A third machine ends that, since any two of three suffice: meshhold vault add-member {vault_ref} NODE",
    ]
    if AVAILABLE in view["modes"]:
        lines += [
            "With only two machines, each can go on alone instead: of what both changed the later version wins, and",
            f"conditional writes are refused: meshhold vault set {vault_ref} --consistency {AVAILABLE}",
        ]
    return lines


def _pending_lines(view: IndexView, vault_ref: str) -> list[str]:
    lines = []
    if view["pinned"]:
        lines.append(f"Chosen by hand; to let them be chosen: meshhold vault set {vault_ref} --index-replicas {_AUTO}")
    if view["changing"]:
        lines.append("The replicas are being changed; that goes on by itself.")
    if view["awaited"]:
        names = ", ".join(view["awaited"])
        lines.append(f"To keep the index too, by itself as soon as it can be asked: {names}")
    if view["error"] and (view["changing"] or view["awaited"]):
        lines.append(f"The last try did not end: {view['error']}")
    return lines


def _row(replica: dict[str, Any], remark: str) -> tuple[str, str, str, str]:
    states = {"votes": "votes", "refilling": "answers, does not vote", "silent": "does not answer"}
    state = states.get(replica["state"], replica["state"])
    if replica["reason"] and replica["state"] != "votes":
        state += f": {replica['reason']}"
    return replica["node_id"][:SHORT_LENGTH], replica["name"] or "-", replica["zone"] or "-", state + remark
