"""Clients that put, delete and upload in parts until the daemon is gone, and note what it acknowledged."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError
from tests.cluster.daemons import NodeFolder
from tests.faults.node_journal import ABSENT, Change, Journal

BUCKET = "my-bucket"
MIB = 2**20
SIZES = (1, 700, 16 * 1024, 16 * 1024 + 1, 90_000, MIB, 2 * MIB + 17)
"""Inside the entry up to 16 KiB, one chunk up to 1 MiB, then several."""
PART_SIZE = 5 * MIB
_GONE = (BotoCoreError, OSError)
"""What a client sees of a daemon that died: no answer, so nobody knows."""


def content_of(name: str, size: int) -> bytes:
    """Return bytes that belong to this name alone; no chunk of them is a chunk of another's."""
    return random.Random(name).randbytes(size)


def digest_of(content: bytes) -> str:
    """Return how a journal calls this content."""
    return hashlib.sha256(content).hexdigest()


class Parts:
    """A multipart upload as its client knows it: parts acknowledged, and whether its end was asked for."""

    def __init__(self, key: str, upload_id: str) -> None:
        self.key = key
        self.upload_id = upload_id
        self.etags: dict[int, str] = {}
        self.sent: dict[int, bytes] = {}
        self.ending = False

    def content(self) -> bytes:
        """Return what a completion makes of the acknowledged parts."""
        return b"".join(self.sent[number] for number in sorted(self.etags))

    def claims(self) -> list[dict[str, Any]]:
        """Return the acknowledged parts as a completion names them."""
        return [{"PartNumber": number, "ETag": self.etags[number]} for number in sorted(self.etags)]


class Load:
    """`threads` clients on `keys` shared keys; which requests they send follows from the seed, not when.

    `uploads` are those that the daemon acknowledged and that were not ended for sure.
    """

    def __init__(self, folder: NodeFolder, key: Mapping[str, str], seed: int, *, threads: int, keys: int) -> None:
        self.journal = Journal()
        self.uploads: dict[str, Parts] = {}
        self.errors: list[str] = []
        self._chances = [random.Random(f"{seed}/{number}") for number in range(threads)]
        self._names = [f"album/{number:02d} ä.jpg" for number in range(keys)]
        self._clients = [client_of(folder, key) for _ in range(threads)]
        self._counts = [0] * threads
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Let the clients go."""
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(len(self._clients))]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait until each client has noticed that the daemon is gone."""
        for thread in self._threads:
            thread.join()
        assert self.errors == []

    def _run(self, number: int) -> None:
        s3, chance = self._clients[number], self._chances[number]
        step = chance.choices((self._put, self._delete, self._delete_many, self._upload), (12, 4, 1, 3))
        try:
            while True:
                self._counts[number] += 1
                step[0](s3, chance, f"{number}.{self._counts[number]}")
                step = chance.choices((self._put, self._delete, self._delete_many, self._upload), (12, 4, 1, 3))
        except _GONE:
            return
        except ClientError as error:  # a living daemon has no reason to refuse any of this
            self.errors.append(str(error))

    def _put(self, s3: Any, chance: random.Random, name: str) -> None:
        key = chance.choice(self._names)
        content = content_of(name, chance.choice(SIZES))
        change = self.journal.began(key, digest_of(content))
        s3.put_object(Bucket=BUCKET, Key=key, Body=content)
        self.journal.ended(change)

    def _delete(self, s3: Any, chance: random.Random, _: str) -> None:
        key = chance.choice(self._names)
        change = self.journal.began(key, ABSENT)
        s3.delete_object(Bucket=BUCKET, Key=key)
        self.journal.ended(change)

    def _delete_many(self, s3: Any, chance: random.Random, _: str) -> None:
        keys = chance.sample(self._names, 3)
        changes = [self.journal.began(key, ABSENT) for key in keys]
        answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
        assert "Errors" not in answer, answer
        for change in changes:
            self.journal.ended(change)

    def _upload(self, s3: Any, chance: random.Random, name: str) -> None:
        key = chance.choice(self._names)
        parts = Parts(key, s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"])
        self.uploads[parts.upload_id] = parts
        sizes = chance.choice(((40,), (300_000,), (PART_SIZE, 17)))
        for number, size in enumerate(sizes, 1):
            parts.sent[number] = content_of(f"{name}/{number}", size)
            answer = s3.upload_part(
                Bucket=BUCKET, Key=key, UploadId=parts.upload_id, PartNumber=number, Body=parts.sent[number]
            )
            parts.etags[number] = answer["ETag"]
        match chance.randrange(4):
            case 0:
                parts.ending = True
                s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=parts.upload_id)
                del self.uploads[parts.upload_id]
            case 1:
                return  # left open: it must be there after any number of crashes
            case _:
                self.complete(s3, parts)

    def complete(self, s3: Any, parts: Parts) -> None:
        """Make an upload the object."""
        parts.ending = True
        change: Change = self.journal.began(parts.key, digest_of(parts.content()))
        s3.complete_multipart_upload(
            Bucket=BUCKET, Key=parts.key, UploadId=parts.upload_id, MultipartUpload={"Parts": parts.claims()}
        )
        self.journal.ended(change)
        del self.uploads[parts.upload_id]


def client_of(folder: NodeFolder, key: Mapping[str, str]) -> Any:
    """Return an S3 client that sends each request once."""
    return boto3.client(
        "s3",
        endpoint_url=folder.endpoint,
        region_name="meshhold",
        aws_access_key_id=key["access_key_id"],
        aws_secret_access_key=key["secret_access_key"],
        config=ClientConfig(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
