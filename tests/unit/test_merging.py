"""Which of two rows stays, and what is kept aside."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.replica_lab import version

from meshhold.errors import UnknownFormatError
from meshhold.index.contract import Row
from meshhold.model.configuration import Mode, found_configuration
from meshhold.model.entry import ANCESTORS_KEPT, Entry, Space, Upload, Value, encode_entry
from meshhold.model.ids import NodeId, OpId, VaultId
from meshhold.model.stamp import ZERO, Stamp
from meshhold.register.lineage import succeed
from meshhold.replication.index.eras import Eras
from meshhold.replication.index.merging import (
    conflict_key,
    goes_alone,
    is_concurrent,
    lost_to,
    merge,
    split_conflict_key,
)

NODES = [NodeId("a"), NodeId("b")]
VAULT = VaultId("v" * 32)


def op(number: int) -> OpId:
    return OpId(b"%016d" % number)


def row(time: int, entry: Entry) -> Row:
    return Row(Stamp(time, b"nodenode"), encode_entry(entry))


def written(number: int, value: Value | None = None, after: Entry | None = None) -> Entry:
    return succeed(after, op(number), value or version(f"{number}"))


def test_the_higher_ballot_stays_and_what_it_did_not_see_is_lost() -> None:
    one, other = written(1), written(2)
    for mine, theirs in ((row(1, one), row(2, other)), (row(2, other), row(1, one))):
        assert merge(mine, theirs) == (row(2, other), one)


def test_an_ancestor_is_not_lost() -> None:
    base = written(1)
    later = written(3, after=written(2, after=base))
    assert merge(row(1, base), row(3, later)) == (row(3, later), None)
    assert merge(row(3, later), row(1, base)) == (row(3, later), None)


def test_one_entry_under_two_ballots_is_no_conflict() -> None:
    """A round that settles an entry gives it a new ballot."""
    entry = written(1)
    assert merge(row(1, entry), row(2, entry)) == (row(2, entry), None)


def test_an_entry_that_a_round_left_on_top_of_the_winner_is_not_lost() -> None:
    """Its ballot is lower than that under which its ancestor was settled: nobody was told that it took effect."""
    base = written(1)
    assert merge(row(2, written(2, after=base)), row(3, base)).lost is None


def test_what_is_not_known_to_be_an_ancestor_is_lost() -> None:
    chain = [written(0)]
    for number in range(1, ANCESTORS_KEPT + 2):
        chain.append(written(number, after=chain[-1]))
    assert not is_concurrent(chain[0], chain[ANCESTORS_KEPT])
    assert is_concurrent(chain[0], chain[ANCESTORS_KEPT + 1])


def test_only_objects_are_kept() -> None:
    winner = written(9)
    assert lost_to(winner, written(1)) == written(1)
    assert lost_to(winner, Entry(op(1), None)) is None
    assert lost_to(winner, Entry(op(1), Upload(1, "x"))) is None


def test_the_first_row_and_the_same_one_are_taken_unread() -> None:
    unreadable = Row(Stamp(1, b"nodenode"), b"from the future")
    assert merge(None, unreadable) == (unreadable, None)
    assert merge(unreadable, unreadable) == (unreadable, None)
    with pytest.raises(UnknownFormatError):
        merge(unreadable, row(2, written(1)))


def test_one_replicas_word_is_enough_in_stable_epochs_of_that_mode() -> None:
    rounds = found_configuration(NODES)
    alone = replace(rounds, mode=Mode.AVAILABLE)
    joint = alone.begin_change(NODES[:1], Mode.AVAILABLE)
    assert [goes_alone(alone, space) for space in Space] == [True, True, True, False, True, True]
    for configuration in (rounds, joint):
        assert [goes_alone(configuration, space) for space in Space] == [False, False, False, False, True, False]


def test_a_key_of_the_kept_names_object_and_change() -> None:
    zero_in_op = OpId(b"\x00" * 16)
    for key in (b"k", "ü/ä".encode(), b""):
        assert split_conflict_key(conflict_key(key, zero_in_op)) == (key, zero_in_op)
    for broken in (b"", b"short", b"x" * 40):
        with pytest.raises(UnknownFormatError):
            split_conflict_key(broken)


class Settings:
    """Small durable values."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def setting(self, name: str) -> bytes | None:
        """Return a value."""
        return self.values.get(name)

    async def save_setting(self, name: str, value: bytes) -> None:
        """Keep a value."""
        self.values[name] = value


async def test_eras_are_remembered_across_a_restart() -> None:
    index = Settings()
    eras = Eras(index)
    assert (eras.is_open(VAULT), eras.end(VAULT)) == (False, ZERO)
    await eras.begin(VAULT)
    assert eras.is_open(VAULT)
    assert Eras(index).is_open(VAULT)
    horizon = Stamp(77, b"nodenode")
    await eras.close(VAULT, horizon)
    for each in (eras, Eras(index)):
        assert (each.is_open(VAULT), each.end(VAULT)) == (False, horizon)
