"""Setting what is set on a bucket: a record of the vault for each aspect. Knows no XML and judges no value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import trio

from meshhold.registry.record import Kind
from meshhold.rules.bucket import Aspect, pack_rule
from meshhold.store.directory import Bucket, Directory


class BucketRulesKeeper:
    """Sets aspects of buckets, durably and for all nodes of the vault; reading is `Bucket.rules`."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._changes = trio.Lock()

    async def set(self, bucket: Bucket, aspect: Aspect, value: Any) -> None:
        """Let one aspect of the bucket's rules be `value`, a value of its field in `BucketRules`.

        Durable here when this returns; other nodes hear of it within seconds, and of two settings the later one stays.
        """
        rules = replace(bucket.rules, **{aspect: value})
        async with self._changes:
            packed = pack_rule(aspect, rules)
            key = f"{bucket.id}/{aspect}"
            if packed is None:
                if self._directory.registry.get(Kind.RULES, key) is not None:
                    await self._directory.write(self._directory.vault_deletion(bucket.keys, Kind.RULES, key))
                return
            private = {"value": packed}
            await self._directory.write(
                self._directory.vault_record(bucket.keys, Kind.RULES, key, public={}, private=private)
            )
