"""The one exception tree. Says what went wrong and what to do; knows no HTTP code and no exit code."""

from typing import Literal


class MeshHoldError(Exception):
    """Anything this program raises on purpose: `message` names the cause, `fix` what the user can do about it."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


# -- the request cannot be granted; repeating it changes nothing ----------------------------------------------------


class RefusedError(MeshHoldError):
    """The request is understood and will not be done."""


class CustomerKeyError(RefusedError):
    """Content that a client's own key hides, asked for without it or with another one; or a key for other content."""


class InvalidError(RefusedError):
    """An argument is malformed or out of range."""


class DeniedError(RefusedError):
    """The caller may not do this."""


class ExpiredKeyError(DeniedError):
    """The time for which the access key was minted is over."""


class NotFoundError(RefusedError):
    """The named thing does not exist."""


class QuotaExceededError(DeniedError):
    """The vault holds as much as its quota lets it; `fix` names the command that raises it."""


class ConflictError(RefusedError):
    """The named thing exists already, or is in a state that forbids the change."""


class NoSuchVaultError(NotFoundError):
    """No vault has this id, name or alias."""


class NoSuchBucketError(NotFoundError):
    """No vault carries this alias."""


class NoSuchObjectError(NotFoundError):
    """No object has this key."""


class DeleteMarkerError(NoSuchObjectError):
    """The version that is asked for, `version` as S3 calls it, is a delete marker, made at `modified_ms` since 1970.

    `is_named`: it was asked for by its id.
    """

    def __init__(self, message: str, version: str = "", modified_ms: int = 0, *, is_named: bool = False) -> None:
        super().__init__(message)
        self.version = version
        self.modified_ms = modified_ms
        self.is_named = is_named


class NoSuchVersionError(NotFoundError):
    """The object has no version with this id."""


class NoSuchUploadError(NotFoundError):
    """No multipart upload has this id: never begun, completed or aborted."""


class NoSuchAccessKeyError(NotFoundError):
    """No access key has this id."""


class BucketNotEmptyError(ConflictError):
    """A bucket that holds objects is not deleted."""


class AliasTakenError(ConflictError):
    """Another vault carries this alias. `owned` tells whether the caller's key has grants on that vault."""

    def __init__(self, message: str, fix: str = "", *, owned: bool = False) -> None:
        super().__init__(message, fix)
        self.owned = owned


class PreconditionFailedError(RefusedError):
    """A condition (`If-Match` …) does not hold. `condition` names the header."""

    def __init__(self, message: str, condition: str) -> None:
        super().__init__(message)
        self.condition = condition


class InvalidTagError(InvalidError):
    """A tag's key or value is not one that S3 takes, is given twice, or there are too many."""


class LockedError(RefusedError):
    """A retention or legal hold keeps this version as it is."""


class InvalidPartError(RefusedError):
    """A part named in a completion is absent or its ETag differs."""


class PartOrderError(RefusedError):
    """The parts of a completion are not in ascending order."""


class PartTooSmallError(RefusedError):
    """A part other than the last is smaller than the least part size."""


class TooLargeError(RefusedError):
    """A body or object exceeds a limit; the message names the setting."""


class MetadataTooLargeError(RefusedError):
    """User metadata exceeds its limit."""


class DigestMismatchError(RefusedError):
    """Received bytes do not have the digest that the sender announced. `header` names the announcement."""

    def __init__(self, message: str, header: str) -> None:
        super().__init__(message)
        self.header = header


class IncompleteBodyError(RefusedError):
    """The body ended before its announced length."""


class CallRefusedError(RefusedError):
    """The daemon, on its control socket, or a peer refused a call. `kind` is the name of the error that it met."""

    def __init__(self, message: str, fix: str = "", *, kind: str = "") -> None:
        super().__init__(message, fix)
        self.kind = kind


# -- the request may succeed later ----------------------------------------------------------------------------------


class UnavailableError(MeshHoldError):
    """Not now: nothing was acknowledged, the caller may retry."""


class OverloadedError(UnavailableError):
    """A limit of concurrent work is reached."""


class DaemonUnreachableError(UnavailableError):
    """No daemon answers on the control socket; `fix` is the command that starts it."""


class StorageFullError(UnavailableError):
    """The disk, or the configured capacity, has no room left."""


class StorageFailedError(UnavailableError):
    """The disk answered with an I/O error."""


class NoMajorityError(UnavailableError):
    """Too few index replicas answered; the message names the missing ones."""


class TooFewNodesError(UnavailableError):
    """Fewer reliable nodes are live than have to keep a chunk before a write is acknowledged."""


class ContentElsewhereError(UnavailableError):
    """A part of the content is on no machine that answers, and may be on one that cannot be asked now."""


class ReplicaRefusedError(UnavailableError):
    """A replica takes no part in this now: it goes by another epoch, or is being refilled."""


class ContentionError(UnavailableError):
    """Others kept changing the same key; the outcome of this change is known: it did not happen."""


class UnknownOutcomeError(UnavailableError):
    """The change may or may not have taken effect; the caller must read to know."""


# -- another node broke the rules, or cannot be talked to -----------------------------------------------------------


class PeerError(MeshHoldError):
    """A link with another node ends here. `culprit` is whose fault it is: `"local"` (this node) or `"remote"`."""

    def __init__(self, message: str, fix: str = "", *, culprit: Literal["local", "remote"] = "remote") -> None:
        super().__init__(message, fix)
        self.culprit = culprit


class HandshakeRefusedError(PeerError):
    """The two nodes did not become peers. `reason` says why, in words that do not depend on the peer (to count by)."""

    def __init__(self, culprit: Literal["local", "remote"], reason: str, fix: str = "") -> None:
        super().__init__(f"handshake refused: {reason}", fix, culprit=culprit)
        self.reason = reason


class ChannelBrokenError(PeerError):
    """A sealed frame is altered, replayed, out of order or out of place: the channel is useless from here on."""


class ProtocolError(PeerError):
    """Bytes that are not what the protocol allows: frame, encoding, kind or version; the message names which."""


class PeerUnreachableError(PeerError, UnavailableError):
    """No link to the node, or it broke: a call that had been sent may or may not have been served there."""


class CallTimeoutError(PeerError, UnavailableError):
    """The node did not answer a call in time: it may or may not have been served there."""


# -- stored or received bytes are not what they should be -----------------------------------------------------------


class IntegrityError(MeshHoldError):
    """Stored or received bytes fail verification."""


class ChunkMissingError(IntegrityError):
    """A chunk that is referred to is not in the store."""


class ChunkCorruptError(IntegrityError):
    """A chunk's bytes do not hash to its id; it has been quarantined."""


class SealBrokenError(IntegrityError):
    """Authenticated decryption failed: wrong key, or altered bytes."""


class UnknownFormatError(IntegrityError):
    """A stored or received value carries a version or type that this program does not know."""


# -- the process must not go on -------------------------------------------------------------------------------------


class FatalError(MeshHoldError):
    """The process cannot keep its promises and stops."""


class SyncFailedError(FatalError):
    """fsync failed: the kernel may have dropped dirty pages, so nothing after it can be trusted."""


class ConfigError(FatalError):
    """The configuration is wrong; the message names file, line, key, what was found and what is allowed."""


class AlreadyRunningError(FatalError):
    """Another daemon holds the data directory."""
