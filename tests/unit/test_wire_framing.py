"""Frames: where they begin and end, and which lengths are refused."""

from __future__ import annotations

import pytest

from meshhold.errors import ProtocolError
from meshhold.wire.framing import FRAME_SIZE_MAX, FrameReader, encode_frame

CONTENTS = [b"a", b"bc" * 100, b"d" * FRAME_SIZE_MAX, b"e"]
STREAM = b"".join(map(encode_frame, CONTENTS))


@pytest.mark.parametrize("piece", [1, 2, 3, 101, 65_535, 65_536, len(STREAM)])
def test_frames_come_out_whole_however_the_stream_is_cut(piece: int) -> None:
    reader = FrameReader()
    found = [frame for at in range(0, len(STREAM), piece) for frame in reader.feed(STREAM[at : at + piece])]
    assert found == CONTENTS
    assert not reader.mid_frame


def test_a_large_frame_is_not_copied_and_a_small_one_keeps_no_large_buffer_alive() -> None:
    frames = FrameReader().feed(STREAM)
    assert [type(frame) for frame in frames] == [bytes, bytes, memoryview, bytes]
    assert isinstance(frames[2], memoryview)
    assert frames[2].obj == STREAM


def test_a_frame_is_its_length_in_two_bytes_and_its_content() -> None:
    assert encode_frame(b"abc") == b"\x00\x03abc"


@pytest.mark.parametrize("content", [b"", bytes(FRAME_SIZE_MAX + 1)])
def test_content_that_fits_no_frame_is_a_fault_of_this_side(content: bytes) -> None:
    with pytest.raises(ProtocolError, match=str(len(content))) as caught:
        encode_frame(content)
    assert caught.value.culprit == "local"


@pytest.mark.parametrize(("before", "then"), [(b"", b"\0\0"), (b"\0", b"\0"), (b"\0\1a", b"\0\1b\0\0more")])
def test_a_length_of_zero_is_refused(before: bytes, then: bytes) -> None:
    reader = FrameReader()
    reader.feed(before)
    with pytest.raises(ProtocolError, match="announces 0 bytes") as caught:
        reader.feed(then)
    assert caught.value.culprit == "remote"


def test_a_length_over_the_bound_is_refused_before_its_content_comes() -> None:
    with pytest.raises(ProtocolError, match="announces 65535 bytes where 1 to 1000"):
        FrameReader(size_max=1000).feed(b"\xff\xff")
    with pytest.raises(ProtocolError, match="announces 65535 bytes"):
        FrameReader(size_max=1000).feed((2**32 - 1).to_bytes(4, "big"))


def test_first_frames_have_bounds_of_their_own() -> None:
    reader = FrameReader(first_sizes_max=(2, 4))
    assert reader.feed(b"\x00\x02ab\x00\x04abcd\x00\x09abcdefghi") == [b"ab", b"abcd", b"abcdefghi"]
    with pytest.raises(ProtocolError, match="announces 5 bytes where 1 to 4"):
        FrameReader(first_sizes_max=(2, 4)).feed(b"\x00\x02ab\x00\x05")


@pytest.mark.parametrize("cut", [b"\x00", b"\x00\x03", b"\x00\x03ab"])
def test_a_stream_that_ends_within_a_frame_is_seen(cut: bytes) -> None:
    reader = FrameReader()
    assert reader.feed(encode_frame(b"whole") + cut) == [b"whole"]
    assert reader.mid_frame


def test_single_bytes_cost_no_more_memory_than_the_frame() -> None:
    reader = FrameReader()
    for byte in encode_frame(bytes(FRAME_SIZE_MAX))[:-1]:
        assert reader.feed(bytes([byte])) == []
    assert len(reader._body) == FRAME_SIZE_MAX - 1
    assert reader.feed(b"\0") == [bytes(FRAME_SIZE_MAX)]
