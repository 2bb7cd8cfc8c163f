"""What an acceptor promises, takes and refuses."""

from __future__ import annotations

import pytest

from meshhold.model.configuration import found_configuration
from meshhold.model.entry import ANCESTORS_KEPT, Entry
from meshhold.model.ids import NodeId, OpId
from meshhold.model.stamp import COUNTER_BITS, ZERO, Stamp
from meshhold.register.acceptor import (
    HORIZON_STEP_MS,
    PROMISED,
    TAKE,
    TAKEN,
    WINDOW_MS,
    Acceptor,
    NeedHorizon,
    Skewed,
    Stale,
)
from meshhold.register.lineage import Outcome, outcome, succeed
from meshhold.register.rounds import NOTHING, Answer, judge

OWN, PEER = b"own-node", b"peernode"
NOW_MS = 1_700_000_000_000


def at(offset_ms: int, node: bytes = PEER) -> Stamp:
    return Stamp(NOW_MS + offset_ms << COUNTER_BITS, node)


def acceptor(promises_max: int = 10) -> Acceptor:
    """Return one whose horizon is far ahead and that has promised nothing."""
    made = Acceptor(OWN, ZERO, promises_max)
    made.extend(at(10 * WINDOW_MS))
    return made


def test_a_higher_ballot_is_promised_and_a_lower_or_equal_one_is_stale() -> None:
    one = acceptor()
    assert one.prepare("k", at(5), ZERO, NOW_MS) == PROMISED
    assert one.prepare("k", at(5), ZERO, NOW_MS) == Stale(at(5))
    assert one.prepare("k", at(4), ZERO, NOW_MS) == Stale(at(5))
    assert one.prepare("k", at(6), ZERO, NOW_MS) == PROMISED


def test_registers_are_independent() -> None:
    one = acceptor()
    assert one.prepare("k", at(5), ZERO, NOW_MS) == PROMISED
    assert one.prepare("other", at(4), ZERO, NOW_MS) == PROMISED


def test_nothing_at_or_below_the_accepted_ballot_is_promised() -> None:
    assert acceptor().prepare("k", at(5), at(5), NOW_MS) == Stale(at(5))


def test_an_entry_is_taken_under_the_promise_or_above_it() -> None:
    one = acceptor()
    one.prepare("k", at(5), ZERO, NOW_MS)
    assert one.accept("k", at(4), ZERO, NOW_MS) == Stale(at(5))
    assert one.accept("k", at(5), ZERO, NOW_MS) == TAKE
    assert one.accept("k", at(7), ZERO, NOW_MS) == TAKE
    assert one.accept("k", at(6), ZERO, NOW_MS) == Stale(at(7)), "what is being saved counts before it is durable"


def test_a_repeated_accept_is_recognised_and_an_older_one_is_stale() -> None:
    one = acceptor()
    assert one.accept("k", at(5), at(5), NOW_MS) == TAKEN
    assert one.accept("k", at(4), at(5), NOW_MS) == Stale(at(5))


def test_nothing_above_the_horizon_is_promised_or_taken_before_it_is_extended() -> None:
    one = Acceptor(OWN, ZERO)
    need = one.prepare("k", at(0), ZERO, NOW_MS)
    assert isinstance(need, NeedHorizon)
    assert need.until.wall_ms == NOW_MS + HORIZON_STEP_MS
    assert one.accept("k", at(0), ZERO, NOW_MS) == need
    one.extend(need.until)
    assert one.prepare("k", at(0), ZERO, NOW_MS) == PROMISED
    assert one.prepare("k", at(HORIZON_STEP_MS), ZERO, NOW_MS) == PROMISED, "one step serves many ballots"


def test_a_horizon_never_moves_back() -> None:
    one = acceptor()
    before = one.horizon
    one.extend(at(0))
    assert one.horizon == before


def test_after_a_restart_all_up_to_the_horizon_counts_as_promised() -> None:
    one = Acceptor(OWN, at(100))
    assert one.prepare("never seen", at(99), ZERO, NOW_MS) == Stale(at(100))
    assert one.accept("never seen", at(99), ZERO, NOW_MS) == Stale(at(100))


def test_an_evicted_promise_is_kept_by_the_floor() -> None:
    one = acceptor(promises_max=1)
    one.prepare("evicted", at(5), ZERO, NOW_MS)
    one.prepare("kept", at(3), ZERO, NOW_MS)
    assert one.prepare("evicted", at(4), ZERO, NOW_MS) == Stale(at(5))
    assert one.accept("evicted", at(5), ZERO, NOW_MS) == TAKE, "the promised ballot itself is still good"


def test_a_promise_below_a_later_floor_still_holds() -> None:
    one = acceptor(promises_max=2)
    one.prepare("high", at(9), ZERO, NOW_MS)
    one.prepare("low", at(3), ZERO, NOW_MS)
    one.prepare("third", at(4), ZERO, NOW_MS)
    assert one.accept("low", at(3), ZERO, NOW_MS) == TAKE


