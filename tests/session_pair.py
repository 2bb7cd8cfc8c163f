"""Two sessions joined in memory, over channels that seal nothing but say as much as real ones."""

from __future__ import annotations

from collections import deque

from meshhold.errors import ChannelBrokenError
from meshhold.wire.batches import Batch
from meshhold.wire.events import Event, Ready
from meshhold.wire.framing import FrameReader
from meshhold.wire.limits import Limits
from meshhold.wire.session import Session

MARK = b"\0"


class PlainChannel:
    """Frames in clear behind one byte, so that the end can be told from them."""

    def __init__(self) -> None:
        self.ended = False
        self.rekeys = 0
        self.rekey_at_s = float("inf")

    def seal(self, plaintext: bytes | memoryview, /) -> bytes:
        return MARK + plaintext

    def seal_into(self, plaintext: bytes | memoryview, room: memoryview, /) -> int:
        room[: len(MARK) + len(plaintext)] = self.seal(plaintext)
        return len(MARK) + len(plaintext)

    def open(self, ciphertext: bytes | memoryview, /) -> bytes:
        if self.ended:
            raise ChannelBrokenError("a frame after the end")
        if ciphertext == b"end":
            self.ended = True
            return b""
        if ciphertext == b"rekey":
            self.rekeys += 1
            return b""
        return bytes(ciphertext[1:])

    def seal_end(self) -> bytes:
        return b"end"

    def rekey_due(self, now_s: float, /) -> bool:
        return now_s >= self.rekey_at_s

    def seal_rekey(self, now_s: float, /) -> bytes:
        del now_s
        self.rekey_at_s = float("inf")
        return b"rekey"


class Side:
    """One session with its channel, what it has said and what it has learned."""

    def __init__(self, *, dialed: bool, limits: Limits, dial: int = 1) -> None:
        self.channel = PlainChannel()
        instance = b"dialed__" if dialed else b"listens_"
        self.session = Session(self.channel, dialed=dialed, dial=dial, instance=instance, limits=limits, now_s=0)
        self.events: list[Event] = []
        self.on_its_way: deque[bytes] = deque()
        self._reader = FrameReader()
        self._batch = Batch()

    def send(self, size_max: int = 1 << 30, now_s: float = 0.0) -> int:
        """Put what waits on its way; return how many frames."""
        raw = b""
        while len(raw) < size_max and (frames := self.session.next_frames(size_max - len(raw), now_s, self._batch)):
            raw += b"".join(frames)
        contents = [bytes(each) for each in self._reader.feed(raw)]
        self.on_its_way.extend(contents)
        return len(contents)

    def take(self, content: bytes, now_s: float = 0.0) -> Event | None:
        """Receive one frame."""
        event = self.session.receive(content, now_s)
        if event is not None:
            self.events.append(event)
        return event

    def pop(self) -> list[Event]:
        """Return and forget what has been learned."""
        events, self.events = self.events, []
        return events


class Pair:
    """Both sides. `near` has dialled."""

    def __init__(self, near: Limits | None = None, far: Limits | None = None, *, greeted: bool = True) -> None:
        self.near = Side(dialed=True, limits=near or Limits())
        self.far = Side(dialed=False, limits=far or Limits())
        if greeted:
            self.run()
            assert [type(event) for event in self.near.pop() + self.far.pop()] == [Ready, Ready]

    def run(self, now_s: float = 0.0) -> None:
        """Pass frames until nobody has any to send."""
        while self.near.send(now_s=now_s) + self.far.send(now_s=now_s) + len(self.near.on_its_way):
            self.deliver(now_s)

    def deliver(self, now_s: float = 0.0) -> None:
        """Pass on what is on its way."""
        while self.near.on_its_way:
            self.far.take(self.near.on_its_way.popleft(), now_s)
        while self.far.on_its_way:
            self.near.take(self.far.on_its_way.popleft(), now_s)
