"""Which bucket does a host name stand for? Knows no bucket and no request."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def bucket_of(host: str, hosts: Mapping[str, str], root_domain: str, is_known: Callable[[str], bool]) -> str:
    """Return the name of the bucket behind a `Host` header, `""` where it names none.

    What the operator mapped goes first; then a bucket of that very name; then `bucket.root_domain`. `hosts` has names
    in lower case; `is_known` tells whether there is a bucket of a name.
    """
    name = host_name(host)
    mapped = hosts.get(name)
    if mapped is not None:
        return mapped
    if is_known(name):
        return name
    bucket, dot, rest = name.rpartition(f".{root_domain}") if root_domain else ("", "", "")
    return bucket if dot and not rest else ""


def host_name(host: str) -> str:
    """Return the name in a `Host` header: without port and last dot, in lower case."""
    name = host.strip().lower()
    bare, colon, port = name.rpartition(":")
    if colon and port.isdigit():
        name = bare
    return name.removesuffix(".")
