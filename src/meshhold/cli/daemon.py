"""`daemon`: the node itself, in the foreground."""

from __future__ import annotations

import logging
from collections.abc import Callable

import click

from meshhold.cli.logs import FORMATS, LEVELS, start_logging
from meshhold.cli.session import Session, config_option
from meshhold.config import Config, config_warnings


@click.command()
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="console", show_default=True)
@config_option
@click.pass_obj
def daemon(session: Session, log_level: str, log_format: str) -> int:
    """Run the node until SIGTERM or Ctrl-C, which let running requests finish."""
    start_logging(log_level, log_format)
    return serve(session.config())


def serve(config: Config, *, on_ready: Callable[[], None] | None = None) -> int:
    """Run the node of `config` and return its exit code; logging is set up already."""
    from meshhold.node.run import run_daemon  # noqa: PLC0415 - it loads the whole node, which client commands must not

    log = logging.getLogger("meshhold.config")
    for warning in config_warnings(config):
        log.warning("%s", warning)
    return run_daemon(config, on_ready=on_ready)
