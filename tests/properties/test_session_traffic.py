"""Whatever two sides do: what one sends the other gets, nothing gets stuck, and hostile frames are only refused."""

from __future__ import annotations

import random
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.session_pair import MARK, Pair, Side

from meshhold.errors import PeerError
from meshhold.wire import frames
from meshhold.wire.events import (
    CallCancelled,
    CallReceived,
    DataReceived,
    Failure,
    FailureReceived,
    ReplyReceived,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from meshhold.wire.limits import Limits

LIMITS = Limits(
    calls=4, streams=3, message_size=80_000, calls_size=200_000, stream_window=40_000, connection_window=70_000
)
DONE = Failure("DoneError", "done")


class Actor:
    """One side that does things by chance and keeps the books of what it did and saw."""

    def __init__(self, side: Side, rng: random.Random) -> None:
        self.side = side
        self.session = side.session
        self.rng = rng
        self.sent: dict[int, bytearray] = defaultdict(bytearray)
        self.received: dict[int, bytearray] = defaultdict(bytearray)
        self.sending: dict[int, bool] = {}  # stream → free to send
        self.reset: set[int] = set()
        self.calls: dict[int, bytes] = {}
        self.cancelled: set[int] = set()
        self.to_answer: dict[int, bytes] = {}
        self.whole: set[int] = set()

    def act(self) -> None:
        rng, session = self.rng, self.session
        choice = rng.randrange(8)
        if choice == 0 and session.calls_free > 0:
            body = rng.randbytes(rng.choice((0, 10, 40_000, 70_000)))
            self.calls[session.send_call("echo/1", body, 1.0)] = body
        elif choice == 1 and self.calls:
            call = rng.choice(list(self.calls))
            del self.calls[call]
            session.cancel_call(call)
            self.cancelled.add(call)
        elif choice == 2 and self.to_answer:
            call = rng.choice(list(self.to_answer))
            session.send_reply(call, self.to_answer.pop(call))
        elif choice == 3 and session.streams_free > 0:
            self.sending[session.open_stream("s/1", b"")] = True
        elif choice in (4, 5):
            self.send_data()
        elif choice == 6 and self.sending and rng.random() < 0.3:
            stream = rng.choice(list(self.sending))
            if self.sending.pop(stream):
                session.end_stream(stream)
            else:
                self.reset.add(stream)
                session.reset_stream(stream, DONE)
        elif choice == 7:
            session.send_note("n/1", b"")

    def send_data(self) -> None:
        free = [stream for stream, is_free in self.sending.items() if is_free]
        if free:
            stream = self.rng.choice(free)
            data = self.rng.randbytes(self.rng.choice((1, 300, 50_000)))
            if self.session.send_data(stream, data):
                self.sent[stream] += data
                self.sending[stream] = False

    def learn(self) -> None:
        for stream in self.session.drained:
            if stream in self.sending:
                self.sending[stream] = True
        self.session.drained.clear()
        for event in self.side.pop():
            if isinstance(event, CallReceived):
                self.to_answer[event.call] = bytes(event.body)
            elif isinstance(event, CallCancelled) and self.to_answer.pop(event.call, None) is not None:
                self.session.send_failure(event.call, DONE)
            elif isinstance(event, ReplyReceived):
                assert event.call not in self.cancelled
                assert bytes(event.body) == self.calls.pop(event.call)
            elif isinstance(event, FailureReceived):
                assert event.failure.kind == "OverloadedError"
                del self.calls[event.call]
            elif isinstance(event, StreamOpened):
                self.sending[event.stream] = True
            elif isinstance(event, DataReceived):
                self.received[event.stream] += event.data
                self.session.consume(event.stream, len(event.data))
            elif isinstance(event, StreamEnded):
                self.whole.add(event.stream)
            elif isinstance(event, StreamReset):
                self.sending.pop(event.stream, None)
                self.reset.add(event.stream)
                self.session.end_stream(event.stream)


def shuttle(pair: Pair, near: Actor, far: Actor, rng: random.Random) -> bool:
    """Move some frames; return whether anything moved."""
    moved = pair.near.send(rng.choice((1, 10_000, 100_000))) + pair.far.send(rng.choice((1, 10_000, 100_000)))
    for side, other in ((pair.near, pair.far), (pair.far, pair.near)):
        for _ in range(rng.randrange(1, 6)):
            if side.on_its_way:
                other.take(side.on_its_way.popleft())
                moved += 1
    near.learn()
    far.learn()
    return moved > 0


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_whatever_happens_bytes_arrive_and_nothing_is_stuck(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(LIMITS, LIMITS)
    near, far = Actor(pair.near, rng), Actor(pair.far, rng)
    for _ in range(150):
        rng.choice((near, far)).act()
        shuttle(pair, near, far, rng)
    for actor in (near, far):
        actor.session.end()
    for _ in range(2000):
        for actor in (near, far):
            for call, body in actor.to_answer.items():
                actor.session.send_reply(call, body)
            actor.to_answer.clear()
            for stream, is_free in list(actor.sending.items()):
                if is_free:
                    del actor.sending[stream]
                    actor.session.end_stream(stream)
        shuttle(pair, near, far, rng)
        if near.session.peer_ended and far.session.peer_ended:
            break
    assert near.session.sent_end
    assert far.session.sent_end
    assert not near.calls
    assert not far.calls
    for one, other in ((near, far), (far, near)):
        for stream, data in one.sent.items():
            if stream in other.whole - one.reset - other.reset:
                assert other.received[stream] == data
            else:
                assert data.startswith(other.received[stream])


KIND = st.sampled_from(range(len(frames.KIND_NAMES) + 1))
NUMBER = st.one_of(st.integers(0, 6), st.integers(0, 2**64 - 1))
CALL_PAYLOAD = st.builds(
    lambda timeout_ms, size, rest: frames._CALL_FIELDS.pack(timeout_ms, size) + rest,
    st.integers(0, 2**32 - 1),
    st.integers(0, 50),
    st.binary(max_size=40),
)
FRAME = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda kind, number, payload: frames.HEADER.pack(kind, number) + payload,
        KIND,
        NUMBER,
        st.one_of(
            st.binary(max_size=40),
            CALL_PAYLOAD,
            st.just(b"\1a"),
            st.just(b"a\0b\0c"),
            st.just(bytes(4)),
        ),
    ),
)


@given(st.lists(FRAME, max_size=40), st.booleans())
@settings(max_examples=300, deadline=None)
def test_hostile_frames_are_taken_or_refused_by_name(contents: list[bytes], begun: bool) -> None:
    pair = Pair(LIMITS, LIMITS)
    session = pair.far.session
    culprit = "remote"
    if begun:
        session.send_call("a/1", b"", 1)
        session.send_data(session.open_stream("s/1", b""), b"data")
        pair.run()
    try:
        for content in contents:
            pair.far.take(MARK + content)
            pair.far.send()
            for event in pair.far.pop():
                if isinstance(event, CallReceived):
                    session.send_failure(event.call, DONE)
                elif isinstance(event, DataReceived):
                    session.consume(event.stream, len(event.data))
    except PeerError as error:  # any other error is a defect, and fails the test by itself
        culprit = error.culprit
    assert culprit == "remote"
