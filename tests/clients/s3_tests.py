"""Runs a copy of ceph/s3-tests against a real node: plain, behind nginx with TLS, or in a mesh of three.

`python -m tests.clients.s3_tests COPY --door http|tls|mesh`. Nothing of the copy comes into this repository; what
stands here are the names of its tests: the core that has to pass, and those that fail on purpose, each with its reason.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET  # the document is written by our own pytest

import yaml
from tests.clients.nginx import make_certificate, running_nginx
from tests.clients.programs import ROOT
from tests.cluster.daemons import NodeFolder, free_port
from tests.cluster.meshes import open_mesh, wait_until

from meshhold.s3.door import OWNER

VENV: Final = ROOT / "build" / "s3-tests-venv"
DATA: Final = Path(__file__).parent / "data"
REGION: Final = "us-east-1"  # the tests sign for it
FILES: Final = ("s3tests/functional/test_s3.py", "s3tests/functional/test_headers.py")
USERS: Final = {
    "s3 main": "main",
    "s3 alt": "alt",
    "s3 tenant": "tenant",
    "iam": "iam",
    "iam root": "iamroot",
    "iam alt root": "iamalt",
}
DAY_S: Final = 10  # how long a day of lifecycle rules lasts, as the tests expect it
WAITING: Final = "lifecycle"  # tests of this family wait for such days to pass: many of them at once
WAITING_JOBS: Final = 12
ALONE: Final = ("::test_list_buckets_paginated",)  # tests that expect a key without any bucket
NOT_THROUGH_TLS: Final = ("::test_object_create_bad_contentlength_empty",)
"""Over TLS botocore sends a chunked body and leaves out the empty Content-Length that is to be refused."""
TEST_S: Final = 300
RUN_S: Final = 3600.0
MESSAGE_LENGTH: Final = 160  # of what a failed test said: the rest is for who runs it alone

_OUT_OF_SCOPE: Final = (
    r"logging|cloud|restore|read_through|tenant|torrent|append|notification|storage_class|transition|_iam_|account|kms"
    r"|select|aws2"
)
_CORE_FAMILIES: Final = (
    ("POST form", r"post_object"),
    ("CORS", r"cors"),
    ("presigned", r"presigned|x_amz_expires|authenticated_expired"),
    ("multipart", r"multipart|upload|part"),
    ("checksum", r"checksum|cksum"),
    ("listing", r"list"),
    ("conditional", r"ifmatch|ifnone?match|if_match|if_none|ifmodified|ifunmodified|if_modified|if_unmodified"),
    ("copy", r"copy"),
    ("bucket", r"bucket"),
    ("object", r""),
)
_OTHER_FAMILIES: Final = (
    ("lifecycle", r"lifecycle|delete_marker_expiration"),
    ("object lock", r"object_lock|legal_hold"),
    ("public access block", r"public_block|block_public|restrict_public|ignore_public"),
    ("bucket policy", r"policy"),
    ("tagging", r"tag"),
    ("SSE-C", r"sse_c|enc_conflict_c|copy_enc|copy_part_enc|encrypted_transfer|encryption_key"),
    ("SSE-S3 and bucket encryption", r"sse_s3|encryption|encrypted"),
    ("versioning", r"version|delete_marker"),
    ("ownership", r"ownership|bucket_owner_enforced|bucket_owner_preferred|object_writer"),
    ("ACL", r"acl|access_bucket|authenticated"),
    ("other", r""),
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """What became of one family's tests: their names, of those that failed with what was said."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def core_names() -> frozenset[str]:
    """Return the names of the core's tests."""
    lines = (DATA / "s3_tests_core.txt").read_text().splitlines()
    return frozenset(line.rsplit("::", 1)[-1] for line in lines if line and not line.startswith("#"))


def refusals() -> dict[str, str]:
    """Return why each test that fails on purpose does."""
    lines = (DATA / "s3_tests_refused.txt").read_text().splitlines()
    pairs = (line.split(None, 1) for line in lines if line.strip() and not line.startswith("#"))
    return dict(pair for pair in pairs if len(pair) == 2)


def family_of(name: str, file: str, core: frozenset[str]) -> str | None:
    """Return the family that a test belongs to, or None for one of what is out of scope."""
    if name in core:
        if "test_headers" in file:
            return "core: headers and signatures"
        return "core: " + next(family for family, pattern in _CORE_FAMILIES if re.search(pattern, name))
    if re.search(_OUT_OF_SCOPE, name):
        return None
    return next(family for family, pattern in _OTHER_FAMILIES if re.search(pattern, name))


