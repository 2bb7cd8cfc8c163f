"""What the door answers when the index's replicas do not agree: too few, an unknown end, others that are faster."""

from __future__ import annotations

import logging
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.door import DoorUnderTest, open_door

from meshhold.errors import ContentElsewhereError, ContentionError, MeshHoldError, NoMajorityError, UnknownOutcomeError
from meshhold.replication.chunks.copies import Copies
from meshhold.replication.index.registers import Registers

MISSING = "too few of the 3 index replicas answer; missing: cellar (it does not answer), barn (its disk is full)"
MATCH = {"If-Match": '"0"'}
NEW = {"If-None-Match": "*"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        yield opened


def fail(monkeypatch: pytest.MonkeyPatch, error: MeshHoldError) -> None:
    """Let each change of a register end like this."""

    async def change(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Registers, "change", change)


def crc32(body: bytes) -> str:
    """Return the checksum that a bulk deletion needs."""
    return b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


@pytest.mark.parametrize(
    ("error", "headers", "status", "code"),
    [
        (NoMajorityError(MISSING), {}, 503, "ServiceUnavailable"),
        (NoMajorityError(MISSING), NEW, 503, "ServiceUnavailable"),
        (UnknownOutcomeError("nobody knows"), {}, 503, "ServiceUnavailable"),
        (UnknownOutcomeError("nobody knows"), NEW, 503, "ServiceUnavailable"),
        (ContentionError("others were faster"), {}, 503, "SlowDown"),
        (ContentionError("others were faster"), NEW, 409, "ConditionalRequestConflict"),
    ],
)
async def test_a_put_that_does_not_end(
    door: DoorUnderTest,
    monkeypatch: pytest.MonkeyPatch,
    error: MeshHoldError,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    fail(monkeypatch, error)
    answer = await door.call("PUT", "/bucket/new", b"content", headers)
    assert (answer.status, answer.code) == (status, code)
    assert error.message in answer.tag("Message")


async def test_content_that_is_out_of_reach_is_no_damage(
    door: DoorUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be had later, and the log of this machine raises no alarm."""
    assert (await door.call("PUT", "/bucket/large", b"x" * 100_000)).status == 200
    bucket = door.node.vaults.bucket("bucket")

    async def fetch(*_: Any) -> None:
        raise ContentElsewhereError("a part of the content is on cellar, which cannot be asked", "start it")

    monkeypatch.setattr(Copies, "fetch_elsewhere", fetch)
    door.node.chunks.drop_vault(bucket.id)
    with caplog.at_level(logging.INFO, "meshhold.s3"):
        answer = await door.call("GET", "/bucket/large")
    assert (answer.status, answer.code) == (503, "ServiceUnavailable")
    assert answer.tag("Message").startswith("a part of the content is on cellar")
    assert [(record.levelname, "on cellar" in record.message) for record in caplog.records] == [("INFO", True)]
    assert (await door.call("HEAD", "/bucket/large")).status == 200


async def test_deletions_that_others_overtook(door: DoorUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, ContentionError("others were faster"))
    assert (await door.call("DELETE", "/bucket/kept")).code == "SlowDown"
    assert (await door.call("DELETE", "/bucket/kept", b"", MATCH)).code == "ConditionalRequestConflict"
    wanted = (
        b"<Delete><Object><Key>kept</Key></Object><Object><Key>kept</Key><ETag>&quot;0&quot;</ETag></Object></Delete>"
    )
    answer = await door.call("POST", "/bucket?delete", wanted, {"x-amz-checksum-crc32": crc32(wanted)})
    assert answer.tags("Code") == ["SlowDown", "ConditionalRequestConflict"]


async def test_a_read_names_the_machines_that_are_missing(door: DoorUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(*_: Any) -> None:
        raise NoMajorityError(MISSING, "start those machines")

    monkeypatch.setattr(Registers, "read", read)
    answer = await door.call("GET", "/bucket/kept", b"", {"If-None-Match": '"0"'})
    assert (answer.status, answer.code) == (503, "ServiceUnavailable")
    assert "cellar (it does not answer), barn (its disk is full)" in answer.tag("Message")
