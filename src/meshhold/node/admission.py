"""How does a node that holds a pass get the mesh's key? It asks whoever made the pass. Knows no file, no registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshhold.crypto.identity import Identity
from meshhold.errors import CallRefusedError, HandshakeRefusedError, InvalidError, MeshHoldError, UnavailableError
from meshhold.node.swarm_keys import KEY_SIZE, pass_name
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.links import Peering, open_peering
from meshhold.transport.tcp import TcpTransport

ADMIT: Final = "mesh.admit/1"
ADMIT_S: Final = 15.0


async def redeem_pass(identity: Identity, invitation: bytes, addresses: Sequence[str]) -> bytes:
    """Return the mesh's key for a pass, from the first of the inviting node's addresses that answers.

    Errors: `InvalidError` when the pass is refused, for good; `UnavailableError` when nobody answers.
    """
    failure: MeshHoldError = UnavailableError("the invitation names no address", "ask for another one")
    async with open_peering(identity, [invitation], TcpTransport(), dispatch=Dispatch()) as peering:
        for address in addresses:
            try:
                return await _ask(peering, address, invitation)
            except (HandshakeRefusedError, CallRefusedError):
                failure = InvalidError(
                    "the invitation is not taken: it was used, has expired, or its daemon was restarted",
                    "ask for another one",
                )
                break
            except MeshHoldError as error:
                failure = UnavailableError(f"the inviting node does not answer: {error}", "see whether its daemon runs")
    raise failure  # not from inside, where it would come out in a group


async def _ask(peering: Peering, address: str, invitation: bytes) -> bytes:
    peer = await peering.join(address)
    answer = await peering.call(peer, ADMIT, {"pass": pass_name(invitation)}, timeout_s=ADMIT_S)
    key = answer.get("key") if isinstance(answer, dict) else None
    if not isinstance(key, bytes) or len(key) != KEY_SIZE:
        raise UnavailableError("the inviting node gave no key", "ask for another invitation")
    return key
