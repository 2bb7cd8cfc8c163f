"""minio-py: put, parts, get by range, stat, lists, copies, composition, tags, presigned requests, forms."""

from __future__ import annotations

import hashlib
import io
import os
import random
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import ComposeSource, CopySource, Tags
from minio.datatypes import PostPolicy
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

BUCKET = os.environ["BUCKET"]
ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
rng = random.Random(7)
client = Minio(
    endpoint=urlsplit(ENDPOINT).netloc,
    access_key=os.environ["AWS_ACCESS_KEY_ID"],
    secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    secure=False,
    region=os.environ["AWS_DEFAULT_REGION"],
)
http = urllib3.PoolManager()


def fetched(name: str, **more: int) -> bytes:
    response = client.get_object(bucket_name=BUCKET, object_name=name, **more)
    try:
        return response.read()
    finally:
        response.close()
        response.release_conn()


def put(name: str, body: bytes, **more: object) -> None:
    client.put_object(bucket_name=BUCKET, object_name=name, data=io.BytesIO(body), length=len(body), **more)


assert client.bucket_exists(bucket_name=BUCKET)
small = rng.randbytes(50_001)
put("mpy/small ü.bin", small, content_type="image/png", metadata={"who": "minio-py"})
stat = client.stat_object(bucket_name=BUCKET, object_name="mpy/small ü.bin")
assert (stat.size, stat.content_type, stat.metadata["x-amz-meta-who"]) == (50_001, "image/png", "minio-py")
assert fetched("mpy/small ü.bin") == small
assert fetched("mpy/small ü.bin", offset=100, length=1000) == small[100:1100]

large = rng.randbytes(12 * 2**20 + 3)
client.put_object(bucket_name=BUCKET, object_name="mpy/large", data=io.BytesIO(large), length=-1, part_size=5 * 2**20)
assert hashlib.sha256(fetched("mpy/large")).digest() == hashlib.sha256(large).digest()

client.copy_object(
    bucket_name=BUCKET, object_name="mpy/copy", source=CopySource(bucket_name=BUCKET, object_name="mpy/large")
)
sources = [ComposeSource(bucket_name=BUCKET, object_name=name) for name in ("mpy/large", "mpy/small ü.bin")]
client.compose_object(bucket_name=BUCKET, object_name="mpy/composed", sources=sources)
assert fetched("mpy/composed") == large + small

tags = Tags.new_object_tags()
tags["kind"] = "photo"
client.set_object_tags(bucket_name=BUCKET, object_name="mpy/copy", tags=tags)
assert client.get_object_tags(bucket_name=BUCKET, object_name="mpy/copy") == {"kind": "photo"}
assert fetched("mpy/copy") == large

found = [each.object_name for each in client.list_objects(bucket_name=BUCKET, prefix="mpy/", recursive=True)]
assert found == ["mpy/composed", "mpy/copy", "mpy/large", "mpy/small ü.bin"], found

url = client.presigned_get_object(bucket_name=BUCKET, object_name="mpy/small ü.bin", expires=timedelta(minutes=1))
assert http.request("GET", url).data == small

policy = PostPolicy(BUCKET, datetime.now(UTC) + timedelta(minutes=1))
policy.add_starts_with_condition("key", "mpy/")
policy.add_content_length_range_condition(1, 4096)
fields: dict[str, object] = dict(client.presigned_post_policy(policy))
fields |= {"key": "mpy/form", "file": ("form.txt", b"by form", "text/plain")}
posted = http.request("POST", f"{ENDPOINT}/{BUCKET}", fields=fields)
assert posted.status == 204, posted.data
assert fetched("mpy/form") == b"by form"

errors = list(
    client.remove_objects(bucket_name=BUCKET, delete_object_list=[DeleteObject(name) for name in (*found, "mpy/form")])
)
assert not errors, errors
try:
    client.stat_object(bucket_name=BUCKET, object_name="mpy/form")
except S3Error as error:
    assert error.code == "NoSuchKey", error.code
else:
    raise AssertionError("the object is still there")
print("passed")
