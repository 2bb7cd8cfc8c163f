"""Where does a bucket's website send a request? Index, error document, redirects. Knows no listener and no object.

Source: Amazon S3 API reference, `WebsiteConfiguration`; user guide, "Configuring advanced conditional redirects".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Final
from urllib.parse import quote

from meshhold.errors import InvalidError, UnknownFormatError

RULES_MAX: Final = 50  # S3's own limit
KEY_LENGTH_MAX: Final = 1024  # S3's limit of a key
_HOST: Final = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._~:/\[\]%@!$&'()*+,;=?-]{0,1023}\Z")  # S3 lets a path follow
_PROTOCOLS: Final = ("", "http", "https")


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where to: each part that is `""` stays as it was asked for. `status` is one of HTTP's 3xx.

    `key` replaces the whole key, `key_prefix` what the rule's own prefix matched; at most one of them is given.
    """

    host: str = ""
    protocol: str = ""
    key: str | None = None
    key_prefix: str | None = None
    status: int = 301


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """Requests for keys that begin with `prefix` are redirected; with `error`, those that end in that status."""

    redirect: Redirect
    prefix: str = ""
    error: int = 0


@dataclass(frozen=True, slots=True)
class Website:
    """What a website is made of. `index` is the name that a folder's document has; `error` is a key, `""` for none.

    With `everywhere`, each request is redirected there, and nothing else is given.
    """

    index: str = ""
    error: str = ""
    everywhere: Redirect | None = None
    rules: tuple[RoutingRule, ...] = ()

    def find_redirect(self, key: bytes, error: int = 0) -> tuple[Redirect, bytes] | None:
        """Return what the first fitting rule says, and the key that it leads to.

        `error` is the status that the request ended in, 0 before it was tried.
        """
        if self.everywhere is not None:
            return self.everywhere, key
        for rule in self.rules:
            prefix = rule.prefix.encode()
            if rule.error == error and key.startswith(prefix):
                return rule.redirect, _moved(rule.redirect, key, prefix)
        return None

    def document_of(self, key: bytes) -> bytes:
        """Return the key that is served for `key`: a folder's index for a folder, else itself."""
        return key + self.index.encode() if self.index and is_folder(key) else key


def is_folder(key: bytes) -> bool:
    """Tell whether a key names a folder (or the root) rather than a document."""
    return not key or key.endswith(b"/")


def _moved(redirect: Redirect, key: bytes, prefix: bytes) -> bytes:
    if redirect.key is not None:
        return redirect.key.encode()
    if redirect.key_prefix is not None:
        return redirect.key_prefix.encode() + key[len(prefix) :]
    return key


def location(redirect: Redirect, key: bytes, asked_host: str, query: bytes = b"") -> str:
    """Return the `Location` of a redirect. Without a protocol it names none: the browser stays with the one it used."""
    path = "/" + quote(key, safe="/~!$&'()*+,;=:@")
    if path.startswith("//"):  # which would name another host
        path = "/%2F" + path[2:]
    if query:
        path += "?" + query.decode("latin-1")
    host = redirect.host or (asked_host if redirect.protocol else "")
    scheme = f"{redirect.protocol}:" if redirect.protocol else ""
    return f"{scheme}//{host.rstrip('/')}{path}" if host else path


# -- what S3 takes --------------------------------------------------------------------------------------------------


def check_website(site: Website) -> Website:
    """Return the website if S3 takes it. Errors: `InvalidError`, in S3's words."""
    if site.everywhere is not None:
        if site.index or site.error or site.rules:
            raise InvalidError("RedirectAllRequestsTo cannot be provided in conjunction with other Routing Rules.")
        if not site.everywhere.host:
            raise InvalidError("RedirectAllRequestsTo needs a HostName.")
        _check_redirect(site.everywhere)
        return site
    if not site.index:
        raise InvalidError("A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty")
    if "/" in site.index or len(site.index.encode()) > KEY_LENGTH_MAX:
        raise InvalidError("The IndexDocument Suffix is not well formed: it is a name without '/'.")
    if len(site.error.encode()) > KEY_LENGTH_MAX:
        raise InvalidError(f"The ErrorDocument Key is not well formed: it has at most {KEY_LENGTH_MAX} bytes.")
    if len(site.rules) > RULES_MAX:
        raise InvalidError(f"Routing rules number must not exceed {RULES_MAX}.")
    for rule in site.rules:
        _check_redirect(rule.redirect)
        if rule.error and not 400 <= rule.error <= 599:
            raise InvalidError(f"The provided HTTP error code ({rule.error}) is not valid. Valid codes are 4XX or 5XX.")
    return site


def _check_redirect(redirect: Redirect) -> None:
    if redirect.key is not None and redirect.key_prefix is not None:
        raise InvalidError("You can only define ReplaceKeyPrefix or ReplaceKey but not both.")
    if redirect.protocol not in _PROTOCOLS:
        raise InvalidError(
            "Invalid protocol, protocol can be http or https. If not defined the protocol will be selected "
            "automatically."
        )
    if redirect.host and not _HOST.match(redirect.host):
        raise InvalidError("The HostName is not well formed: it is a host, without protocol.")
    if not 301 <= redirect.status <= 399 or redirect.status == 304:
        raise InvalidError(
            f"The provided HTTP redirect code ({redirect.status}) is not valid. Valid codes are 3XX except 300."
        )


# -- stored form ----------------------------------------------------------------------------------------------------


def pack_website(site: Website) -> Any:
    """Return the stored form."""
    everywhere = None if site.everywhere is None else _pack_redirect(site.everywhere)
    rules = [[_pack_redirect(rule.redirect), rule.prefix, rule.error] for rule in site.rules]
    return [site.index, site.error, everywhere, rules]


def unpack_website(packed: Any) -> Website:
    """Undo `pack_website`. Errors: `InvalidError`, `UnknownFormatError`, or what unpacking makes of hostile values."""
    index, error, everywhere, rules = packed
    read = [
        RoutingRule(_unpack_redirect(redirect), _typed(prefix, str), _typed(status, int))
        for redirect, prefix, status in rules
    ]
    whole = None if everywhere is None else _unpack_redirect(everywhere)
    return check_website(Website(_typed(index, str), _typed(error, str), whole, tuple(read)))


def _pack_redirect(redirect: Redirect) -> list[Any]:
    return [getattr(redirect, field.name) for field in fields(redirect)]


def _unpack_redirect(packed: Any) -> Redirect:
    host, protocol, key, prefix, status = packed
    for text in (key, prefix):
        if text is not None:
            _typed(text, str)
    return Redirect(_typed(host, str), _typed(protocol, str), key, prefix, _typed(status, int))


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise UnknownFormatError(f"a website's field is not a {kind.__name__}")
    return value
