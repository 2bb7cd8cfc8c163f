"""Does a bucket keep earlier versions? Knows no version."""

from __future__ import annotations

from enum import StrEnum


class Versioning(StrEnum):
    """S3's states of a bucket. Once enabled, it can only be suspended. Stored: never rename."""

    NEVER = ""
    ENABLED = "Enabled"
    SUSPENDED = "Suspended"
