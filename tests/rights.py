"""What a machine may forbid a test: a test is skipped for that alone, and fails for everything else.

Mounting, tracing and network namespaces are root's to give; without them a developer's own machine runs the rest. Where
every change is judged (`CI` is set) nothing is skipped: there a right that is missing is a failure.
"""

from __future__ import annotations

import os
from typing import Final, NoReturn

import pytest

_DENIED: Final = ("operation not permitted", "permission denied", "must be superuser", "only root can")


def skip_without(right: str, remedy: str) -> NoReturn:
    """Skip the test: it needs a right that only the owner of this machine can give. `remedy` is what to do."""
    why = f"this machine does not allow {right}: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(why)
    # Somebody without root on their own laptop: the kernel grants them no mounts, no traces and no namespaces, so this
    # test cannot run there, while all others can. The report names the right and the remedy; `CI` never comes here.
    pytest.skip(why)


def skip_if_denied(right: str, remedy: str, said: str) -> NoReturn:
    """Skip the test if a program was denied a right, by what it said; fail with its words if that is not why."""
    if any(word in said.lower() for word in _DENIED):
        skip_without(right, f"{remedy} ({said.strip()})")
    pytest.fail(f"this machine may not lack {right}: {said.strip() or 'nothing was said'}")
