"""Forms as browsers and libraries write them, cut anywhere; what is no form is refused before its file is read."""

from __future__ import annotations

from collections import deque

import pytest

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.form import FIELDS_SIZE_MAX, FormReader, find_boundary

BOUNDARY = b"x0x"


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--x0x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


FILE = b"\r\nbytes\r\n--x0 and --x0x\r\n--"  # full of what is nearly a boundary
FORM = part("Key", b"a/${filename}") + part("x-amz-meta-a", "é".encode()) + part("file", FILE, '; filename="f.txt"')


def read(raw: bytes, step: int = 1 << 20) -> tuple[FormReader, bytes]:
    form = FormReader(BOUNDARY)
    found = b"".join(form.feed(raw[at : at + step]) for at in range(0, len(raw), step))
    form.finish()
    return form, found


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50, 1 << 20])
def test_a_form_is_read_wherever_it_is_cut(step: int) -> None:
    form, found = read(FORM + b"--x0x--\r\n", step)
    assert found == FILE
    assert form.fields == {"key": "a/${filename}", "x-amz-meta-a": "é"}
    assert form.filename == "f.txt"


def test_what_follows_the_file_is_not_read() -> None:
    form, found = read(FORM + part("submit", b"Upload") + b"--x0x--")
    assert (found, set(form.fields)) == (FILE, {"key", "x-amz-meta-a"})


def test_an_empty_file_and_an_empty_field() -> None:
    form, found = read(part("a", b"") + part("file", b"") + b"--x0x--\r\n")
    assert (found, form.fields, form.filename) == (b"", {"a": ""}, "")


@pytest.mark.parametrize(
    ("written", "filename"),
    [
        ('filename="C:\\dir\\photo.jpg"', "photo.jpg"),
        ('filename="/home/a/photo.jpg"', "photo.jpg"),
        ('filename="say \\"hi\\".txt"', 'say "hi".txt'),
        ('filename="фото.jpg"', "фото.jpg"),
        ("filename=bare.txt", "bare.txt"),
        ('filename="a;b=c.txt"', "a;b=c.txt"),
        ("filename*=UTF-8''x.txt", ""),
    ],
)
def test_file_names(written: str, filename: str) -> None:
    assert read(part("file", b"", f"; {written}") + b"--x0x--")[0].filename == filename


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "ends before"),
        (b"preamble\r\n" + FORM, "does not begin with its boundary"),
        (FORM, "ends before the boundary that closes the file"),
        (FORM[:-10], "ends before"),
        (FORM + b"--x0xyz", "not followed by a line break"),
        (b"--x0x, key", "not followed by a line break"),
        (b"--x0x\r\n\r\nvalue\r\n--x0x--", "one Content-Disposition"),
        (b"--x0x\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--x0x--", "is form-data"),
        (b"--x0x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x0x--", "has no name"),
        (b"--x0x\r\nContent-Disposition: form-data; name=\xff\r\n\r\n\r\n--x0x--", "not UTF-8"),
        (part("key", b"\xff") + FORM, "the field key is not UTF-8"),
    ],
)
def test_what_is_no_form_is_refused(raw: bytes, told: str) -> None:
    for step in (1, 1 << 20):
        with pytest.raises(S3Error) as caught:
            read(raw, step)
        assert (caught.value.code, caught.value.status) == ("MalformedPOSTRequest", 400)
        assert told in caught.value.message


def test_a_form_has_one_file_and_each_field_once() -> None:
    for raw, told in (
        (part("key", b"a") + b"--x0x--", "exactly one file"),
        (part("a", b"") * 2 + b"--x0x", "more than once"),
    ):
        with pytest.raises(S3Error, match="InvalidArgument") as caught:
            read(raw)
        assert told in caught.value.message


@pytest.mark.parametrize(
    "raw", [part("a", b"x" * FIELDS_SIZE_MAX), b"--x0x\r\n" + b"h" * FIELDS_SIZE_MAX, FORM[:9] * 4000]
)
def test_what_comes_before_the_file_is_bounded(raw: bytes) -> None:
    form = FormReader(BOUNDARY)
    with pytest.raises(S3Error) as caught:
        deque(map(form.feed, (raw[at : at + 1000] for at in range(0, len(raw), 1000))), maxlen=0)
    assert caught.value.code in {"MaxPostPreDataLengthExceededError", "MalformedPOSTRequest"}
    assert len(form._rest) <= FIELDS_SIZE_MAX + 1000


def test_of_a_file_no_more_is_held_back_than_could_be_a_boundary() -> None:
    form = FormReader(BOUNDARY)
    form.feed(part("file", b"")[:-2])
    assert form.feed(b"y" * 100_000) == b"y" * (100_000 - len(BOUNDARY) - 3)


@pytest.mark.parametrize(
    ("content_type", "found"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (b"multipart/form-data; BOUNDARY=----x", b"----x"),
    ],
)
def test_boundaries(content_type: bytes, found: bytes) -> None:
    assert find_boundary({b"content-type": content_type}) == found


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        (b"multipart/form-data", "MalformedPOSTRequest"),
        (b"multipart/form-data; boundary=", "MalformedPOSTRequest"),
        (b"multipart/form-data; boundary=" + b"x" * 71, "MalformedPOSTRequest"),
        (b"application/x-www-form-urlencoded", "PreconditionFailed"),
        (b"", "PreconditionFailed"),
    ],
)
def test_other_types(content_type: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        find_boundary({b"content-type": content_type})
    assert caught.value.code == code
