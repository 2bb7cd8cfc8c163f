"""One range or everything, as S3 serves it."""

import pytest

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.ranges import parse_copy_range, parse_range


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        ("bytes=0-9", 100, (0, 9)),
        ("bytes=90-", 100, (90, 99)),
        ("bytes=-10", 100, (90, 99)),
        ("bytes=-1000", 100, (0, 99)),
        ("bytes=50-1000", 100, (50, 99)),
        ("Bytes = 5-5", 100, (5, 5)),
        ("bytes=0-" + "9" * 5000, 100, (0, 99)),
    ],
)
def test_a_range_that_overlaps_is_cut_to_the_object(header: str, size: int, expected: tuple[int, int]) -> None:
    assert parse_range(header, size) == expected


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=9-0", "bytes=0-1,3-4", "lines=0-1", "bytes=\u0661-2",
     "bytes=--1", "bytes=+1-2", "bytes=1_0-20"],
)  # fmt: skip
def test_what_is_no_single_range_is_ignored(header: str | None) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize(
    ("header", "size"),
    [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0), (f"bytes={'9' * 5000}-", 100)],
)
def test_a_range_outside_is_answered_with_the_size(header: str, size: int) -> None:
    with pytest.raises(S3Error) as caught:
        parse_range(header, size)
    error = caught.value
    assert (error.code, error.status) == ("InvalidRange", 416)
    assert error.headers == {"Content-Range": f"bytes */{size}"}
    assert error.fields == {"RangeRequested": header, "ActualObjectSize": str(size)}


def test_the_last_bytes_of_an_empty_object_are_all_of_it() -> None:
    assert parse_range("bytes=-5", 0) is None


def test_a_copied_range_is_taken_exactly() -> None:
    assert parse_copy_range("bytes=0-99", 100) == (0, 99)
    assert parse_copy_range(None, 100) is None


def test_a_copied_range_never_gets_shorter() -> None:
    with pytest.raises(S3Error, match="InvalidRange"):
        parse_copy_range("bytes=0-100", 100)


@pytest.mark.parametrize("header", ["bytes=5-", "bytes=-5", "bytes=9-1", "0-9", "", "bytes=0-1,2-3"])
def test_a_copied_range_is_never_guessed(header: str) -> None:
    with pytest.raises(S3Error, match="InvalidArgument"):
        parse_copy_range(header, 100)
