"""One node for each module of client tests, and the versions of the clients that ran."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.clients.programs import VERSIONS
from tests.clients.site import Site, open_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a node with the bucket `my-bucket` and a key that reads and writes it."""
    with open_site(tmp_path_factory.mktemp("node")) as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which versions of which programs were run."""
    if VERSIONS:
        terminalreporter.section("clients that ran")
        for name, version in sorted(VERSIONS.items()):
            terminalreporter.write_line(f"{name:<8} {version}")
