"""A command learns what the daemon said, or why nobody answered."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode, serving

from meshhold.admin.client import call_daemon
from meshhold.admin.socket_path import SUN_PATH_MAX
from meshhold.errors import CallRefusedError, DaemonUnreachableError


def test_result_and_refusal(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(path, FakeNode().dispatch()):
        assert call_daemon(path, "vault.create", {"name": "photos"})["name"] == "photos"
        with pytest.raises(CallRefusedError) as caught:
            call_daemon(path, "vault.show", {"vault": "nope"})
    assert caught.value.kind == "NoSuchVaultError"
    assert caught.value.message == "no vault is called 'nope'"
    assert caught.value.fix == "see meshhold vault list"


def test_progress_is_handed_on(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = []
    with serving(tmp_path / "control.sock", FakeNode().dispatch()):
        call_daemon(tmp_path / "control.sock", "vault.check", on_progress=steps.append, answer_s_max=None)
    assert steps == [{"objects": 1}]


@pytest.mark.parametrize("name", ["absent", "stale"])
def test_no_daemon_names_the_command_that_starts_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "stale":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    with pytest.raises(DaemonUnreachableError, match="no daemon runs") as caught:
        call_daemon(path, "status", start_command="meshhold daemon --config /x")
    assert caught.value.fix == "start it with: meshhold daemon --config /x"


def test_silent_and_broken_daemons_are_named(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(2)
        with pytest.raises(DaemonUnreachableError, match="does not answer"):
            call_daemon(path, "status", answer_s_max=0.01)

        def hang_up() -> None:
            listening.accept()[0].close()  # the silent one's connection
            connection, _ = listening.accept()
            connection.recv(1024)
            connection.sendall(b'{"ok": tr')
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(DaemonUnreachableError, match="cannot be reached"):
            call_daemon(path, "status")
        thread.join()


def test_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    """Data directories may be deep: the kernel's 107 bytes are no limit for users."""
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    folder.mkdir(parents=True)
    path = folder / "control.sock"
    assert len(str(path)) > SUN_PATH_MAX
    with serving(path, FakeNode().dispatch()):
        assert call_daemon(path, "status")["name"] == "attic"
    assert not path.exists()
    with pytest.raises(DaemonUnreachableError, match="no daemon runs"):
        call_daemon(path, "status")
