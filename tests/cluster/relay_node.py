"""A process with links and a relay and nothing else, for tests of networks: says what it does in JSON, a line each.

Its words are JSON: `name`, `listen` and `join` (addresses, or empty), `call` (the name of a node to talk to, or empty)
and `at` (where that node might be dialled). It ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

from meshhold.crypto.hashing import hash_bytes
from meshhold.crypto.identity import Identity
from meshhold.model.ids import NodeId
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.links import Peering, open_peering
from meshhold.peering.relay import Relay
from meshhold.peering.settings import LinkClosed, LinkEvent
from meshhold.peering.streams import PeerStream
from meshhold.transport.tcp import TcpTransport

SWARM_KEY = b"k" * 32
SIZE = 4 * 1024 * 1024


def identity(name: str) -> Identity:
    """Return the identity of a node by name."""
    return Identity(hash_bytes(name.encode()))


def say(**words: Any) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def _echo(peer: NodeId, body: Any) -> Any:
    return [peer, body]


async def _count(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
    size = 0
    while piece := await stream.receive_piece():
        size += len(piece)
    await stream.send_all(str(size).encode())
    await stream.send_eof()


def _watch(event: LinkEvent) -> None:
    if isinstance(event, LinkClosed):
        say(closed=event.peer)


async def _talk(peering: Peering, target: NodeId, at: list[str]) -> None:
    """Call and stream to a node, and tell how; then tell when that becomes direct."""
    peering.learn(target, at)
    begun_s = trio.current_time()
    answer = await peering.call(target, "echo/1", "hello", timeout_s=20)
    say(
        answer=answer,
        vias=[link.via for link in peering.links() if link.peer == target],
        seconds=trio.current_time() - begun_s,
    )
    async with peering.open_stream(target, "count/1", None, timeout_s=20) as stream:
        await stream.send_all(bytes(SIZE))
        await stream.send_eof()
        say(counted=int(await stream.receive_all(100)))
    while all(link.via for link in peering.links() if link.peer == target):  # noqa: ASYNC110 - links are told when they open, not when they improve
        await trio.sleep(0.05)
    say(direct=(await peering.call(target, "echo/1", "again", timeout_s=20)))


async def _main(words: dict[str, Any]) -> None:
    dispatch = Dispatch()
    dispatch.on_call("echo/1", _echo)
    dispatch.on_stream("count/1", _count)
    relay = Relay(dispatch)
    listen = [words["listen"]] if words["listen"] else []
    async with (
        trio.open_nursery() as nursery,
        open_peering(
            identity(words["name"]), [SWARM_KEY], TcpTransport(), dispatch=dispatch, listen=listen, watch=_watch
        ) as peering,
    ):
        await nursery.start(relay.run, peering)
        for name, address in words.get("knows", {}).items():
            peering.learn(identity(name).node_id, [address])
        if words["join"]:
            await peering.join(words["join"])
        say(ready=peering.node_id)
        if words["call"]:
            nursery.start_soon(_talk, peering, identity(words["call"]).node_id, words["at"])
        await trio.lowlevel.wait_readable(sys.stdin)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, json.loads(sys.argv[1]))