# -- nodes to be tested -----------------------------------------------------------------------------------------------

Ask = Callable[..., Any]


@contextmanager
def plain_door(folder: Path) -> Iterator[tuple[int, bool, Ask, tuple[str, ...]]]:
    """Run one node; yield its port, whether that speaks TLS, words to it, and options of its keys."""
    node = NodeFolder(folder / "home")
    made = node.type("init", "--s3-addr", f"127.0.0.1:{node.port}")
    assert made.returncode == 0, made.stderr
    configure(node.home / "config.yaml")
    with node.running("daemon", "--log-level", "error"):
        yield node.port, False, node.ask, ()


@contextmanager
def tls_door(folder: Path) -> Iterator[tuple[int, bool, Ask, tuple[str, ...]]]:
    """Run one node behind nginx with TLS."""
    with plain_door(folder) as (port, _, ask, options):
        certificate = make_certificate(folder, "localhost")
        front = free_port()
        block = f"""server {{
            listen 127.0.0.1:{front} ssl;
            ssl_certificate {certificate};
            ssl_certificate_key {certificate.with_suffix(".key")};
            client_max_body_size 0;
            ignore_invalid_headers off;
            location / {{
                proxy_pass http://127.0.0.1:{port};
                proxy_http_version 1.1;
                proxy_set_header Host $http_host;
                proxy_set_header Connection "";
                proxy_request_buffering off;
                proxy_buffering off;
            }}
        }}"""
        place = folder / "nginx"
        place.mkdir()
        with running_nginx(place, block, front):
            yield front, True, ask, options


@contextmanager
def mesh_door(folder: Path) -> Iterator[tuple[int, bool, Ask, tuple[str, ...]]]:
    """Run three nodes; each bucket is on all of them, each chunk on two."""
    with open_mesh(folder) as mesh:
        for name in ("a", "b", "c"):
            node = mesh.add(name, start=False)
            configure(node.home / "config.yaml")
            node.start()
        first, *others = mesh.nodes
        token = first.call("mesh.invite")["token"]
        for node in others:
            node.call("mesh.join", token=token)
        mesh.wait_linked(mesh.nodes)
        first.ask("vault", "create", "model", "--replication-factor", "2")
        for node in others:
            first.ask("vault", "add-member", "model", node.name)
        wait_until(lambda: len(first.ask("vault", "show", "model")["index_replicas"]) == 3, 120, "three replicas")
        yield first.port, False, first.ask, ("--like", "model")


DOORS: Final[dict[str, Callable[[Path], AbstractContextManager[tuple[int, bool, Ask, tuple[str, ...]]]]]] = {
    "http": plain_door,
    "tls": tls_door,
    "mesh": mesh_door,
}


def configure(path: Path) -> None:
    """Set what the tests expect: their region, and days of lifecycle rules that pass in seconds."""
    document = yaml.safe_load(path.read_text()) or {}
    s3 = document.setdefault("node", {}).setdefault("s3", {})
    s3 |= {"region": REGION, "lifecycle_day_s": DAY_S}
    path.write_text(yaml.safe_dump(document))


def write_conf(path: Path, port: int, keys: Mapping[str, Mapping[str, str]], *, tls: bool) -> None:
    """Write the tests' configuration; there is one account, and others are known by their keys."""
    conf = configparser.RawConfigParser()
    conf["DEFAULT"] = {
        "host": "localhost" if tls else "127.0.0.1",
        "port": str(port),
        "is_secure": str(tls),
        "ssl_verify": "False",
    }
    conf["fixtures"] = {
        "bucket prefix": "mh-{random}-",
        "iam name prefix": "s3-tests-",
        "iam path prefix": "/s3-tests/",
    }
    for section, user in USERS.items():
        key = keys[user]
        name = OWNER if user == "main" else key["access_key_id"]
        conf[section] = {
            "display_name": name,
            "user_id": name,
            "email": f"{user}@example.com",
            "api_name": REGION,
            "access_key": key["access_key_id"],
            "secret_key": key["secret_access_key"],
            "tenant": "testx",
            "lc_debug_interval": str(DAY_S),
        }
    with path.open("w") as file:
        conf.write(file)


# -- the run ----------------------------------------------------------------------------------------------------------


