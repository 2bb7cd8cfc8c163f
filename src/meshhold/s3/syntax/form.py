"""Which fields, and which file, does a `multipart/form-data` body hold? Reads it as it comes; knows no field's meaning.

Everything before the file is bounded and kept; the file streams through. What follows the file is not read: S3 ignores
it too. Source: RFC 7578; RFC 2046, section 5.1.1; Amazon S3 API reference, "POST Object".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, NoReturn

from meshhold.s3.errors import S3Error

FIELDS_SIZE_MAX: Final = 20 * 1024  # S3's own limit on everything before the file
_BOUNDARY: Final = re.compile(rb'boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}(?=[\s;]|\Z)))', re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*([A-Za-z*]+)\s*=\s*(?:"((?:[^"\\]|\\"|\\(?!"))*)"|([^\s;"]*))')
_FILE: Final = "file"
_LAST_SEPARATOR: Final = re.compile(r".*[/\\]", re.DOTALL)


def find_boundary(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the boundary of a form. Errors: `PreconditionFailed` for another type, `MalformedPOSTRequest`."""
    kind, _, parameters = headers.get(b"content-type", b"").partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        raise S3Error(
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            fields={"Condition": "Bucket POST must be of the enclosure-type multipart/form-data"},
        )
    found = _BOUNDARY.search(parameters)
    if found is None:
        _malformed("the Content-Type names no boundary of 1 to 70 characters")
    return found[1] or found[2]


class _State(Enum):
    FIELD = auto()
    """Within a value, up to the next border."""
    BORDER = auto()
    """After a border: another part, or the form's end."""
    HEAD = auto()
    """Within a part's headers."""
    FILE = auto()
    AFTER_FILE = auto()
    """After the border that ended the file."""
    ENDED = auto()


_IN_FILE: Final = frozenset((_State.FILE, _State.AFTER_FILE, _State.ENDED))


class FormReader:
    """Reads one form. `fields` maps names in lower case to values; complete once `in_file` is true.

    `filename` is what the sender calls the file, without folders.
    Errors: `S3Error` for all that is wrong with the form.
    """

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.filename = ""
        self._border = b"\r\n--" + boundary
        self._state = _State.FIELD  # as if a nameless field came first, which the first border ends
        self._name = ""
        self._rest = b"\r\n"
        self._taken = 0

    @property
    def in_file(self) -> bool:
        """Tell whether the file has begun, so that `fields` are complete."""
        return self._state in _IN_FILE

    def feed(self, raw: bytes) -> bytes:
        """Take the next bytes of the body, return the bytes of the file that are in them."""
        self._rest += raw
        while not self.in_file and self._step():
            if self._taken > FIELDS_SIZE_MAX:
                _refuse_size()
        if self.in_file:
            return self._file_bytes()
        if self._taken + len(self._rest) > FIELDS_SIZE_MAX:
            _refuse_size()
        return b""

    def finish(self) -> None:
        """Say that nothing more comes. Errors: unless the file is complete."""
        if self._state is not _State.ENDED:
            _malformed("the body ends before the boundary that closes the file")

    def _step(self) -> bool:
        """Understand one more piece of what comes before the file; tell whether there was one."""
        if self._state is _State.FIELD:
            end = self._rest.find(self._border)
            if end >= 0:
                self._keep_field(self._take(end))
                self._take(len(self._border))
                self._state = _State.BORDER
            return end >= 0
        if self._state is _State.BORDER:
            if len(self._rest) < 2:
                return False
            if self._rest[:2] == b"--":
                _refuse_file_count()
            if self._rest[:2] != b"\r\n":
                _malformed("a boundary is not followed by a line break")
            self._state = _State.HEAD  # its line break stays: headers begin after one
            return True
        end = self._rest.find(b"\r\n\r\n")
        if end >= 0:
            self._open_part(self._take(end))
            self._take(4)
            self._state = _State.FILE if self._name == _FILE else _State.FIELD
        return end >= 0

    def _take(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        self._taken += size
        return taken

    def _open_part(self, raw: bytes) -> None:
        """Read a part's headers: which field it is."""
        try:
            lines = raw.decode().split("\r\n")
        except UnicodeDecodeError:
            _malformed("a part's headers are not UTF-8")
        found = [line for line in lines if line.lower().startswith("content-disposition:")]
        if len(found) != 1:
            _malformed("each part has one Content-Disposition")
        kind, semicolon, rest = found[0].partition(":")[2].partition(";")
        if kind.strip().lower() != "form-data":
            _malformed("a part's Content-Disposition is form-data")
        values: dict[str, str] = {}
        for name, quoted, bare in _PARAMETER.findall(semicolon + rest):
            values.setdefault(name.lower(), quoted.replace('\\"', '"') or bare)
        self._name = values.get("name", "").lower()
        if not self._name:
            _malformed("a part's Content-Disposition has no name")
        if self._name == _FILE:
            self.filename = _LAST_SEPARATOR.sub("", values.get("filename", ""))

    def _keep_field(self, raw: bytes) -> None:
        if not self._name:
            if raw:
                _malformed("it does not begin with its boundary")
            return
        if self._name in self.fields:
            raise S3Error("InvalidArgument", f"The form's field {self._name[:64]} is given more than once.")
        try:
            self.fields[self._name] = raw.decode()
        except UnicodeDecodeError:
            _malformed(f"the field {self._name[:64]} is not UTF-8")

    def _file_bytes(self) -> bytes:
        if self._state is _State.FILE:
            end = self._rest.find(self._border)
            if end < 0:  # the last bytes may be the beginning of the border
                size = max(0, len(self._rest) - len(self._border) + 1)
                piece, self._rest = self._rest[:size], self._rest[size:]
                return piece
            piece, self._rest = self._rest[:end], self._rest[end + len(self._border) :]
            self._state = _State.AFTER_FILE
        else:
            piece = b""
        if self._state is _State.AFTER_FILE and len(self._rest) >= 2:
            if self._rest[:2] not in (b"--", b"\r\n"):
                _malformed("the boundary after the file is not followed by a line break")
            self._state = _State.ENDED
        if self._state is _State.ENDED:
            self._rest = b""
        return piece

    @property
    def ended(self) -> bool:
        """Tell whether the file is complete."""
        return self._state is _State.ENDED


def _malformed(why: str) -> NoReturn:
    raise S3Error(
        "MalformedPOSTRequest", f"The body of your POST request is not well-formed multipart/form-data: {why}."
    )


def _refuse_size() -> NoReturn:
    raise S3Error(
        "MaxPostPreDataLengthExceededError",
        f"Your POST request fields preceding the upload file were too large: {FIELDS_SIZE_MAX} bytes are allowed.",
        fields={"MaxPostPreDataLengthExceeded": str(FIELDS_SIZE_MAX)},
    )


def _refuse_file_count() -> NoReturn:
    raise S3Error(
        "InvalidArgument",
        "POST requires exactly one file upload per request.",
        fields={"ArgumentName": _FILE, "ArgumentValue": "0"},
    )
