"""One conversation: greeting, order of sending, notes, pings, silence, the end."""

from __future__ import annotations

import pytest
from tests.session_pair import MARK, Pair, Side

from meshhold.errors import ChannelBrokenError, PeerUnreachableError, ProtocolError, TooLargeError
from meshhold.wire import frames
from meshhold.wire.events import CallReceived, NoteReceived, PeerEnded, Pong, Ready, ReplyReceived, StreamOpened
from meshhold.wire.limits import CONTROL_QUEUED_MAX, NOTE_SIZE_MAX, PONGS_QUEUED_MAX, SLICE_SIZE, Limits


def kinds(contents: list[bytes]) -> list[str]:
    return [frames.KIND_NAMES[content[1]] if content.startswith(MARK) else content.decode() for content in contents]


def sent(side: Side) -> list[str]:
    side.send()
    found = kinds(list(side.on_its_way))
    side.on_its_way.clear()
    return found


def frame(kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    return MARK + frames.HEADER.pack(kind, number) + payload


class TestGreeting:
    def test_each_side_learns_the_dial_and_the_instance_of_the_other(self) -> None:
        pair = Pair(greeted=False)
        pair.run()
        assert pair.near.events == [Ready(0, b"listens_")]
        assert pair.far.events == [Ready(1, b"dialed__")]

    def test_nothing_may_be_begun_before_it(self) -> None:
        side = Side(dialed=True, limits=Limits())
        with pytest.raises(PeerUnreachableError):
            side.session.send_call("a/1", b"", 1)
        assert (side.session.calls_free, side.session.streams_free) == (0, 0)

    def test_nothing_else_is_sent_before_the_other_side_has_greeted(self) -> None:
        side = Side(dialed=True, limits=Limits())
        side.session.ping(0)
        assert sent(side) == ["GREETING"]

    def test_another_frame_in_its_place_is_refused(self) -> None:
        with pytest.raises(ProtocolError, match="PING comes before the GREETING"):
            Side(dialed=True, limits=Limits()).take(frame(frames.PING, 1))

    def test_a_second_one_is_refused(self) -> None:
        pair = Pair()
        with pytest.raises(ProtocolError, match="GREETING comes after the GREETING"):
            pair.near.take(frame(frames.GREETING))

    def test_another_version_is_refused_by_number(self) -> None:
        greeting = bytearray(MARK + frames.pack_greeting(1, b"12345678", Limits()))
        greeting[10:12] = (9).to_bytes(2, "big")
        with pytest.raises(ProtocolError, match="session version 9, this node 1"):
            Side(dialed=False, limits=Limits()).take(bytes(greeting))

    def test_what_a_later_version_adds_is_skipped(self) -> None:
        longer = MARK + frames.pack_greeting(5, b"12345678", Limits()) + b"more"
        assert Side(dialed=False, limits=Limits()).take(longer) == Ready(5, b"12345678")

    @pytest.mark.parametrize("cut", [0, 1, 2, 20])
    def test_one_that_is_cut_short_is_refused(self, cut: int) -> None:
        short = MARK + frames.pack_greeting(5, b"12345678", Limits())[: frames.HEADER_SIZE + cut]
        with pytest.raises(ProtocolError, match="cut short"):
            Side(dialed=False, limits=Limits()).take(short)

    @pytest.mark.parametrize(
        "limits",
        [Limits(calls=0), Limits(streams=0), Limits(message_size=1), Limits(stream_window=frames.WINDOW_MIN - 1)],
    )
    def test_bounds_that_nothing_fits_into_are_refused(self, limits: Limits) -> None:
        with pytest.raises(ProtocolError, match="less than any session needs"):
            Side(dialed=False, limits=Limits()).take(MARK + frames.pack_greeting(1, b"12345678", limits))


class TestOrder:
    def test_control_overtakes_calls_and_bulk(self) -> None:
        pair = Pair()
        session = pair.near.session
        stream = session.open_stream("s/1", b"")
        session.send_data(stream, bytes(3 * SLICE_SIZE))
        session.send_call("a/1", b"", 1)
        session.send_note("n/1", b"")
        session.ping(0)
        assert sent(pair.near) == ["NOTE", "PING", "CALL", "OPEN", "DATA", "DATA", "DATA"]

    def test_a_note_waits_for_one_slice_of_bulk(self) -> None:
        pair = Pair()
        session = pair.near.session
        stream = session.open_stream("s/1", b"")
        session.send_data(stream, bytes(20 * SLICE_SIZE))
        pair.near.send(size_max=1)
        pair.near.send(size_max=1)
        session.send_note("n/1", b"")
        pair.near.send(size_max=1)
        assert kinds(list(pair.near.on_its_way)) == ["OPEN", "DATA", "NOTE"]
        assert max(len(content) for content in pair.near.on_its_way) <= SLICE_SIZE + frames.HEADER_SIZE + 1

    def test_large_calls_and_streams_take_turns(self) -> None:
        pair = Pair()
        session = pair.near.session
        stream = session.open_stream("s/1", b"")
        session.send_data(stream, bytes(4 * SLICE_SIZE))
        session.send_call("a/1", bytes(3 * SLICE_SIZE), 1)
        assert sent(pair.near) == ["CALL", "OPEN", "MORE", "DATA", "MORE", "DATA", "DATA", "DATA"]

    def test_small_calls_do_not_starve_streams(self) -> None:
        pair = Pair()
        session = pair.near.session
        stream = session.open_stream("s/1", b"")
        session.send_data(stream, bytes(SLICE_SIZE))
        for _ in range(100):
            session.send_call("a/1", bytes(2000), 1)
        found = sent(pair.near)
        assert found.count("CALL") == 100
        assert found.index("DATA") < 2 * SLICE_SIZE // 2000 + 4  # its opening had a turn of its own

    def test_streams_take_turns(self) -> None:
        pair = Pair()
        session = pair.near.session
        streams = [session.open_stream("s/1", b"") for _ in range(3)]
        for stream in streams:
            session.send_data(stream, bytes(2 * SLICE_SIZE))
        pair.near.send()
        numbers = [frames.HEADER.unpack_from(content, 1)[1] for content in pair.near.on_its_way]
        assert numbers == streams * 3


class TestNotes:
    def test_a_note_arrives(self) -> None:
        pair = Pair()
        assert pair.near.session.send_note("n/1", b"body")
        pair.run()
        assert pair.far.pop() == [NoteReceived("n/1", memoryview(b"body"))]

    def test_one_more_than_may_wait_is_dropped(self) -> None:
        session = Pair().near.session
        assert all(session.send_note("n/1", b"") for _ in range(CONTROL_QUEUED_MAX))
        assert not session.send_note("n/1", b"")

    def test_a_large_one_is_refused_on_both_sides(self) -> None:
        pair = Pair()
        with pytest.raises(TooLargeError):
            pair.near.session.send_note("n/1", bytes(NOTE_SIZE_MAX + 1))
        with pytest.raises(ProtocolError, match="NOTE of"):
            pair.far.take(frame(frames.NOTE, 0, b"\1n" + bytes(NOTE_SIZE_MAX + 1)))

    @pytest.mark.parametrize("payload", [b"", b"\0", b"\1", b"\x41" + b"n" * 65, b"\2\xff\xff", b"\2a\n"])
    def test_a_name_is_short_printable_ascii(self, payload: bytes) -> None:
        with pytest.raises(ProtocolError, match="name"):
            Pair().far.take(frame(frames.NOTE, 0, payload))

    @pytest.mark.parametrize("name", ["", "n" * 65, "é"])
    def test_no_other_name_is_sent(self, name: str) -> None:
        with pytest.raises(ValueError):
            Pair().near.session.send_note(name, b"")


class TestTime:
    def test_a_ping_measures_the_round_trip(self) -> None:
        pair = Pair()
        pair.near.session.ping(10.0)
        pair.near.send()
        pair.deliver(10.1)
        pair.far.send()
        pair.deliver(10.2)
        (event,) = pair.near.pop()
        assert isinstance(event, Pong)
        assert event.rtt_s == pytest.approx(0.2)
        assert pair.near.session.rtt_s == pytest.approx(0.2)

    def test_round_trips_are_smoothed(self) -> None:
        pair = Pair()
        for begun, took in ((0.0, 0.1), (1.0, 0.9)):
            pair.near.session.ping(begun)
            pair.near.send()
            pair.deliver(begun)
            pair.far.send()
            pair.deliver(begun + took)
        assert pair.near.session.rtt_s == pytest.approx(0.1 + 0.125 * 0.8)

    def test_a_pong_nobody_waits_for_is_ignored(self) -> None:
        pair = Pair()
        assert pair.near.take(frame(frames.PONG, 77)) is None

    def test_an_idle_link_is_pinged_and_a_silent_peer_is_gone(self) -> None:
        pair = Pair()
        session = pair.near.session
        assert session.tick(0.0) == 10.0
        assert sent(pair.near) == []
        assert session.tick(10.0) == 20.0
        assert sent(pair.near) == ["PING"]
        session.tick(29.9)
        with pytest.raises(PeerUnreachableError, match="said nothing for 30 s"):
            session.tick(30.0)

    def test_a_busy_link_is_pinged_now_and_then(self) -> None:
        pair = Pair()
        for now_s in range(61):
            pair.near.take(frame(frames.NOTE, 0, b"\1n"), now_s)
            pair.near.session.tick(now_s)
        assert sent(pair.near) == ["PING"]

    def test_a_peer_that_pings_and_never_reads_is_refused(self) -> None:
        pair = Pair()
        for token in range(PONGS_QUEUED_MAX):
            pair.far.take(frame(frames.PING, token))
        with pytest.raises(ProtocolError, match="does not read"):
            pair.far.take(frame(frames.PING, 99))

    def test_an_old_key_is_replaced(self) -> None:
        pair = Pair()
        pair.near.channel.rekey_at_s = 5.0
        pair.near.session.send_note("n/1", b"")
        pair.run(now_s=5.0)
        assert pair.far.channel.rekeys == 1


class TestEnd:
    def test_it_waits_for_what_is_in_progress(self) -> None:
        pair = Pair()
        call = pair.near.session.send_call("a/1", b"", 1)
        pair.run()
        pair.near.session.end()
        pair.run()
        assert not pair.near.session.sent_end
        pair.far.session.send_reply(call, b"done")
        pair.run()
        assert pair.near.pop()[0] == ReplyReceived(call, memoryview(b"done"))
        assert pair.near.session.sent_end
        assert pair.far.session.peer_ended
        assert pair.far.session.sent_end
        assert pair.near.session.peer_ended

    def test_nothing_more_may_be_begun(self) -> None:
        pair = Pair()
        pair.near.session.end()
        with pytest.raises(PeerUnreachableError):
            pair.near.session.send_call("a/1", b"", 1)
        with pytest.raises(PeerUnreachableError):
            pair.near.session.open_stream("a/1", b"")
        with pytest.raises(PeerUnreachableError):
            pair.near.session.send_note("a/1", b"")

    def test_calls_and_streams_that_cross_the_end_are_known_not_to_be_served(self) -> None:
        pair = Pair()
        pair.far.session.end()
        pair.far.send()
        call = pair.near.session.send_call("a/1", b"", 1)
        stream = pair.near.session.open_stream("s/1", b"")
        pair.near.send()
        pair.deliver()
        assert pair.far.pop() == []
        assert pair.near.pop() == [PeerEnded((call,), (stream,))]

    def test_calls_of_the_other_side_are_still_answered(self) -> None:
        pair = Pair()
        pair.near.session.end()
        call = pair.far.session.send_call("a/1", b"", 1)
        pair.far.send()
        pair.deliver()
        assert isinstance(pair.near.pop()[0], CallReceived)
        pair.near.session.send_reply(call, b"")
        pair.run()
        assert pair.far.session.peer_ended

    def test_an_open_stream_holds_it_up(self) -> None:
        pair = Pair()
        stream = pair.far.session.open_stream("s/1", b"")
        pair.run()
        pair.near.session.end()
        pair.run()
        assert isinstance(pair.near.pop()[0], StreamOpened)
        assert not pair.near.session.sent_end
        pair.near.session.end_stream(stream)
        pair.far.session.end_stream(stream)
        pair.run()
        assert pair.near.session.sent_end

    @pytest.mark.parametrize("kind", [frames.CALL, frames.REPLY])
    def test_it_may_come_amid_a_message(self, kind: int) -> None:
        pair = Pair()
        call = pair.near.session.send_call("a/1", b"", 1)
        pair.run()
        fields = (1000, 10) if kind == frames.CALL else (10,)
        part = b"".join(field.to_bytes(4, "big") for field in fields) + b"\1a"
        pair.near.take(frame(kind, call, part))
        pair.near.take(b"end")
        assert sent(pair.near) == ["end"]

    def test_it_comes_after_a_greeting(self) -> None:
        with pytest.raises(ProtocolError, match="ends before its GREETING"):
            Side(dialed=True, limits=Limits()).take(b"end")

    def test_nothing_comes_after_it(self) -> None:
        pair = Pair()
        pair.near.session.end()
        pair.run()
        with pytest.raises(ChannelBrokenError):
            pair.far.take(frame(frames.PING, 1))


class TestHostile:
    @pytest.mark.parametrize("kind", [0, 15, 255])
    def test_an_unknown_kind_is_refused_by_number(self, kind: int) -> None:
        with pytest.raises(ProtocolError, match=f"unknown kind {kind}"):
            Pair().far.take(frame(kind))

    @pytest.mark.parametrize("size", [1, 8])
    def test_a_frame_has_a_header(self, size: int) -> None:
        with pytest.raises(ProtocolError, match="no header"):
            Pair().far.take(MARK + bytes(size))

    @pytest.mark.parametrize("kind", [frames.CANCEL, frames.END])
    def test_a_bare_frame_carries_nothing(self, kind: int) -> None:
        with pytest.raises(ProtocolError, match="none are allowed"):
            Pair().far.take(frame(kind, 1, b"x"))
