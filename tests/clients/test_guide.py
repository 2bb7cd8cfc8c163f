"""The user guide, step by step: each command as it is written there, each setting as each app uses it.

Apps that cannot run here are stood in for by the requests that they send; which those are is said at each test.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.clients.nginx import ask, running_nginx
from tests.clients.programs import Program, debian_program, pypi_program
from tests.clients.signing import presigned_path, signed_headers
from tests.clients.site import MIB, Site, assert_same_file, assert_same_tree, open_site
from tests.cluster.daemons import free_port

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

CONFIG = """\
node:
  s3:
    enabled: true
    listen_addr: "127.0.0.1:3900"
    region: "meshhold"
    max_put_bytes: 67108864
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a node with the guide's configuration and nothing else in it."""
    with open_site(tmp_path_factory.mktemp("guide"), CONFIG) as opened:
        yield opened


@pytest.fixture
def bare(site: Site) -> dict[str, str]:
    """Return what the guide exports: the key, no region and no endpoint."""
    return {name: site.environment()[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}


def client(site: Site, **more: Any) -> Any:
    """Return boto3 with the cheat-sheet's values: endpoint, region, path-style, Signature Version 4."""
    return boto3.client(
        "s3",
        endpoint_url=site.node.endpoint,
        region_name="meshhold",
        aws_access_key_id=site.key["access_key_id"],
        aws_secret_access_key=site.key["secret_access_key"],
        config=Config(s3={"addressing_style": "path"}, signature_version="s3v4", **more),
    )


def refused(call: Any, **words: Any) -> tuple[str, str]:
    """Make a call that must fail; return its code and message."""
    with pytest.raises(ClientError) as raised:
        call(**words)
    return raised.value.response["Error"]["Code"], raised.value.response["Error"]["Message"]


# -- steps 1 to 5 ---------------------------------------------------------------------------------------------------


def test_alias_is_set_and_cleared(site: Site) -> None:
    """`vault s3-alias <vault_id> my-bucket` maps, `""` clears, and one vault carries one alias."""
    vault = site.bucket("first-name")
    s3 = client(site)
    s3.put_object(Bucket="first-name", Key="x", Body=b"x")
    site.type("vault", "s3-alias", vault, "second-name")
    assert s3.get_object(Bucket="second-name", Key="x")["Body"].read() == b"x"
    assert refused(s3.list_objects_v2, Bucket="first-name")[0] == "NoSuchBucket"
    site.type("vault", "s3-alias", vault, "")
    assert refused(s3.list_objects_v2, Bucket="second-name")[0] == "NoSuchBucket"
    site.type("vault", "s3-alias", vault, "first-name")
    assert s3.get_object(Bucket="first-name", Key="x")["Body"].read() == b"x"


def test_secret_is_printed_once(site: Site) -> None:
    """`s3-key add --label "ci"` prints id and secret; nothing prints the secret again; each key is another."""
    printed = [dict(re.findall(r"(\w+_key\w*)\s+(\S+)", site.type("s3-key", "add", "--label", "ci"))) for _ in "12"]
    assert [set(each) for each in printed] == [{"access_key_id", "secret_access_key"}] * 2
    assert printed[0]["access_key_id"] != printed[1]["access_key_id"]
    assert printed[0]["access_key_id"].startswith("GK")
    listed = site.type("s3-key", "list") + site.type("s3-key", "list", "--json")
    for each in printed:
        assert each["access_key_id"] in listed
        assert each["secret_access_key"] not in listed


@pytest.mark.parametrize(
    ("spelling", "reads", "writes"),
    [
        ("read", True, False),
        ("r", True, False),
        ("write", False, True),
        ("w", False, True),
        ("read,write", True, True),
        ("read+write", True, True),
        ("rw", True, True),
    ],
)
def test_permissions(site: Site, spelling: str, reads: bool, writes: bool) -> None:
    """Each spelling allows what it says; `list` shows it; `revoke` drops it."""
    name = f"perm-{spelling.replace(',', '-').replace('+', '-and-')}"
    vault = site.bucket(name)
    client(site).put_object(Bucket=name, Key="x", Body=b"x")
    key = site.mint(name)
    site.type("s3-perm", "grant", key["access_key_id"], vault, spelling)
    assert key["access_key_id"] in site.type("s3-perm", "list")
    s3 = site.node.s3(key)
    calls: tuple[tuple[bool, Callable[[], Any]], ...] = (
        (reads, lambda: s3.get_object(Bucket=name, Key="x")),
        (reads, lambda: s3.list_objects_v2(Bucket=name)),
        (writes, lambda: s3.put_object(Bucket=name, Key="y", Body=b"y")),
        (writes, lambda: s3.delete_object(Bucket=name, Key="y")),
    )
    for allowed, call in calls:
        if allowed:
            call()
        else:
            assert refused(call)[0] == "AccessDenied"
    site.type("s3-perm", "revoke", key["access_key_id"], vault)
    for _, call in calls:
        assert refused(call)[0] == "AccessDenied"


def test_any_client_as_written(site: Site, bare: dict[str, str]) -> None:
    """`aws --endpoint-url … s3 ls s3://my-bucket/` with the two exports alone: no region is set anywhere."""
    aws = Program(pypi_program("aws"), site.folder, bare)
    client(site).put_object(Bucket="my-bucket", Key="seen", Body=b"x")
    assert b"seen" in aws.run("--endpoint-url", site.node.endpoint, "s3", "ls", "s3://my-bucket/")
    assert b"my-bucket" in aws.run("--endpoint-url", site.node.endpoint, "--region", "meshhold", "s3", "ls")


def test_limit_of_one_put(site: Site) -> None:
    """A PUT over `max_put_bytes` is refused, naming the setting and the way out, which works."""
    s3, source = client(site), site.sample("over", 64 * MIB + 1)
    with source.open("rb") as file:
        code, message = refused(s3.put_object, Bucket="my-bucket", Key="over", Body=file)
    assert code == "EntityTooLarge"
    assert "max_put_bytes" in message
    assert "multipart" in message
    s3.upload_file(str(source), "my-bucket", "over")
    s3.download_file("my-bucket", "over", str(site.folder / "over-back"))
    assert_same_file(site.folder / "over-back", source)
    with source.open("rb") as file:
        s3.put_object(Bucket="my-bucket", Key="at", Body=file.read(64 * MIB))


def test_a_missing_region_is_explained(site: Site) -> None:
    """Another region than the configured one is refused with the right one in the answer."""
    wrong = signed_headers(site.key, "GET", "/my-bucket", "x", params={"list-type": "2"})
    wrong["authorization"] = wrong["authorization"].replace("/meshhold/", "/us-east-1/")
    status, _, said = ask("GET", f"{site.node.endpoint}/my-bucket?list-type=2", headers=wrong)
    assert (status, b"<Region>meshhold</Region>" in said) == (400, True)


# -- apps -----------------------------------------------------------------------------------------------------------


def test_nextcloud(site: Site) -> None:
    """Primary storage: the bucket is there, files by id, large ones in parts, ranges, copies, deletion.

    `use_path_style`, `legacy_auth: false`, `autocreate: false`; Nextcloud says `private` and STANDARD at each write.
    """
    site.bucket("nextcloud")
    s3 = client(site)
    s3.head_bucket(Bucket="nextcloud")
    options = {"ACL": "private", "ContentType": "image/jpeg", "StorageClass": "STANDARD"}
    body = site.sample("nextcloud", 9 * MIB)
    s3.put_object(Bucket="nextcloud", Key="urn:oid:17", Body=body.read_bytes(), **options)
    s3.upload_file(str(body), "nextcloud", "urn:oid:18", ExtraArgs=options)
    part = s3.get_object(Bucket="nextcloud", Key="urn:oid:18", Range="bytes=8388600-")
    assert part["Body"].read() == body.read_bytes()[8388600:]
    source = {"Bucket": "nextcloud", "Key": "urn:oid:18"}
    s3.copy_object(Bucket="nextcloud", Key="urn:oid:19", CopySource=source, ACL="private", MetadataDirective="COPY")
    assert s3.get_object(Bucket="nextcloud", Key="urn:oid:19")["Body"].read() == body.read_bytes()
    s3.delete_object(Bucket="nextcloud", Key="urn:oid:17")
    assert refused(s3.head_object, Bucket="nextcloud", Key="urn:oid:17")[0] == "404"


def test_nextcloud_external_storage(site: Site) -> None:
    """A mount is a tree of prefixes with folder markers that end in `/`."""
    site.bucket("team-share")
    s3 = client(site)
    s3.put_object(Bucket="team-share", Key="Docs/", Body=b"", ContentType="httpd/unix-directory")
    s3.put_object(Bucket="team-share", Key="Docs/plan ü.txt", Body=b"plan")
    top = s3.list_objects_v2(Bucket="team-share", Delimiter="/")
    assert [p["Prefix"] for p in top["CommonPrefixes"]] == ["Docs/"]
    inside = s3.list_objects_v2(Bucket="team-share", Prefix="Docs/", Delimiter="/")
    assert [(o["Key"], o["Size"]) for o in inside["Contents"]] == [("Docs/", 0), ("Docs/plan ü.txt", 4)]
    found = s3.delete_objects(
        Bucket="team-share", Delete={"Objects": [{"Key": o["Key"]} for o in inside["Contents"]], "Quiet": True}
    )
    assert "Errors" not in found
    assert "Contents" not in s3.list_objects_v2(Bucket="team-share")


def test_peertube(site: Site) -> None:
    """Two public buckets; videos in parts with `public-read`, which PeerTube says by default; players seek."""
    s3, video = client(site), site.sample("peertube.mp4", 20 * MIB + 5)
    for name in ("peertube-videos", "peertube-playlists"):
        site.bucket(name, "read+write", public=True)
    options = {"ACL": "public-read", "ContentType": "video/mp4"}
    s3.upload_file(str(video), "peertube-videos", "a/1080.mp4", ExtraArgs=options)
    s3.put_object(Bucket="peertube-playlists", Key="a/master.m3u8", Body=b"#EXTM3U", ACL="public-read")
    url = f"{site.node.endpoint}/peertube-videos/a/1080.mp4"
    assert ask("GET", url)[2] == video.read_bytes()
    assert ask("GET", url, headers={"Range": "bytes=9000000-9000099"})[2] == video.read_bytes()[9000000:9000100]
    assert ask("GET", f"{site.node.endpoint}/peertube-playlists/a/master.m3u8")[2] == b"#EXTM3U"
    listed = s3.list_objects_v2(Bucket="peertube-videos", Prefix="a/")["Contents"]
    assert [o["Key"] for o in listed] == ["a/1080.mp4"]


def test_public_read_in_a_private_bucket(site: Site) -> None:
    """What would be public by its ACL and is not gets refused, with the command that makes the bucket public."""
    s3 = client(site)
    code, message = refused(s3.put_object, Bucket="my-bucket", Key="not-public", Body=b"x", ACL="public-read")
    assert code == "AccessControlListNotSupported"
    assert "meshhold s3-perm grant anonymous my-bucket read" in message
    assert refused(s3.head_object, Bucket="my-bucket", Key="not-public")[0] == "404"


def test_mastodon(site: Site) -> None:
    """Many small files with cache headers, no ACL (`S3_PERMISSION=`), read through the public name, batch deletion."""
    site.bucket("mastodon-media", "read+write", public=True)
    s3 = client(site)
    keys = [f"accounts/avatars/{at:03}/original/ä{at}.png" for at in range(40)]
    for at, key in enumerate(keys):
        s3.put_object(
            Bucket="mastodon-media", Key=key, Body=b"%d" % at, ContentType="image/png",
            CacheControl="public, max-age=315576000, immutable",
        )  # fmt: skip
    status, headers, body = ask("GET", f"{site.node.endpoint}/mastodon-media/{urllib.parse.quote(keys[7])}")
    assert (status, headers["Cache-Control"], body) == (200, "public, max-age=315576000, immutable", b"7")
    s3.delete_objects(Bucket="mastodon-media", Delete={"Objects": [{"Key": key} for key in keys]})
    assert "Contents" not in s3.list_objects_v2(Bucket="mastodon-media")


def test_synapse(site: Site) -> None:
    """The storage provider is boto3: `upload_file`, `get_object`; a missing file is `NoSuchKey`, which it looks for."""
    site.bucket("matrix-media")
    s3, media = client(site), site.sample("local_content/ab/cd/ef", 3 * MIB)
    s3.upload_file(Filename=str(media), Bucket="matrix-media", Key="local_content/ab/cd/ef", ExtraArgs={})
    assert s3.get_object(Bucket="matrix-media", Key="local_content/ab/cd/ef")["Body"].read() == media.read_bytes()
    s3.head_object(Bucket="matrix-media", Key="local_content/ab/cd/ef")
    assert refused(s3.get_object, Bucket="matrix-media", Key="local_content/none")[0] in ("NoSuchKey", "404")


@pytest.mark.parametrize("content_type", ["image/png", "text/plain;charset=utf-8"])
def test_ejabberd(site: Site, content_type: str) -> None:
    """`mod_s3_upload` signs the Host without its port, and puts size, type and `public-read` into the query."""
    if "xmpp-uploads" not in site.type("vault", "list"):
        site.bucket("xmpp-uploads", "read+write", public=True)
    path = f"/xmpp-uploads/{'image' if 'image' in content_type else 'text'}/holiday.bin"
    body = site.sample("xmpp", 300_000).read_bytes()
    params = {"Content-Length": str(len(body)), "Content-Type": content_type, "X-Amz-Acl": "public-read"}
    signed = presigned_path(site.key, "PUT", path, "127.0.0.1", params)
    put = ask("PUT", site.node.endpoint + signed, headers={"Content-Type": content_type}, body=body)
    assert put[0] == 200, put[2]
    status, headers, back = ask("GET", site.node.endpoint + path)
    assert (status, headers["Content-Type"], back) == (200, content_type, body)
    elsewhere = presigned_path(site.key, "PUT", path, "another.host", params)
    assert ask("PUT", site.node.endpoint + elsewhere, body=body)[0] == 403


def test_ejabberd_in_a_private_bucket(site: Site) -> None:
    """The ACL in the query counts like the header: it is refused where the bucket is not public."""
    signed = presigned_path(site.key, "PUT", "/my-bucket/x", "127.0.0.1", {"X-Amz-Acl": "public-read"})
    status, _, said = ask("PUT", site.node.endpoint + signed, body=b"x")
    assert (status, b"AccessControlListNotSupported" in said) == (400, True)


@pytest.mark.parametrize("with_port", [True, False])
def test_pleroma(site: Site, with_port: bool) -> None:
    """ex_aws signs `public-read` and the length, names sub-resources as `?uploads=1`, older ones leave out the port."""
    bucket = f"pleroma-media-{int(with_port)}"
    site.bucket(bucket, "read+write", public=True)
    host = f"127.0.0.1:{site.node.port}" if with_port else "127.0.0.1"
    path, body = f"/{bucket}/ab/picture.jpg", site.sample("pleroma", 6 * MIB).read_bytes()

    def send(method: str, params: dict[str, str], body: bytes, headers: dict[str, str] | None = None) -> Any:
        headers = {"content-length": str(len(body)), **(headers or {})}
        signed = signed_headers(site.key, method, path, host, params=params, headers=headers, body=body)
        signed["host"] = f"127.0.0.1:{site.node.port}"
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        answer = ask(method, site.node.endpoint + path + query, headers=signed, body=body)
        assert answer[0] == 200, answer[2]
        return answer

    options = {"x-amz-acl": "public-read", "content-type": "image/jpeg"}
    upload = re.search(rb"<UploadId>(.+)</UploadId>", send("POST", {"uploads": "1"}, b"", options)[2])
    assert upload is not None
    number = {"uploadId": upload[1].decode()}
    tags = [
        send("PUT", {"partNumber": str(at), **number}, piece)[1]["ETag"]
        for at, piece in enumerate((body[: 5 * MIB], body[5 * MIB :]), 1)
    ]
    parts = "".join(f"<Part><PartNumber>{at}</PartNumber><ETag>{tag}</ETag></Part>" for at, tag in enumerate(tags, 1))
    send("POST", number, f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode())
    status, headers, back = ask("GET", site.node.endpoint + path)
    assert (status, headers["Content-Type"], back) == (200, "image/jpeg", body)
    send("PUT", {}, b"small", options)
    assert ask("GET", site.node.endpoint + path)[2] == b"small"


def test_lemmy_pictrs_and_ente(site: Site) -> None:
    """Both sign URLs for everything: single and multipart uploads, their completion, reads, deletion."""
    site.bucket("lemmy-pictrs")
    s3, body = client(site), site.sample("photo", 5 * MIB + 1).read_bytes()
    place = {"Bucket": "lemmy-pictrs", "Key": "files/ab/photo.webp"}

    def url(operation: str, **more: Any) -> str:
        signed: str = s3.generate_presigned_url(operation, Params={**place, **more}, ExpiresIn=300)
        return signed

    assert (
        ask("PUT", url("put_object", ContentType="image/webp"), headers={"Content-Type": "image/webp"}, body=body)[0]
        == 200
    )
    assert ask("GET", url("get_object"))[2] == body
    assert ask("HEAD", url("head_object"))[1]["Content-Length"] == str(len(body))
    started = re.search(rb"<UploadId>(.+)</UploadId>", ask("POST", url("create_multipart_upload"), body=b"")[2])
    assert started is not None
    upload = started[1].decode()
    tags = []
    for number, piece in ((1, body[: 5 * MIB]), (2, body[5 * MIB :])):
        sent = ask("PUT", url("upload_part", UploadId=upload, PartNumber=number), body=piece)
        tags.append(sent[1]["ETag"])
    parts = "".join(f"<Part><PartNumber>{at}</PartNumber><ETag>{tag}</ETag></Part>" for at, tag in enumerate(tags, 1))
    document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    done = ask("POST", url("complete_multipart_upload", UploadId=upload), body=document)
    assert done[0] == 200, done[2]
    assert ask("GET", url("get_object"))[2] == body
    assert ask("DELETE", url("delete_object"))[0] == 204
    assert ask("GET", url("get_object"))[0] == 404


def test_ente_with_cors_by_nginx(site: Site, tmp_path: Path) -> None:
    """A browser asks nginx first, then uploads by a URL signed for nginx's address; its script may read the answer."""
    site.bucket("ente-photos")
    port = free_port()
    block = site.example("nginx/cors.conf").replace("listen 80", f"listen 127.0.0.1:{port}")
    s3 = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="meshhold",
        aws_access_key_id=site.key["access_key_id"], aws_secret_access_key=site.key["secret_access_key"],
        config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    browser = {"Origin": "https://web.example.com"}
    with running_nginx(tmp_path, block, port):
        place = {"Bucket": "ente-photos", "Key": "1/photo"}
        put = s3.generate_presigned_url("put_object", Params=place)
        wish = {**browser, "Access-Control-Request-Method": "PUT"}
        status, headers, _ = ask("OPTIONS", put, headers=wish)
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, "*")
        assert "PUT" in headers["Access-Control-Allow-Methods"]
        status, headers, _ = ask("PUT", put, headers=browser, body=b"sealed photo")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert "ETag" in headers["Access-Control-Expose-Headers"]
        assert ask("GET", s3.generate_presigned_url("get_object", Params=place), headers=browser)[2] == b"sealed photo"


