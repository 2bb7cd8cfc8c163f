"""Command lines typed in the test's own process, for every test of the CLI."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from meshhold.cli.main import run

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Run one command line; return exit code, stdout and stderr."""

    def run_line(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_line


@pytest.fixture
def asked(typed: Typed) -> Callable[..., Any]:
    """Run one command line with `--json`; return the parsed answer."""

    def run_line(*arguments: str) -> Any:
        code, out, err = typed(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run_line
