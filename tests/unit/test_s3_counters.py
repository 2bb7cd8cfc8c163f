"""Counters by key and bucket: what they add up, and that they stay few."""

from __future__ import annotations

from typing import Any

from meshhold.s3 import routes
from meshhold.s3.buckets import buckets, lifecycle, public_access
from meshhold.s3.buckets import tagging as bucket_tagging
from meshhold.s3.objects import copies, deletes, multipart, puts, tagging
from meshhold.s3.recording.counters import OTHERS, SERIES_MAX, Counters, SeriesView
from meshhold.s3.recording.operations import operation_name
from meshhold.s3.recording.served import Served


def served(sender: str = "GK", bucket: str = "b", operation: str = "GetObject", status: int = 200) -> Served:
    return Served(0.0, 0.1, "", "GET", b"/", "1.1", status, 3, 5, b"", b"", "1", sender, bucket, operation)


def views(counters: Counters, kind: str) -> list[SeriesView]:
    found: Any = counters.view()[kind]
    return list(found)


def test_requests_add_up_by_operation_and_class() -> None:
    counters = Counters(lambda _: True, 5.0)
    for status in (200, 206, 404, 503):
        counters.record(served(status=status))
    counters.record(served(operation="PutObject"))
    assert counters.view()["since_ms"] == 5_000
    for kind, name in (("keys", "GK"), ("buckets", "b")):
        (series,) = views(counters, kind)
        requests = {"GetObject": {"2xx": 2, "4xx": 1, "5xx": 1}, "PutObject": {"2xx": 1}}
        assert series == SeriesView(name, 5, requests, 15, 25)


def test_the_busiest_comes_first() -> None:
    counters = Counters(lambda _: True, 0.0)
    for sender in ("a", "b", "b", ""):
        counters.record(served(sender=sender))
    assert [(one.name, one.total) for one in views(counters, "keys")] == [("b", 2), ("a", 1), ("anonymous", 1)]


def test_series_are_bounded() -> None:
    counters = Counters(lambda _: True, 0.0)
    for at in range(SERIES_MAX + 10):
        counters.record(served(sender=f"GK{at}", bucket=f"b{at}"))
    for kind in ("keys", "buckets"):
        found = {one.name: one.total for one in views(counters, kind)}
        assert len(found) == SERIES_MAX + 1
        assert found[OTHERS] == 10


def test_guessed_buckets_are_not_counted() -> None:
    counters = Counters(lambda name: name == "real", 0.0)
    for bucket in ("real", "guess", ""):
        counters.record(served(bucket=bucket))
    assert [one.name for one in views(counters, "buckets")] == ["real"]


def test_operations_have_the_names_that_s3_gives_them() -> None:
    handlers = (
        puts.put_object, deletes.delete_objects, copies.upload_part_copy, multipart.create_upload, buckets.list_buckets,
        bucket_tagging.put_tagging, tagging.put_tagging, lifecycle.get_lifecycle, public_access.delete_block,
    )  # fmt: skip
    assert [operation_name(one) for one in handlers] == [
        "PutObject", "DeleteObjects", "UploadPartCopy", "CreateMultipartUpload", "ListBuckets", "PutBucketTagging",
        "PutObjectTagging", "GetBucketLifecycleConfiguration", "DeletePublicAccessBlock",
    ]  # fmt: skip


def test_no_two_operations_share_a_name() -> None:
    handlers = {handler for table in (routes._SERVICE, routes._BUCKET, routes._OBJECT) for handler in table.values()}
    assert len({operation_name(handler) for handler in handlers}) == len(handlers)