def test_a_released_promise_is_implied_by_the_accepted_ballot() -> None:
    one = acceptor()
    one.prepare("k", at(5), ZERO, NOW_MS)
    one.release("k", at(4))
    assert one.prepare("k", at(5), at(4), NOW_MS) == Stale(at(5)), "a higher promise stays"
    one.release("k", at(5))
    assert one.prepare("k", at(5), at(5), NOW_MS) == Stale(at(5))


def test_only_the_standing_promise_is_held() -> None:
    one = acceptor()
    one.prepare("k", at(5), ZERO, NOW_MS)
    assert one.holds("k", at(5))
    one.prepare("k", at(6), ZERO, NOW_MS)
    assert not one.holds("k", at(5))
    one.release("k", at(6))
    assert not one.holds("k", at(6))


def test_what_a_forgotten_row_refused_stays_refused() -> None:
    one = acceptor()
    one.raise_floor(at(5))
    assert one.accept("k", at(4), ZERO, NOW_MS) == Stale(at(5))


@pytest.mark.parametrize("offset_ms", [WINDOW_MS + 1, -WINDOW_MS - 1])
def test_a_ballot_outside_the_window_is_refused_with_its_skew(offset_ms: int) -> None:
    one = acceptor()
    assert one.prepare("k", at(offset_ms), ZERO, NOW_MS) == Skewed(PEER, offset_ms)
    assert one.accept("k", at(offset_ms), ZERO, NOW_MS) == Skewed(PEER, offset_ms)


@pytest.mark.parametrize("offset_ms", [WINDOW_MS, -WINDOW_MS])
def test_a_ballot_at_the_edge_of_the_window_is_promised(offset_ms: int) -> None:
    assert acceptor().prepare("k", at(offset_ms), ZERO, NOW_MS) == PROMISED


def test_a_clock_set_back_does_not_lock_the_owner_out() -> None:
    assert acceptor().prepare("k", at(2 * WINDOW_MS, OWN), ZERO, NOW_MS) == PROMISED


def test_the_highest_ballot_that_can_be_stored_has_a_horizon() -> None:
    need = Acceptor(OWN, ZERO).prepare("k", Stamp(2**64 - 1, OWN), ZERO, NOW_MS)
    assert isinstance(need, NeedHorizon)
    assert len(need.until.pack()) == 16


# -- lineage -----------------------------------------------------------------------------------------------------------


def op(number: int) -> OpId:
    return OpId(b"%016d" % number)


def chain(length: int) -> Entry:
    entry = succeed(None, op(1), None)
    for number in range(2, length + 1):
        entry = succeed(entry, op(number), None)
    return entry


def test_an_entry_counts_and_remembers_its_last_ancestors() -> None:
    entry = chain(40)
    assert entry.generation == 40
    assert entry.ancestors == tuple(op(number) for number in range(39, 39 - ANCESTORS_KEPT, -1))


def test_a_change_is_recognised_as_long_as_it_is_among_the_ancestors() -> None:
    for later in range(ANCESTORS_KEPT + 1):
        assert outcome(chain(5 + later), op(5), 4) is Outcome.TOOK_EFFECT
    assert outcome(chain(5 + ANCESTORS_KEPT + 1), op(5), 4) is Outcome.UNKNOWN


def test_a_change_that_is_not_in_a_visible_history_has_not_happened() -> None:
    assert outcome(None, op(99), 0) is Outcome.NOT_YET
    assert outcome(chain(4), op(99), 4) is Outcome.NOT_YET
    assert outcome(chain(4 + ANCESTORS_KEPT), op(99), 4) is Outcome.NOT_YET
    assert outcome(chain(4 + ANCESTORS_KEPT + 1), op(99), 4) is Outcome.UNKNOWN


def test_a_history_that_was_removed_tells_nothing() -> None:
    assert outcome(None, op(99), 3) is Outcome.UNKNOWN
    assert outcome(chain(2), op(99), 3) is Outcome.UNKNOWN


# -- rounds ------------------------------------------------------------------------------------------------------------


A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
THREE = found_configuration([A, B, C])


def test_fewer_answers_than_a_quorum_say_nothing() -> None:
    assert judge({A: NOTHING}, THREE.has_quorum) is None


def test_the_highest_answer_counts_and_is_chosen_only_when_a_quorum_holds_it() -> None:
    low, high = Answer(at(1), b"low"), Answer(at(2), b"high")
    assert judge({A: low, B: high}, THREE.has_quorum) == (high, False)
    assert judge({A: high, C: high}, THREE.has_quorum) == (high, True)
    assert judge({A: high, B: low, C: low}, THREE.has_quorum) == (high, False)
    assert judge({A: low}, found_configuration([A]).has_quorum) == (low, True)
