"""A test is skipped for a right that is missing, and for nothing else."""

from __future__ import annotations

import pytest
from tests.rights import skip_if_denied


@pytest.mark.parametrize(
    "said",
    [
        "strace: attach: ptrace(PTRACE_SEIZE, 7): Operation not permitted",
        "mount: /x: must be superuser to use mount.",
        "fusermount: mount failed: Permission denied",
    ],
)
def test_what_was_denied_is_skipped_with_what_to_do(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"does not allow tracing: run as root \(") as caught:
        skip_if_denied("tracing", "run as root", said)
    assert said in str(caught.value)


@pytest.mark.parametrize("said", ["", "strace: invalid option -- 'q'", "mount: wrong fs type", "s3fs: mount failed"])
def test_what_went_wrong_otherwise_fails(said: str) -> None:
    with pytest.raises(pytest.fail.Exception):
        skip_if_denied("tracing", "run as root", said)


def test_nothing_is_skipped_where_changes_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="does not allow tracing"):
        skip_if_denied("tracing", "run as root", "Operation not permitted")