# -- backups and sites ----------------------------------------------------------------------------------------------


def test_restic_as_written(site: Site, bare: dict[str, str]) -> None:
    """`restic -r s3:http://…/laptop-backups init` and `backup`, with the two exports alone."""
    site.bucket("laptop-backups")
    tree = site.tree("Documents")
    restic = Program(debian_program("restic", "restic"), site.folder, {**bare, "RESTIC_PASSWORD": "for tests"})
    repository = f"s3:{site.node.endpoint}/laptop-backups"
    restic.run("-r", repository, "init")
    restic.run("-r", repository, "backup", tree)
    restic.run("-r", repository, "restore", "latest", "--target", site.folder / "restic-back")
    assert_same_tree(site.folder / "restic-back" / str(tree).lstrip("/"), tree)


def test_rclone_as_written(site: Site) -> None:
    """`rclone sync … meshhold:photos` with the guide's remote, read from `~/.config/rclone/rclone.conf`."""
    site.bucket("photos")
    tree, place = site.tree("photos"), site.folder / ".config" / "rclone"
    place.mkdir(parents=True)
    (place / "rclone.conf").write_text(site.example("rclone/rclone.conf"))
    rclone = Program(pypi_program("rclone"), site.folder)
    rclone.run("sync", tree, "meshhold:photos")
    rclone.run("check", "--download", tree, "meshhold:photos")


