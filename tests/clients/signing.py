"""Requests signed as programs do that no SDK signs for: written from the specification, not from MeshHold's own reader.

Source: Amazon S3 API reference, "Authenticating Requests: Using Query Parameters" and "… Authorization Header".
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

REGION = "meshhold"


def _key(secret: str, date: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for step in (date, REGION, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key


def _sign(secret: str, stamp: str, canonical: str) -> str:
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
    return hmac.digest(_key(secret, stamp[:8]), text.encode(), "sha256").hex()


def _query(params: Mapping[str, str]) -> str:
    return "&".join(f"{quote(name, safe='~')}={quote(params[name], safe='~')}" for name in sorted(params))


def presigned_path(key: Mapping[str, str], method: str, path: str, host: str, params: Mapping[str, str]) -> str:
    """Return path and query of a request that is signed over `host` and nothing else of its headers."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    query = _query(
        {
            **params,
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{key['access_key_id']}/{stamp[:8]}/{REGION}/s3/aws4_request",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": "600",
            "X-Amz-SignedHeaders": "host",
        }
    )
    canonical = f"{method}\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    return f"{path}?{query}&X-Amz-Signature={_sign(key['secret_access_key'], stamp, canonical)}"


def signed_headers(
    key: Mapping[str, str],
    method: str,
    path: str,
    host: str,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> dict[str, str]:
    """Return the headers of a request that is signed over `host`, every other header and its body's hash."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    sent = {
        "host": host,
        "x-amz-date": stamp,
        "x-amz-content-sha256": sha256(body).hexdigest(),
        **{name.lower(): value for name, value in (headers or {}).items()},
    }
    names = ";".join(sorted(sent))
    lines = "".join(f"{name}:{sent[name]}\n" for name in sorted(sent))
    canonical = f"{method}\n{path}\n{_query(params or {})}\n{lines}\n{names}\n{sent['x-amz-content-sha256']}"
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    signature = _sign(key["secret_access_key"], stamp, canonical)
    credential = f"Credential={key['access_key_id']}/{scope}"
    sent["authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
    return sent
