"""Streams of a session: bytes both ways, credit, endings, bounds."""

from __future__ import annotations

import pytest
from tests.session_pair import MARK, Pair, Side

from meshhold.errors import OverloadedError, ProtocolError, TooLargeError
from meshhold.wire import frames
from meshhold.wire.events import DataReceived, Event, Failure, StreamEnded, StreamOpened, StreamReset
from meshhold.wire.limits import DATA_COST_MIN, OPENING_SIZE_MAX, SLICE_SIZE, Limits

WINDOW = 2 * SLICE_SIZE
SMALL = Limits(streams=2, stream_window=WINDOW, connection_window=3 * SLICE_SIZE)
BROKEN = Failure("ClosedError", "enough")


def frame(kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    return MARK + frames.HEADER.pack(kind, number) + payload


def opened(pair: Pair) -> int:
    stream = pair.near.session.open_stream("s/1", b"why")
    pair.run()
    assert pair.far.pop() == [StreamOpened(stream, "s/1", memoryview(b"why"))]
    return stream


def size_of(events: list[Event]) -> int:
    return sum(len(event.data) for event in events if isinstance(event, DataReceived))


def consume(side: Side, events: list[Event]) -> None:
    for event in events:
        if isinstance(event, DataReceived):
            side.session.consume(event.stream, len(event.data))


def test_bytes_go_both_ways_and_each_way_ends_by_itself() -> None:
    pair = Pair()
    stream = opened(pair)
    pair.near.session.send_data(stream, b"there")
    pair.near.session.end_stream(stream)
    pair.far.session.send_data(stream, b"back")
    pair.run()
    assert pair.far.pop() == [DataReceived(stream, memoryview(b"there")), StreamEnded(stream)]
    pair.far.session.end_stream(stream)
    pair.run()
    assert pair.near.pop() == [DataReceived(stream, memoryview(b"back")), StreamEnded(stream)]
    assert pair.near.session.streams_free == Limits().streams


def test_each_side_opens_numbers_of_its_own() -> None:
    pair = Pair()
    assert [pair.near.session.open_stream("s/1", b"") for _ in range(3)] == [1, 3, 5]
    assert [pair.far.session.open_stream("s/1", b"") for _ in range(3)] == [2, 4, 6]


class TestCredit:
    def test_a_sender_stops_at_the_window_and_goes_on_when_it_is_used(self) -> None:
        pair = Pair(far=SMALL)
        stream = opened(pair)
        data = bytes(5 * WINDOW)
        assert pair.near.session.send_data(stream, data)
        received = 0
        while not pair.near.session.drained:
            pair.run()
            events = pair.far.pop()
            assert 0 < size_of(events) <= WINDOW
            received += size_of(events)
            consume(pair.far, events)
        pair.run()
        assert received + size_of(pair.far.pop()) == len(data)

    def test_the_connection_has_a_window_of_its_own(self) -> None:
        pair = Pair(far=SMALL)
        streams = [opened(pair), opened(pair)]
        for stream in streams:
            pair.near.session.send_data(stream, bytes(WINDOW))
        pair.run()
        events = pair.far.pop()
        assert size_of(events) == SMALL.connection_window
        consume(pair.far, events)
        pair.run()
        assert size_of(pair.far.pop()) == 2 * WINDOW - SMALL.connection_window

    def test_small_frames_cost_what_they_cost_in_memory(self) -> None:
        pair = Pair(far=SMALL)
        stream = opened(pair)
        for _ in range(10 * WINDOW // DATA_COST_MIN):
            pair.near.session.drained.clear()
            pair.near.session.send_data(stream, b"x")
            pair.run()
            if not pair.near.session.drained:
                break
        assert len(pair.far.pop()) == WINDOW // DATA_COST_MIN

    @pytest.mark.parametrize("size", [1, SLICE_SIZE, WINDOW - DATA_COST_MIN])
    def test_what_is_expected_and_fits_the_window_needs_none(self, size: int) -> None:
        pair = Pair(far=Limits(stream_window=WINDOW))
        stream = opened(pair)
        pair.far.session.expect(stream, size)
        pair.near.session.send_data(stream, bytes(size))
        pair.run()
        consume(pair.far, pair.far.pop())
        assert not pair.far.session.owes_credit

    @pytest.mark.parametrize("expected", [0, SLICE_SIZE, WINDOW - DATA_COST_MIN, WINDOW, 3 * WINDOW])
    def test_a_sender_of_more_than_was_expected_is_not_held_up(self, expected: int) -> None:
        pair = Pair(far=Limits(stream_window=WINDOW))
        stream = opened(pair)
        pair.far.session.expect(stream, expected)
        pair.near.session.send_data(stream, bytes(5 * WINDOW))
        received = 0
        while pair.near.session.unsent(stream):
            pair.run()
            events = pair.far.pop()
            assert events, "the sender has credit for some byte more"
            received += size_of(events)
            consume(pair.far, events)
        assert received == 5 * WINDOW

    def test_data_that_is_dropped_gives_the_connection_its_credit_back(self) -> None:
        pair = Pair(far=SMALL)
        for _ in range(20):
            stream = pair.near.session.open_stream("s/1", b"")
            pair.near.session.send_data(stream, bytes(SLICE_SIZE))
            pair.near.send()
            pair.deliver()
            pair.far.session.consume(stream, SLICE_SIZE)
            pair.far.session.reset_stream(stream, BROKEN)
            pair.near.session.drained.clear()
            pair.near.session.send_data(stream, bytes(SLICE_SIZE))  # crosses the reset
            pair.near.send()
            pair.run()
            pair.near.session.end_stream(stream)
            pair.run()
            assert pair.near.session.streams_free == 2

    def test_the_data_is_not_copied_until_it_is_sent(self) -> None:
        pair = Pair()
        stream = opened(pair)
        data = bytearray(b"old")
        pair.near.session.send_data(stream, memoryview(data))
        assert pair.near.session.drained == []
        data[:] = b"new"
        pair.run()
        assert pair.near.session.drained == [stream]
        assert pair.far.pop() == [DataReceived(stream, memoryview(b"new"))]

    def test_one_piece_waits_at_a_time(self) -> None:
        pair = Pair()
        stream = opened(pair)
        pair.near.session.send_data(stream, b"x")
        with pytest.raises(ProtocolError) as caught:
            pair.near.session.send_data(stream, b"y")
        assert caught.value.culprit == "local"


class TestReset:
    def test_it_breaks_off_both_ways(self) -> None:
        pair = Pair()
        stream = opened(pair)
        pair.far.session.reset_stream(stream, BROKEN)
        pair.run()
        assert pair.near.pop() == [StreamReset(stream, BROKEN)]
        assert not pair.near.session.send_data(stream, b"x")
        pair.near.session.end_stream(stream)
        pair.run()
        assert pair.far.pop() == []
        assert pair.near.session.streams_free == Limits().streams

    def test_a_stream_that_was_never_sent_is_never_heard_of(self) -> None:
        pair = Pair()
        stream = pair.near.session.open_stream("s/1", b"")
        pair.near.session.reset_stream(stream, BROKEN)
        after = pair.near.session.open_stream("t/1", b"")
        pair.run()
        assert pair.far.pop() == [StreamOpened(after, "t/1", memoryview(b""))]
        assert pair.near.session.streams_free == Limits().streams - 1

    def test_both_at_once_end_the_stream(self) -> None:
        pair = Pair()
        stream = opened(pair)
        pair.near.session.reset_stream(stream, BROKEN)
        pair.far.session.reset_stream(stream, BROKEN)
        pair.run()
        assert pair.near.pop() + pair.far.pop() == []
        assert pair.near.session.streams_free == Limits().streams

    def test_what_was_ended_before_is_whole(self) -> None:
        pair = Pair()
        stream = opened(pair)
        pair.far.session.send_data(stream, b"all")
        pair.far.session.end_stream(stream)
        pair.far.send(size_max=1)
        pair.far.session.reset_stream(stream, BROKEN)
        pair.run()
        assert pair.near.pop() == [
            DataReceived(stream, memoryview(b"all")),
            StreamEnded(stream),
            StreamReset(stream, BROKEN),
        ]

    def test_after_the_own_end_it_tells_that_nobody_reads(self) -> None:
        pair = Pair()
        stream = opened(pair)
        pair.far.session.end_stream(stream)
        pair.run()
        pair.far.session.reset_stream(stream, BROKEN)
        pair.run()
        assert pair.near.pop() == [StreamEnded(stream), StreamReset(stream, BROKEN)]

    def test_its_place_is_free_when_both_are_done(self) -> None:
        pair = Pair(far=SMALL)
        stream = opened(pair)
        pair.near.session.reset_stream(stream, BROKEN)
        pair.run()
        assert pair.near.session.streams_free == 1
        pair.far.session.end_stream(stream)
        pair.run()
        assert pair.near.session.streams_free == 2

    @pytest.mark.parametrize("is_connection", [False, True], ids=["stream's credit", "connection's credit"])
    @pytest.mark.parametrize("is_late", [False, True], ids=["ended before", "ended after"])
    def test_an_end_behind_data_without_credit_is_said_when_the_data_is_dropped(
        self, *, is_connection: bool, is_late: bool
    ) -> None:
        pair = Pair(near=SMALL)
        stream = pair.near.session.open_stream("s/1", b"")
        pair.run()
        if is_connection:
            other = pair.far.session.open_stream("s/1", b"")
            pair.far.session.send_data(other, bytes(WINDOW))
            pair.run()
        pair.far.session.send_data(stream, bytes(2 * WINDOW))
        if not is_late:
            pair.far.session.end_stream(stream)
        pair.run()
        pair.near.session.reset_stream(stream, BROKEN)
        pair.run()
        if is_late:
            pair.far.session.end_stream(stream)
            pair.run()
        assert pair.near.session.streams_free == Limits().streams

    def test_it_is_not_sent_once_both_have_ended(self) -> None:
        pair = Pair(far=SMALL)
        for _ in range(SMALL.streams + 1):
            stream = opened(pair)
            pair.far.session.end_stream(stream)
            pair.run()
            pair.far.session.reset_stream(stream, BROKEN)
            pair.near.session.end_stream(stream)
            pair.near.send()
            pair.far.take(pair.near.on_its_way.popleft())
        assert pair.far.send() == 0

    def test_what_goes_out_before_it_may_make_it_needless(self) -> None:
        pair = Pair(far=SMALL)
        stream = opened(pair)
        pair.far.session.end_stream(stream)
        pair.far.session.reset_stream(stream, BROKEN)
        pair.far.take(frame(frames.END, stream))
        assert pair.far.send() == 1
        assert pair.far.on_its_way.popleft() == frame(frames.END, stream)

    def test_nothing_is_said_after_it(self) -> None:
        pair = Pair()
        stream = opened(pair)
        pair.far.session.reset_stream(stream, BROKEN)
        assert not pair.far.session.send_data(stream, b"x")
        pair.far.session.end_stream(stream)
        assert not pair.far.session._streams.turns
        assert pair.far.send() == 1


class TestForgotten:
    """A stream that is over waits for nothing: not in the turns, not for credit, not to give credit."""

    @staticmethod
    def held(side: Side) -> int:
        streams = side.session._streams
        return len(streams.turns) + len(streams._starved) + len(streams._grants) + len(streams._open)

    def test_while_the_connection_has_no_credit(self) -> None:
        pair = Pair(near=Limits(stream_window=WINDOW, connection_window=WINDOW))
        first = pair.near.session.open_stream("s/1", b"")
        pair.run()
        pair.far.session.send_data(first, bytes(WINDOW + 1))
        for _ in range(3):
            stream = pair.near.session.open_stream("s/1", b"")
            pair.run()
            pair.far.session.send_data(stream, b"x")
            pair.run()
            pair.far.session.reset_stream(stream, BROKEN)
            pair.near.session.end_stream(stream)
            pair.run()
        assert self.held(pair.far) == 1  # the first one is open

    def test_while_nothing_is_sent(self) -> None:
        pair = Pair()
        stream = opened(pair)
        pair.far.session.send_data(stream, b"x")
        pair.far.take(frame(frames.RESET, stream, b"a\0b\0c"))
        pair.far.session.reset_stream(stream, BROKEN)
        assert not pair.far.session._streams.turns
        assert pair.far.send() == 1
        assert self.held(pair.far) == 0

    def test_before_it_was_opened(self) -> None:
        pair = Pair()
        for _ in range(3):
            stream = pair.near.session.open_stream("s/1", b"")
            pair.near.session.reset_stream(stream, BROKEN)
        assert self.held(pair.near) == 0

    def test_with_credit_to_give(self) -> None:
        pair = Pair(far=SMALL)
        stream = opened(pair)
        pair.far.take(frame(frames.DATA, stream, bytes(SLICE_SIZE)))
        pair.far.session.end_stream(stream)
        pair.far.send()
        pair.far.session.consume(stream, SLICE_SIZE)
        pair.far.take(frame(frames.END, stream))
        assert self.held(pair.far) == 0


class TestBounds:
    def test_no_more_streams_are_opened_than_the_other_side_takes(self) -> None:
        pair = Pair(far=SMALL)
        opened(pair)
        opened(pair)
        with pytest.raises(OverloadedError):
            pair.near.session.open_stream("s/1", b"")

    def test_what_opens_a_stream_is_small(self) -> None:
        pair = Pair()
        with pytest.raises(TooLargeError):
            pair.near.session.open_stream("s/1", bytes(OPENING_SIZE_MAX + 1))
        with pytest.raises(ProtocolError):
            pair.far.take(frame(frames.OPEN, 1, b"\1s" + bytes(OPENING_SIZE_MAX + 1)))

    def test_a_peer_that_opens_more_is_refused(self) -> None:
        pair = Pair(far=SMALL)
        for number in (1, 3):
            pair.far.take(frame(frames.OPEN, number, b"\1s"))
        with pytest.raises(ProtocolError, match="more than 2 streams"):
            pair.far.take(frame(frames.OPEN, 5, b"\1s"))

    def test_a_reset_that_waits_holds_the_peers_place(self) -> None:
        pair = Pair(far=SMALL)
        for number in (1, 3):
            pair.far.take(frame(frames.OPEN, number, b"\1s"))
            pair.far.session.reset_stream(number, BROKEN)
            pair.far.take(frame(frames.END, number))
        with pytest.raises(ProtocolError, match="more than 2 streams"):
            pair.far.take(frame(frames.OPEN, 5, b"\1s"))

    def test_and_gives_it_free_once_it_is_sent(self) -> None:
        pair = Pair(far=SMALL)
        for number in range(1, 20, 2):
            pair.far.take(frame(frames.OPEN, number, b"\1s"))
            pair.far.session.reset_stream(number, BROKEN)
            pair.far.take(frame(frames.END, number))
            assert pair.far.send() == 1

    def test_a_peer_that_sends_beyond_its_window_is_refused(self) -> None:
        pair = Pair(far=SMALL)
        stream = opened(pair)
        for _ in range(2):
            pair.far.take(frame(frames.DATA, stream, bytes(SLICE_SIZE)))
        with pytest.raises(ProtocolError, match="than its window"):
            pair.far.take(frame(frames.DATA, stream, b"x"))

    def test_and_beyond_the_connections_window_whatever_the_stream(self) -> None:
        pair = Pair(far=SMALL)
        streams = [opened(pair), opened(pair)]
        for stream in (streams[0], streams[1], streams[0]):
            pair.far.take(frame(frames.DATA, stream, bytes(SLICE_SIZE)))
        with pytest.raises(ProtocolError, match="this connection's window"):
            pair.far.take(frame(frames.DATA, streams[1], bytes(SLICE_SIZE)))


class TestHostile:
    @pytest.mark.parametrize(
        "content",
        [
            frame(frames.OPEN, 2, b"\1s"),
            frame(frames.OPEN, 0, b"\1s"),
            frame(frames.OPEN, 1, b"\1s"),
            frame(frames.OPEN, 3),
            frame(frames.DATA, 9, b"x"),
            frame(frames.DATA, 2, b"x"),
            frame(frames.DATA, 0, b"x"),
            frame(frames.DATA, 1),
            frame(frames.END, 7),
            frame(frames.END, 0),
            frame(frames.RESET, 7, b"a\0b\0c"),
            frame(frames.RESET, 1, b"a"),
            frame(frames.CREDIT, 7, b"\0\0\0\1"),
            frame(frames.CREDIT, 1, b"\0\0\0\0"),
            frame(frames.CREDIT, 1, b"\xff\xff\xff\xff"),
            frame(frames.CREDIT, 0, b"\0\0\0\0"),
            frame(frames.CREDIT, 0, b"\xff\xff\xff\xff"),
            frame(frames.CREDIT, 1, b"\0\0\0"),
            frame(frames.CREDIT, 1, b"\0\0\0\1x"),
        ],
    )
    def test_what_no_rule_allows_ends_the_connection(self, content: bytes) -> None:
        pair = Pair()
        opened(pair)
        with pytest.raises(ProtocolError):
            pair.far.take(content)

    @pytest.mark.parametrize("kind", [frames.DATA, frames.END])
    def test_nothing_comes_after_the_end(self, kind: int) -> None:
        pair = Pair()
        stream = opened(pair)
        pair.far.take(frame(frames.END, stream))
        with pytest.raises(ProtocolError):
            pair.far.take(frame(kind, stream, b"x" if kind == frames.DATA else b""))

    @pytest.mark.parametrize("kind", [frames.DATA, frames.END, frames.CREDIT])
    def test_late_frames_of_a_stream_that_is_over_are_ignored(self, kind: int) -> None:
        pair = Pair()
        stream = opened(pair)
        for side in (pair.near, pair.far):
            side.session.reset_stream(stream, BROKEN)
        pair.run()
        payload = {frames.DATA: b"late", frames.END: b"", frames.CREDIT: b"\0\0\0\1"}[kind]
        assert pair.far.take(frame(kind, stream, payload)) is None
