"""What may stand in a membership message, and how all else is refused: by name, as a `ProtocolError`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from tests.simulation.membership_world import member_of, node_id, sign_as

from meshhold.errors import ProtocolError
from meshhold.membership.member import INCARNATION_MAX, State, decode_member, encode_member
from meshhold.membership.messages import (
    BUCKETS,
    Ack,
    Bucket,
    Dead,
    Gossip,
    Message,
    Nack,
    News,
    Ping,
    PingFor,
    Suspect,
    Sync,
    Vouch,
    decode,
    encode,
)
from meshhold.membership.roster import bucket_of
from meshhold.model.ids import NodeId

MEMBER = member_of(1, 5).signed(sign_as(node_id(1)))
EVERY: list[Message] = [
    Ping(1),
    Ack(2**32 - 1, (MEMBER, Suspect(node_id(1), 5, (node_id(2), node_id(3))))),
    PingFor(3, node_id(2)),
    Vouch(4),
    Nack(5),
    Gossip((Dead(node_id(1), INCARNATION_MAX, node_id(2)), News("registry", bytes(16), b"x" * 1024))),
    Sync(tuple(range(BUCKETS))),
    Bucket(63, ((MEMBER, State.SUSPECT),), final=True),
    Bucket(0, (), final=False, after=node_id(1), until=node_id(2)),
]


@pytest.mark.parametrize("message", EVERY, ids=lambda each: type(each).__name__)
def test_each_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message)) == message


def statement(**fields: object) -> list[Any]:
    """Return the wire form of a statement with some fields replaced."""
    names = "node name addresses incarnation life left zone capacity reliable version meta proof".split()  # noqa: SIM905 # a table in one line
    return [fields.get(name, value) for name, value in zip(names, encode_member(MEMBER), strict=True)]


HOSTILE: list[tuple[object, str]] = [
    (None, "fields"),
    ([], "fields"),
    ([1, "ping"], "fields of 'ping'"),
    ([2, "ping", 1, []], "version 2, this node speaks 1"),
    ([True, "ping", 1, []], "version True"),
    ([2**70, "ping", 1, []], "version"),
    ([1, "pong", 1, []], "unknown type 'pong'"),
    ([1, ["ping"], 1, []], "unknown type list"),
    ([1, "ping", -1, []], "sequence number"),
    ([1, "ping", 2**32, []], "sequence number"),
    ([1, "ping", 1.0, []], "sequence number"),
    ([1, "ping", True, []], "sequence number"),
    ([1, "ping", 1, [["vouch", 1, 2]]], "rumor of the unknown type 'vouch'"),
    ([1, "ping", 1, [["suspect", node_id(1), 5]]], "rumor of the unknown type"),
    ([1, "ping", 1, [["dead", node_id(1), 5, node_id(2)]] * 257], "rumors"),
    ([1, "ping-for", 1, "me"], "node id"),
    ([1, "ping-for", 1, node_id(1).upper()], "node id"),
    ([1, "ping-for", 1, node_id(1) + "\n"], "node id"),
    ([1, "gossip", [["suspect", node_id(1), 2**64 - 1, [node_id(2)]]]], "incarnation"),
    ([1, "gossip", [["suspect", node_id(1), -1, [node_id(2)]]]], "incarnation"),
    ([1, "gossip", [["suspect", node_id(1), 5, []]]], "accusers"),
    ([1, "gossip", [["suspect", node_id(1), 5, [node_id(2)] * 9]]], "accusers"),
    ([1, "gossip", [["dead", node_id(1), 2**64 - 1, node_id(2)]]], "incarnation"),
    ([1, "gossip", [["news", "registry", bytes(15), b""]]], "news id"),
    ([1, "gossip", [["news", "registry", bytes(16), bytes(1025)]]], "news"),
    ([1, "gossip", [["news", "\x1b[2J", bytes(16), b""]]], "topic"),
    ([1, "sync", [0] * 63], "marks"),
    ([1, "sync", [2**64] * 64], "mark"),
    ([1, "bucket", 64, [], True, "", ""], "bucket"),
    ([1, "bucket", 1, [], True, "a", ""], "node id"),
    ([1, "bucket", 1, [], True, "", node_id(1)[:-1]], "node id"),
    ([1, "bucket", 1, [[encode_member(MEMBER), "zombie"]], True, "", ""], "unknown state 'zombie'"),
    ([1, "bucket", 1, [[encode_member(MEMBER), "alive"]] * 129, True, "", ""], "entries"),
    ([1, "bucket", 1, [], 1, "", ""], "flag final"),
    ([1, "gossip", [["member", statement(incarnation=2**64 - 1)]]], "incarnation"),
    ([1, "gossip", [["member", statement(name="x" * 65)]]], "name"),
    ([1, "gossip", [["member", statement(name="a\nb")]]], "name"),
    ([1, "gossip", [["member", statement(addresses=["a:1"] * 9)]]], "addresses"),
    ([1, "gossip", [["member", statement(addresses=["a" * 97])]]], "address"),
    ([1, "gossip", [["member", statement(addresses=["ä:1"])]]], "address"),
    ([1, "gossip", [["member", statement(life=bytes(9))]]], "life"),
    ([1, "gossip", [["member", statement(left=1)]]], "flag left"),
    ([1, "gossip", [["member", statement(zone=5)]]], "zone"),
    ([1, "gossip", [["member", statement(capacity=-1)]]], "capacity"),
    ([1, "gossip", [["member", statement(reliable="yes")]]], "flag reliable"),
    ([1, "gossip", [["member", statement(version="v" * 33)]]], "version"),
    ([1, "gossip", [["member", statement(meta=[["k", "v"]] * 9)]]], "meta"),
    ([1, "gossip", [["member", statement(meta=[["k"]])]]], "meta"),
    ([1, "gossip", [["member", statement(proof=bytes(63))]]], "proof"),
    ([1, "gossip", [["member", statement()[:-1]]]], "member"),
]


@pytest.mark.parametrize(("raw", "named"), HOSTILE)
def test_what_is_out_of_bounds_is_refused_by_name(raw: object, named: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(raw)
    assert named in caught.value.message
    assert len(caught.value.message) < 150


def test_a_statement_is_bound_to_its_proof_in_every_field() -> None:
    proven = decode_member(encode_member(MEMBER))
    assert proven.is_proven(lambda node, message, proof: sign_as(node)(message) == proof)
    changes: list[dict[str, object]] = [
        {"node": node_id(2)},
        {"name": "other"},
        {"addresses": ["10.0.0.1:1"]},
        {"incarnation": 6},
        {"life": bytes(7) + b"\1"},
        {"left": True},
        {"zone": "other"},
        {"capacity": 1},
        {"reliable": False},
        {"version": "9"},
        {"meta": [["k", "v"]]},
    ]
    for change in changes:
        altered = decode_member(statement(**change))
        assert not altered.is_proven(lambda node, message, proof: sign_as(node)(message) == proof), change


def test_the_buckets_of_the_digest_are_the_same_everywhere() -> None:
    assert bucket_of(NodeId("chng2h3wdxpzxw2mtvxfga7l2qpwdbmnbjlepinhx7qitp4sdpuq")) == 13
    assert bucket_of(NodeId("123456789")) == 0xCBF43926 % BUCKETS, "the check value of CRC-32"


def test_the_samples_in_the_protocol_s_description_are_what_is_sent() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    text = text[text.index("\n## Membership\n") : text.index("\n## Registry\n")]
    samples = "".join(re.findall(r"^    ((?:[0-9a-f]{2} ?)+)$", text, re.MULTILINE)).replace(" ", "")
    ping = Ping(1, (Suspect(node_id(1), 5, (node_id(2),)),))
    statement_bytes = MEMBER.signed_bytes()
    assert samples == (msgpack.packb(encode(ping)) + statement_bytes).hex()
