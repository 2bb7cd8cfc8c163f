"""`invite`, `swarm rotate`: who may enter the mesh. Knows the invitation as a word, not what it holds."""

from __future__ import annotations

import shutil
import sys
from typing import Final

import click

from meshhold.cli.output import time_text
from meshhold.cli.session import Session, client_options
from meshhold.cli.values import duration_of
from meshhold.model.token import decode_token

_DAY_S: Final = 86_400
EXPIRES_S_MAX: Final = 3650 * _DAY_S  # as the daemon takes it
WINDOW_S_MIN: Final = 60  # same
WINDOW_S_MAX: Final = 30 * _DAY_S  # same
_QUIET_ZONE: Final = 4  # modules of light around the code, by its standard (ISO/IEC 18004)


@click.command()
@click.option("--qr", is_flag=True, help="Draw the token as a QR code too, on standard error.")
@click.option("--expires", "expires_s", callback=duration_of(1, EXPIRES_S_MAX), metavar="TIME", help="30min, 1h, 7d …")
@click.option("--single-use", is_flag=True, help="Let in one node only.")
@client_options
@click.pass_obj
def invite(session: Session, qr: bool, expires_s: int | None, single_use: bool) -> None:
    """Print a token that lets another machine join this node's mesh; a single node becomes a mesh by it.

    The token alone is on standard output. Whoever has it can enter: hand it over as you would a password.
    """
    token = session.call("mesh.invite", {"expires_s": expires_s or 0, "single_use": single_use})["token"]
    session.show({"token": token}, lambda: print(token, flush=True))
    if qr:
        _draw_qr(token)
    if not session.as_json:
        click.echo("On the other machine: meshhold join TOKEN. Keep it as secret as a password.", err=True)
        if until_ms := decode_token(token).expires_ms:
            ends = "It lets in one node, and ends" if single_use else "It ends"
            click.echo(f"{ends} at {time_text(until_ms)}, or when this daemon stops.", err=True)


def _draw_qr(token: str) -> None:
    """Draw on standard error, so that standard output stays the token alone."""
    import segno  # noqa: PLC0415 - only this option needs it, and commands must start fast

    code = segno.make(token, error="l", micro=False)
    half_blocks = "utf" in (sys.stderr.encoding or "").lower()  # two rows a line; else colours, and spaces
    code.terminal(sys.stderr, border=_QUIET_ZONE, compact=half_blocks)
    sys.stderr.flush()
    columns = int(code.symbol_size(border=_QUIET_ZONE)[0]) * (1 if half_blocks else 2)
    if columns > shutil.get_terminal_size((columns, 24)).columns:
        click.echo(f"The code is {columns} columns wide and this terminal is not: widen it and ask again.", err=True)


@click.group()
def swarm() -> None:
    """Change the key that the mesh's nodes share."""


@swarm.command()
@click.option(
    "--window", "window_s", default="24h", show_default=True, metavar="TIME", help="How long the old key is taken too.",
    callback=duration_of(WINDOW_S_MIN, WINDOW_S_MAX),
)  # fmt: skip
@client_options
@click.pass_obj
def rotate(session: Session, window_s: int) -> None:
    """Give the mesh a new swarm key. Nodes that are away for longer than the window must be invited again."""
    rotated = session.call("swarm.rotate", {"window_s": window_s})

    def people() -> None:
        print(f"the mesh has a new key; the old one is taken until {time_text(rotated['accepted_until_ms'])}")
        click.echo("A node that is not back by then must be invited again; so must whoever has an old token.", err=True)

    session.show(rotated, people)
