"""Three real daemons and somebody who wishes them ill: each attack is refused by name, costs little, and harms nobody.

Strangers do not know the swarm key; members do, and are let in. Neither may stop a daemon, fill its memory or its log,
break a link between others, or write what is not theirs.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import yaml
from tests.cluster.daemons import DEADLINE_S, free_port
from tests.cluster.meshes import VISIBLE_S, MeshNode, open_mesh, wait_until
from tests.faults.hostile import (
    Intruder,
    Wire,
    begin_handshake,
    give_out,
    member,
    new_identity,
    resident_bytes,
    write_blindly,
)

from meshhold.config.swarm_files import SwarmFiles
from meshhold.crypto.identity import Identity, seal_to
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.membership.member import INCARNATION_MAX, Member, encode_member
from meshhold.model.stamp import Stamp
from meshhold.peering.refusals import LINES_MAX
from meshhold.registry.record import (
    Kind,
    Record,
    access_key_id,
    encode_record,
    secret_commitment,
    sign_by_node,
    sign_by_vault,
)
from meshhold.wire.frames import CALL, DATA, GREETING, HEADER, MORE, NOTE, OPEN, PING, pack_name
from meshhold.wire.framing import encode_frame

GROWTH_MAX: Final = 24 * 1024 * 1024
"""Bytes that one attack may leave behind in the daemon's resident memory."""
PEAK_GROWTH_MAX: Final = 64 * 1024 * 1024
LOW_ORDER: Final = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
"""Points whose multiples tell nothing: orders 1, 2, 4 and 8. Source: RFC 7748, section 6.1; Bernstein's list."""


class Victims:
    """The mesh under attack: `first` is attacked, `second` shares a vault with it, `third` stores its ciphertext."""

    def __init__(self, nodes: list[MeshNode]) -> None:
        self.nodes = nodes
        self.first, self.second, self.third = nodes
        key = SwarmFiles(self.first.home).key()
        assert key is not None
        self.swarm_key = key
        ids = self.first.nodes()
        self.ids = {name: view["id"] for name, view in ids.items()}
        self.port = int(ids["n1"]["addresses"][0].rpartition(":")[2])
        self._hosts = itertools.count(2)
        self._marks = itertools.count()
        self.first.call("vault.create", name="photos")
        self.first.call("vault.member_add", vault="photos", node="n2")
        self.first.call("vault.member_add", vault="photos", node="n3", trusted=False)
        self.vault = self.first.call("vault.show", vault="photos")["id"]
        wait_until(lambda: self.second.call("vault.show", vault="photos") is not None, VISIBLE_S, "the shared vault")

    def new_host(self) -> str:
        """Return an address of loopback that nobody has come from yet."""
        return f"127.9.0.{next(self._hosts)}"

    def said(self, words: str) -> list[str]:
        """Return the lines of the attacked daemon's log that have these words."""
        return [line for line in self.first.log.read_text().splitlines() if words in line]

    def named_once(self, who: str, words: str) -> None:
        """Assert that the log names this refusal of this peer, once."""

        def named() -> list[str]:
            return [line for line in self.said(words) if f": {who}: " in line]

        wait_until(lambda: bool(named()), VISIBLE_S, f"{who}: {words}")
        assert len(named()) == 1, named()

    def memory(self) -> int:
        """Return the resident memory of the attacked daemon."""
        assert self.first.process is not None
        return resident_bytes(self.first.process.pid)

    def check_unharmed(self) -> None:
        """Assert that all are linked and alive, and that a change made on either side arrives on the other in time."""
        for node in self.nodes:
            assert node.process is not None
            assert node.process.poll() is None, node.log.read_text()
        wait_until(lambda: all(node.has_linked(self.nodes) for node in self.nodes), VISIBLE_S, "all linked")
        self._check_change(self.first, self.second)
        self._check_change(self.second, self.first)

    def _check_change(self, here: MeshNode, there: MeshNode) -> None:
        alias = f"bucket-{next(self._marks)}"
        here.call("vault.alias", vault="photos", alias=alias)
        seen = lambda: there.call("vault.show", vault="photos")["alias"] == alias  # noqa: E731 - one line of one check
        wait_until(seen, VISIBLE_S, "a change of the registry")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """Three daemons that share a vault."""
    with open_mesh(tmp_path_factory.mktemp("mesh")) as formed:
        yield Victims(formed.form("n1", "n2", "n3"))


