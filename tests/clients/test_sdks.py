"""Each SDK at its current version, on its default settings: a small program in its own language, run to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from tests.clients.programs import (
    VERSIONS,
    Program,
    debian_package,
    debian_program,
    npm_packages,
    sdk_python,
    sdk_version,
)
from tests.clients.site import BUCKET, Site

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]

SDK: Final = Path(__file__).parent / "sdk"
JAVASCRIPT: Final = ("@aws-sdk/client-s3", "@aws-sdk/lib-storage", "@aws-sdk/s3-request-presigner", "minio")


def passes(site: Site, program: str, script: Path) -> None:
    """Run a script with the environment that the guide exports; it says `passed` as its last word."""
    ran = Program(program, site.folder, site.environment() | {"BUCKET": BUCKET})
    said = ran.run(script).decode()
    assert said.split()[-1] == "passed", said


@pytest.mark.parametrize("script", ["aws_sdk.mjs", "minio_js.mjs"])
def test_javascript(site: Site, script: str) -> None:
    """The AWS SDK v3 and minio-js; a module is looked for from where its script is, so it is copied there."""
    folder = npm_packages(*JAVASCRIPT)
    for name in JAVASCRIPT:
        VERSIONS[name] = json.loads((folder / "node_modules" / name / "package.json").read_text())["version"]
    copy = folder / script
    copy.write_text((SDK / script).read_text())
    passes(site, debian_program("node", "nodejs"), copy)


@pytest.mark.parametrize(
    ("script", "packages"),
    [
        ("minio_sdk.py", ("minio",)),
        ("fsspec_s3fs.py", ("s3fs",)),
        ("django_storage.py", ("django-storages", "django")),
        ("parquet.py", ("pyarrow", "duckdb")),
    ],
)
def test_python(site: Site, script: str, packages: tuple[str, ...]) -> None:
    """minio-py, s3fs of fsspec, django-storages, and PyArrow with DuckDB."""
    for package in packages:
        VERSIONS[package] = sdk_version(package)
    passes(site, sdk_python(), SDK / script)


def test_ruby(site: Site) -> None:
    """The SDK for Ruby, as Debian has it."""
    VERSIONS["ruby-aws-sdk-s3"] = debian_package("ruby-aws-sdk-s3")
    passes(site, debian_program("ruby", "ruby"), SDK / "aws_sdk.rb")
