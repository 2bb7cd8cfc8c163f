"""`node …`: the machines of the mesh, and what this one says of itself."""

from __future__ import annotations

from typing import Any

import click

from meshhold.cli.output import SHORT_LENGTH, print_fields, printable, size_text
from meshhold.cli.roster import node_fields, roster_lines
from meshhold.cli.session import Session, client_options
from meshhold.cli.values import read_capacity


@click.group()
def node() -> None:
    """List and change the mesh's nodes. NODE is a name or the unique beginning of an id."""


@node.command("list")
@client_options
@click.pass_obj
def list_nodes(session: Session) -> None:
    """List the nodes, and who suspects whom."""
    nodes = session.call("node.list")
    session.show(nodes, lambda: print("\n".join(roster_lines(nodes))))


@node.command()
@click.argument("node_ref", metavar="NODE")
@client_options
@click.pass_obj
def show(session: Session, node_ref: str) -> None:
    """Show one node."""
    found = session.call("node.show", {"node": node_ref})
    session.show(found, lambda: print_fields(node_fields(found)))


@node.command("set")
@click.option("--name", help="What people call this machine.")
@click.option("--zone", help="Machines that fail together share a zone.")
@click.option(
    "--capacity", callback=read_capacity, metavar="SIZE", help="What it offers, such as 500GiB; 0: its whole disk."
)
@click.option("--reliable/--no-reliable", default=None, help="Whether its copies count; no for what comes and goes.")
@client_options
@click.pass_obj
def set_facts(
    session: Session, name: str | None, zone: str | None, capacity: int | None, reliable: bool | None
) -> None:
    """Change what this node says of itself, everywhere in the mesh."""
    facts = {"name": name, "zone": zone, "capacity": capacity, "reliable": reliable}
    if all(value is None for value in facts.values()):
        raise click.UsageError("nothing to set; use --name, --zone, --capacity, --reliable or --no-reliable")
    found = session.call("node.set", facts)
    session.show(found, lambda: print_fields(node_fields(found)))


@node.command()
@click.argument("node_ref", metavar="NODE")
@click.option("--lift", is_flag=True, help="Let it in again.")
@client_options
@click.pass_obj
def ban(session: Session, node_ref: str, lift: bool) -> None:
    """Refuse a node everywhere in the mesh from now on."""
    if lift:
        session.call("node.ban", {"node": node_ref, "lift": True})
        lifted = {"node": node_ref, "banned": False}
        session.show(lifted, lambda: print(f"{printable(node_ref)} is no longer banned"))
        return
    found = session.call("node.show", {"node": node_ref})  # later it is listed no more: its id must be said now
    session.call("node.ban", {"node": found["id"], "lift": False})

    def people() -> None:
        short = found["id"][:SHORT_LENGTH]
        print(f"{printable(found['name'])} ({short}) is banned; undo with: meshhold node ban {short} --lift")
        click.echo("It still knows the swarm key: change that with meshhold swarm rotate.", err=True)
        click.echo("It keeps what it had of vaults: meshhold vault remove-member VAULT NODE", err=True)

    session.show({"node": found["id"], "banned": True}, people)


@node.command()
@click.argument("node_ref", metavar="[NODE]", required=False)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it may be switched off.")
@click.option("--undo", is_flag=True, help="Let it keep data again.")
@click.option("--force", is_flag=True, help="Even if the other machines cannot take over everything.")
@client_options
@click.pass_obj
def drain(session: Session, node_ref: str | None, wait: bool, undo: bool, force: bool) -> int:
    """Move everything that a node keeps to others, so that it can be switched off for good.

    Without NODE this one. Ctrl-C ends the wait, not the draining: run it again to see how far it is, or with --undo to
    end it. Exits with 0 once the machine may be switched off, else with 1.
    """
    args = {"node": node_ref, "undo": undo, "force": force, "wait": wait}
    found = session.call("node.drain", args, long=True)
    session.show(found, lambda: print("\n".join(drain_lines(found))))
    return 0 if undo or found["is_safe"] else 1


def drain_lines(found: dict[str, Any]) -> list[str]:
    """Return how far a node's draining is."""
    name = printable(found["name"])
    if not found["draining"]:
        return [f"{name} keeps data; nothing is moved away from it"]
    if found["is_safe"]:
        return [f"{name} keeps nothing any more: it is safe to switch off"]
    lines = [f"{name} is being drained: {found['chunks']} chunks, {size_text(found['bytes'])} left"]
    if found["indexes"]:
        lines.append(f"it keeps the index of: {printable(', '.join(found['indexes']))}")
    lines += [f"waiting: {printable(reason)}" for reason in found["waiting"]]
    return [*lines, f"do NOT switch it off yet; to end the draining: meshhold node drain {name} --undo"]


@node.command()
@client_options
@click.pass_obj
def leave(session: Session) -> None:
    """Take this node out of its mesh. Its data stays; coming back takes a new invitation."""
    session.call("node.leave")
    session.show({"left": True}, lambda: print("this node has left its mesh; what it stores is still here"))