def python_of(copy: Path) -> str:
    """Return the Python that has what the copy requires, made where it is missing."""
    python = VENV / "bin" / "python"
    if not (VENV / ".installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(copy / "requirements.txt"), "pytest-timeout", "pytest-xdist"], check=True)
        (VENV / ".installed").touch()
    return str(python)


def in_scope(copy: Path, only: str) -> dict[str, list[str]]:
    """Return the tests that are counted, by family: some of the others wait for minutes for what is not offered.

    `only`: those whose name or family matches.
    """
    core = core_names()
    found: dict[str, list[str]] = defaultdict(list)
    for file in FILES:
        for name in re.findall(r"^def (test_\w+)", (copy / file).read_text(), re.MULTILINE):
            family = family_of(name, file, core)
            if family is not None and re.search(only, f"{name} {family}"):
                found[family].append(f"{file}::{name}")
    return found


def run(copy: Path, door: str, only: str, jobs: int) -> dict[str, Tally]:
    """Run the tests that match `only` through one kind of door; return each family's tally."""
    python = python_of(copy)
    families = in_scope(copy, only)
    waiting = families.pop(WAITING, [])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s3-tests-")))
        port, tls, ask, options = stack.enter_context(DOORS[door](folder))
        add = ("s3-key", "add", "--create-buckets", "--may-publish", *options, "--label")
        write_conf(folder / "s3tests.conf", port, {user: ask(*add, user) for user in USERS.values()}, tls=tls)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS")}
        environment |= {"S3TEST_CONF": str(folder / "s3tests.conf"), "PYTHONDONTWRITEBYTECODE": "1"}
        reports: list[Path] = []
        others = [name for name in chain(*families.values()) if not (tls and name.endswith(NOT_THROUGH_TLS))]
        alone = [name for name in others if name.endswith(ALONE)]
        others = [name for name in others if name not in alone]
        for names, at_once in ((alone, 0), (others, jobs), (waiting, WAITING_JOBS)):
            if not names:
                continue
            reports.append(folder / f"report-{len(reports)}.xml")
            words = [python, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "--timeout", str(TEST_S)]
            words += ["--durations", "10", "-n", str(at_once), "--junitxml", str(reports[-1]), *names]
            subprocess.run(words, cwd=copy, env=environment, timeout=RUN_S, check=False)
        return tally(reports)


def tally(reports: Sequence[Path]) -> dict[str, Tally]:
    """Sort what pytest reports into families."""
    core, why = core_names(), refusals()
    families: dict[str, Tally] = defaultdict(Tally)
    trees = [ET.parse(report) for report in reports]  # noqa: S314 - written by the pytest that was just run
    for case in (case for tree in trees for case in tree.iter("testcase")):
        name, _, parameters = case.get("name", "").partition("[")
        family = family_of(name, case.get("classname", ""), core)
        if family is None or "kms" in parameters or case.find("skipped") is not None:
            continue
        ill = next((each for kind in ("failure", "error") if (each := case.find(kind)) is not None), None)
        one = families[family]
        if ill is None:
            one.passed.append(name)
        elif name in why:
            one.refused.append(name)
        else:
            one.failed[case.get("name", name)] = ill.get("message", "").partition("\n")[0][:MESSAGE_LENGTH]
    return families


def show(families: Mapping[str, Tally]) -> str:
    """Return the table that docs/s3-compatibility.md has, and the names behind it."""
    lines = ["| family | passed | refused by design | failed |", "|---|---:|---:|---:|"]
    for family, one in sorted(families.items()):
        lines.append(f"| {family} | {len(one.passed)} | {len(one.refused)} | {len(one.failed)} |")
    failed = [f"{name}: {said}" for one in families.values() for name, said in one.failed.items()]
    refused = [name for one in families.values() for name in one.refused]
    for title, names in (("failed", sorted(failed)), ("refused by design", sorted(refused))):
        lines += ["", f"{title}: {len(names)}", *(f"  {name}" for name in names)]
    return "\n".join(lines)


def main() -> None:
    """Run, print, and end with 1 if a test failed that should not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("copy", type=Path, help="a clone of ceph/s3-tests, outside this repository")
    parser.add_argument("--door", choices=DOORS, default="http")
    parser.add_argument("--only", default="", help="a regular expression of names and families")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    families = run(args.copy.resolve(), args.door, args.only, args.jobs)
    print(show(families))  # noqa: T201 - a program
    sys.exit(any(one.failed for one in families.values()))


if __name__ == "__main__":
    main()
