"""What a request says before its body, and who sent it. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from meshhold.s3.syntax.sigv4 import Head


@dataclass(slots=True)
class RequestHead(Head):
    """A head with what HTTP itself makes of it.

    `version` is that of HTTP, `peer` the address that connected and `port` the one that it reached; `""` and None where
    they are not known. `length` is the announced length of the body in bytes, 0 for one `is_chunked` or none at all.
    `keep_alive` says that another request may follow, `expects_continue` that the body waits for `100 Continue`.
    """

    version: str = "1.1"
    peer: str = ""
    port: int | None = None
    length: int = 0
    is_chunked: bool = False
    keep_alive: bool = True
    expects_continue: bool = False
