"""Kill -9 in the middle of writes: what was acknowledged is there, what was not is there whole or not at all.

`MESHHOLD_KILLS` and `MESHHOLD_SEED` change how often and with which requests; the seed is in the output of a failure.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.daemons import NodeFolder
from tests.cluster.test_daemon import furnish
from tests.faults.node_journal import ABSENT, Journal
from tests.faults.node_load import BUCKET, Load, client_of, digest_of

from meshhold.admin.client import call_daemon
from meshhold.config.places import control_socket
from meshhold.index.checkpoints import PAGE_SIZE, PAGES_MAX
from meshhold.model.entry import INLINE_SIZE_MAX

KILLS = int(os.environ.get("MESHHOLD_KILLS", "200"))
SEED = int(os.environ.get("MESHHOLD_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
LIFE_MAX_S = 0.6
"""A daemon's life under load before it is killed: some die before their first answer, others checkpoint first."""
OPEN_UPLOADS_MAX = 20


def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, kills=6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_kills_lose_nothing(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, kills=KILLS)


def kill_again_and_again(tmp_path: Path, *, kills: int) -> None:
    print(f"MESHHOLD_SEED={SEED}")  # noqa: T201 - shown with a failure: the same requests can be sent again
    moments = random.Random(SEED)
    folder = NodeFolder(tmp_path / "home")
    assert folder.type("init", "--s3-addr", f"127.0.0.1:{folder.port}").returncode == 0
    with folder.running():
        _, key = furnish(folder)
    load = Load(folder, key, SEED, threads=5, keys=24)
    s3 = client_of(folder, key)
    for _ in range(kills):
        with folder.running() as daemon:
            load.start()
            time.sleep(moments.uniform(0, LIFE_MAX_S))  # the moment of the kill, not a wait for something
            daemon.send(signal.SIGKILL)
            daemon.process.wait()
            load.wait()
        with folder.running() as daemon:
            assert_nothing_lost(s3, load)
            assert_sound(folder)
            finish_some(s3, load)
            daemon.send(signal.SIGKILL)
    with folder.running():
        done = folder.type("vault", "check", "--deep")
        assert done.returncode == 0, done.stdout
    counted = f"{kills} kills, {load.journal.acknowledged} acknowledged, {load.journal.in_flight} in flight"
    print(counted)  # noqa: T201 - shown by `make faults`
    assert load.journal.acknowledged > kills
    assert load.journal.in_flight > 0


def assert_nothing_lost(s3: Any, load: Load) -> None:
    """Each key is in a state that the journal allows, and listing, HEAD and GET agree on it."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    listed = {row["Key"]: row for page in pages for row in page.get("Contents", ())}
    assert set(listed) <= set(load.journal.names())
    for key in load.journal.names():
        state = state_of(s3, key, listed.get(key))
        assert state in load.journal.allowed(key), (SEED, key)
        load.journal.settle(key, state)
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=BUCKET)
    open_now = {row["UploadId"] for page in pages for row in page.get("Uploads", ())}
    for parts in list(load.uploads.values()):
        if parts.upload_id not in open_now:
            assert parts.ending, (SEED, parts.key, "an upload that nobody ended is gone")
            del load.uploads[parts.upload_id]
            continue
        answer = s3.list_parts(Bucket=BUCKET, Key=parts.key, UploadId=parts.upload_id)
        found = {row["PartNumber"]: row["ETag"] for row in answer.get("Parts", ())}
        assert parts.ending or found.items() >= parts.etags.items(), (SEED, parts.key)


def state_of(s3: Any, key: str, row: dict[str, Any] | None) -> str:
    try:
        answer = s3.get_object(Bucket=BUCKET, Key=key)
    except s3.exceptions.NoSuchKey:
        assert row is None, (SEED, key, "listed, but not there")
        return ABSENT
    content = answer["Body"].read()
    assert row is not None, (SEED, key, "there, but not listed")
    assert (row["Size"], row["ETag"]) == (len(content), answer["ETag"])
    return digest_of(content)


def assert_sound(folder: NodeFolder) -> None:
    """`vault check --deep` finds nothing missing and nothing damaged."""
    reports = call_daemon(control_socket(folder.home), "vault.check", {"vault": None, "deep": True})
    assert [report["damaged"] for report in reports] == [0], (SEED, reports)


def finish_some(s3: Any, load: Load) -> None:
    """Complete uploads that survived crashes, once there are many: their parts must make the object."""
    for parts in list(load.uploads.values()):
        if parts.ending or not parts.etags:
            s3.abort_multipart_upload(Bucket=BUCKET, Key=parts.key, UploadId=parts.upload_id)
            del load.uploads[parts.upload_id]
        elif len(load.uploads) > OPEN_UPLOADS_MAX:
            load.complete(s3, parts)
            state = state_of(s3, parts.key, s3.list_objects_v2(Bucket=BUCKET, Prefix=parts.key)["Contents"][0])
            assert {state} == load.journal.allowed(parts.key), (SEED, parts.key)


def test_the_journal_knows_a_lost_write() -> None:
    """The checker itself: overwritten states are refused, those in flight allowed, a lost acknowledged one refused."""
    journal = Journal()
    journal.began("new", "first")
    assert journal.allowed("new") == {ABSENT, "first"}, "never acknowledged: it may be there or not"
    journal.ended(journal.began("k", "first"))
    assert journal.allowed("k") == {"first"}
    second = journal.began("k", "second")
    assert journal.allowed("k") == {"first", "second"}
    overlapping = journal.began("k", ABSENT)
    journal.ended(second)
    assert journal.allowed("k") == {"second", ABSENT}
    journal.ended(overlapping)
    assert journal.allowed("k") == {"second", ABSENT}, "two changes at the same time: either may be the last"
    journal.ended(journal.began("k", "third"))
    assert journal.allowed("k") == {"third"}
    journal.began("k", "fourth")
    journal.settle("k", "third")
    assert journal.allowed("k") == {"third"}


def test_crash_after_crash_does_not_grow_the_log(tmp_path: Path) -> None:
    """Each life appends less than a checkpoint waits for; what a crash left is copied at the next start."""
    folder = NodeFolder(tmp_path / "home")
    assert folder.type("init", "--s3-addr", f"127.0.0.1:{folder.port}").returncode == 0
    key: dict[str, str] = {}
    for life in range(4):
        with folder.running() as daemon:
            key = key or furnish(folder)[1]
            s3 = client_of(folder, key)
            for number in range(130):
                s3.put_object(Bucket=BUCKET, Key=f"{life}/{number}", Body=bytes(INLINE_SIZE_MAX))
            daemon.send(signal.SIGKILL)
            daemon.process.wait()
    assert (folder.home / "index.db-wal").stat().st_size < PAGES_MAX * PAGE_SIZE