def test_rclone_over_the_limit_of_one_put(site: Site) -> None:
    """A file between `max_put_bytes` and rclone's 200 MiB is refused by name; `upload_cutoff` is the cure."""
    site.bucket("rclone-limit")
    source = site.sample("rclone-limit/file", 70 * MIB)
    config = site.folder / "limit.conf"
    config.write_text(site.example("rclone/rclone.conf"))
    rclone = Program(pypi_program("rclone"), site.folder, {"RCLONE_CONFIG": str(config)})
    said = rclone.refusal("copy", "--retries", "1", source.parent, "meshhold:rclone-limit")
    assert "EntityTooLarge" in said
    assert "max_put_bytes" in said
    rclone.run("copy", "--s3-upload-cutoff", "64Mi", source.parent, "meshhold:rclone-limit")
    rclone.run("check", "--download", source.parent, "meshhold:rclone-limit")


def test_static_site_as_written(site: Site, bare: dict[str, str]) -> None:
    """`aws --endpoint-url … s3 sync _site/ s3://my-site/ --delete`, with the two exports alone."""
    site.bucket("my-site", public=True)
    aws, tree = Program(pypi_program("aws"), site.folder, bare), site.tree("_site")
    sync = ("--endpoint-url", site.node.endpoint, "s3", "sync", "_site/", "s3://my-site/", "--delete")
    aws.run(*sync)
    (tree / "a.txt").unlink()
    aws.run(*sync)
    for path in (p for p in tree.rglob("*") if p.is_file()):
        name = urllib.parse.quote(path.relative_to(tree).as_posix())
        assert ask("GET", f"{site.node.endpoint}/my-site/{name}")[2] == path.read_bytes()
    assert ask("GET", f"{site.node.endpoint}/my-site/a.txt")[0] == 403


def test_what_scripts_read(site: Site) -> None:
    """`--json` of the guide's commands is one document each, with the fields that scripts need."""
    assert {"id", "name", "alias"} <= set(json.loads(site.type("vault", "list", "--json"))[0])
    assert {"access_key_id", "label"} <= set(json.loads(site.type("s3-key", "list", "--json"))[0])
    assert {"access_key_id", "vault_id", "permissions"} <= set(json.loads(site.type("s3-perm", "list", "--json"))[0])
