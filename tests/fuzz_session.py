"""Throw frames at a live session while it works: good ones, spoiled ones, and good ones where they do not belong.

One conversation is one input. The law: each frame becomes events or a `PeerError` that blames the other side; no event
comes that was not asked for; what the session holds stays within its limits; and while it lives, a peer that behaves
from now on is served, gets its pings answered, and brings the session to its end in good order.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Final

from tests.fuzz_frames import BLOB, LIMITS, call_payload, make_good, make_greeting, make_odd
from tests.session_pair import MARK, PlainChannel

from meshhold.errors import ChannelBrokenError, PeerError, ProtocolError
from meshhold.wire import frames
from meshhold.wire.events import (
    CallCancelled,
    CallReceived,
    DataReceived,
    Event,
    Failure,
    FailureReceived,
    PeerEnded,
    ReplyReceived,
    StreamEnded,
    StreamOpened,
    StreamReset,
)
from meshhold.wire.limits import DATA_COST_MIN, PONGS_QUEUED_MAX
from meshhold.wire.session import Session

FRAMES_MAX: Final = 50
TURNS_MAX: Final = 60
"""Turns that a peer which behaves may take to end; each gives back all credit and all answers."""
DONE: Final = Failure("DoneError", "done")


class Program:
    """What uses the session: does things by chance, and keeps books of what it may still be told."""

    def __init__(self, session: Session, rng: random.Random) -> None:
        self.session = session
        self.rng = rng
        self.asked: set[int] = set()
        self.to_answer: list[int] = []
        self.streams: dict[int, bool] = {}  # not ended or reset by this side → no data waits to be sent
        self.ended: list[int] = []  # by this side: a reset may follow
        self.listening: set[int] = set()  # streams on which the other side may still say something
        self.broken: set[int] = set()
        self.unused: deque[tuple[int, int]] = deque()
        self.control_max = 0
        """Notes, pings and cancellations of this program that may wait."""

    def take(self, event: Event) -> None:
        """Note what has come, and that it was due."""
        match event:
            case CallReceived(call):
                assert call not in self.to_answer
                self.to_answer.append(call)
            case CallCancelled(call):
                assert call in self.to_answer, "a call is cancelled that nobody serves"
            case ReplyReceived(call) | FailureReceived(call):
                self.asked.remove(call)
            case StreamOpened(stream):
                assert stream not in self.listening
                self.streams[stream] = True
                self.listening.add(stream)
            case DataReceived(stream, data):
                assert stream in self.listening, "data comes after the end of a stream"
                self.unused.append((stream, len(data)))
            case StreamEnded(stream):
                self.listening.remove(stream)
            case StreamReset(stream):
                self.broken.add(stream)
                self.listening.discard(stream)  # after its end, too: then it tells that nobody reads any more
                if stream in self.streams:
                    self.streams[stream] = True
            case PeerEnded(calls, streams):
                assert self.asked.issuperset(calls)
                assert self.session.peer_ended
                assert all(stream % 2 == self.session._streams._last_ours % 2 for stream in streams)
                self.asked.clear()
                self.streams.clear()
                self.listening.clear()

    def act(self) -> None:
        """Do one thing that a program may do at any time."""
        session, rng = self.session, self.rng
        match rng.randrange(13):
            case 0 | 1 if session.calls_free > 0:
                self.asked.add(session.send_call("a/1", BLOB[: rng.choice((0, 100, 4_000))], 1.0))
            case 2 if self.asked:
                call = next(iter(self.asked))
                self.asked.remove(call)
                session.cancel_call(call)
                self.control_max += 1
            case 3 if self.to_answer:
                session.send_reply(self.to_answer.pop(0), BLOB[: rng.choice((0, 100, 4_000))])
            case 4 if self.to_answer:
                session.send_failure(self.to_answer.pop(), DONE)
            case 5 if session.streams_free > 0:
                stream = session.open_stream("s/1", b"")
                self.streams[stream] = True
                self.listening.add(stream)
            case 6 | 7 if self.streams:
                stream = rng.choice(list(self.streams))
                if self.streams[stream]:
                    is_taken = session.send_data(stream, BLOB[: rng.choice((1, 300, 50_000))])
                    assert not (is_taken and stream in self.broken), "data is sent to whom does not take it"
                    self.streams[stream] = not is_taken
            case 8 if self.streams:
                stream = next(iter(self.streams))
                del self.streams[stream]
                self.let_go(stream, is_broken=rng.random() < 0.5)
            case 9 | 10:
                self.use_data()
            case 11 if self.ended:
                self.let_go(self.ended.pop(), is_broken=True)
            case 12 if session.is_open:
                session.send_note("n/1", b"")
                session.ping(0.0)
                self.control_max += 2

    def let_go(self, stream: int, *, is_broken: bool) -> None:
        """End a stream, behind the data that may wait, or break it off."""
        if is_broken:
            self.listening.discard(stream)
            self.session.reset_stream(stream, DONE)
        else:
            self.session.end_stream(stream)
            self.ended.append(stream)

    def use_data(self) -> None:
        """Give the oldest piece's credit back."""
        if self.unused:
            self.session.consume(*self.unused.popleft())

    def finish(self) -> None:
        """Answer and use all; end all streams."""
        for call in self.to_answer:
            self.session.send_failure(call, DONE)
        self.to_answer.clear()
        while self.unused:
            self.use_data()
        for stream in self.streams:
            self.let_go(stream, is_broken=False)
        self.streams.clear()

    def learn_sent(self) -> None:
        """Streams whose data is gone take more."""
        if not self.session._control:
            self.control_max = 0
        for stream in self.session.drained:
            if stream in self.streams:
                self.streams[stream] = True
        self.session.drained.clear()


