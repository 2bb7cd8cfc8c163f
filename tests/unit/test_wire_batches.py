"""Large frames sealed into one buffer say what the same frames say one by one, whatever is cut or reused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.session_pair import Pair, Side

from meshhold.crypto.noise import AES_GCM, CHACHA_POLY, Suite
from meshhold.model.ids import NodeId
from meshhold.wire.batches import BATCH_ROOM, Batch
from meshhold.wire.channel import Channel
from meshhold.wire.events import CallReceived, DataReceived, StreamEnded
from meshhold.wire.framing import FrameReader
from meshhold.wire.limits import BULK_MIN, SLICE_SIZE, Limits
from meshhold.wire.session import Session

BATCH_SIZE = 128 * 1024
BODY = bytes(range(256)) * 1024  # 256 KiB


def make_sides(suite: Suite) -> tuple[Session, Session]:
    """Return two sessions over real channels that have greeted each other."""
    there, back = b"t" * 32, b"b" * 32
    channels = (Channel(NodeId("b"), b"h", there, back, suite), Channel(NodeId("a"), b"h", back, there, suite))
    near, far = (
        Session(channel, dialed=not number, dial=1, instance=b"instance", limits=Limits(), now_s=0.0)
        for number, channel in enumerate(channels)
    )
    for sender, receiver in ((near, far), (far, near)):
        (content,) = FrameReader().feed(b"".join(sender.next_frames(BATCH_SIZE, 0.0)))
        receiver.receive(content, 0.0)
    return near, far


def send(side: Session, batch: Batch) -> bytes:
    """Return all that waits, each batch copied before the next one is asked for, as a socket does."""
    sent = b""
    while frames := side.next_frames(BATCH_SIZE, 0.0, batch):
        sent += b"".join(frames)
    return sent


def bodies(side: Session, contents: Sequence[bytes | memoryview]) -> dict[int, bytes]:
    """Return what came on each stream."""
    found: dict[int, bytes] = {}
    for content in contents:
        event = side.receive(content, 0.0)
        if isinstance(event, DataReceived):
            found[event.stream] = found.get(event.stream, b"") + bytes(event.data)
    return found


@pytest.mark.parametrize("suite", [CHACHA_POLY, AES_GCM], ids=["chacha-poly", "aes-gcm"])
def test_streams_that_take_turns_arrive_whole_from_a_buffer_that_is_written_anew(suite: Suite) -> None:
    near, far = make_sides(suite)
    wanted = {}
    for number in range(3):
        stream = near.open_stream("s/1", b"")
        wanted[stream] = bytes([number]) + BODY[: 200_000 + number]
        near.send_data(stream, wanted[stream])
        near.end_stream(stream)
    assert bodies(far, FrameReader().feed(send(near, Batch()))) == wanted


def test_a_cut_at_any_byte_of_a_batch_changes_nothing() -> None:
    near, _ = make_sides(AES_GCM)
    stream = near.open_stream("s/1", b"")
    near.send_data(stream, BODY[:BULK_MIN])
    raw = send(near, Batch())
    whole = [bytes(content) for content in FrameReader().feed(raw)]
    edges = [at + edge for at in (0, SLICE_SIZE, len(raw) - SLICE_SIZE, len(raw)) for edge in range(-80, 80)]
    for at in (at for at in edges if 0 <= at <= len(raw)):
        reader = FrameReader()
        parts = reader.feed(raw[:at]) + reader.feed(raw[at:])
        assert [bytes(content) for content in parts] == whole


def test_the_frames_are_the_same_without_a_batch() -> None:
    """Byte for byte: what is told apart is only where they are sealed."""
    raws = []
    for batch in (Batch(), None):
        near, _ = make_sides(CHACHA_POLY)
        near.send_note("n/1", b"first")
        near.send_call("c/1", BODY[:100_000], 1.0)
        stream = near.open_stream("s/1", b"")
        near.send_data(stream, BODY)
        near.end_stream(stream)
        sent = b""
        while frames := near.next_frames(BATCH_SIZE, 0.0, batch):
            sent += b"".join(frames)
        raws.append(sent)
    assert raws[0] == raws[1]


def test_a_batch_is_one_piece_and_little_larger_than_asked_for() -> None:
    near, _ = make_sides(AES_GCM)
    near.send_data(near.open_stream("s/1", b""), BODY)
    (view,) = near.next_frames(BATCH_SIZE, 0.0, Batch())
    assert BATCH_SIZE <= len(view) <= BATCH_ROOM


def test_more_than_a_batch_holds_comes_in_several_whatever_is_asked_for() -> None:
    near, far = make_sides(AES_GCM)
    stream = near.open_stream("s/1", b"")
    near.send_data(stream, BODY)
    batch, raw = Batch(), b""
    while frames := near.next_frames(1 << 30, 0.0, batch):
        assert sum(map(len, frames)) <= BATCH_ROOM
        raw += b"".join(frames)
    assert bodies(far, FrameReader().feed(raw)) == {stream: BODY}


def test_a_large_call_is_sealed_so_too() -> None:
    near, far = make_sides(AES_GCM)
    near.send_call("c/1", BODY[:200_000], 1.0)
    batch = Batch()
    (view,) = near.next_frames(BATCH_SIZE, 0.0, batch)
    *_, event = [far.receive(content, 0.0) for content in FrameReader().feed(bytes(view) + send(near, batch))]
    assert isinstance(event, CallReceived)
    assert event.body == BODY[:200_000]


@pytest.mark.parametrize("size", [BULK_MIN, BULK_MIN + 1, len(BODY)])
def test_no_buffer_is_kept_once_nothing_large_waits(size: int) -> None:
    near, _ = make_sides(AES_GCM)
    batch = Batch()
    near.send_data(near.open_stream("s/1", b""), BODY[:size])
    assert near.next_frames(BATCH_SIZE, 0.0, batch)
    assert batch._room
    send(near, batch)
    assert not batch._room


def test_one_frame_needs_no_buffer() -> None:
    near, _ = make_sides(AES_GCM)
    batch = Batch()
    near.send_data(near.open_stream("s/1", b""), BODY[: BULK_MIN - 1])
    assert send(near, batch)
    assert not batch._room


def test_bulk_without_credit_gives_nothing_rather_than_an_empty_piece() -> None:
    window = 4 * SLICE_SIZE
    pair = Pair(far=Limits(stream_window=window))
    stream = pair.near.session.open_stream("s/1", b"")
    pair.near.session.send_data(stream, bytes(window + BULK_MIN))
    batch = Batch()
    while pair.near.session.next_frames(BATCH_SIZE, 0.0, batch):
        pass
    assert pair.near.session.unsent(stream) == BULK_MIN
    pair.near.session._streams._take_turn(pair.near.session._streams._open[stream])  # it looks whether it may
    assert pair.near.session.next_frames(BATCH_SIZE, 0.0, batch) == []


def test_the_last_words_follow_what_is_large() -> None:
    pair = Pair()
    side: Side = pair.near
    stream = side.session.open_stream("s/1", b"")
    pair.run()
    pair.far.session.end_stream(stream)
    pair.run()
    side.session.send_data(stream, BODY[:BULK_MIN])
    side.session.end_stream(stream)
    side.session.end()
    contents = FrameReader().feed(b"".join(side.session.next_frames(1 << 20, 0.0, Batch())))
    assert bytes(contents[-1]) == b"end"
    events = [pair.far.take(bytes(content)) for content in contents]
    assert StreamEnded(stream) in events
