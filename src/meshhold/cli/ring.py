"""`ring show|plan`: who keeps a vault's chunks, and what would move if machines came or went."""

from __future__ import annotations

from typing import Any

import click

from meshhold.cli.output import SHORT_LENGTH, duration_text, printable, size_text, table_lines
from meshhold.cli.session import Session, client_options
from meshhold.config.values import parse_size


@click.group()
def ring() -> None:
    """Show and plan which machines keep which part of a vault's chunks."""


@ring.command()
@click.argument("vault_ref", metavar="[VAULT]", required=False)
@client_options
@click.pass_obj
def show(session: Session, vault_ref: str | None) -> None:
    """Show what each machine is to keep of a vault, and what it has."""
    rings = session.call("ring.show", {"vault": vault_ref})
    texts = ["\n".join(show_lines(found)) for found in rings]
    session.show(rings, lambda: print("\n\n".join(texts) or "there is no vault"))


def show_lines(found: dict[str, Any]) -> list[str]:
    """Return a vault's ring as people read it."""
    copies = f"{found['factor']} copies"
    if found["wanted"] < found["factor"]:
        copies += f", of which {found['wanted']} are possible with these machines"
    head = f"{found['vault']} ({found['vault_id'][:SHORT_LENGTH]}): {copies}"
    rows = [
        (
            member["node_id"][:SHORT_LENGTH],
            member["name"] or "-",
            member["zone"] or "-",
            size_text(member["capacity"]),
            f"{member['planned_percent']:g} %",
            "?" if member["held_percent"] is None else f"{member['held_percent']:g} %",
            "?" if member["bytes"] is None else size_text(member["bytes"]),
            member["state"],
        )
        for member in found["members"]
    ]
    has = found["held_max_over_mean"]
    even = f"the fullest machine is to have {found['max_over_mean']:g} times the average for its capacity"
    if has is not None:
        even += f", and has {has:g} times"
    return [
        printable(head),
        *table_lines(("ID", "NAME", "ZONE", "CAPACITY", "IS TO HAVE", "HAS", "BYTES", "STATE"), rows),
        f"{found['partitions']} partitions, version {printable(found['version'])}; {even}",
    ]


def _read_newcomers(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> list[str]:
    """Read `NODE[:CAPACITY[:ZONE]]`, the capacity as bytes. Errors: `click.BadParameter`."""
    found = []
    for text in texts:
        name, colon, rest = text.partition(":")
        size, *zone = rest.split(":", 1)
        try:
            capacity = str(parse_size(size)) if size else ""
        except ValueError:
            raise click.BadParameter(
                f"{size!r} is no size; use NODE:CAPACITY:ZONE, the capacity in bytes or with a unit, such as 500GiB"
            ) from None
        found.append(":".join([name, capacity, *zone]) if colon else name)
    return found


@ring.command()
@click.argument("vault_ref", metavar="[VAULT]", required=False)
@click.option("--without", multiple=True, metavar="NODE", help="A machine that goes; may be repeated.")
@click.option(
    "--with",
    "added",
    multiple=True,
    metavar="NODE[:CAPACITY[:ZONE]]",
    callback=_read_newcomers,
    help="A machine that comes, such as shed:2TiB:garden; may be repeated.",
)
@click.option("--factor", type=click.IntRange(1, 16), help="Another number of copies.")
@client_options
@click.pass_obj
def plan(
    session: Session, vault_ref: str | None, without: tuple[str, ...], added: list[str], factor: int | None
) -> None:
    """Tell what would move if machines went or came; nothing is changed.

    A machine that is not in the mesh yet is given with its capacity.
    """
    if not without and not added and factor is None:
        raise click.UsageError("nothing would change; use --without NODE, --with NODE:CAPACITY or --factor N")
    changes = {"without": list(without) or None, "with": added or None, "factor": factor}
    plans = session.call("ring.plan", {"vault": vault_ref, **changes})
    texts = ["\n".join(plan_lines(found)) for found in plans]
    session.show(plans, lambda: print("\n\n".join(texts) or "no vault would change"))


def plan_lines(found: dict[str, Any]) -> list[str]:
    """Return what a change means for one vault."""
    size, name = found["moves_bytes"], f"{found['vault']} ({found['vault_id'][:SHORT_LENGTH]})"
    amount = f"{found['moves_percent']:g} % of one copy"
    if size is not None:
        amount = f"{size_text(size)} move, {amount} (estimated from {found['bytes_from']})"
    else:
        amount = f"{amount} moves; how many bytes that is nobody tells who answers"
    lines = [printable(f"{name}: {amount}")]
    rows = [(gain["node"], size_text(gain["gets"]), size_text(gain["gives"])) for gain in found["gains"]]
    if rows and size is not None:
        lines += table_lines(("NODE", "GETS", "GIVES"), rows)
    if size and found["seconds"] is not None:
        rate = f"{size_text(found['bytes_per_s'])}/s for each machine"
        basis = "as repair goes at present" if found["is_measured"] else "if nothing slows repair down"
        lines.append(f"takes about {duration_text(found['seconds'])} at {rate}, {basis}")
    lines.append(_copies_line(found))
    return lines


def _copies_line(found: dict[str, Any]) -> str:
    """Return whether the factor still holds, while it moves and afterwards."""
    during, after, wanted = found["copies_min"], found["copies_after"], found["factor_after"]
    if after < wanted:
        end = f"only {after} copies of {wanted} are possible with {found['members_after']} machines: add machines"
    else:
        end = f"{after} copies afterwards, as wanted"
    if during == 0:
        return f"{end}; DATA WOULD BE LOST if those that go are switched off at once: drain them first"
    if during < found["copies_before"]:
        end += f"; if those that go are switched off at once, {during} of everything until repair has finished"
    return end
