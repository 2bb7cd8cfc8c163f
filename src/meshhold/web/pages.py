"""What does a browser see where a website has no page of its own for an error? Knows no website."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.escape import escape

HTML: Final = (b"content-type", b"text/html; charset=utf-8")


def render_page(error: S3Error, request_id: str) -> bytes:
    """Return a page that names status, code and cause."""
    title = f"{error.status} {HTTPStatus(error.status).phrase}"
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{title}</title></head>\n"
        f"<body><h1>{title}</h1>\n<ul><li>Code: {escape(error.code)}</li><li>{escape(error.message)}</li>"
        f"<li>Request: {escape(request_id)}</li></ul></body></html>\n"
    ).encode()