class Conversation:
    """A session, the program over it, and a peer that may say anything."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.dialed = rng.random() < 0.5
        self.channel = PlainChannel()
        self.session = Session(self.channel, dialed=self.dialed, dial=1, instance=b"victim__", limits=LIMITS, now_s=0.0)
        self.program = Program(self.session, rng)
        self.said: list[bytes] = []

    def hear(self, content: bytes) -> None:
        """Let the session take one frame's content."""
        self.said.append(content)
        event = self.session.receive(content, 0.0)
        if event is not None:
            self.program.take(event)

    def send(self, size_max: int = 1 << 20) -> list[bytes]:
        """Return what the session sends now."""
        sent = [bytes(each) for each in self.session.next_frames(size_max, 0.0)[1::2]]
        self.program.learn_sent()
        return sent

    def check_bounds(self) -> None:
        """Nothing held exceeds the limits, and what is counted is there."""
        session, calls, streams = self.session, self.session._calls, self.session._streams
        assert session._pongs <= PONGS_QUEUED_MAX
        closing = [frame[: frames.HEADER_SIZE] for frame in session._control if frame[0] in (frames.END, frames.RESET)]
        # 1: the greeting
        assert len(session._control) <= 1 + session._pongs + self.program.control_max + len(closing)
        if session.peer_ended:
            return  # all was forgotten, and nothing can come any more
        self.check_queues(closing)
        answers = [message for message in calls.waiting if message.is_answer]
        assert len(answers) == calls._answers
        assert len(calls._theirs) + len(answers) <= LIMITS.calls
        assert sum(calls._theirs.values()) <= LIMITS.calls_size
        assert calls._held == sum(calls._theirs.values()) + sum(len(message.body) for message in answers)
        partial = calls._partial
        assert partial is None or len(partial.raw) <= partial.size <= LIMITS.message_size
        theirs = sum(number % 2 != streams._last_ours % 2 for number in streams._open)
        assert theirs == streams._theirs <= LIMITS.streams
        assert len(streams._open) - theirs == streams._ours
        unused = Counter[int]()
        for number, size in self.program.unused:
            unused[number] += max(size, DATA_COST_MIN)
        assert streams._window >= 0
        assert streams._window + streams._owed + unused.total() == LIMITS.connection_window
        for number, stream in streams._open.items():
            assert stream.window >= 0
            if not stream.in_done and not stream.was_reset:
                assert stream.window + stream.owed + unused[number] == LIMITS.stream_window

    def check_queues(self, closing: list[bytes]) -> None:
        """See that what waits belongs to open streams, each once; `closing` are the heads of ENDs and RESETs."""
        streams = self.session._streams
        numbers = [frames.HEADER.unpack(head)[1] for head in closing]
        theirs = [number for number in numbers if number % 2 != streams._last_ours % 2]
        assert len(set(closing)) == len(closing), "an END or RESET waits twice"
        assert streams._open.keys() >= set(theirs), "an END or RESET of a stream that is over waits"
        accepted = streams._greeting.streams if streams._greeting else 0
        assert len(closing) - len(theirs) <= 2 * accepted
        in_turn = [*streams.turns, *streams._starved.values()]
        assert all(streams._open.get(stream.number) is stream for stream in in_turn), "a stream that is over waits"
        assert len(in_turn) == sum(stream.in_turn for stream in streams._open.values())
        assert all(stream.data is not None for stream in streams._starved.values())
        assert streams._grants.keys() <= {0, *streams._open}, "credit of a stream that is over waits"

    def end_in_order(self) -> None:
        """Behave from now on: the session serves once more, and ends."""
        session, calls = self.session, self.session._calls
        if not session.is_ready:
            self.hear(MARK + frames.pack_greeting(1, b"hostile_", LIMITS))
        for _ in range(TURNS_MAX):
            self.program.finish()
            self.send()
            if session.sent_end:
                return
            if session.is_ending or calls._partial is not None or not (calls.idle and session._streams.idle):
                self.oblige()
            else:
                self.check_service()
                session.end()
        raise AssertionError("a session does not end though its peer behaves")

    def oblige(self) -> None:
        """Say all that a peer owes: rests of messages, answers, ends, credit."""
        session, calls, streams = self.session, self.session._calls, self.session._streams
        if session.peer_ended:
            return
        partial = calls._partial
        if partial is not None:
            if partial.is_call:
                self.say(frames.CANCEL, partial.call)
            else:
                self.say(frames.MORE, partial.call, BLOB[: partial.size - partial.taken])
        queued = {message.call for message in calls.waiting if not message.is_answer}
        for call in [call for call in calls._ours if call not in queued]:
            self.say(frames.FAIL, call, b"a\0b\0c")
        if streams._credit < 60_000:
            self.say(frames.CREDIT, 0, (60_000).to_bytes(4, "big"))
        for stream in list(streams._open.values()):
            if stream.opening:
                continue
            if not stream.in_done and self.rng.random() < 0.5:
                self.say(frames.RESET, stream.number, b"a\0b\0c")
                continue
            if stream.credit < 60_000 and not stream.out_done:
                self.say(frames.CREDIT, stream.number, (60_000).to_bytes(4, "big"))
            if not stream.in_done:
                self.say(frames.END, stream.number)

    def check_service(self) -> None:
        """See a ping, a call and a stream served, if numbers for them are left."""
        session, streams = self.session, self.session._streams
        if session.peer_ended:
            return
        self.say(frames.PING, 77)
        assert MARK + frames.HEADER.pack(frames.PONG, 77) in self.send(), "a ping is not answered"
        call = session._calls._last_theirs + 1
        if call < 2**64:
            self.say(frames.CALL, call, call_payload(2, b"\1a"))
            assert self.program.to_answer == [call], "a call is not served"
            self.program.to_answer.clear()
            session.send_reply(call, b"answer")
            reply = frames.SIZED_HEAD.pack(frames.REPLY, call, 6) + b"answer"
            assert MARK + reply in self.send(), "an answer is not sent"
        stream = streams._last_theirs + 2
        if stream < 2**64:
            self.say(frames.OPEN, stream, b"\1a")
            self.say(frames.DATA, stream, b"data")
            self.say(frames.END, stream)
            assert self.program.unused.pop() == (stream, 4), "data does not come through"
            session.consume(stream, 4)

    def say(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Let the session take a well-formed frame."""
        self.hear(MARK + frames.HEADER.pack(kind, number) + payload)


def fuzz_session(rng: random.Random) -> None:
    """Converse; raises the `PeerError` by which the session refused, or returns when it ended in order."""
    talk = Conversation(rng)
    talk.send()
    oddness = rng.choice((0.0, 0.01, 0.05, 0.2, 0.6))
    reads = rng.random() < 0.8  # or the peer takes nothing, and all queues fill
    try:
        if rng.random() < 0.98:
            talk.hear(MARK + make_greeting(rng))
        for _ in range(rng.randrange(FRAMES_MAX)):
            if rng.random() < 0.5:
                talk.program.act()
            is_odd = rng.random() < oddness
            talk.hear(make_odd(rng, talk.session, talk.said) if is_odd else make_good(rng, talk.session))
            if reads and rng.random() < 0.5:
                talk.send(rng.choice((1, 10_000, 100_000)))
            talk.check_bounds()
    except PeerError as refusal:
        check_refusal(talk.session, refusal)
        raise
    try:
        talk.end_in_order()
        talk.check_bounds()
    except PeerError as refusal:
        raise AssertionError("a peer that behaves is refused") from refusal


def check_refusal(session: Session, refusal: PeerError) -> None:
    """See that it blames the other side, and that the session can be given up."""
    assert isinstance(refusal, ProtocolError | ChannelBrokenError)
    assert refusal.culprit == "remote"
    session.abandon()
    assert not session.calls_free + session.streams_free
