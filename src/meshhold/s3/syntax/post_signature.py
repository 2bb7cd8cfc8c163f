"""Who signed a form's policy? AWS Signature Version 4, and for policies alone the older form. Knows no secret's home.

The older form (`AWSAccessKeyId`, `signature`: HMAC-SHA1 of the policy with the secret itself) is refused everywhere
else. S3 still takes it for forms in its older regions, and form builders of that age are in use. It lets nobody do
more: what it signs is the policy, which names bucket, fields and expiry, and an HMAC over SHA-1 is not forged.
Source: Amazon S3 API reference, "Authenticating Requests in Browser-Based Uploads Using POST", both versions.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.sigv4 import ALGORITHM, mismatch, parse_timestamp, scope_flaw, signing_key

_FIELDS: Final = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")
_OLD_FIELDS: Final = ("awsaccesskeyid", "signature")
_SHOWN: Final = {"x-amz-algorithm": "X-Amz-Algorithm", "x-amz-credential": "X-Amz-Credential", "policy": "policy",
                 "x-amz-date": "X-Amz-Date", "x-amz-signature": "X-Amz-Signature",
                 "awsaccesskeyid": "AWSAccessKeyId", "signature": "Signature"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FormClaim:
    """What a form says of its signature. `scope_date` is `""` for the older form."""

    access_key_id: str
    signature: str
    policy: str
    scope_date: str = ""
    region: str = ""


def parse_form_claim(fields: Mapping[str, str], region: str) -> FormClaim | None:
    """Return what a form (lowercase names) claims, or None for one without any signature. Proves nothing: see `verify`.

    Errors: `InvalidArgument` for a field that is missing or malformed; `InvalidToken`.
    """
    modern = [name for name in _FIELDS if name in fields]
    old = [name for name in _OLD_FIELDS if name in fields]
    if not modern and not old and "policy" not in fields:
        return None
    if modern and old:
        raise S3Error("InvalidArgument", "Only one auth mechanism allowed: remove the fields of the other signature.")
    for name in ("policy", *(_OLD_FIELDS if old else _FIELDS)):
        if name not in fields:
            _refuse_argument(
                name,
                "",
                f"Bucket POST must contain a field named '{_SHOWN[name]}'.  If it is specified, please check the order "
                "of the fields.",
            )
    if "x-amz-security-token" in fields:
        raise S3Error(
            "InvalidToken",
            "The provided token is malformed or otherwise invalid: session tokens are not known here; use an access "
            "key of this store.",
        )
    if old:
        return FormClaim(fields["awsaccesskeyid"], fields["signature"], fields["policy"])
    return _modern_claim(fields, region)


def _modern_claim(fields: Mapping[str, str], region: str) -> FormClaim:
    if fields["x-amz-algorithm"] != ALGORITHM:
        _refuse_argument("x-amz-algorithm", fields["x-amz-algorithm"], f'X-Amz-Algorithm only supports "{ALGORITHM}"')
    credential, date = fields["x-amz-credential"], fields["x-amz-date"]
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or not parts[0]:
        _refuse_argument(
            "x-amz-credential", credential, "Error parsing the X-Amz-Credential parameter: it is mal-formed."
        )
    flaw = scope_flaw(parts, region)
    if flaw:
        _refuse_argument("x-amz-credential", credential, f"Error parsing the X-Amz-Credential parameter; {flaw}")
    if parse_timestamp(date) is None or not date.startswith(parts[1]):
        _refuse_argument(
            "x-amz-date",
            date,
            "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\", on the credential's day",
        )
    return FormClaim(parts[0], fields["x-amz-signature"], fields["policy"], parts[1], parts[2])


def verify_form(claim: FormClaim, secret: str) -> None:
    """Return if `secret` signed the policy. Compares in constant time. Errors: `SignatureDoesNotMatch`."""
    policy = claim.policy.encode()
    if claim.scope_date:
        key = signing_key(secret, claim.scope_date, claim.region)
        expected = hmac.digest(key, policy, "sha256").hex().encode()
    else:
        expected = base64.b64encode(hmac.digest(secret.encode(), policy, "sha1"))
    if not hmac.compare_digest(expected, claim.signature.encode("utf-8", "replace")):
        raise mismatch(claim.access_key_id, claim.signature, claim.policy)


def _refuse_argument(name: str, value: str, message: str) -> NoReturn:
    raise S3Error("InvalidArgument", message, fields={"ArgumentName": _SHOWN[name], "ArgumentValue": value})