@pytest.fixture
def victims(mesh: Victims) -> Iterator[Victims]:
    """Give the mesh; afterwards nobody of it was declared dead, links live, and the attack left no memory behind."""
    before, logs = mesh.memory(), {node.name: len(node.log.read_text()) for node in mesh.nodes}
    yield mesh
    mesh.check_unharmed()
    assert mesh.memory() - before < GROWTH_MAX
    for node in mesh.nodes:
        fresh = node.log.read_text()[logs[node.name] :]
        assert "Traceback" not in fresh, fresh
        honest = [line for line in fresh.splitlines() if re.search(r"node n[123] \(\w+\) is dead", line)]
        assert honest == []


def now_stamp(ahead_ms: int = 0) -> Stamp:
    """Return a stamp of this moment, later than earlier ones."""
    return Stamp((time.time_ns() // 1_000_000 + ahead_ms) << 16, os.urandom(8))


# -- strangers ------------------------------------------------------------------------------------------------------


def test_a_wrong_swarm_key(victims: Victims) -> None:
    host = victims.new_host()
    for _ in range(3):
        wire = Wire(victims.port, host)
        wire.send(encode_frame(begin_handshake(os.urandom(32), new_identity("stranger")).next_message() or b""))
        assert wire.heard_until_cut() == 0
    victims.named_once(host, "no swarm key of this node opens message 1")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (os.urandom(48), "no swarm key of this node opens message 1"),
        (b"", "a frame announces 0 bytes"),
        (bytes(65_535), "a frame announces 65535 bytes"),
        (bytes(47), "message 1 has a wrong size"),
    ],
    ids=["no key", "length 0", "length 65535", "short"],
)
def test_bytes_of_somebody_without_a_key(victims: Victims, raw: bytes, words: str) -> None:
    host = victims.new_host()
    for _ in range(3):
        wire = Wire(victims.port, host)
        wire.send(len(raw).to_bytes(2, "big") + raw)
        assert wire.heard_until_cut() == 0
    victims.named_once(host, words)


def test_another_protocol(victims: Victims) -> None:
    host = victims.new_host()
    for path in (b"/", b"/a", b"/ab"):
        wire = Wire(victims.port, host)
        wire.send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert wire.heard_until_cut() == 0
    victims.named_once(host, "a frame announces 18245 bytes")


def test_a_replayed_handshake(victims: Victims) -> None:
    """Who has recorded a whole conversation and sends it again gets one answer that he cannot read, and no further."""
    with member(victims.port, victims.swarm_key, "recorded") as recorded:
        assert recorded.ask("registry.compare/1", {"digests": b""})[0] == "ok"
        said = recorded.wire.said
    host = victims.new_host()
    for _ in range(3):
        wire = Wire(victims.port, host)
        wire.send(said[:50])
        assert wire.next_frame() is not None
        wire.send(said[50:])
        assert wire.heard_until_cut() == 0
    victims.named_once(host, "message 3: a handshake message does not open")


@pytest.mark.parametrize("point", LOW_ORDER, ids=range(len(LOW_ORDER)))
@pytest.mark.parametrize("which", ["e", "s"])
def test_points_of_low_order(victims: Victims, which: str, point: bytes) -> None:
    """Even with the swarm key: a shared secret that is always zero proves nobody."""
    host = victims.new_host()
    for _ in range(2):
        handshake = begin_handshake(victims.swarm_key, new_identity("low"))
        give_out(handshake, which, point)
        wire = Wire(victims.port, host)
        wire.send(encode_frame(handshake.next_message() or b""))
        if which == "s":
            handshake.receive(wire.next_frame() or b"")
            wire.send(encode_frame(write_blindly(handshake)))
        assert wire.heard_until_cut() == 0
    victims.named_once(host, "a public key of low order")


def test_handshakes_cut_short(victims: Victims) -> None:
    host = victims.new_host()
    message = encode_frame(begin_handshake(victims.swarm_key, new_identity("cut")).next_message() or b"")
    for size in (1, 2, 30, len(message)):
        wire = Wire(victims.port, host)
        wire.send(message[:size])
        wire.close()
    wait_until(lambda: bool(victims.said(f"{host}: handshake refused")), VISIBLE_S, "a refusal")
    assert len(victims.said(f"{host}: handshake refused")) <= 2  # closed, or reset


