"""What is measured: the cases, the objects each needs, and the requests it sends. Knows no server and no driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.presign import Presigner

KIB: Final = 1024
MIB: Final = 1024 * KIB
SMALL: Final = (1, 16)
LARGE: Final = (1, 4)
LISTED: Final = 500
GIB_FREE_MIN: Final = 10  # a run of large PUTs writes up to 1.5 GiB, and stores free what was overwritten late


@dataclass(frozen=True, slots=True)
class Case:
    """One request, repeated. `size` is the body's (sent or received) in bytes; 0 where bytes say nothing.

    `prepared` objects are there before a GET or LIST. `distinct` keys bound a run of PUTs: small ones then begin again
    (an overwrite), large ones stop, so that a fast target cannot fill the disk.
    """

    name: str
    method: str
    size: int
    concurrencies: tuple[int, ...]
    prepared: int = 0
    distinct: int = 0
    query: tuple[tuple[str, str], ...] = ()

    @property
    def is_large(self) -> bool:
        """Tell whether one request takes a noticeable part of a round."""
        return self.size >= MIB

    @property
    def is_once(self) -> bool:
        """Tell whether the run stops after its last key."""
        return self.method == "DELETE" or (self.method == "PUT" and self.is_large)


_PAGE: Final = (("list-type", "2"), ("max-keys", str(LISTED)), ("prefix", "list500/"))
CASES: Final = (
    Case("put4k", "PUT", 4 * KIB, SMALL, distinct=20_000),
    Case("get4k", "GET", 4 * KIB, SMALL, prepared=LISTED),
    Case("put64k", "PUT", 64 * KIB, SMALL, distinct=10_000),
    Case("get64k", "GET", 64 * KIB, SMALL, prepared=256),
    Case("list500", "GET", 0, SMALL, prepared=LISTED, query=_PAGE),
    Case("delete4k", "DELETE", 0, SMALL, distinct=20_000),
    Case("put64m", "PUT", 64 * MIB, LARGE, distinct=24),
    Case("get64m", "GET", 64 * MIB, LARGE, prepared=4),
)


def prepared_keys(case: Case) -> list[str]:
    """Return the keys that a reading case reads or lists."""
    return [f"{case.name}/{number:06}" for number in range(case.prepared)]


def written_keys(case: Case, label: str) -> list[str]:
    """Return the keys that one run of a PUT or DELETE case uses; `label` (of fixed length) keeps runs apart."""
    return [f"{case.name}-{label}/{number:06}" for number in range(case.distinct)]


def request_targets(case: Case, label: str, signer: Presigner) -> list[str]:
    """Return the signed request targets of one run."""
    if case.query:
        return [signer.target("GET", "", dict(case.query))]
    keys = prepared_keys(case) if case.method == "GET" else written_keys(case, label)
    return [signer.target(case.method, key) for key in keys]


def page_key(number: int) -> str:
    """Return the key of one of very many objects; keys sort as their numbers do."""
    return f"photos/{number // 1000:05}/IMG_{number:08}.jpg"
