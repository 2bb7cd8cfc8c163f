"""How does the daemon tell systemd that it is ready? Knows the datagram of sd_notify(3) and nothing of the node."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_VARIABLE: Final = "NOTIFY_SOCKET"


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send `state` to the service manager; return whether one took it.

    Without `NOTIFY_SOCKET` nothing is sent. A manager that cannot be reached is no reason to stop: False tells it.
    Source: sd_notify(3); a leading `@` names an abstract socket.
    """
    address = environ.get(_VARIABLE, "")
    if not address.startswith(("/", "@")):
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # a manager that does not read must not hold the node up
            sender.sendto(state.encode(), target)
    except OSError:
        return False
    return True
