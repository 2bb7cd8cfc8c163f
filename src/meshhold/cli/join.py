"""`join`: this machine enters a mesh, whether its daemon runs, is stopped, or its node was never made."""

from __future__ import annotations

import sys
import time

import click

from meshhold.cli.new_node import create_node
from meshhold.cli.output import SHORT_LENGTH, printable, time_text
from meshhold.cli.session import Session, client_options, command_line
from meshhold.config.settings import NODE_LISTEN_DEFAULT, S3_LISTEN_DEFAULT
from meshhold.errors import AlreadyRunningError, ConflictError, DaemonUnreachableError, InvalidError
from meshhold.model.token import SIZE_MAX, Token, decode_token


@click.command()
@click.argument("token")
@client_options
@click.pass_obj
def join(session: Session, token: str) -> None:
    """Enter the mesh that printed TOKEN with `meshhold invite`; - reads it from standard input.

    Where there is no node yet, one is made as by `meshhold init`.
    """
    text = sys.stdin.read(2 * SIZE_MAX) if token == "-" else token  # noqa: S105 - a dash is no secret
    word = "".join(text.split())  # chat programs and terminals break long words
    invitation = decode_token(word)
    path = session.config_path
    if not path.exists():
        _check_time(invitation)
        create_node(path, path.parent, NODE_LISTEN_DEFAULT, S3_LISTEN_DEFAULT)
        click.echo(f"created {path}", err=True)
        _join_stopped(session, word, invitation)
        return
    try:
        met = session.call("mesh.join", {"token": word})
    except DaemonUnreachableError as unreachable:
        try:
            _join_stopped(session, word, invitation)
        except AlreadyRunningError:  # it runs, and only its socket does not answer
            raise unreachable from None
        return
    name = printable(f"{met['name']} ({met['node_id'][:SHORT_LENGTH]})")
    session.show({"joined": True, **met}, lambda: print(f"joined the mesh of {name}; see: meshhold node list"))


def _join_stopped(session: Session, word: str, invitation: Token) -> None:
    """Leave the invitation for the daemon's next start. Errors: `AlreadyRunningError` while a daemon has the node."""
    from meshhold.config.joining import prepare_join  # noqa: PLC0415 - the usual join asks the daemon
    from meshhold.node.lock import hold_lock  # noqa: PLC0415 - same

    config = session.config()
    _check_time(invitation)
    if config.swarm_key is not None and (invitation.is_pass or config.swarm_key != invitation.key):
        raise ConflictError(
            f"swarm_key in {session.config_path} names a mesh already", 'set it to "" there to enter another one'
        )
    config.node.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_lock(config.node.data_dir):
        prepare_join(config.node.data_dir, word)
    start = command_line(session.config_path, "daemon")
    session.show(
        {"joined": False, "start": start},
        lambda: print(f"the node joins when its daemon starts; start the daemon with: {start}"),
    )


def _check_time(invitation: Token) -> None:
    now_ms = time.time_ns() // 1_000_000
    if 0 < invitation.expires_ms < now_ms:
        raise InvalidError(
            f"this invitation ended at {time_text(invitation.expires_ms)}, and it is {time_text(now_ms)} here",
            "make another with: meshhold invite",
        )
