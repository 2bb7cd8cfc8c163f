"""An S3 client that asks once: what a test counts is what the node answered, not what a retry made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import boto3
from botocore.config import Config
from tests.cluster.meshes import MeshNode

CONNECT_S: Final = 2.0


def client_that_asks_once(node: MeshNode, key: Mapping[str, str], *, answer_s: float, connections: int) -> Any:
    """Return a client of one node; checksums are the test's own affair."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{node.port}",
        region_name="meshhold",
        aws_access_key_id=key["access_key_id"],
        aws_secret_access_key=key["secret_access_key"],
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=CONNECT_S,
            read_timeout=answer_s,
            max_pool_connections=connections,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
