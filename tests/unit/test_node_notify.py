"""The service manager hears one datagram, or nobody is there and nothing breaks."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from meshhold.node.notify import READY, STOPPING, notify


@pytest.mark.parametrize("abstract", [False, True])
def test_state_arrives(tmp_path: Path, abstract: bool) -> None:
    name = f"@meshhold-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        assert notify(READY, {"NOTIFY_SOCKET": name})
        assert notify(STOPPING, {"NOTIFY_SOCKET": name})
        assert [manager.recv(64), manager.recv(64)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("value", [None, "", "relative", "/nobody/listens/here", "/" + "x" * 200])
def test_without_a_manager_nothing_is_sent(value: str | None) -> None:
    assert not notify(READY, {} if value is None else {"NOTIFY_SOCKET": value})
