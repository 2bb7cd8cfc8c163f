"""What joining a mesh leaves in a node's data directory. Knows no link: the daemon makes it when it starts."""

from __future__ import annotations

from pathlib import Path

from meshhold.config.swarm_files import SwarmFiles
from meshhold.errors import ConflictError
from meshhold.model.token import Token, decode_token


def prepare_join(data_dir: Path, token: str) -> None:
    """Remember an invitation, so that the daemon joins at its next start.

    Errors: `InvalidError` for a word that is no invitation; `ConflictError` for a node that is in another mesh.
    """
    remember(SwarmFiles(data_dir), decode_token(token))


def remember(files: SwarmFiles, token: Token) -> None:
    """Keep what the token says, durably. Errors: as `prepare_join`."""
    check_free(files, token)
    files.set_peers(tuple(dict.fromkeys((*token.addresses, *files.peers()))))
    if token.is_pass:
        files.set_pending(token.key)
    else:
        files.set_key(token.key)
        files.forget_pending()  # an earlier invitation that led nowhere


def check_free(files: SwarmFiles, token: Token) -> None:
    """Let a node join that is in no mesh, or in this very one. Errors: `ConflictError`."""
    known = files.key()
    if known is None or (known == token.key and not token.is_pass):
        return
    leave = "leave it first with `meshhold node leave`; the data stays"
    if token.is_pass:  # it does not tell of which mesh it is
        leave += "; if it is the same mesh, use an invitation without --expires and --single-use"
    raise ConflictError("this node is in a mesh already", leave)
