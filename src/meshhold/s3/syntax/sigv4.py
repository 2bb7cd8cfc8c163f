"""Who signed this request, and is the signature right? AWS Signature Version 4 by header and by query.

Knows no secret's home and no clock: callers pass the signing key and `now_s`. Nothing is normalised: S3 signs a path
as it is. Source: Amazon S3 API reference, "Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import hmac
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Final, NoReturn

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.query import Query, canonical_path, canonical_query

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SKEW_MAX_S: Final = 15 * 60  # S3's own limit
EXPIRES_MAX_S: Final = 7 * 24 * 3600  # S3's own limit
SIGNED_HEADERS_MAX: Final = 128  # each costs one look-up; real clients sign about ten
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
PAYLOAD_LITERALS: Final = frozenset(
    {UNSIGNED_PAYLOAD, STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER}
)
_HEX: Final = frozenset(string.hexdigits)
_SHAPE: Final = '"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request"'


@dataclass(slots=True)
class Head:
    """A request before its body: names of headers in lower case, values as they came; path and query undecoded."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: list[tuple[bytes, bytes]]
    _by_name: dict[bytes, bytes] | None = field(default=None, init=False, repr=False, compare=False)
    _query: Query | None = field(default=None, init=False, repr=False, compare=False)

    def by_name(self) -> dict[bytes, bytes]:
        """Return values by name; those of a repeated name are joined by `,`. Made once: do not change it."""
        if self._by_name is None:
            found: dict[bytes, bytes] = {}
            for name, text in self.headers:
                found[name] = text if name not in found else found[name].strip() + b"," + text.strip()
            self._by_name = found
        return self._by_name

    def query(self) -> Query:
        """Return the decoded query, parsed once. Errors: `InvalidURI`."""
        if self._query is None:
            self._query = Query(self.raw_query)
        return self._query


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its signature. `timestamp` is `YYYYMMDDTHHMMSSZ`, `signature` as it was sent.

    `payload_hash` is 64 hex digits or one of `PAYLOAD_LITERALS`; `expires_s` is 0 unless `presigned`.
    """

    access_key_id: str
    scope_date: str
    region: str
    signed_headers: tuple[str, ...]
    signature: str
    timestamp: str
    payload_hash: str
    presigned: bool = False
    expires_s: int = 0
    service: str = "s3"

    @property
    def scope(self) -> str:
        """The credential scope, which names what the signing key is good for."""
        return f"{self.scope_date}/{self.region}/{self.service}/aws4_request"


def parse_claim(head: Head, now_s: float, region: str | None = None) -> Claim | None:
    """Return what the request claims, or None for one without any signature. Proves nothing: see `verify`.

    Checks all that needs no secret: form, date and expiry against `now_s` (seconds since 1970), the region where one
    is given, that `host` and every `x-amz-*` header is signed.
    Errors: S3's own code and message for each.
    """
    authorization = head.by_name().get(b"authorization")
    query = _query_with_signature(head)
    if query is None:
        if authorization is None or not authorization.strip():  # S3 takes an empty one for none
            return None
        claim = _header_claim(head, authorization, now_s, region)
    else:
        if authorization is not None:
            raise S3Error(
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
                "parameter or the Authorization header should be specified",
                fields={"ArgumentName": "Authorization"},
            )
        claim = _query_claim(head, query, now_s, region)
    _check_signed(head, claim.signed_headers)
    return claim


def anonymous_payload(head: Head) -> str:
    """Return the payload hash of a request without a signature. Errors: `InvalidRequest` where it needs a key."""
    raw = head.by_name().get(b"x-amz-content-sha256")
    payload = UNSIGNED_PAYLOAD if raw is None else _payload(raw)
    if payload in {STREAMING_SIGNED, STREAMING_SIGNED_TRAILER}:
        raise S3Error(
            "InvalidRequest",
            "Anonymous requests don't support this x-amz-content-sha256 value. Please use UNSIGNED-PAYLOAD or "
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER.",
        )
    return payload


# -- by header ------------------------------------------------------------------------------------------------------


def _header_claim(head: Head, raw: bytes, now_s: float, region: str | None) -> Claim:
    try:
        mechanism, space, rest = raw.decode("ascii").strip().partition(" ")
    except UnicodeDecodeError:
        _malformed("it holds characters that are not ASCII.")
    if mechanism != ALGORITHM:
        _refuse_mechanism(mechanism, spaced=bool(space))
    found: dict[str, str] = {}
    for component in rest.split(","):
        name, equals, text = component.strip().partition("=")
        if not equals or name in found or name not in {"Credential", "SignedHeaders", "Signature"}:
            _malformed(f'the authorization component "{component.strip()[:64]}" is malformed.')
        found[name] = text
    for name in ("Credential", "SignedHeaders", "Signature"):
        if name not in found:
            _malformed(f"missing {name}.")
    parts = found["Credential"].rsplit("/", 4)
    if len(parts) != 5 or not parts[0]:
        _malformed(f"the Credential is mal-formed; expecting {_SHAPE}.")
    flaw = scope_flaw(parts, region)
    if flaw:
        _malformed(flaw, {"Region": region} if region else None)
    headers = head.by_name()
    payload = headers.get(b"x-amz-content-sha256")
    if payload is None:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    timestamp, signed_s = _header_date(headers)
    if abs(now_s - signed_s) > SKEW_MAX_S:
        raise S3Error(
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            fields={
                "RequestTime": timestamp,
                "ServerTime": _iso(now_s),
                "MaxAllowedSkewMilliseconds": str(SKEW_MAX_S * 1000),
            },
        )
    if parts[1] != timestamp[:8]:
        _malformed(f'Invalid credential date "{parts[1]}". This date is not the same as X-Amz-Date: "{timestamp}".')
    signed = tuple(found["SignedHeaders"].split(";"))
    _refuse_session_token(b"x-amz-security-token" in headers)
    return Claim(parts[0], parts[1], parts[2], signed, found["Signature"], timestamp, _payload(payload))


def _refuse_mechanism(mechanism: str, *, spaced: bool) -> NoReturn:
    if mechanism.startswith("AWS"):
        raise S3Error(
            "InvalidRequest",
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        )
    message = (
        "Unsupported Authorization Type"
        if spaced
        else "Authorization header is invalid -- one and only one ' ' (space) required."
    )
    raise S3Error("InvalidArgument", message, fields={"ArgumentName": "Authorization"})


def _malformed(flaw: str, fields: dict[str, str] | None = None) -> NoReturn:
    raise S3Error("AuthorizationHeaderMalformed", f"The authorization header is malformed; {flaw}", fields=fields)


def _header_date(headers: dict[bytes, bytes]) -> tuple[str, float]:
    """Return the signing time as it is signed, and as seconds since 1970."""
    stamp = headers.get(b"x-amz-date") or headers.get(b"date") or b""
    text = stamp.decode("latin-1").strip()
    signed_s = parse_timestamp(text)
    if signed_s is not None:
        return text, signed_s
    try:
        moment = parsedate_to_datetime(text)
        signed_s = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        return _basic(signed_s), signed_s
    except (ValueError, TypeError, OverflowError, IndexError):
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from None


# -- by query -------------------------------------------------------------------------------------------------------


def _query_with_signature(head: Head) -> Query | None:
    raw = head.raw_query
    if b"X-Amz-" in raw:
        query = head.query()
        if query.has("X-Amz-Algorithm") or query.has("X-Amz-Signature") or query.has("X-Amz-Credential"):
            return query
    elif b"Signature=" in raw and b"AWSAccessKeyId=" in raw:
        _refuse_mechanism("AWS", spaced=True)
    return None


def _query_claim(head: Head, query: Query, now_s: float, region: str | None) -> Claim:
    found: dict[str, str] = {}
    for name in ("Algorithm", "Credential", "Signature", "Date", "SignedHeaders", "Expires"):
        values = query.all(f"X-Amz-{name}")
        if len(values) != 1:
            _refuse_query(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, "
                "X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
            )
        found[name] = values[0]
    if found["Algorithm"] != ALGORITHM:
        _refuse_query('X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"')
    parts = found["Credential"].rsplit("/", 4)
    if len(parts) != 5 or not parts[0]:
        _refuse_query(
            f"Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; expecting {_SHAPE}."
        )
    flaw = scope_flaw(parts, region)
    if flaw:
        _refuse_query(f"Error parsing the X-Amz-Credential parameter; {flaw}", {"Region": region} if region else None)
    timestamp = found["Date"]
    signed_s = parse_timestamp(timestamp)
    if signed_s is None:
        _refuse_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    if parts[1] != timestamp[:8]:
        _refuse_query(f'Invalid credential date "{parts[1]}". This date is not the same as X-Amz-Date: "{timestamp}".')
    expires_s = _expiry(found["Expires"])
    _check_lifetime(signed_s, expires_s, now_s)
    _refuse_session_token(query.has("X-Amz-Security-Token"))
    payload = head.by_name().get(b"x-amz-content-sha256") or (query.get("X-Amz-Content-Sha256") or "").encode()
    signed = tuple(found["SignedHeaders"].split(";"))
    return Claim(
        parts[0], parts[1], parts[2], signed, found["Signature"], timestamp,
        _payload(payload or UNSIGNED_PAYLOAD.encode()), presigned=True, expires_s=expires_s,
    )  # fmt: skip


def _refuse_query(message: str, fields: dict[str, str] | None = None) -> NoReturn:
    raise S3Error("AuthorizationQueryParametersError", message, fields=fields)


def _expiry(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        _refuse_query("X-Amz-Expires should be a number")
    if digits != text:
        _refuse_query("X-Amz-Expires must be non-negative")
    if len(digits) > 9 or int(digits) > EXPIRES_MAX_S:
        _refuse_query(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than "
            "604800 seconds"
        )
    return int(digits)


def _check_lifetime(signed_s: float, expires_s: int, now_s: float) -> None:
    if signed_s > now_s + SKEW_MAX_S:
        raise S3Error("AccessDenied", "Request is not yet valid", fields={"ServerTime": _iso(now_s)})
    if now_s > signed_s + expires_s:
        fields = {
            "X-Amz-Expires": str(expires_s), "Expires": _iso(signed_s + expires_s), "ServerTime": _iso(now_s),
        }  # fmt: skip
        raise S3Error("AccessDenied", "Request has expired", fields=fields)


# -- both -----------------------------------------------------------------------------------------------------------


def scope_flaw(parts: list[str], region: str | None) -> str:
    """Return what is wrong with `[id, date, region, service, terminal]`, or `""`."""
    _, date, given, service, terminal = parts
    if terminal != "aws4_request":
        return f'incorrect terminal "{terminal}". This endpoint uses "aws4_request".'
    if service != "s3":
        return f'incorrect service "{service}". This endpoint belongs to "s3".'
    if len(date) != 8 or not (date.isascii() and date.isdigit()):
        return f'incorrect date format "{date}". This date in the credential must be in the format "yyyyMMdd".'
    if not given or (region is not None and given != region):
        return f"the region '{given}' is wrong; expecting '{region or 'a region'}'"
    return ""


def _payload(raw: bytes) -> str:
    text = raw.decode("latin-1").strip()
    if text in PAYLOAD_LITERALS or (len(text) == 64 and _HEX.issuperset(text)):
        return text
    raise S3Error(
        "InvalidArgument",
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
        fields={"ArgumentName": "x-amz-content-sha256", "ArgumentValue": text[:128]},
    )


def _refuse_session_token(present: bool) -> None:
    if present:
        raise S3Error(
            "InvalidToken",
            "The provided token is malformed or otherwise invalid: session tokens are not known here; use an access "
            "key of this store and unset AWS_SESSION_TOKEN.",
        )


def _check_signed(head: Head, signed: tuple[str, ...]) -> None:
    """Refuse an unsigned `host` or `x-amz-*`: an unsigned header could be added by whoever holds the request."""
    if len(signed) > SIGNED_HEADERS_MAX:
        _malformed(f"SignedHeaders names {len(signed)} headers; {SIGNED_HEADERS_MAX} are allowed.")
    names = {name.encode("latin-1", "replace") for name in signed}
    missing = [name for name in head.by_name() if name not in names and (name == b"host" or name[:6] == b"x-amz-")]
    if b"host" not in names and b"host" not in missing:
        missing.append(b"host")
    if missing:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            fields={"HeadersNotSigned": b", ".join(missing).decode("latin-1")},
        )


def parse_timestamp(text: str) -> float | None:
    """Return the seconds since 1970 of `YYYYMMDDTHHMMSSZ`, or None for any other text."""
    if len(text) != 16 or text[8] != "T" or text[15] != "Z" or not text.isascii():
        return None
    day, clock = text[:8], text[9:15]
    if not (day.isdigit() and clock.isdigit()):
        return None
    try:
        return datetime(
            int(day[:4]), int(day[4:6]), int(day[6:]), int(clock[:2]), int(clock[2:4]), int(clock[4:]), tzinfo=UTC
        ).timestamp()
    except ValueError:
        return None


def _basic(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y%m%dT%H%M%SZ")


def _iso(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- the proof ------------------------------------------------------------------------------------------------------


def verify(claim: Claim, head: Head, signing_key: bytes, port: int | None = None) -> None:
    """Return if the claim's signature is the one that `signing_key` gives for this request.

    A signature over `Host` without its port is accepted for the same host, and one over `Host` with `port` where a
    proxy dropped it. Compares in constant time.
    Errors: `SignatureDoesNotMatch`, with what was signed here, so that a client's author can compare.
    """
    given = claim.signature.encode("latin-1", "replace")
    values = head.by_name()
    host = values.get(b"host", b"").strip()
    first = canonical_request(head, claim, host)
    if all(name.encode("latin-1", "replace") in values for name in claim.signed_headers):
        if hmac.compare_digest(_signature(claim, first, signing_key), given):
            return
        for other in _other_hosts(host, port):
            if hmac.compare_digest(_signature(claim, canonical_request(head, claim, other), signing_key), given):
                return
    raise mismatch(
        claim.access_key_id,
        claim.signature,
        string_to_sign(claim, first).decode("latin-1"),
        CanonicalRequest=first.decode("latin-1"),
    )


def mismatch(access_key_id: str, signature: str, signed: str, **fields: str) -> S3Error:
    """Return the refusal of a signature; `signed` is what it should have been over."""
    return S3Error(
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your key and signing "
        "method.",
        fields={"AWSAccessKeyId": access_key_id, "StringToSign": signed, "SignatureProvided": signature, **fields},
    )


def canonical_request(head: Head, claim: Claim, host: bytes) -> bytes:
    """Return the text whose hash is signed; `host` stands in for the request's own. An absent header is empty."""
    values = head.by_name()
    lines = [
        head.method.encode("latin-1", "replace"),
        canonical_path(head.raw_path),
        canonical_query(head.raw_query, b"X-Amz-Signature") if head.raw_query else b"",
    ]
    for name in claim.signed_headers:
        raw_name = name.encode("latin-1", "replace")
        lines.append(raw_name + b":" + (host if name == "host" else _collapsed(values.get(raw_name, b""))))
    lines.append(b"")
    lines.append(";".join(claim.signed_headers).encode("latin-1", "replace"))
    lines.append(claim.payload_hash.encode())
    return b"\n".join(lines)


