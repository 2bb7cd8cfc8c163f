"""PyArrow and DuckDB: a Parquet file written to a bucket and read back by range, columns and rows picked there."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import duckdb
import duckdb_extension_httpfs  # noqa: F401 - brings the extension that DuckDB would else download
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from duckdb_extensions import import_extension
from pyarrow import fs

BUCKET = os.environ["BUCKET"]
ENDPOINT = urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc
ROWS = 400_000

s3 = fs.S3FileSystem(
    access_key=os.environ["AWS_ACCESS_KEY_ID"],
    secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    endpoint_override=ENDPOINT,
    scheme="http",
    region=os.environ["AWS_DEFAULT_REGION"],
)
numbers = pa.array(range(ROWS), pa.int64())
table = pa.table({"n": numbers, "square": [n * n for n in range(ROWS)], "text": [f"row {n}" for n in range(ROWS)]})
pq.write_table(table, f"{BUCKET}/parquet/table.parquet", filesystem=s3, row_group_size=50_000)

picked = ds.dataset(f"{BUCKET}/parquet/", filesystem=s3, format="parquet").to_table(
    columns=["square"], filter=ds.field("n") == 123_456
)
assert picked.column("square").to_pylist() == [123_456**2]
assert pq.read_table(f"{BUCKET}/parquet/table.parquet", filesystem=s3).equals(table)

import_extension("httpfs")
db = duckdb.connect()
db.execute("LOAD httpfs")
db.execute(
    "CREATE SECRET (TYPE s3, KEY_ID $key, SECRET $secret, REGION $region, ENDPOINT $endpoint, URL_STYLE 'path', "
    "USE_SSL false)".replace("$key", f"'{os.environ['AWS_ACCESS_KEY_ID']}'")
    .replace("$secret", f"'{os.environ['AWS_SECRET_ACCESS_KEY']}'")
    .replace("$region", f"'{os.environ['AWS_DEFAULT_REGION']}'")
    .replace("$endpoint", f"'{ENDPOINT}'")
)
source = f"s3://{BUCKET}/parquet/*.parquet"
assert db.execute(f"SELECT count(*), sum(n) FROM '{source}'").fetchone() == (ROWS, ROWS * (ROWS - 1) // 2)
assert db.execute(f"SELECT text FROM '{source}' WHERE n = 399999").fetchone() == ("row 399999",)
db.execute(f"COPY (SELECT n FROM range(1000) t(n)) TO 's3://{BUCKET}/parquet/by-duckdb.parquet'")
assert pq.read_table(f"{BUCKET}/parquet/by-duckdb.parquet", filesystem=s3).num_rows == 1000
for info in s3.get_file_info(fs.FileSelector(f"{BUCKET}/parquet")):
    s3.delete_file(info.path)
print("passed")