def test_ones_own_words_reflected(victims: Victims) -> None:
    """A mirror that sends back what it gets, and a tunnel that leads a node to itself, make no link."""
    host = victims.new_host()
    with member(victims.port, victims.swarm_key, "mirror") as mirror:
        me = statement(mirror.identity, addresses=(victims.first.nodes()["n1"]["addresses"][0],))
        mirror.note("membership/1", [1, "gossip", [["member", encode_member(me)]]])
        assert mirror.ask("registry.compare/1", {"digests": b""})[0] == "ok"  # so the note has been read
        # Once the link is gone, the node dials the address that the mirror gave: its own.
    victims.named_once(mirror.identity.node_id[:8], "the peer is this node itself")
    wire = Wire(victims.port, host)
    handshake = begin_handshake(victims.swarm_key, new_identity("echo"))
    wire.send(encode_frame(handshake.next_message() or b""))
    wire.send(encode_frame(wire.next_frame() or b""))
    assert wire.heard_until_cut() == 0
    wait_until(lambda: bool(victims.said(f"{host}: a frame announces")), VISIBLE_S, "a refusal")


# -- members that break the rules of a session ----------------------------------------------------------------------


def flipped(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def note(name: str, raw: bytes) -> bytes:
    return HEADER.pack(NOTE, 0) + pack_name(name) + raw


BOMBS: Final = {
    "a list of 2^32-1": b"\xdd\xff\xff\xff\xff",
    "a map of 2^32-1": b"\xdf\xff\xff\xff\xff",
    "nesting": b"\x91" * 15_000 + b"\xc0",
    "lists in lists": b"\xdc\x0f\xff" * 4_000,
    "text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "an extension type": b"\xc7\x01\x05\x00",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "the byte that nothing uses": b"\xc1",
    "something behind the value": b"\xc0\xc0",
}
FRAMES: Final = {
    "unknown kind": (HEADER.pack(99, 0), "unknown kind 99"),
    "kind 0": (HEADER.pack(0, 0), "unknown kind 0"),
    "a second greeting": (HEADER.pack(GREETING, 0) + bytes(40), "after the GREETING"),
    "no header": (b"\x01", "has no header"),
    "a part of nothing": (HEADER.pack(MORE, 7) + b"x", "continues nothing"),
    "data of no stream": (HEADER.pack(DATA, 5) + b"x", "was never opened"),
    "an even stream": (HEADER.pack(OPEN, 2) + pack_name("x/1") + b"\xc0", "cannot be opened by the peer"),
    "a message of 4 GiB": (HEADER.pack(CALL, 1) + b"\x00\x00\x00\x01\xff\xff\xff\xff", "bytes, 262144 are allowed"),
    "no name": (HEADER.pack(NOTE, 0) + b"\x00", "carries no name"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_no_session_has(victims: Victims, name: str) -> None:
    frame, words = FRAMES[name]
    for _ in range(2):
        with member(victims.port, victims.swarm_key, name) as intruder:
            intruder.say(frame)
            assert intruder.is_cut()
    victims.named_once(intruder.identity.node_id[:8], words)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_in_notes_and_calls(victims: Victims, name: str) -> None:
    """In a note they end the link; in a call they are refused. Nothing is built from them."""
    with member(victims.port, victims.swarm_key, name) as intruder:
        kind, _ = intruder.ask("registry.give/1", BOMBS[name])
        assert kind == "ProtocolError"
        intruder.note("membership/1", BOMBS[name])
        assert intruder.is_cut()
    who = intruder.identity.node_id[:8]
    wait_until(lambda: bool(victims.said(who)), VISIBLE_S, name)
    lines = [line for line in victims.said(f" {who}: ") if "WARNING" in line]
    assert len(lines) == 1, lines  # the call and the note are refused for one and the same reason


def test_altered_repeated_and_reordered_frames(victims: Victims) -> None:
    """Whatever was changed on the way, the channel is over with the first frame that does not open."""
    for name in ("altered", "repeated", "reordered", "empty", "longest"):
        with member(victims.port, victims.swarm_key, name) as intruder:
            first, second = (intruder.sealed(note("membership/1", b"\xc0")) for _ in range(2))
            raw = {
                "altered": flipped(first),
                "repeated": first + first,
                "reordered": second + first,
                "empty": b"\x00\x00",
                "longest": b"\xff\xff" + os.urandom(65_535),
            }[name]
            intruder.wire.send(raw)
            assert intruder.is_cut(), name
        words = "a frame announces 0 bytes" if name == "empty" else "a frame does not open"
        victims.named_once(intruder.identity.node_id[:8], words)


def test_streams_cut_short(victims: Victims) -> None:
    """A link that ends within a frame, or within a call's body, is a lost link and nothing more."""
    for cut in (1, 2, 20):
        with member(victims.port, victims.swarm_key, "cut short") as intruder:
            intruder.say(HEADER.pack(CALL, 1) + (10_000).to_bytes(4, "big") + (100_000).to_bytes(4, "big") + b"\x01x")
            intruder.wire.send(intruder.sealed(note("membership/1", b"\xc0"))[:cut])


def test_unknown_versions_and_names(victims: Victims) -> None:
    stranger = Intruder(victims.port, victims.swarm_key, new_identity("version 9"))
    stranger.greet(b"\x00\x09")
    assert stranger.is_cut()
    victims.named_once(stranger.identity.node_id[:8], "the peer speaks session version 9, this node 1")
    with member(victims.port, victims.swarm_key, "unknown") as intruder:
        who = intruder.identity.node_id[:8]
        for _ in range(3):
            assert intruder.ask("registry.compare/9", None)[0] == "UnknownCallError"
            intruder.note("membership/9", None)
            intruder.note("membership/1", [9, "ping", 1, []])
            intruder.note("membership/1", [1, "pang", 1, []])
        assert intruder.ask("registry.give/1", {"records": [msgpack.packb([9, 0, 0, 0, 0, 0, 0, 0, 0])]})[0] == "ok"
        raw = msgpack.packb([1, "zebra", "key", bytes(16), False, [], b"", b"", b""])
        assert intruder.ask("registry.give/1", {"records": [raw]}) == ("ok", {"taken": 0})
    victims.named_once(who, "a call 'registry.compare/9', which this node does not know")
    victims.named_once(who, "a note 'membership/9', which this node does not know")
    victims.named_once(who, "a membership message has version 9, this node speaks 1")
    victims.named_once(who, "a membership message has the unknown type 'pang'")


def test_floods_meet_their_bounds(victims: Victims) -> None:
    """Calls inside of calls, and pings whose answers nobody reads: the link ends, the memory stays."""
    assert victims.first.process is not None
    before = victims.memory()
    unfinished = pack_name("registry.give/1") + bytes(30_000)
    head = (10_000).to_bytes(4, "big") + (200_000).to_bytes(4, "big")
    floods = {
        "between the parts": [HEADER.pack(CALL, number) + head + unfinished for number in (1, 2)],
        "pings and does not read": [HEADER.pack(PING, number) for number in range(200_000)],
    }
    for words, frames in floods.items():
        with member(victims.port, victims.swarm_key, words) as intruder:
            intruder.wire.send(b"".join(map(intruder.sealed, frames)))
            assert intruder.is_cut()
        victims.named_once(intruder.identity.node_id[:8], words)
    assert victims.memory() - before < PEAK_GROWTH_MAX


# -- members that lie -----------------------------------------------------------------------------------------------


def statement(identity: Identity, **fields: Any) -> Member:
    """Return a signed statement of somebody who says he is a node."""
    plain = Member(identity.node_id, "liar", (), time.time_ns() // 1_000_000, os.urandom(8), version="0")
    return replace(plain, **fields).signed(identity.sign)


def test_incarnations_beyond_all_bounds(victims: Victims) -> None:
    """2^64-1 is no incarnation; the greatest that is one drives nobody towards it, and buries nobody."""
    target = victims.ids["n2"]
    with member(victims.port, victims.swarm_key, "incarnations") as intruder:
        me = statement(intruder.identity)
        too_large = [*encode_member(me)[:3], 2**64 - 1, *encode_member(me)[4:]]
        for _ in range(3):
            intruder.note("membership/1", [1, "gossip", [["member", too_large]]])
            intruder.note("membership/1", [1, "gossip", [["dead", target, 2**64 - 1, intruder.identity.node_id]]])
            intruder.note(
                "membership/1", [1, "gossip", [["suspect", target, INCARNATION_MAX, [intruder.identity.node_id]]]]
            )
            forged = replace(me, node=target, name="n2", incarnation=INCARNATION_MAX)
            intruder.note("membership/1", [1, "gossip", [["member", encode_member(forged)]]])
        assert intruder.ask("registry.compare/1", {"digests": b""})[0] == "ok"
    who = intruder.identity.node_id[:8]
    victims.named_once(who, f"incarnation that is not a number from 0 to {INCARNATION_MAX}")
    victims.named_once(who, "a member's statement is not signed by that member")
    wait_until(lambda: victims.first.nodes()["n2"]["state"] == "alive", VISIBLE_S, "n2 refutes")
    assert b"\xcf" + (INCARNATION_MAX).to_bytes(8, "big") not in (victims.second.home / "index.db").read_bytes()


def test_a_suspicion_alone_is_refuted(victims: Victims) -> None:
    """Who is accused says so himself; a member's word buries nobody for longer than that takes."""
    with member(victims.port, victims.swarm_key, "accuser") as intruder:
        incarnation = 1
        accusers = [intruder.identity.node_id]
        intruder.note("membership/1", [1, "gossip", [["suspect", victims.ids["n3"], incarnation, accusers]]])
        wait_until(lambda: victims.first.nodes()["n3"]["state"] == "alive", VISIBLE_S, "n3 is alive")


def forged_records(victims: Victims, identity: Identity) -> dict[str, Record]:
    """Return records that a member without the vault's secret might wish to be true."""
    keys, target = VaultKeys(os.urandom(32)), victims.ids["n1"]
    alias = Record(Kind.ALIAS, victims.vault, now_stamp(), deleted=False, public={}, private=b"x" * 60)
    own = sign_by_vault(replace(alias, key=keys.vault_id), keys)
    gone = Record(Kind.VAULT, victims.vault, now_stamp(), deleted=True, public={}, private=b"")
    box = [[1, seal_to(identity.node_id, os.urandom(32))]]
    public = {"role": "trusted", "secrets": box}
    joins = Record(Kind.MEMBER, f"{victims.vault}/{identity.node_id}", now_stamp(), False, public, b"")
    node = Record(Kind.NODE, target, now_stamp(), deleted=False, public={"name": "mine"}, private=b"")
    nonce = b"n" * 16
    theirs = {"nonce": nonce, "commitment": secret_commitment("k", "s")}
    key = Record(Kind.KEY, access_key_id(target, nonce), now_stamp(), deleted=False, public=theirs, private=b"")
    return {
        "another vault's key": sign_by_vault(alias, keys),
        "another vault's key and the vault's signer": replace(sign_by_vault(alias, keys), signer=os.urandom(32)),
        "altered": replace(own, private=b"y" * 60),
        "moved to another vault": replace(own, key=victims.vault),
        "deletes the vault": sign_by_vault(gone, keys),
        "lets itself in": sign_by_vault(joins, keys),
        "unsigned": alias,
        "another node's facts": sign_by_node(node, identity),
        "another node's key id": sign_by_node(key, identity),
        "another node's name on it": replace(sign_by_node(key, identity), public={**theirs, "node": target}),
    }


def test_forged_records(victims: Victims) -> None:
    """None is taken, however often it comes; the log says so now and then, not each time."""
    with member(victims.port, victims.swarm_key, "forger") as intruder:
        lines = len(victims.said("is not signed by who may write it"))
        records = forged_records(victims, intruder.identity)
        for name, record in records.items():
            for _ in range(5):
                assert intruder.ask("registry.give/1", {"records": [encode_record(record)]}) == ("ok", {"taken": 0}), (
                    name
                )
        assert 1 <= len(victims.said("is not signed by who may write it")) - lines <= 6  # of 50
    assert victims.first.call("vault.show", vault="photos")["id"] == victims.vault
    assert victims.first.nodes()["n1"]["id"] == victims.ids["n1"]


def test_stamps_from_the_year_9999(victims: Victims) -> None:
    """A record from the far future is not taken, and moves nobody's clock."""
    ahead_ms = 253_402_300_799_000 - time.time_ns() // 1_000_000
    with member(victims.port, victims.swarm_key, "future") as intruder:
        facts = {"name": "future", "addresses": [], "reliable": True}
        for stamp in (now_stamp(ahead_ms), Stamp(2**64 - 1, b"\xff" * 8), now_stamp(11 * 60_000)):
            record = Record(Kind.NODE, intruder.identity.node_id, stamp, deleted=False, public=facts, private=b"")
            raw = encode_record(sign_by_node(record, intruder.identity))
            assert intruder.ask("registry.give/1", {"records": [raw]}) == ("ok", {"taken": 0})
    assert victims.said("is stamped more than ten minutes ahead")


def nonsense(victims: Victims, identity: Identity) -> dict[str, Record]:
    """Return records of the hostile member's own vault and node, rightly signed, that no reader could use."""
    target, keys = victims.ids["n1"], VaultKeys(os.urandom(32))

    def by_vault(kind: Kind, key: str, public: dict[str, Any], private: bytes = b"") -> Record:
        return sign_by_vault(Record(kind, key, now_stamp(), deleted=False, public=public, private=private), keys)

    def by_node(kind: Kind, key: str, public: dict[str, Any]) -> Record:
        return sign_by_node(Record(kind, key, now_stamp(), deleted=False, public=public, private=b""), identity)

    membership, box = f"{keys.vault_id}/{target}", seal_to(target, keys.secrets[1])
    return {
        "a vault without content": by_vault(Kind.VAULT, keys.vault_id, {"replication_factor": 3, "index_replicas": []}),
        "no role": by_vault(Kind.MEMBER, membership, {}),
        "secrets that are none": by_vault(Kind.MEMBER, membership, {"role": "trusted", "secrets": [1, "x"]}),
        "no first secret": by_vault(Kind.MEMBER, membership, {"role": "trusted", "secrets": [[2, box]]}),
        "a box that does not open": by_vault(Kind.MEMBER, membership, {"role": "trusted", "secrets": [[1, b"x" * 80]]}),
        "another vault's secret": by_vault(
            Kind.MEMBER, membership, {"role": "trusted", "secrets": [[1, seal_to(target, os.urandom(32))]]}
        ),
        "a good membership": by_vault(Kind.MEMBER, membership, {"role": "trusted", "secrets": [[1, box]]}),
        "an alias that does not open": by_vault(Kind.ALIAS, keys.vault_id, {}, b"x" * 60),
        "a grant that does not open": by_vault(Kind.GRANT, f"GK{'0' * 24}/{keys.vault_id}", {}, b"\x01" * 60),
        "a vault of lists": by_vault(Kind.VAULT, keys.vault_id, {"replication_factor": [], "index_replicas": 5}),
        "a rotation of numbers": by_node(Kind.SWARM, "key", {"boxes": [1, 2, 3], "until_ms": "soon", "after": 7}),
        "a rotation to a box that does not open": by_node(
            Kind.SWARM, "key", {"boxes": [[target, b"x" * 80]], "until_ms": 2**63, "after": []}
        ),
        "a ban of nobody": by_node(Kind.BAN, "nobody", {}),
        "a name that moves the cursor": by_node(Kind.NODE, identity.node_id, {"name": "\x1b[2J", "addresses": 5}),
        "a key of 60 KiB": by_vault(Kind.GRANT, f"{'x' * 60_000}/{keys.vault_id}", {}),
    }


@pytest.mark.slow
def test_nonsense_that_is_rightly_signed(victims: Victims) -> None:
    """A vault's maker may sign anything for it; readers leave out what they cannot use, now and at the next start."""
    with member(victims.port, victims.swarm_key, "nonsense") as intruder:
        for name, record in nonsense(victims, intruder.identity).items():
            kind, answer = intruder.ask("registry.give/1", {"records": [encode_record(record)]})
            assert kind == "ok", (name, answer)
            victims.check_unharmed()
    victims.first.stop()
    victims.first.start()
    wait_until(lambda: victims.first.has_linked(victims.nodes), DEADLINE_S, "the restarted node is back")


def test_another_vault_cannot_give_an_access_key_another_secret(victims: Victims) -> None:
    """Whoever makes a vault may grant anybody anything there, but cannot sign as somebody else's key by it."""
    key = victims.first.call("key.add", label="app", create_buckets=False)
    victims.first.call(
        "grant.set", access_key_id=key["access_key_id"], vault="photos", permissions="rw", allow_list=False
    )
    wait_until(lambda: victims.second.s3_get(key, "/")[0] == 200, VISIBLE_S, "the key works on the second node")
    keys = VaultKeys(os.urandom(32))
    stolen = {"access_key_id": key["access_key_id"], "secret_access_key": "s" * 40}
    target = victims.ids["n2"]

    def sealed(kind: Kind, name: str, public: dict[str, Any], private: dict[str, Any]) -> bytes:
        box = keys.seal_small("registry", f"{kind}/{name}".encode(), os.urandom(16), msgpack.packb(private))
        return encode_record(sign_by_vault(Record(kind, name, now_stamp(), False, public, box), keys))

    grant = {"permissions": 7, "secret": stolen["secret_access_key"], "label": ""}
    vault_public = {"replication_factor": 1, "index_replicas": [target]}
    member_public = {"role": "trusted", "secrets": [[1, seal_to(target, keys.secrets[1])]]}
    with member(victims.port, victims.swarm_key, "thief") as thief:
        records = [
            sealed(
                Kind.VAULT,
                keys.vault_id,
                vault_public,
                {"name": "trap", "created_ms": 1},
            ),
            sealed(Kind.MEMBER, f"{keys.vault_id}/{target}", member_public, {}),
            sealed(Kind.GRANT, f"{key['access_key_id']}/{keys.vault_id}", {}, grant),
        ]
        assert thief.ask("registry.give/1", {"records": records}) == ("ok", {"taken": 3})
    wait_until(lambda: "trap" in [v["name"] for v in victims.second.call("vault.list")], VISIBLE_S, "the trap is there")
    assert victims.second.s3_get(stolen, "/")[0] == 403
    assert victims.second.s3_get(key, "/")[0] == 200
    assert "trap" not in [grant["vault_name"] for grant in victims.second.call("grant.list")]


@pytest.mark.slow
def test_more_identities_than_anybody_needs(victims: Victims) -> None:
    """A member that plays two hundred nodes is listed two hundred times, and the others find each other as before."""
    before = victims.memory()
    with ExitStack() as stack:
        crowd = [
            stack.enter_context(member(victims.port, victims.swarm_key, f"crowd {number}", f"127.10.0.{1 + number}"))
            for number in range(200)
        ]
        assert all(each.ask("registry.compare/1", {"digests": b""})[0] == "ok" for each in crowd[::20])
        victims.check_unharmed()
        assert victims.memory() - before < PEAK_GROWTH_MAX


# -- at the end, for strangers use up the lines that the log has for them --------------------------------------------


@pytest.mark.slow
def test_a_thousand_stalled_handshakes(victims: Victims) -> None:
    """A thousand strangers who say nothing hold few places, for seconds; who is linked notices nothing."""
    before = victims.memory()
    lines = len(victims.said(""))
    wires = [Wire(victims.port, f"127.{8 + number // 250}.1.{1 + number % 250}") for number in range(1_000)]
    begun = time.monotonic()
    victims.check_unharmed()
    assert victims.memory() - before < PEAK_GROWTH_MAX
    for wire in wires:
        assert wire.heard_until_cut() == 0
        wire.close()
    assert time.monotonic() - begun < 8.0  # a silent one holds its place for 5 s
    assert len(victims.said("")) - lines <= LINES_MAX + 10
    victims.named_once("strangers", "64 handshakes are going on")
    with member(victims.port, victims.swarm_key, "late") as late:  # and the places are free again
        assert late.ask("registry.compare/1", {"digests": b""})[0] == "ok"


@pytest.mark.slow
def test_a_copied_identity(victims: Victims, tmp_path: Path) -> None:
    """Two daemons with one identity: everybody who meets both says so, and nobody else is harmed."""
    home = tmp_path / "copy"
    victims.third.stop()
    shutil.copytree(victims.third.home, home, ignore=shutil.ignore_patterns("lock", "control.sock"))
    victims.third.start()
    wait_until(lambda: victims.third.has_linked(victims.nodes), DEADLINE_S, "the third node is back")
    copy = MeshNode(tmp_path / "made-to-be-replaced", "copy")
    settings = yaml.safe_load((home / "config.yaml").read_text())
    settings["node"]["listen_addr"] = f"127.0.0.1:{free_port()}"
    settings["node"]["s3"]["listen_addr"] = f"127.0.0.1:{copy.port}"
    (home / "config.yaml").write_text(yaml.safe_dump(settings))
    copy.home = home
    copy.start()
    try:
        words = f"two running nodes have the id {victims.ids['n3'][:8]}"
        logs = (victims.third.log, copy.log)
        wait_until(lambda: any(words in log.read_text() for log in logs), DEADLINE_S, "one of the two says so")
        assert victims.first.has_linked([victims.second])
        assert victims.second.has_linked([victims.first])
    finally:
        copy.kill()
    wait_until(lambda: all(n.has_linked(victims.nodes) for n in victims.nodes), DEADLINE_S, "the true one is back")
