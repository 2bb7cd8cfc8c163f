"""The index's reserve: values stop before the disk is full, deletions do not."""

from __future__ import annotations

import pytest

from meshhold.errors import StorageFullError
from meshhold.replication.index.index_room import IndexRoom


@pytest.mark.parametrize(
    ("free", "reusable", "passes"),
    [(100, 0, True), (99, 0, False), (99, 1, True), (50, 50, True), (49, 1000, False), (0, 1000, False)],
)
def test_values_leave_the_reserve_alone(free: int, reusable: int, passes: bool) -> None:
    """Space inside the file makes up for at most half of the reserve of 100."""
    room = IndexRoom(lambda: free, lambda: reusable, reserve_bytes=100)
    if passes:
        room.check()
        return
    with pytest.raises(StorageFullError, match=f"{free} bytes free") as caught:
        room.check()
    assert caught.value.fix


def test_the_index_is_asked_only_when_it_matters() -> None:
    """The hot path asks the file system alone."""

    def reusable() -> int:
        raise AssertionError("asked")

    IndexRoom(lambda: 100, reusable, reserve_bytes=100).check()
