"""boto3: one request, parts of 8 MiB, presigned requests, and checksums in both of its modes."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.clients.programs import VERSIONS
from tests.clients.site import BUCKET, MIB, Site, assert_same_file

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

PARTS = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB)


@pytest.fixture(params=["when_supported", "when_required"])
def s3(site: Site, request: pytest.FixtureRequest) -> Any:
    """Make a client with boto3's default checksums (trailers), or with those that S3 requires only."""
    VERSIONS["boto3"] = f"boto3 {boto3.__version__}"
    return boto3.client(
        "s3",
        endpoint_url=site.node.endpoint,
        region_name="meshhold",
        aws_access_key_id=site.key["access_key_id"],
        aws_secret_access_key=site.key["secret_access_key"],
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation=request.param,
            response_checksum_validation=request.param,
        ),
    )


@pytest.mark.parametrize("size", [0, 1, 16 * 1024 + 1, 5 * MIB + 11])
def test_one_request(s3: Any, size: int, site: Site) -> None:
    """A body in one PUT comes back byte for byte."""
    body = site.sample(f"single-{size}", size).read_bytes()
    s3.put_object(Bucket=BUCKET, Key="single", Body=body, Metadata={"k": "v"})
    got = s3.get_object(Bucket=BUCKET, Key="single")
    assert (got["Body"].read(), got["Metadata"]) == (body, {"k": "v"})


def test_streamed_body(s3: Any, site: Site) -> None:
    """A body of a file object, which boto3 sends as aws-chunked with a trailer where it adds a checksum."""
    source = site.sample("streamed", 3 * MIB + 1)
    with source.open("rb") as file:
        s3.put_object(Bucket=BUCKET, Key="streamed", Body=file)
    head = s3.head_object(Bucket=BUCKET, Key="streamed")
    assert head["ContentLength"] == 3 * MIB + 1
    assert "ContentEncoding" not in head
    assert s3.get_object(Bucket=BUCKET, Key="streamed")["Body"].read() == source.read_bytes()


def test_upload_fileobj_in_parts(s3: Any, site: Site) -> None:
    """`upload_fileobj` with parts of 8 MiB, several at a time; `download_file` reads ranges side by side."""
    source, back = site.sample("fileobj", 50 * MIB + 123), site.folder / "fileobj-back"
    with source.open("rb") as file:
        s3.upload_fileobj(file, BUCKET, "fileobj", Config=PARTS)
    assert s3.head_object(Bucket=BUCKET, Key="fileobj")["ETag"].endswith('-7"')
    s3.download_file(BUCKET, "fileobj", str(back), Config=PARTS)
    assert_same_file(back, source)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_named_checksums(s3: Any, site: Site, algorithm: str, tmp_path: Path) -> None:
    """Each algorithm is verified and returned, for a single PUT and for parts."""
    source = site.sample("checksum", 9 * MIB)
    sent = s3.put_object(Bucket=BUCKET, Key="sum", Body=source.read_bytes(), ChecksumAlgorithm=algorithm)
    shown = s3.get_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")
    assert shown[f"Checksum{algorithm}"] == sent[f"Checksum{algorithm}"]
    assert shown["Body"].read() == source.read_bytes()
    s3.upload_file(str(source), BUCKET, "sums", ExtraArgs={"ChecksumAlgorithm": algorithm}, Config=PARTS)
    assert f"Checksum{algorithm}" in s3.head_object(Bucket=BUCKET, Key="sums", ChecksumMode="ENABLED")
    s3.download_file(BUCKET, "sums", str(tmp_path / "back"))
    assert_same_file(tmp_path / "back", source)


def test_wrong_checksum_is_refused(s3: Any) -> None:
    """What does not match its checksum is not kept."""
    with pytest.raises(ClientError, match="BadDigest"):
        s3.put_object(Bucket=BUCKET, Key="wrong", Body=b"x", ChecksumCRC32="AAAAAA==")
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=BUCKET, Key="wrong")


def send(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send a request as any program would that was handed a URL; return status and body."""
    request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 -- this node's own URL
    request.add_header("Content-Type", "application/octet-stream")
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310 -- this node's own URL
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_presigned_put_and_get(s3: Any, site: Site) -> None:
    """A URL lets its holder write one object and read one, nothing else."""
    body = site.sample("presigned", 2 * MIB).read_bytes()
    place = {"Bucket": BUCKET, "Key": "pre signed/ü+%"}
    put = s3.generate_presigned_url("put_object", Params=place, ExpiresIn=60)
    assert send("PUT", put, body)[0] == 200
    get = s3.generate_presigned_url("get_object", Params=place, ExpiresIn=60)
    assert send("GET", get) == (200, body)
    status, said = send("DELETE", get)
    assert (status, b"SignatureDoesNotMatch" in said) == (403, True)
    assert send("GET", get) == (200, body)


def test_presigned_parts(s3: Any, site: Site) -> None:
    """Browsers upload parts by presigned URLs, as photo apps have them do."""
    body = site.sample("presigned-parts", 5 * MIB + 9).read_bytes()
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="by-url")["UploadId"]
    place = {"Bucket": BUCKET, "Key": "by-url", "UploadId": upload}
    for number, piece in ((1, body[: 5 * MIB]), (2, body[5 * MIB :])):
        url = s3.generate_presigned_url("upload_part", Params={**place, "PartNumber": number}, ExpiresIn=60)
        assert send("PUT", url, piece)[0] == 200
    parts = [{"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for p in s3.list_parts(**place)["Parts"]]
    s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=BUCKET, Key="by-url")["Body"].read() == body


def test_expired_url(s3: Any) -> None:
    """A URL reads until it runs out, and nothing from then on."""
    s3.put_object(Bucket=BUCKET, Key="brief", Body=b"x")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "brief"}, ExpiresIn=1)
    deadline = time.monotonic() + 10
    status, said = send("GET", url)
    while status == 200 and time.monotonic() < deadline:
        time.sleep(0.05)  # between two looks at the server's clock
        status, said = send("GET", url)
    assert (status, b"Request has expired" in said) == (403, True)


def test_many_empty_objects_in_turn(s3: Any, site: Site) -> None:
    """An empty body is asked for like another one, or botocore mixes up the answers of a connection that it keeps."""
    empty, full = site.sample("empty", 0), site.sample("full", 1000)
    for at in range(3):
        for source in (empty, full):
            with source.open("rb") as file:
                s3.put_object(Bucket=BUCKET, Key=f"turn/{source.name}/{at}", Body=file)
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix="turn/")["Contents"]
    assert [o["Size"] for o in found] == [0, 0, 0, 1000, 1000, 1000]
