"""Which S3 error code says what went wrong? Knows codes, HTTP statuses and the error document; knows no request."""

from __future__ import annotations

from typing import Final

from meshhold import errors
from meshhold.s3.syntax.escape import escape

STATUSES: Final[dict[str, int]] = {
    "AccessControlListNotSupported": 400,
    "AccessDenied": 403,
    "AccessForbidden": 403,
    "AuthorizationHeaderMalformed": 400,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "BadRequest": 400,
    "BucketAlreadyExists": 409,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "ConditionalRequestConflict": 409,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "IllegalLocationConstraintException": 400,
    "IllegalVersioningConfigurationException": 400,
    "IncompleteBody": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidBucketAclWithObjectOwnership": 400,
    "InvalidBucketName": 400,
    "InvalidBucketState": 409,
    "InvalidChunkSizeError": 400,
    "InvalidDigest": 400,
    "InvalidEncryptionAlgorithmError": 400,
    "InvalidLocationConstraint": 400,
    "InvalidObjectState": 403,
    "InvalidPart": 400,
    "InvalidPartNumber": 416,
    "InvalidPartOrder": 400,
    "InvalidPolicyDocument": 400,
    "InvalidRange": 416,
    "InvalidRedirectLocation": 400,
    "InvalidRequest": 400,
    "InvalidRetentionPeriod": 400,
    "InvalidStorageClass": 400,
    "InvalidTag": 400,
    "InvalidToken": 400,
    "InvalidURI": 400,
    "KeyTooLongError": 400,
    "MalformedACLError": 400,
    "MalformedPOSTRequest": 400,
    "MalformedPolicy": 400,
    "MalformedTrailerError": 400,
    "MalformedXML": 400,
    "MaxMessageLengthExceeded": 400,
    "MaxPostPreDataLengthExceededError": 400,
    "MetadataTooLarge": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "MissingRequestBodyError": 400,
    "MissingSecurityHeader": 400,
    "NoSuchBucket": 404,
    "NoSuchBucketPolicy": 404,
    "NoSuchCORSConfiguration": 404,
    "NoSuchKey": 404,
    "NoSuchLifecycleConfiguration": 404,
    "NoSuchObjectLockConfiguration": 404,
    "NoSuchPublicAccessBlockConfiguration": 404,
    "NoSuchTagSet": 404,
    "NoSuchUpload": 404,
    "NoSuchVersion": 404,
    "NoSuchWebsiteConfiguration": 404,
    "NotImplemented": 501,
    "NotModified": 304,
    "ObjectLockConfigurationNotFoundError": 404,
    "OperationAborted": 409,
    "OwnershipControlsNotFoundError": 404,
    "PreconditionFailed": 412,
    "QuotaExceeded": 403,
    "RequestHeaderSectionTooLarge": 400,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServerSideEncryptionConfigurationNotFoundError": 404,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "TooManyBuckets": 400,
    "UnexpectedContent": 400,
    "UnresolvableGrantByEmailAddress": 400,
    "UserKeyMustBeSpecified": 400,
    "XAmzContentSHA256Mismatch": 400,
}
"""HTTP status by code. Source: Amazon S3 API reference, "Error responses"."""


class S3Error(Exception):
    """An answer that is an error document.

    `code` is one of `STATUSES` (another one needs `status`), `message` tells the user what to change, `headers` go into
    the answer, `fields` are further elements of the document (element name → text).
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status = STATUSES[code] if status is None else status
        self.headers = headers or {}
        self.fields = fields or {}

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


# The nearest ancestor in this table decides, so a new error class has an answer before anyone names it here.
_CODES: Final[dict[type[errors.MeshHoldError], str]] = {
    errors.MeshHoldError: "InternalError",
    errors.RefusedError: "InvalidRequest",
    errors.InvalidError: "InvalidArgument",
    errors.DeniedError: "AccessDenied",
    errors.ExpiredKeyError: "InvalidAccessKeyId",
    errors.QuotaExceededError: "QuotaExceeded",
    errors.NotFoundError: "NoSuchKey",
    errors.NoSuchVaultError: "NoSuchBucket",
    errors.NoSuchBucketError: "NoSuchBucket",
    errors.NoSuchUploadError: "NoSuchUpload",
    errors.NoSuchVersionError: "NoSuchVersion",
    errors.NoSuchAccessKeyError: "InvalidAccessKeyId",
    errors.ConflictError: "OperationAborted",
    errors.BucketNotEmptyError: "BucketNotEmpty",
    errors.AliasTakenError: "BucketAlreadyExists",
    errors.PreconditionFailedError: "PreconditionFailed",
    errors.InvalidTagError: "InvalidTag",
    errors.LockedError: "AccessDenied",
    errors.InvalidPartError: "InvalidPart",
    errors.PartOrderError: "InvalidPartOrder",
    errors.PartTooSmallError: "EntityTooSmall",
    errors.TooLargeError: "EntityTooLarge",
    errors.MetadataTooLargeError: "MetadataTooLarge",
    errors.DigestMismatchError: "BadDigest",
    errors.IncompleteBodyError: "IncompleteBody",
    errors.UnavailableError: "ServiceUnavailable",
    errors.OverloadedError: "SlowDown",
    errors.ContentionError: "SlowDown",
}


def to_s3(error: errors.MeshHoldError, *, is_conditional: bool = False) -> S3Error:
    """Return the S3 answer for one of this program's errors. `is_conditional`: it met a write with a condition.

    The message is the error's own (cause and fix). What is refused is 4xx, what may succeed later 503, damage 500; a
    conditional write that others kept overtaking is 409, as S3 answers it.
    """
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    fields: dict[str, str] = {}
    if isinstance(error, errors.AliasTakenError) and error.owned:
        code = "BucketAlreadyOwnedByYou"
    elif isinstance(error, errors.ContentionError) and is_conditional:
        code = "ConditionalRequestConflict"
    elif isinstance(error, errors.PreconditionFailedError):
        fields["Condition"] = error.condition
    elif isinstance(error, errors.DigestMismatchError) and error.header.lower() == "x-amz-content-sha256":
        code = "XAmzContentSHA256Mismatch"
    return S3Error(code, str(error), fields=fields)


def render_error(error: S3Error, resource: str, request_id: str, host_id: str) -> bytes:
    """Return the error document; `resource` is the request's path, the ids are those of the answer's headers."""
    fields = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in error.fields.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message>{fields}"
        f"<Resource>{escape(resource)}</Resource><RequestId>{escape(request_id)}</RequestId>"
        f"<HostId>{escape(host_id)}</HostId></Error>"
    ).encode()