def string_to_sign(claim: Claim, canonical: bytes) -> bytes:
    """Return what the signing key is applied to."""
    return f"{ALGORITHM}\n{claim.timestamp}\n{claim.scope}\n{sha256(canonical).hexdigest()}".encode(
        "latin-1", "replace"
    )


def _signature(claim: Claim, canonical: bytes, key: bytes) -> bytes:
    return hmac.digest(key, string_to_sign(claim, canonical), "sha256").hex().encode()


def _collapsed(text: bytes) -> bytes:
    return b" ".join(text.split()) if b"  " in text or b"\t" in text else text.strip()


def _other_hosts(host: bytes, port: int | None) -> list[bytes]:
    bare, colon, digits = host.rpartition(b":")
    if colon and digits.isdigit():
        return [bare]
    return [b"%b:%d" % (host, port)] if port is not None else []


def signing_key(secret: str, date: str, region: str, service: str = "s3") -> bytes:
    """Derive the key that signs for one day (`YYYYMMDD`), region and service."""
    key = f"AWS4{secret}".encode()
    for step in (date, region, service, "aws4_request"):
        key = hmac.digest(key, step.encode("utf-8", "replace"), "sha256")
    return key


class SigningKeys:
    """Derived signing keys of recent requests: a derivation is four HMACs, and a client uses one key all day.

    Bounded by `limit` (one per access key, day and region; the oldest goes first). A changed secret has its own place,
    since the secret's hash is part of the name; the secret itself is not kept.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._keys: dict[tuple[str, bytes, str, str], bytes] = {}

    def get(self, access_key_id: str, secret: str, date: str, region: str) -> bytes:
        """Return the signing key, derived at most once while it has its place."""
        place = (access_key_id, sha256(secret.encode()).digest(), date, region)
        key = self._keys.get(place)
        if key is None:
            key = signing_key(secret, date, region)
            while len(self._keys) >= self._limit:
                del self._keys[next(iter(self._keys))]
            self._keys[place] = key
        return key

    def __len__(self) -> int:
        return len(self._keys)
