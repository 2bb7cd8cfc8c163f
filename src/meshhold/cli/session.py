"""Which node does this command speak to, and in which form does it answer? Knows no command.

Imports nothing that serves: a client command must start fast.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from meshhold.admin.client import call_daemon
from meshhold.cli.output import ProgressLine, print_json
from meshhold.config import default_config_path, load_config
from meshhold.config.places import control_socket
from meshhold.config.settings import Config
from meshhold.errors import DaemonUnreachableError

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """One run of the program: what `--config` and `--json` said, wherever they stood on the line."""

    named_config: Path | None = None
    as_json: bool = False

    @property
    def config_path(self) -> Path:
        """The configuration of the node that is meant."""
        return self.named_config or default_config_path()

    def config(self) -> Config:
        """Read that configuration. Errors: `ConfigError`."""
        return load_config(self.config_path)

    def call(self, name: str, args: dict[str, Any] | None = None, *, long: bool = False) -> Any:
        """Ask the daemon; a long call shows its progress on a terminal.

        Errors: `DaemonUnreachableError` with the command that starts it; `CallRefusedError`.
        """
        start = command_line(self.config_path, "daemon")
        if not self.config_path.exists():
            create = command_line(self.config_path, "init")
            raise DaemonUnreachableError(
                f"there is no node here: {self.config_path} does not exist",
                f"create one with: {create}, then start it with: {start}",
            )
        path = control_socket(self.config().node.data_dir)
        if not long:
            return call_daemon(path, name, args, start_command=start)
        with ProgressLine() as progress:
            return call_daemon(path, name, args, start_command=start, on_progress=progress.show, answer_s_max=None)

    def show(self, result: Any, people: Callable[[], None]) -> None:
        """Print `result` as JSON for scripts, else let `people` print it."""
        if self.as_json:
            print_json(result)
        else:
            people()


def command_line(config_path: Path, *words: str, default: Path | None = None) -> str:
    """Return the command, ready to paste, that runs this program's `words` on the node of `config_path`.

    `default` is the configuration that it would read by itself: here, unless another terminal is meant.
    """
    program = "meshhold" if shutil.which("meshhold") else _own_path()
    place = [] if config_path == (default or default_config_path()) else ["--config", str(config_path)]
    return shlex.join([program, *words, *place])


def _own_path() -> str:
    path = Path(sys.argv[0]).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _set_config(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Session).named_config = value.expanduser().absolute()


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).as_json = True


def config_option(function: _F) -> _F:
    """Let a command take `--config`."""
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_set_config,
        help="The node's configuration (default: $MESHHOLD_CONFIG, else config.yaml in $MESHHOLD_HOME or ~/.meshhold).",
    )(function)


def client_options(function: _F) -> _F:
    """Let a command that asks the daemon take `--config` and `--json`."""
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=_set_json, help="Print JSON for scripts."
    )
    return config_option(as_json(function))
