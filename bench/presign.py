"""Which URL proves who asks? SigV4 in the query string; knows no socket and no clock: callers pass `now`.

Source: AWS, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)". The payload is unsigned,
so one URL serves any body, and a URL for a key of fixed length has a fixed length.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

EXPIRES_S: Final = 86_400  # longer than any run
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a bucket is served and which credentials open it."""

    port: int
    bucket: str
    region: str
    access_key_id: str
    secret_access_key: str

    @property
    def host(self) -> str:
        """Value of the Host header."""
        return f"127.0.0.1:{self.port}"


class Presigner:
    """Signs many requests of one endpoint at one moment, with the signing key derived once."""

    def __init__(self, endpoint: Endpoint, now: datetime) -> None:
        self._endpoint = endpoint
        self._time = now.strftime("%Y%m%dT%H%M%SZ")
        date = self._time[:8]
        self._scope = f"{date}/{endpoint.region}/s3/aws4_request"
        key = f"AWS4{endpoint.secret_access_key}".encode()
        for word in (date, endpoint.region, "s3", "aws4_request"):
            key = hmac.digest(key, word.encode(), "sha256")
        self._key = key

    def target(self, method: str, key: str, query: Mapping[str, str] | None = None) -> str:
        """Return the request target (path and signed query) for `key` of the bucket; `""` is the bucket itself."""
        path = quote(f"/{self._endpoint.bucket}" + (f"/{key}" if key else ""))
        fields = {
            **(query or {}),
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{self._endpoint.access_key_id}/{self._scope}",
            "X-Amz-Date": self._time,
            "X-Amz-Expires": str(EXPIRES_S),
            "X-Amz-SignedHeaders": "host",
        }
        pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in fields.items())
        canonical_query = "&".join(f"{name}={value}" for name, value in pairs)
        host = f"host:{self._endpoint.host}\n"
        canonical = f"{method}\n{path}\n{canonical_query}\n{host}\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"{_ALGORITHM}\n{self._time}\n{self._scope}\n{digest}"
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        return f"{path}?{canonical_query}&X-Amz-Signature={signature}"
