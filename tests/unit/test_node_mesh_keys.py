"""Which keys open a mesh: invitations and their ends, rotations made apart, and what a rotation may not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshhold.config.joining import prepare_join, remember
from meshhold.config.swarm_files import SwarmFiles
from meshhold.crypto.identity import Identity, seal_to
from meshhold.errors import ConfigError, ConflictError
from meshhold.model.stamp import Stamp
from meshhold.model.token import Token, encode_token
from meshhold.node.swarm_keys import PASSES_MAX, PREVIOUS_MAX, WINDOW_S_MAX, SwarmKeys, pass_name
from meshhold.registry.record import Kind, Record
from meshhold.wire.handshake import ACCEPT_KEYS_MAX

ME = Identity(b"m" * 32)
OTHER = Identity(b"o" * 32)
FIRST = b"1" * 32
HOUR_MS = 3_600_000


class Clock:
    """Milliseconds since 1970, turned by the test."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> SwarmKeys:
    files = SwarmFiles(tmp_path)
    files.set_key(FIRST)
    return SwarmKeys(files, None, clock)


def rotation(keys: SwarmKeys, fresh: bytes, until_ms: int, changed: dict[str, Any] | None = None) -> Record:
    public: dict[str, Any] = {
        "boxes": [[ME.node_id, seal_to(ME.node_id, fresh)]],
        "until_ms": until_ms,
        "after": keys.names(),
    }
    return Record(
        Kind.SWARM, "key", Stamp(1 << 16, bytes(8)), deleted=False, public=public | (changed or {}), private=b""
    )


def test_a_pass_lets_in_until_its_end_or_its_use(keys: SwarmKeys, clock: Clock) -> None:
    once, _ = keys.open_pass(0, single_use=True)
    brief, until_ms = keys.open_pass(60, single_use=False)
    assert keys.all() == [FIRST, once, brief]
    assert keys.dialed == 1
    with pytest.raises(ConflictError, match="are open"):
        keys.open_pass(0, single_use=True)
    assert keys.redeem(pass_name(once)) == FIRST
    wrong: list[object] = [pass_name(once), pass_name(FIRST), None, [], b""]
    for name in wrong:
        with pytest.raises(ConflictError, match="was used"):
            keys.redeem(name)
    assert keys.redeem(pass_name(brief)) == keys.redeem(pass_name(brief)) == FIRST
    clock.ms = until_ms
    with pytest.raises(ConflictError, match="its time is over"):
        keys.redeem(pass_name(brief))
    assert keys.all() == [FIRST]


def test_the_key_before_a_rotation_is_taken_until_its_end(keys: SwarmKeys, clock: Clock) -> None:
    until_ms = clock.ms + HOUR_MS
    record = rotation(keys, b"2" * 32, until_ms)
    assert keys.take_rotation(record, ME)
    assert keys.all() == [b"2" * 32, FIRST]
    assert keys.dialed == 2
    assert not keys.take_rotation(record, ME), "once is enough"
    again = SwarmKeys(keys.files, None, clock)
    assert again.all() == [b"2" * 32, FIRST], "a restart changes nothing"
    clock.ms = until_ms
    assert keys.all() == [b"2" * 32]


def test_rotations_may_overlap_up_to_a_bound(keys: SwarmKeys, clock: Clock) -> None:
    """Passes and earlier keys together never exceed what a handshake tries."""
    for number in range(2, 6):
        assert keys.take_rotation(rotation(keys, bytes([number]) * 32, clock.ms + HOUR_MS), ME)
    assert keys.all() == [bytes([number]) * 32 for number in (5, 4, 3)]
    assert PASSES_MAX + PREVIOUS_MAX <= ACCEPT_KEYS_MAX


def test_two_rotations_made_apart_settle_on_the_later_record(keys: SwarmKeys, clock: Clock) -> None:
    """Whoever took the earlier one takes the later one too: both say that they come after the first key."""
    until_ms = clock.ms + HOUR_MS
    left, right = rotation(keys, b"l" * 32, until_ms), rotation(keys, b"r" * 32, until_ms)
    assert keys.take_rotation(left, ME)
    assert keys.take_rotation(right, ME)
    assert keys.all() == [b"r" * 32, b"l" * 32, FIRST]


@pytest.mark.parametrize(
    "changed",
    [
        {"after": [b"another mesh's16"]},
        {"after": []},
        {"after": None},
        {"until_ms": "soon"},
        {"boxes": None},
        {"boxes": [None, [], [ME.node_id], [ME.node_id, 5]]},
        {"boxes": [[ME.node_id, b"no box"]]},
        {"boxes": [[ME.node_id, seal_to(OTHER.node_id, b"2" * 32)]]},
        {"boxes": [[ME.node_id, seal_to(ME.node_id, b"short")]]},
        {"boxes": [[OTHER.node_id, seal_to(OTHER.node_id, b"2" * 32)]]},
        {"boxes": [[ME.node_id, seal_to(ME.node_id, FIRST)]]},
    ],
)
def test_rotations_that_change_nothing(keys: SwarmKeys, clock: Clock, changed: dict[str, Any]) -> None:
    """Another mesh's, one that left this node out, one that nobody can read."""
    assert not keys.take_rotation(rotation(keys, b"2" * 32, clock.ms + HOUR_MS, changed), ME)
    assert keys.all() == [FIRST]


def test_nobody_keeps_an_old_key_valid_for_years(keys: SwarmKeys, clock: Clock) -> None:
    assert keys.take_rotation(rotation(keys, b"2" * 32, 2**62), ME)
    clock.ms += WINDOW_S_MAX * 1000
    assert keys.all() == [b"2" * 32]


def test_what_a_join_leaves_on_disk(tmp_path: Path) -> None:
    """A plain token replaces a pass that led nowhere; a node in a mesh takes no other one."""
    files = SwarmFiles(tmp_path)
    remember(files, Token(b"p" * 32, OTHER.node_id, ("a:1",), is_pass=True))
    assert (files.key(), files.pending(), files.peers()) == (None, b"p" * 32, ("a:1",))
    remember(files, Token(FIRST, OTHER.node_id, ("b:2",)))
    assert (files.key(), files.pending(), files.peers()) == (FIRST, None, ("b:2", "a:1"))
    remember(files, Token(FIRST, OTHER.node_id, ("c:3",)))
    for is_pass in (False, True):
        other = Token(FIRST if is_pass else b"2" * 32, OTHER.node_id, ("d:4",), is_pass=is_pass)
        with pytest.raises(ConflictError, match="in a mesh already") as refused:
            prepare_join(tmp_path, encode_token(other))
        assert ("if it is the same mesh" in refused.value.fix) == is_pass
    assert files.peers() == ("c:3", "b:2", "a:1")


@pytest.mark.parametrize("text", ["later\n" + "x" * 64, "5\n/key/swarm/psk/1.0.0/\n/base16/\nzz\n", "5\n", "\n"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "swarm.previous").write_text(text)
    with pytest.raises(ConfigError, match=r"swarm\.previous is damaged"):
        SwarmFiles(tmp_path).previous()
