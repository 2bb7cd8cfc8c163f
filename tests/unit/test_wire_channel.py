"""A channel: what opens, what breaks it, when keys change, and how it ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshhold.crypto.noise import AES_GCM, CHACHA_POLY, Suite
from meshhold.errors import ChannelBrokenError, ProtocolError
from meshhold.model.ids import NodeId
from meshhold.wire import channel as channel_module
from meshhold.wire.channel import PLAINTEXT_SIZE_MAX, REKEY_AFTER_S, REKEY_FRAMES, Channel
from meshhold.wire.noise import NONCE_MAX, rekeyed

TO, FRO = b"t" * 32, b"f" * 32


MakePair = Callable[[], tuple[Channel, Channel]]


@pytest.fixture(params=[CHACHA_POLY, AES_GCM], ids=["chacha-poly", "aes-gcm"])
def suite(request: pytest.FixtureRequest) -> Suite:
    chosen: Suite = request.param
    return chosen


@pytest.fixture
def make_pair(suite: Suite) -> MakePair:
    """Return what makes two channels that end in each other."""
    return lambda: (
        Channel(NodeId("b"), b"h" * 64, TO, FRO, suite),
        Channel(NodeId("a"), b"h" * 64, FRO, TO, suite),
    )


def test_what_one_side_seals_the_other_opens_both_ways(make_pair: MakePair) -> None:
    here, there = make_pair()
    for number in range(3):
        text = b"message %d" % number
        assert there.open(here.seal(text)) == text
        assert here.open(there.seal(text + b" back")) == text + b" back"


def test_a_frame_is_what_noise_says(make_pair: MakePair, suite: Suite) -> None:
    here, _ = make_pair()
    here.seal(b"first")
    assert here.seal(b"second") == suite.new_cipher(TO).encrypt(suite.pack_nonce(1), b"second", b"")


def test_the_largest_plaintext_fits_one_frame_and_views_are_taken(make_pair: MakePair) -> None:
    here, there = make_pair()
    plaintext = memoryview(bytes(PLAINTEXT_SIZE_MAX))
    sealed = here.seal(plaintext)
    assert len(sealed) == 65_535
    assert there.open(memoryview(sealed)) == plaintext


@pytest.mark.parametrize("size", [1, 64, PLAINTEXT_SIZE_MAX])
def test_a_frame_sealed_into_a_buffer_is_the_same(make_pair: MakePair, size: int) -> None:
    here, there = make_pair()
    again, _ = make_pair()
    buffer = bytearray(b"." * (size + 20))
    assert here.seal_into(bytes(size), memoryview(buffer)) == size + 16
    assert buffer == again.seal(bytes(size)) + b"...."
    assert there.open(memoryview(buffer)[:-4]) == bytes(size)


def test_a_buffer_that_is_too_small_is_refused_and_breaks_nothing(make_pair: MakePair) -> None:
    here, there = make_pair()
    with pytest.raises(ProtocolError, match="not sealed into 20") as caught:
        here.seal_into(b"photo", memoryview(bytearray(20)))
    assert caught.value.culprit == "local"
    assert there.open(here.seal(b"still fine")) == b"still fine"


@pytest.mark.parametrize("size", [0, PLAINTEXT_SIZE_MAX + 1])
def test_sizes_that_fit_no_frame_are_refused_and_break_nothing(make_pair: MakePair, size: int) -> None:
    here, there = make_pair()
    with pytest.raises(ProtocolError, match=f"not {size}") as caught:
        here.seal(bytes(size))
    assert caught.value.culprit == "local"
    with pytest.raises(ProtocolError, match=f"not {size}"):
        here.seal_into(bytes(size), memoryview(bytearray(70_000)))
    assert there.open(here.seal(b"still fine")) == b"still fine"


def check_broken(channel: Channel, frame: bytes, good: bytes) -> None:
    """Expect `frame` to break the channel for good: not even the `good` frame opens any more."""
    for sealed in (frame, good):
        with pytest.raises(ChannelBrokenError, match="does not open") as caught:
            channel.open(sealed)
        assert caught.value.culprit == "remote"
    assert not channel.ended


def test_any_flipped_bit_breaks_the_channel(make_pair: MakePair) -> None:
    for bit in range(8 * (len(b"photo") + 16)):
        here, there = make_pair()
        sealed = bytearray(here.seal(b"photo"))
        sealed[bit // 8] ^= 1 << bit % 8
        check_broken(there, bytes(sealed), here.seal(b"next"))


def test_a_replayed_frame_breaks_the_channel(make_pair: MakePair) -> None:
    here, there = make_pair()
    sealed = here.seal(b"pay once")
    there.open(sealed)
    check_broken(there, sealed, here.seal(b"next"))


def test_a_frame_that_overtakes_another_breaks_the_channel(make_pair: MakePair) -> None:
    here, there = make_pair()
    first, second = here.seal(b"first"), here.seal(b"second")
    check_broken(there, second, first)


def test_ones_own_frame_reflected_breaks_the_channel(make_pair: MakePair) -> None:
    here, there = make_pair()
    check_broken(here, here.seal(b"mirror"), there.seal(b"good"))


@pytest.mark.parametrize("junk", [b"", b"x", bytes(15), bytes(16), bytes(17), bytes(65_535)])
def test_bytes_that_nobody_sealed_break_the_channel(make_pair: MakePair, junk: bytes) -> None:
    here, there = make_pair()
    check_broken(there, junk, here.seal(b"good"))


# -- marks ------------------------------------------------------------------------------------------------------------


def test_the_end_is_authenticated_and_last(make_pair: MakePair) -> None:
    here, there = make_pair()
    assert there.open(here.seal(b"last words")) == b"last words"
    assert not there.ended
    assert there.open(here.seal_end()) == b""
    assert there.ended
    assert not here.ended
    room = memoryview(bytearray(20))
    for call in (
        lambda: here.seal(b"more"),
        lambda: here.seal_into(b"more", room),
        here.seal_end,
        lambda: here.seal_rekey(0.0),
    ):
        with pytest.raises(ChannelBrokenError, match="after the end") as caught:
            call()
        assert caught.value.culprit == "local"
    with pytest.raises(ChannelBrokenError, match="after the end") as caught:
        there.open(bytes(20))
    assert caught.value.culprit == "remote"


def test_one_side_may_end_while_the_other_goes_on(make_pair: MakePair) -> None:
    here, there = make_pair()
    there.open(here.seal_end())
    assert here.open(there.seal(b"not finished yet")) == b"not finished yet"
    here.open(there.seal_end())
    assert here.ended
    assert there.ended


def test_a_replayed_end_ends_nothing(make_pair: MakePair) -> None:
    here, there = make_pair()
    there.open(here.seal(b"one"))
    fresh_end = make_pair()[0].seal_end()  # the end that would have been frame 0
    check_broken(there, fresh_end, here.seal(b"two"))


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keys_change_by_count_without_a_word(
    make_pair: MakePair, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "REKEY_FRAMES", 3)
    here, there = make_pair()
    keys = set()
    for number in range(10):
        assert there.open(here.seal(b"%d" % number)) == b"%d" % number
        assert here._out._key == there._in._key
        keys.add(here._out._key)
    assert keys == {
        TO,
        rekeyed(TO, suite),
        rekeyed(rekeyed(TO, suite), suite),
        rekeyed(rekeyed(rekeyed(TO, suite), suite), suite),
    }


def test_the_count_is_65536_frames_under_each_key(make_pair: MakePair, suite: Suite) -> None:
    here, there = make_pair()
    for channel_side in (here._out, there._in):
        channel_side._next = REKEY_FRAMES - 1
    assert there.open(here.seal(b"last under the first key")) == b"last under the first key"
    assert here._out._key == TO
    sealed = here.seal(b"first under the next")
    assert sealed == suite.new_cipher(rekeyed(TO, suite)).encrypt(
        suite.pack_nonce(REKEY_FRAMES), b"first under the next", b""
    )
    assert there.open(sealed) == b"first under the next"


def test_keys_change_by_time_at_a_mark(make_pair: MakePair, suite: Suite) -> None:
    here, there = make_pair()
    assert not here.rekey_due(100.0)
    assert not here.rekey_due(100.0 + REKEY_AFTER_S - 1)
    assert here.rekey_due(100.0 + REKEY_AFTER_S)
    mark = here.seal_rekey(100.0 + REKEY_AFTER_S)
    assert not here.rekey_due(100.0 + REKEY_AFTER_S)
    assert there.open(mark) == b""
    assert not there.ended
    assert here.seal(b"new key") == suite.new_cipher(rekeyed(TO, suite)).encrypt(suite.pack_nonce(1), b"new key", b"")
    assert here._in._key == FRO


def test_a_dropped_rekey_mark_breaks_the_channel(make_pair: MakePair) -> None:
    here, there = make_pair()
    here.seal_rekey(0.0)
    check_broken(there, here.seal(b"under the next key"), here.seal(b"again"))


def test_a_rekey_mark_delays_the_rekey_by_count(
    make_pair: MakePair, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "REKEY_FRAMES", 3)
    here, there = make_pair()
    there.open(here.seal(b"0"))
    there.open(here.seal_rekey(0.0))
    for number in range(2, 9):
        assert there.open(here.seal(b"%d" % number)) == b"%d" % number
    assert here._out._key == rekeyed(rekeyed(rekeyed(TO, suite), suite), suite)


def test_used_up_counters_end_the_channel_before_one_repeats(make_pair: MakePair) -> None:
    here, _ = make_pair()
    here._out._next = NONCE_MAX - 2
    here._out.rekey()
    here.seal(b"last but one")
    here.seal(b"last")
    for _ in range(2):
        with pytest.raises(ChannelBrokenError, match="used up") as caught:
            here.seal(b"too many")
        assert caught.value.culprit == "local"
