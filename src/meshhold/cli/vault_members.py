"""`vault members|add-member|remove-member|rotate-key`: which nodes hold a vault, and in which role."""

from __future__ import annotations

from typing import Any, Final

import click

from meshhold.cli.output import SHORT_LENGTH, print_table, printable
from meshhold.cli.session import Session, client_options
from meshhold.cli.vault_index import LINEARIZABLE, IndexView, advice_lines, ask_index
from meshhold.errors import RefusedError

TRUSTED: Final = "trusted"
_FILLING: Final = (
    "What it is to keep of larger objects is copied to it from now on; see: meshhold vault repair {vault} --watch"
)

_GONE: Final = """\
--gone is for a machine that is stolen or broken. If {node} ever came back with its data, or were told the same of
this machine, each of the two would go on with an index of its own, and what one of them stores would be lost.
In a vault with `consistency: available`, what only {node} had taken is lost."""


@click.command("members")
@click.argument("vault_ref", metavar="VAULT")
@client_options
@click.pass_obj
def members(session: Session, vault_ref: str) -> None:
    """List the nodes that hold a vault."""
    found = session.call("vault.members", {"vault": vault_ref})
    rows = [
        (
            m["node_id"][:SHORT_LENGTH],
            m["name"] or "-",
            m["role"] + (", leaving" if m.get("leaving") else ""),
            m["zone"] or "-",
            "yes" if m["reliable"] else "no",
        )
        for m in found
    ]
    session.show(
        found, lambda: print_table(("ID", "NAME", "ROLE", "ZONE", "RELIABLE"), rows, empty="it has no members")
    )


@click.command("add-member")
@click.argument("vault_ref", metavar="VAULT")
@click.argument("node_ref", metavar="NODE")
@click.option("--untrusted", is_flag=True, help="Let it store ciphertext only.")
@client_options
@click.pass_obj
def add_member(session: Session, vault_ref: str, node_ref: str, untrusted: bool) -> None:
    """Let a node hold a vault: a trusted one gets its secrets, an untrusted one can read nothing of it."""
    made = session.call("vault.member_add", {"vault": vault_ref, "node": node_ref, "trusted": not untrusted})

    def people() -> None:
        does = "serves its bucket" if made["role"] == TRUSTED else "can read nothing of it"
        role = "a trusted" if made["role"] == TRUSTED else "an untrusted"
        print(printable(f"{_named(made)} is {role} member of vault {vault_ref}: it {does}"))
        if made["role"] == TRUSTED:
            lines = _sharing_lines(session.call("vault.members", {"vault": vault_ref}), session, vault_ref, made)
            click.echo("\n".join(map(printable, lines)), err=True)
        click.echo(_FILLING.format(vault=printable(vault_ref)), err=True)

    session.show(made, people)


def _sharing_lines(members: list[dict[str, Any]], session: Session, vault_ref: str, new: dict[str, Any]) -> list[str]:
    """Return what another trusted member means for the vault: who keeps the index now, and who must be up."""
    view = ask_index(session, vault_ref)
    if isinstance(view, str):
        return [f"Who keeps its index is not known here: {view}"]
    names = ", ".join(replica["name"] or replica["node_id"][:SHORT_LENGTH] for replica in view["replicas"])
    lines = [f"Names, metadata and objects up to 16 KiB are kept by: {names}"]
    if view["changing"]:
        lines.append("That is being changed and goes on by itself; see: meshhold vault show " + vault_ref)
    elif view["awaited"]:
        lines.append(f"By {', '.join(view['awaited'])} too, by itself, as soon as it answers.")
    elif not new["reliable"]:
        lines.append(f"Not by {new['name']}, which is not reliable: it asks the others for them.")
    if len([member for member in members if member["role"] == TRUSTED]) == 2:
        lines += _second_lines(view, vault_ref)
    return lines


def _second_lines(view: IndexView, vault_ref: str) -> list[str]:
    """Return what people must know when a vault gets its second machine, even before that keeps the index."""
    if advice := advice_lines(view, vault_ref):
        return advice
    if view["consistency"] == LINEARIZABLE and view["awaited"]:
        return [
            "From then on both must be up: while one is off, the other can neither read nor write (503).",
            f"A third machine ends that, since any two of three suffice: meshhold vault add-member {vault_ref} NODE",
        ]
    return []


@click.command("remove-member")
@click.argument("vault_ref", metavar="VAULT")
@click.argument("node_ref", metavar="NODE")
@click.option("--gone", is_flag=True, help="Its machine is stolen or broken: it will never come back with its data.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
@click.pass_obj
def remove_member(session: Session, vault_ref: str, node_ref: str, gone: bool, yes: bool) -> None:
    """Take a vault from a node. After a trusted member the vault's keys are changed.

    What it keeps of the vault is moved to others first, as far as others lack it. Ctrl-C ends the wait only: the node
    stays a member that is leaving, and running this again goes on. With --gone nothing is waited for.

    A member that keeps the vault's index is replaced first. Where only two machines keep it and the other one is gone
    for good, that is refused, since both would have to agree: then --gone lets this one go on alone. If the vault is
    linearizable, it holds all that was ever acknowledged. Never use --gone for a machine that is only off or out of
    reach, and never on both machines: each would go on with an index of its own, and what one stores would be lost.

    A machine that comes back all the same hands over the chunks that others lack, then removes its own, unless it is
    banned; what only it had taken of the index is lost.
    """
    before = session.call("vault.members", {"vault": vault_ref})
    if gone and not yes and not _is_gone(node_ref):
        raise RefusedError("nobody was removed", "answer y, or use --yes in scripts")
    short = session.call("vault.member_remove", {"vault": vault_ref, "node": node_ref, "gone": gone}, long=True)[
        "short"
    ]
    left = session.call("vault.members", {"vault": vault_ref})
    removed = next((m for m in before if m["node_id"] not in {other["node_id"] for other in left}), None)

    def people() -> None:
        print(printable(f"{_named(removed) if removed else node_ref} is no member of vault {vault_ref} any more"))
        if removed and removed["role"] == TRUSTED:
            click.echo("The vault's keys were changed: it cannot open what is written from now on.", err=True)
            click.echo("What it could read until now it may have kept.", err=True)
        if short:
            click.echo(
                f"About {short} chunks have a copy less until repair has made others; see: meshhold status", err=True
            )

    session.show(removed or {"node": node_ref}, people)


def _is_gone(node_ref: str) -> bool:
    """Ask whether the machine is gone for good; nobody there to answer means no."""
    click.echo(_GONE.format(node=printable(node_ref)), err=True)
    try:
        return click.confirm(f"will {printable(node_ref)} never come back with its data?", err=True)
    except click.Abort:
        click.echo(err=True)
        return False


@click.command("rotate-key")
@click.argument("vault_ref", metavar="VAULT")
@client_options
@click.pass_obj
def rotate_key(session: Session, vault_ref: str) -> None:
    """Change the keys that a vault seals with, known to its present trusted members only."""
    found = session.call("vault.rotate_key", {"vault": vault_ref})
    session.show(
        found, lambda: print(f"vault {printable(vault_ref)} seals with key epoch {found['epoch']} from now on")
    )


MEMBER_COMMANDS: Final = (members, add_member, remove_member, rotate_key)


def _named(member: dict[str, Any]) -> str:
    short = member["node_id"][:SHORT_LENGTH]
    return f"{member['name']} ({short})" if member["name"] else str(short)
