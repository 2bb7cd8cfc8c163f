"""What might a hostile client of S3 send next? Requests that are nearly right. Judges nothing and sends nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import re
from dataclasses import dataclass, field
from typing import Any, Final

from tests.door import BUCKET, Signer

LEGAL: Final = re.compile(rb"(?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?\Z")  # what any HTTP parser lets through as a value
ODD_TEXTS: Final = (
    "", " ", "0", "-1", "1", "2", "10001", "9" * 30, "null", "None", "true", "*", "**", "?", "/", "//", "..", "%",
    "%00",
    "a=b&c=d", "a,b,,c", ",", ";", '"', '""', "'", "<a>", "&amp;", "\u00e9", "\U0001f600", "\u202e", "=?utf-8?q?=0a?=",
    "=?utf-8?b?AAo=?=", "=?x?y?z?=", "${filename}", "$", "\\", "bytes=0-0", "bytes=-0", "bytes=5-2", "bytes=0-,0-",
    "x" * 300, "x" * 3000, "1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 GMT", "9999-12-31T23:59:59Z", "AES256",
    "aws:kms", "private", "public-read", "COPY", "REPLACE", "GOVERNANCE", "COMPLIANCE", "ON", "OFF", "Enabled",
    "CRC32", "SHA256", "COMPOSITE", "FULL_OBJECT", "STANDARD", "AAAAAA==", "100-continue", "aws-chunked", "gzip",
    "kept", f"/{BUCKET}/kept", f"{BUCKET}/kept?versionId=null", "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "cLyPS6KoaSFi+joiUEeLpg==",  # a key of 32 zeroes, and its MD5
)  # fmt: skip
HEADER_NAMES: Final = (
    "cache-control", "content-disposition", "content-encoding", "content-language", "content-md5", "content-type",
    "expires", "if-match", "if-modified-since", "if-none-match", "if-unmodified-since", "origin", "range", "referer",
    "access-control-request-method", "access-control-request-headers", "x-amz-acl", "x-amz-bypass-governance-retention",
    "x-amz-checksum-algorithm", "x-amz-checksum-crc32", "x-amz-checksum-crc32c", "x-amz-checksum-crc64nvme",
    "x-amz-checksum-mode", "x-amz-checksum-sha1", "x-amz-checksum-sha256", "x-amz-checksum-type",
    "x-amz-copy-source", "x-amz-copy-source-if-match", "x-amz-copy-source-if-modified-since", "x-amz-copy-source-range",
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-decoded-content-length", "x-amz-expected-bucket-owner", "x-amz-grant-read", "x-amz-meta-", "x-amz-meta-a",
    "x-amz-metadata-directive", "x-amz-mp-object-size", "x-amz-object-attributes", "x-amz-object-lock-legal-hold",
    "x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-sdk-checksum-algorithm",
    "x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key", "x-amz-server-side-encryption-customer-key-md5",
    "x-amz-storage-class", "x-amz-tagging", "x-amz-tagging-directive", "x-amz-trailer",
    "x-amz-website-redirect-location",
)  # fmt: skip
PARAMETERS: Final = (
    "acl", "attributes", "continuation-token", "cors", "delimiter", "encoding-type", "encryption", "fetch-owner",
    "key-marker", "legal-hold", "lifecycle", "list-type", "location", "marker", "max-keys", "max-parts", "max-uploads",
    "object-lock", "part-number-marker", "partNumber", "policy", "policyStatus", "prefix", "publicAccessBlock",
    "response-cache-control", "response-content-type", "response-expires", "retention", "start-after", "tagging",
    "upload-id-marker", "uploadId", "uploads", "version-id-marker", "versionId", "versioning", "versions", "website",
    "x-id", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature", "X-Amz-Algorithm",
)  # fmt: skip
METHODS: Final = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "get", "")
PIECES: Final = (
    "a", "b", "kept", "/", "//", ".", "..", "%2F", "%2f", "%00", "%", "%z1", "%C3%A9", "%ff", "+", "%20", "%2B", "~",
    "!", "*", "'", "(", ")", "=", "&", ";", ":", "@", "$", ",", "\\", "^", "|", "x" * 200, "index.html",
)  # fmt: skip


@dataclass
class Input:
    """One request. `expected` is the body that must be stored if the door takes it, None where that is open."""

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    expected: bytes | None = None


def spoil(rng: random.Random, good: bytes, marks: tuple[bytes, ...] = (), most: int = 3) -> bytes:
    """Return `good` with one to `most` places changed, cut off, doubled, or with one of `marks` put in."""
    raw = bytearray(good)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(7):
            case 0:
                del raw[at:]
            case 1:
                raw[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                raw[at:at] = raw[at : at + rng.randint(1, 64)]
            case 3:
                del raw[at : at + rng.randint(1, 16)]
            case 4 | 5 if marks:
                raw[at:at] = rng.choice(marks)
            case _ if raw:
                raw[at % len(raw)] ^= 1 << rng.randrange(8)
            case _:
                raw.append(rng.randrange(256))
    return bytes(raw)


def odd_text(rng: random.Random) -> str:
    """Return a value that means something somewhere, or nothing anywhere."""
    if rng.random() < 0.9:
        return rng.choice(ODD_TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(0x20, 0x7F), rng.randrange(0xA1, 0x3000)))) for _ in range(rng.randrange(20))
    )


def odd_headers(rng: random.Random, most: int = 4) -> dict[str, str]:
    """Return headers that any HTTP parser lets through."""
    found = {}
    for _ in range(rng.randrange(most + 1)):
        value = odd_text(rng).strip()
        if LEGAL.match(value.encode()):
            found[rng.choice(HEADER_NAMES)] = value
    return found


def odd_target(rng: random.Random) -> str:
    """Return a path and query in ASCII, escaped well or badly."""
    name = rng.choice((BUCKET, BUCKET, BUCKET, "rules", "nowhere", ""))
    path = f"/{name}" + "".join(rng.choice(("/", "")) + rng.choice(PIECES) for _ in range(rng.randrange(5)))
    pairs = []
    for _ in range(rng.randrange(4)):
        value = "".join(rng.choice(PIECES) for _ in range(rng.randrange(3)))
        pairs.append(
            rng.choice((rng.choice(PARAMETERS), "".join(rng.choice(PIECES) for _ in range(2))))
            + rng.choice(("", f"={value}"))
        )
    return path + ("?" + "&".join(pairs) if pairs else "")


# -- documents ------------------------------------------------------------------------------------------------------

_TAGS: Final = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
_REDIRECT: Final = "<Redirect><HostName>h</HostName><ReplaceKeyWith>k</ReplaceKeyWith></Redirect>"
DOCUMENTS: Final[tuple[tuple[str, str, str], ...]] = (
    ("PUT", "/rules?cors", ("<CORSConfiguration><CORSRule><ID>i</ID><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET"
     "</AllowedMethod><AllowedHeader>x-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>5"
     "</MaxAgeSeconds></CORSRule></CORSConfiguration>")),
    ("PUT", "/rules?website", ("<WebsiteConfiguration><IndexDocument><Suffix>i</Suffix></IndexDocument><ErrorDocument>"
     "<Key>e</Key></ErrorDocument><RoutingRules><RoutingRule><Condition><KeyPrefixEquals>a</KeyPrefixEquals>"
     f"<HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals></Condition>{_REDIRECT}</RoutingRule>"
     "</RoutingRules></WebsiteConfiguration>")),
    ("PUT", "/rules?tagging", _TAGS),
    ("PUT", f"/{BUCKET}/kept?tagging", _TAGS),
    ("PUT", "/rules?lifecycle",
    ("<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Filter><And><Prefix>a"
     "</Prefix><Tag><Key>k</Key><Value>v</Value></Tag><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter>"
     "<Expiration><Days>5</Days></Expiration><NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays>"
     "</NoncurrentVersionExpiration><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>"
     "</AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>")),
    ("PUT", "/rules?versioning", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"),
    ("PUT", "/rules?encryption", ("<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>"
     "<SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault><BucketKeyEnabled>false"
     "</BucketKeyEnabled></Rule></ServerSideEncryptionConfiguration>")),
    ("PUT", "/rules?object-lock", ("<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>"
     "<DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>")),
    ("PUT", f"/{BUCKET}/kept?retention", ("<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z"
     "</RetainUntilDate></Retention>")),
    ("PUT", f"/{BUCKET}/kept?legal-hold", "<LegalHold><Status>ON</Status></LegalHold>"),
    ("PUT", "/rules?acl", ("<AccessControlPolicy><Owner><ID>meshhold</ID></Owner><AccessControlList><Grant><Grantee "
     'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>meshhold</ID></Grantee>'
     "<Permission>FULL_CONTROL</Permission></Grant></AccessControlList></AccessControlPolicy>")),
    ("PUT", "/rules?publicAccessBlock", ("<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls>"
     "<RestrictPublicBuckets>false</RestrictPublicBuckets></PublicAccessBlockConfiguration>")),
    ("PUT", "/rules?ownershipControls", ("<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced"
     "</ObjectOwnership></Rule></OwnershipControls>")),
    ("POST", f"/{BUCKET}?delete", ("<Delete><Quiet>true</Quiet><Object><Key>a</Key><VersionId>null</VersionId>"
     "<ETag>e</ETag></Object></Delete>")),
    ("POST", f"/{BUCKET}/multi?uploadId=UPLOAD",
    ("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>e</ETag>"
     "<ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part></CompleteMultipartUpload>")),
    ("PUT", "/new-bucket", ("<CreateBucketConfiguration><LocationConstraint>meshhold</LocationConstraint>"
     "</CreateBucketConfiguration>")),
    ("PUT", "/rules?policy", json.dumps({"Version": "2012-10-17", "Id": "i", "Statement": [
        {"Sid": "s", "Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["s3:GetObject", "s3:List*"],
         "Resource": ["arn:aws:s3:::rules", "arn:aws:s3:::rules/a*"],
         "Condition": {"StringLike": {"s3:prefix": ["a/*"]}, "IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}]})),
)  # fmt: skip
_MARKS: Final = (
    b"<", b">", b"</", b"/>", b"&", b"&amp;", b"&#0;", b"&#xD800;", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;",
    b"<![CDATA[",
    b"]]>", b"<!--", b"-->", b"<?xml version='1.0' encoding='utf-16'?>", b"<a>", b"</a>", b" xmlns='x'", b"\xff", b"\0",
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\u0000", b"\\ud800", b"null", b"1e999", b"-1", b"<Tag/>", b"<Rule/>",
    b"<Key>", b"</Key>", b"<ID>", b"</ID>", b"<Status>",
)  # fmt: skip
_TEXT: Final = re.compile(r">([^<>]+)<|\"([^\"]+)\"")


def make_document(rng: random.Random, upload_id: str) -> Input:
    """Return a document for a sub-resource: right, with another text in one place, or spoiled."""
    method, target, good = rng.choice(DOCUMENTS)
    pick = rng.random()
    if pick < 0.45:
        places = list(_TEXT.finditer(good))
        place = rng.choice(places)
        group = 1 if place[1] is not None else 2
        good = good[: place.start(group)] + odd_text(rng).replace("<", "&lt;") + good[place.end(group) :]
    body = good.encode()
    if pick > 0.4:
        body = spoil(rng, body, _MARKS)
    return Input(method, target.replace("UPLOAD", upload_id), {"content-md5": _md5(body)}, body)


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


# -- forms ----------------------------------------------------------------------------------------------------------

_FIELDS: Final = (
    "key", "acl", "Content-Type", "Expires", "Cache-Control", "Content-Disposition", "success_action_status",
    "redirect",
    "success_action_redirect", "tagging", "x-amz-meta-a", "x-amz-meta-\u00e9", "x-amz-storage-class", "bucket",
    "submit",
    "x-ignore-a", "x-amz-checksum-crc32", "x-amz-server-side-encryption", "x-amz-website-redirect-location", "",
    "x-amz-security-token", "x-amz-object-lock-mode", "x-amz-server-side-encryption-customer-key", "a b", "x-amz-date",
)  # fmt: skip
_FORM_MARKS: Final = (
    b"\r\n", b"\r\n\r\n", b"--x0x", b"\r\n--x0x\r\n", b"\r\n--x0x--", b'"', b"; name=",
    b"Content-Disposition: form-data",
    b"filename=", b"\xff", b"\0", b"\\", b"--",
)  # fmt: skip
_POLICY_MARKS: Final = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\$", b"\\v", b"\\ud800", b"null", b"9" * 5000, b"-1", b"1e5", b"$key",
    b'["eq","$key",""]', b'["content-length-range",0,1]', b"\xff", b'{"a":1}',
)  # fmt: skip


def make_form(rng: random.Random, signer: Signer) -> Input:
    """Return a form: its fields odd, its policy fitting or spoiled, signed in either form; or spoiled as a whole."""
    fields = {"key": f"form{rng.randrange(20)}"} if rng.random() < 0.9 else {}
    fields |= {rng.choice(_FIELDS): odd_text(rng) for _ in range(rng.randrange(4))}
    if rng.random() < 0.2:
        fields["key"] = odd_text(rng)
    old = rng.random() < 0.3
    proof = {} if old else {
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{signer.key_id}/{signer.scope}",
        "x-amz-date": signer.stamp,
    }  # fmt: skip
    conditions: list[Any] = [{name: value} for name, value in (fields | proof).items()]
    conditions += [{"bucket": BUCKET}, ["content-length-range", 0, rng.choice((5, 10_000))]]
    policy = json.dumps({"expiration": "2099-01-01T00:00:00Z", "conditions": conditions}).encode()
    if rng.random() < 0.4:
        policy = spoil(rng, policy, _POLICY_MARKS)
    text = base64.b64encode(policy).decode()
    if rng.random() < 0.05:
        text = odd_text(rng)
    if old:
        signature = base64.b64encode(hmac.digest(signer.secret.encode(), text.encode(), "sha1")).decode()
        proof = {"AWSAccessKeyId": signer.key_id, "signature": signature}
    else:
        proof["x-amz-signature"] = hmac.digest(signer.key, text.encode(), "sha256").hex()
    body = _form_body(rng, fields | proof | {"policy": text})
    if rng.random() < 0.4:
        body = spoil(rng, body, _FORM_MARKS)
    boundary = "x0x" if rng.random() < 0.9 else rng.choice(('"x0x"', "", "x" * 71, "x0"))
    headers = {"content-type": f"multipart/form-data; boundary={boundary}", "content-length": str(len(body))}
    return Input("POST", f"/{BUCKET}", odd_headers(rng, 1) | headers, body)


def _form_body(rng: random.Random, fields: dict[str, str]) -> bytes:
    parts = [
        f'--x0x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    file = rng.choice((b"", b"file", b"\r\n--x0" * 50, rng.randbytes(rng.randrange(3000))))
    name = rng.choice(("f.txt", "a/b\\c", odd_text(rng)))
    head = f'--x0x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return ("".join(parts) + head).encode("utf-8", "replace") + file + b"\r\n--x0x--\r\n"


# -- aws-chunked ----------------------------------------------------------------------------------------------------

_CHUNK_MARKS: Final = (
    b"\r\n", b"0\r\n\r\n", b";chunk-signature=", b"0;chunk-signature=", b"ffffffffffffffff\r\n", b"-1\r\n",
    b"5\r\nhello\r\n",
    b"x-amz-checksum-crc32:AAAAAA==\r\n", b"x-amz-trailer-signature:", b"\xff", b"\0", b";", b":",
)  # fmt: skip


def make_chunked(rng: random.Random, signer: Signer) -> Input:
    """Return an upload in one of the aws-chunked forms, whole or spoiled."""
    data = [rng.randbytes(rng.choice((1, 5, 100, 8192))) for _ in range(rng.randrange(4))]
    whole = b"".join(data)
    form = rng.choice(("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"))
    trailed = form.endswith("TRAILER") or rng.random() < 0.5
    is_signed = "UNSIGNED" not in form
    headers = {"x-amz-decoded-content-length": str(len(whole)), "content-encoding": "aws-chunked"}
    if trailed:
        form = form.removesuffix("-TRAILER") + "-TRAILER"
        headers["x-amz-trailer"] = "x-amz-checksum-sha256"
    target = f"/{BUCKET}/chunked{rng.randrange(20)}"
    signed = signer.sign("PUT", target, headers, form)
    previous = signed["Authorization"].rpartition("=")[2]
    body = b""
    for piece in [*data, *([] if trailed and not is_signed else [b""])]:
        extension = ""
        if is_signed:
            previous = signer.chunk_signature(previous, piece)
            extension = f";chunk-signature={previous}"
        body += f"{len(piece):x}{extension}\r\n".encode() + piece + (b"\r\n" if piece or not trailed else b"")
    if trailed:
        digest = base64.b64encode(hashlib.sha256(whole).digest()).decode()
        trailer = f"x-amz-checksum-sha256:{digest}\n"
        body += (b"" if is_signed else b"0\r\n") + trailer.replace("\n", "\r\n").encode()
        if is_signed:
            body += f"x-amz-trailer-signature:{signer.trailer_signature(previous, trailer)}\r\n".encode()
        body += b"\r\n"
    if rng.random() < 0.8:
        body = spoil(rng, body, _CHUNK_MARKS)
    return Input("PUT", target, signed | {"content-length": str(len(body))}, body, whole)


# -- heads ----------------------------------------------------------------------------------------------------------

_HEAD_MARKS: Final = (
    b"\r\n", b"\n", b" ", b"\t", b":", b"HTTP/1.0", b"HTTP/2.0", b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n", b"Expect: 100-continue\r\n", b"Host: a\r\n", b"Connection: close\r\n",
    b"Upgrade: h2c\r\n",
    b"Authorization: \r\n", b"Authorization: AWS a:b\r\n", b"http://a/", b"*", b"%", b"\xff", b"\0", b"?", b"#",
    b"Transfer-Encoding: gzip\r\n", b"0\r\n\r\n",
)  # fmt: skip


def make_head(rng: random.Random, good: bytes) -> bytes:
    """Return the bytes of a request whose head is spoiled; the blank line that ends it is there in most."""
    raw = spoil(rng, good.removesuffix(b"\r\n\r\n"), _HEAD_MARKS, 2)
    return raw + (b"\r\n\r\n" if rng.random() < 0.9 else b"")
