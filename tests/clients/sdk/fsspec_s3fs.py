"""s3fs of fsspec: files as a file system, appended, globbed, moved, walked, by pandas-like readers of ranges."""

from __future__ import annotations

import os
import random

import fsspec

BUCKET = os.environ["BUCKET"]
fs = fsspec.filesystem("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
root = f"{BUCKET}/fsspec"
rng = random.Random(5)

body = rng.randbytes(7 * 2**20 + 9)
with fs.open(f"{root}/a/large.bin", "wb", block_size=5 * 2**20) as file:
    file.write(body)
fs.pipe(f"{root}/a/small.txt", b"hello")
fs.pipe(f"{root}/b/other ü.txt", b"there")
assert fs.info(f"{root}/a/large.bin")["size"] == len(body)
with fs.open(f"{root}/a/large.bin", "rb") as file:
    file.seek(6 * 2**20)
    assert file.read(1000) == body[6 * 2**20 : 6 * 2**20 + 1000]
assert fs.cat_file(f"{root}/a/large.bin", start=-9) == body[-9:]
assert sorted(fs.glob(f"{root}/**/*.txt")) == [f"{root}/a/small.txt", f"{root}/b/other ü.txt"]
assert sorted(fs.ls(root, detail=False)) == [f"{root}/a", f"{root}/b"]
with fs.open(f"{root}/a/small.txt", "ab") as file:
    file.write(b" world")
fs.mv(f"{root}/a/small.txt", f"{root}/b/moved.txt")
assert fs.cat(f"{root}/b/moved.txt") == b"hello world"
assert not fs.exists(f"{root}/a/small.txt")
assert [names for _, _, names in fs.walk(f"{root}/b")] == [["moved.txt", "other ü.txt"]]
fs.rm(root, recursive=True)
fs.invalidate_cache()
assert not fs.exists(root)
print("passed")
