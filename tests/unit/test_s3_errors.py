"""Every error of this program has an S3 answer."""

import xml.etree.ElementTree as ET

import pytest

from meshhold import errors
from meshhold.s3.errors import S3Error, render_error, to_s3


def every_error(kind: type[errors.MeshHoldError]) -> list[type[errors.MeshHoldError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in every_error(below))]


def made(kind: type[errors.MeshHoldError]) -> errors.MeshHoldError:
    if issubclass(kind, errors.PreconditionFailedError):
        return kind("the cause", "If-Match")
    if issubclass(kind, errors.DigestMismatchError):
        return kind("the cause", "content-md5")
    if issubclass(kind, errors.HandshakeRefusedError):
        return kind("remote", "the cause")
    return kind("the cause", "the fix")


@pytest.mark.parametrize("kind", every_error(errors.MeshHoldError), ids=lambda kind: kind.__name__)
def test_an_error_keeps_its_cause_and_its_class_of_status(kind: type[errors.MeshHoldError]) -> None:
    answer = to_s3(made(kind))
    assert "the cause" in answer.message
    if issubclass(kind, errors.RefusedError):
        assert 400 <= answer.status < 500
    else:
        assert answer.status >= 500


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (errors.NoSuchObjectError("x"), "NoSuchKey", 404),
        (errors.NoSuchBucketError("x"), "NoSuchBucket", 404),
        (errors.NoSuchUploadError("x"), "NoSuchUpload", 404),
        (errors.DeniedError("x"), "AccessDenied", 403),
        (errors.AliasTakenError("x", owned=True), "BucketAlreadyOwnedByYou", 409),
        (errors.AliasTakenError("x"), "BucketAlreadyExists", 409),
        (errors.BucketNotEmptyError("x"), "BucketNotEmpty", 409),
        (errors.PreconditionFailedError("x", "If-Match"), "PreconditionFailed", 412),
        (errors.PartOrderError("x"), "InvalidPartOrder", 400),
        (errors.PartTooSmallError("x"), "EntityTooSmall", 400),
        (errors.TooLargeError("x"), "EntityTooLarge", 400),
        (errors.DigestMismatchError("x", "Content-MD5"), "BadDigest", 400),
        (errors.DigestMismatchError("x", "x-amz-content-sha256"), "XAmzContentSHA256Mismatch", 400),
        (errors.OverloadedError("x"), "SlowDown", 503),
        (errors.StorageFullError("x"), "ServiceUnavailable", 503),
        (errors.ContentionError("x"), "SlowDown", 503),
        (errors.NoMajorityError("x"), "ServiceUnavailable", 503),
        (errors.UnknownOutcomeError("x"), "ServiceUnavailable", 503),
        (errors.PeerUnreachableError("x"), "ServiceUnavailable", 503),
        (errors.ChunkCorruptError("x"), "InternalError", 500),
        (errors.SyncFailedError("x"), "InternalError", 500),
    ],
)
def test_an_error_has_the_code_that_s3_clients_know(error: errors.MeshHoldError, code: str, status: int) -> None:
    answer = to_s3(error)
    assert (answer.code, answer.status) == (code, status)


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (errors.ContentionError("x"), "ConditionalRequestConflict", 409),
        (errors.NoMajorityError("x"), "ServiceUnavailable", 503),
        (errors.UnknownOutcomeError("x"), "ServiceUnavailable", 503),
        (errors.PreconditionFailedError("x", "If-Match"), "PreconditionFailed", 412),
    ],
)
def test_a_conditional_write_that_others_overtook_is_a_conflict(
    error: errors.MeshHoldError, code: str, status: int
) -> None:
    answer = to_s3(error, is_conditional=True)
    assert (answer.code, answer.status) == (code, status)


def test_the_document_holds_every_field_escaped() -> None:
    error = S3Error("InvalidRange", "no <byte> & \x01", fields={"RangeRequested": "bytes=9-"})
    raw = render_error(error, "/b/a&b", "request", "host")
    assert b"<Message>no &lt;byte&gt; &amp; &#x1;</Message>" in raw
    root = ET.fromstring(raw.replace(b"&#x1;", b""))  # noqa: S314 - our own document
    found = {child.tag: child.text for child in root}
    assert (found["Code"], found["RangeRequested"]) == ("InvalidRange", "bytes=9-")
    assert (found["Resource"], found["RequestId"], found["HostId"]) == ("/b/a&b", "request", "host")


def test_a_code_that_is_not_known_needs_a_status() -> None:
    assert S3Error("Teapot", "", status=418).status == 418
    with pytest.raises(KeyError):
        S3Error("Teapot", "")
