"""Calls of a session: answers, parts, cancellation, bounds."""

from __future__ import annotations

import pytest
from tests.session_pair import MARK, Pair

from meshhold.errors import OverloadedError, ProtocolError, TooLargeError
from meshhold.wire import frames
from meshhold.wire.events import CallCancelled, CallReceived, Failure, FailureReceived, ReplyReceived
from meshhold.wire.limits import FAILURE_SIZE_MAX, SLICE_SIZE, Limits

SMALL = Limits(calls=2, message_size=100_000, calls_size=150_000)
REFUSED = Failure("DeniedError", "no", "ask nicely")


def frame(kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    return MARK + frames.HEADER.pack(kind, number) + payload


def begin(pair: Pair, body: bytes = b"body") -> int:
    call = pair.near.session.send_call("a/1", body, 2.5)
    pair.run()
    return call


@pytest.mark.parametrize("size", [0, 1, SLICE_SIZE - 1, SLICE_SIZE, SLICE_SIZE + 1, 3 * SLICE_SIZE, 200_000])
def test_a_call_of_any_size_is_answered_with_one(size: int) -> None:
    pair = Pair()
    body = bytes(i % 251 for i in range(size))
    call = begin(pair, body)
    (event,) = pair.far.pop()
    assert event == CallReceived(call, "a/1", memoryview(body), 2.5)
    pair.far.session.send_reply(call, body[::-1])
    pair.run()
    assert pair.near.pop() == [ReplyReceived(call, memoryview(body[::-1]))]
    assert pair.near.session.calls_free == Limits().calls


def test_a_failure_carries_kind_message_and_fix() -> None:
    pair = Pair()
    call = begin(pair)
    pair.far.session.send_failure(call, REFUSED)
    pair.run()
    assert pair.near.pop() == [FailureReceived(call, REFUSED)]


def test_a_long_failure_is_cut_not_refused() -> None:
    pair = Pair()
    call = begin(pair)
    pair.far.session.send_failure(call, Failure("X", "a\0b" + "é" * 5000, "fix it"))
    pair.run()
    (event,) = pair.near.pop()
    assert isinstance(event, FailureReceived)
    assert event.failure.message.startswith("a béé")
    assert "fix it".startswith(event.failure.fix)
    assert sum(len(text.encode()) for text in event.failure) <= FAILURE_SIZE_MAX


def test_answers_come_in_any_order() -> None:
    pair = Pair()
    first, second = begin(pair), begin(pair)
    pair.far.session.send_reply(second, b"2")
    pair.far.session.send_reply(first, b"1")
    pair.run()
    assert [event.call for event in pair.near.pop() if isinstance(event, ReplyReceived)] == [second, first]


class TestCancel:
    def test_it_reaches_the_other_side_and_frees_the_place_when_confirmed(self) -> None:
        pair = Pair(far=SMALL)
        call = begin(pair)
        pair.far.pop()
        pair.near.session.cancel_call(call)
        pair.near.session.cancel_call(call)
        pair.run()
        assert pair.far.pop() == [CallCancelled(call)]
        assert pair.near.session.calls_free == 1
        pair.far.session.send_failure(call, REFUSED)
        pair.run()
        assert pair.near.pop() == []
        assert pair.near.session.calls_free == 2

    def test_a_call_that_was_never_sent_is_never_heard_of(self) -> None:
        pair = Pair()
        call = pair.near.session.send_call("a/1", b"", 1)
        assert not pair.near.session.was_sent(call)
        pair.near.session.cancel_call(call)
        pair.run()
        assert pair.far.pop() == []
        assert pair.near.session.calls_free == Limits().calls

    def test_between_the_parts_it_ends_the_call_before_it_begins(self) -> None:
        pair = Pair()
        call = pair.near.session.send_call("a/1", bytes(3 * SLICE_SIZE), 1)
        pair.near.send(size_max=1)
        assert pair.near.session.was_sent(call)
        pair.near.session.cancel_call(call)
        after = pair.near.session.send_call("b/1", b"", 1)
        pair.run()
        assert [event for event in pair.far.pop() if isinstance(event, CallReceived)] == [
            CallReceived(after, "b/1", memoryview(b""), 1.0)
        ]
        assert pair.near.session.calls_free == Limits().calls - 1

    def test_it_may_cross_the_answer(self) -> None:
        pair = Pair()
        call = begin(pair)
        pair.far.session.send_reply(call, b"answer")
        pair.far.send()
        pair.near.session.cancel_call(call)
        pair.run()
        assert pair.near.pop() == []
        assert [event for event in pair.far.pop() if isinstance(event, CallCancelled)] == []
        assert pair.near.session.calls_free == Limits().calls

    def test_of_a_large_answer_on_its_way_the_rest_is_skipped(self) -> None:
        pair = Pair()
        call = begin(pair)
        pair.far.session.send_reply(call, bytes(3 * SLICE_SIZE))
        pair.far.send(size_max=1)
        pair.deliver()
        pair.near.session.cancel_call(call)
        pair.run()
        assert pair.near.pop() == []
        assert pair.near.session.calls_free == Limits().calls


class TestBounds:
    def test_no_more_calls_are_begun_than_the_other_side_takes(self) -> None:
        pair = Pair(far=SMALL)
        begin(pair)
        begin(pair)
        assert pair.near.session.calls_free == 0
        with pytest.raises(OverloadedError):
            pair.near.session.send_call("a/1", b"", 1)

    def test_a_peer_that_begins_more_is_refused(self) -> None:
        pair = Pair(far=SMALL)
        for call in (1, 2):
            pair.far.take(frame(frames.CALL, call, frames._CALL_FIELDS.pack(1, 2) + b"\1a"))
        with pytest.raises(ProtocolError, match="more than 2 calls"):
            pair.far.take(frame(frames.CALL, 3, frames._CALL_FIELDS.pack(1, 2) + b"\1a"))

    def test_an_answer_holds_its_place_until_it_is_sent(self) -> None:
        pair = Pair(far=SMALL)
        for call in (1, 2):
            pair.far.take(frame(frames.CALL, call, frames._CALL_FIELDS.pack(1, 2) + b"\1a"))
            pair.far.session.send_reply(call, b"")
        with pytest.raises(ProtocolError, match="more than 2 calls"):
            pair.far.take(frame(frames.CALL, 3, frames._CALL_FIELDS.pack(1, 2) + b"\1a"))

    def test_bodies_beyond_the_bound_in_all_are_refused_and_not_kept(self) -> None:
        pair = Pair(far=SMALL)
        begin(pair, bytes(90_000))
        call = begin(pair, bytes(90_000))
        (failure,) = pair.near.pop()
        assert isinstance(failure, FailureReceived)
        assert (failure.call, failure.failure.kind) == (call, "OverloadedError")
        assert pair.near.session.calls_free == 1

    def test_an_answer_gives_its_memory_back(self) -> None:
        pair = Pair(far=SMALL)
        for _ in range(5):
            call = begin(pair, bytes(90_000))
            pair.far.session.send_reply(call, bytes(90_000))
            pair.run()
            assert isinstance(pair.near.pop()[0], ReplyReceived)

    def test_a_body_larger_than_the_other_side_takes_is_not_sent(self) -> None:
        pair = Pair(near=SMALL, far=SMALL)
        with pytest.raises(TooLargeError, match="send it over a stream"):
            pair.near.session.send_call("a/1", bytes(100_000), 1)
        call = begin(pair)
        with pytest.raises(TooLargeError):
            pair.far.session.send_reply(call, bytes(100_000))
        pair.far.session.send_failure(call, REFUSED)
        pair.run()
        assert pair.near.pop() == [FailureReceived(call, REFUSED)]

    def test_a_peer_that_announces_more_is_refused(self) -> None:
        pair = Pair(far=SMALL)
        with pytest.raises(ProtocolError, match="100000 are allowed"):
            pair.far.take(frame(frames.CALL, 1, frames._CALL_FIELDS.pack(1, 100_001) + b"\1a"))


class TestHostile:
    @pytest.mark.parametrize(
        "content",
        [
            frame(frames.CALL, 1, b"short"),
            frame(frames.CALL, 0, frames._CALL_FIELDS.pack(1, 2) + b"\1a"),
            frame(frames.CALL, 1, frames._CALL_FIELDS.pack(1, 0)),
            frame(frames.CALL, 1, frames._CALL_FIELDS.pack(1, 1) + b"\1a"),
            frame(frames.REPLY, 1, b"\0\0\0\0"),
            frame(frames.REPLY, 1),
            frame(frames.FAIL, 1, b"a\0b\0c"),
            frame(frames.FAIL, 1, b"a"),
            frame(frames.FAIL, 1, b"\0b\0c"),
            frame(frames.FAIL, 1, b"\xff\0b\0c"),
            frame(frames.FAIL, 1, bytes(3000)),
            frame(frames.MORE, 1, b"x"),
            frame(frames.CANCEL, 1),
        ],
    )
    def test_what_no_rule_allows_ends_the_connection(self, content: bytes) -> None:
        with pytest.raises(ProtocolError):
            Pair().far.take(content)

    def test_numbers_go_up(self) -> None:
        pair = Pair()
        pair.far.take(frame(frames.CALL, 5, frames._CALL_FIELDS.pack(1, 2) + b"\1a"))
        with pytest.raises(ProtocolError, match="call 5 comes after call 5"):
            pair.far.take(frame(frames.CALL, 5, frames._CALL_FIELDS.pack(1, 2) + b"\1a"))

    @pytest.mark.parametrize(
        "second",
        [
            frame(frames.CALL, 2, frames._CALL_FIELDS.pack(1, 2) + b"\1a"),
            frame(frames.MORE, 1),
            frame(frames.MORE, 2, b"x"),
            frame(frames.MORE, 1, bytes(11)),
        ],
    )
    def test_the_parts_of_a_message_stay_together(self, second: bytes) -> None:
        pair = Pair()
        pair.far.take(frame(frames.CALL, 1, frames._CALL_FIELDS.pack(1, 12) + b"\1a"))
        with pytest.raises(ProtocolError):
            pair.far.take(second)

    def test_a_second_answer_is_refused(self) -> None:
        pair = Pair()
        call = begin(pair)
        pair.near.take(frame(frames.REPLY, call, b"\0\0\0\0"))
        with pytest.raises(ProtocolError, match="waits for none"):
            pair.near.take(frame(frames.REPLY, call, b"\0\0\0\0"))

    def test_this_side_answers_once(self) -> None:
        pair = Pair()
        call = begin(pair)
        pair.far.session.send_reply(call, b"")
        with pytest.raises(ProtocolError) as caught:
            pair.far.session.send_reply(call, b"")
        assert caught.value.culprit == "local"
